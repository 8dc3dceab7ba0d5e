"""The gradient of a convolution by its weights in Winograd's way: fewer products a tile of pixels.

    dw = A^T [ sum over tiles of (G dy G^T) * (B^T x B) ] A

which is F(m x m', r x r') with the r x r' taps as results and m x m' pixels of dy as taps; the
transforms are those of winograd_transforms.py. For stride 1, no dilation and no groups. A work item
is (part of the tiles, some blocks of filters, some of channels): for a group of tiles at a time it
transforms dy and x, multiplies for each of the products, and adds to sums in scratch, which are
transformed to taps at the end. Parts are added by weight_grad_sum.py.
"""

from __future__ import annotations

from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Condition, Index
from cnnir.backends.llvm.kernels.microkernel import Reduction, Tile, accumulate
from cnnir.backends.llvm.kernels.small_matrix import multiply
from cnnir.backends.llvm.kernels.spec import ConvSpec, Epilogue, KernelCode, Strides
from cnnir.backends.llvm.kernels.weight_grad_winograd_tiling import (
    Geometry,
    Tiling,
    choose,
    estimate,
    reject,
)

__all__ = ["Geometry", "Tiling", "choose", "emit", "estimate", "reject"]


def emit(
    module: ir.Module,
    name: str,
    spec: ConvSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, dy, sums."""
    g = Geometry(spec, tiling)
    b = Builder(module, name, 3, spec.lanes, noalias=[2])
    _Emitter(b, g).run()
    (height, width), (m, n) = (len(t.results) for t in g.transforms), tiling.tile
    summary = (
        f"weight gradient, Winograd F({height}x{width}, {m}x{n}), {tiling.count} tiles a group, "
        f"{tiling.filters} x {tiling.channels} blocks an item, {tiling.blocks} blocks x "
        f"{tiling.width} channels multiplied at once, {tiling.parts} parts"
    )
    items = tiling.parts * prod(g.chunks)
    return KernelCode(name, items, 4 * g.scratch, spec.flops, 3, summary, b.finish())


class _Emitter:
    """The steps of a work item."""

    def __init__(self, b: Builder, g: Geometry) -> None:
        self.b, self.g, self.spec, self.tiling = b, g, g.spec, g.tiling
        self.x, self.dy, self.into = b.pointers
        self.zeros = b.scratch
        self.inputs = b.at(b.scratch, b.lanes)
        self.slopes = b.at(self.inputs, g.products * g.x_plane)
        self.sums = b.at(self.slopes, g.products * g.dy_plane)

    def run(self) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        part, self.first, self.second = b.unflatten(b.item, [tiling.parts, *g.chunks])
        ends = [b.div(b.mul(p, g.groups), tiling.parts) for p in (part, b.add(part, 1))]
        b.vstore(b.splat(0.0), self.zeros)
        with b.loop(g.products * g.sum_plane, step=b.lanes) as at:
            b.vstore(b.splat(0.0), self.sums, at.index)
        with b.loop(ends[1], ends[0]) as group:
            first = b.mul(group.index, tiling.count)
            with b.loop(tiling.channels) as block, b.loop(tiling.count) as tile:
                self.transform_x(block.index, tile.index, b.add(first, tile.index))
            with b.loop(tiling.filters) as block, b.loop(tiling.count) as tile:
                self.transform_dy(block.index, tile.index, b.add(first, tile.index))
            with b.loop(g.products) as number:
                self.multiply(number.index)
        with b.loop(tiling.filters) as block:
            with b.loop(tiling.channels * b.lanes) as channel:
                self.finish(part, block.index, channel.index)

    # ---- transforms

    def transform_x(self, block: Index, tile: Index, number: Index) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        _, height, width = self.spec.axes()
        plane = b.add(b.mul(self.second, tiling.channels), block)
        sizes, begins = (height.size, width.size), (height.begin, width.begin)
        seen = self.seen(self.x, self.spec.x_strides, plane, number, sizes, begins, g.sides)
        rows, columns = (t.inputs for t in g.transforms)
        start = b.mul(b.add(b.mul(block, tiling.count), tile), b.lanes)
        self.store(rows, columns, seen, b.at(self.inputs, start), g.x_plane)

    def transform_dy(self, block: Index, tile: Index, number: Index) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        _, height, width = self.spec.axes()
        plane = b.add(b.mul(self.first, tiling.filters), block)
        sizes = (height.out, width.out)
        seen = self.seen(self.dy, self.spec.y_strides, plane, number, sizes, (0, 0), tiling.tile)
        rows, columns = (t.taps for t in g.transforms)
        # [tile of blocks][Winograd tile][block in the tile][V]: as the micro-kernel reads weights
        outer, inner = b.div(block, tiling.blocks), b.rem(block, tiling.blocks)
        at = b.add(b.mul(outer, tiling.count), tile)
        start = b.mul(b.add(b.mul(at, tiling.blocks), inner), b.lanes)
        self.store(rows, columns, seen, b.at(self.slopes, start), g.dy_plane)

    def seen(
        self,
        source: ir.Value,
        lies: Strides,
        block: Index,
        number: Index,
        sizes: tuple[int, int],
        begins: tuple[int, int],
        sides: tuple[int, int],
    ) -> list[list[ir.Value]]:
        """The vectors that tile `number` sees; zeros outside, and for tiles that there are not."""
        b, g, tiling = self.b, self.g, self.tiling
        there: Condition = True
        if g.tiles % tiling.count:
            there = b.less(number, g.tiles)
        image, row, column = b.unflatten(number, [self.spec.batch, *g.grid])
        top = b.add(b.mul(row, tiling.tile[0]), -begins[0])
        left = b.add(b.mul(column, tiling.tile[1]), -begins[1])
        start = b.add(b.mul(block, lies.plane), b.mul(image, lies.image))
        start = b.add(start, b.mul(b.add(b.mul(top, sizes[1]), left), lies.pixel))
        down = [self.inside(0, top, i, begins, sizes) for i in range(sides[0])]
        right = [self.inside(1, left, j, begins, sizes) for j in range(sides[1])]
        vectors: list[list[ir.Value]] = []
        for i, row_inside in enumerate(down):
            vectors.append([])
            for j, column_inside in enumerate(right):
                known = b.both(there, b.both(row_inside, column_inside))
                pointer = b.at(source, b.add(start, (i * sizes[1] + j) * lies.pixel))
                if known is not True:
                    pointer = b.ir.select(b.truth(known), pointer, self.zeros)
                vectors[-1].append(b.vload(pointer))
        return vectors

    def inside(
        self, axis: int, start: Index, offset: int, begins: tuple[int, int], sizes: tuple[int, int]
    ) -> Condition:
        """Whether the element `offset` from the start of a tile lies inside."""
        first, last = -begins[axis] + offset, (self.g.grid[axis] - 1) * self.tiling.tile[axis]
        if first >= 0 and first + last < sizes[axis]:
            return True
        return self.b.inside(self.b.add(start, offset), sizes[axis])

    def store(self, rows, columns, seen: list[list[ir.Value]], into: ir.Value, plane: int) -> None:
        """The products' share of a tile, a plane each."""
        b = self.b
        half = [multiply(b, rows, list(column)) for column in zip(*seen, strict=True)]
        number = 0
        for row in zip(*half, strict=True):
            for value in multiply(b, columns, list(row)):
                b.vstore(value, into, number * plane)
                number += 1

    # ---- products

    def multiply(self, number: Index) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        inputs = b.at(self.inputs, b.mul(number, g.x_plane))
        slopes = b.at(self.slopes, b.mul(number, g.dy_plane))
        sums = b.at(self.sums, b.mul(number, g.sum_plane))
        turns = b.lanes // tiling.width
        every = tiling.channels * b.lanes  # channels of an item
        with b.loop(tiling.filters // tiling.blocks) as outer:
            w = b.at(slopes, b.mul(outer.index, tiling.count * tiling.blocks * b.lanes))
            with b.loop(tiling.channels) as block, b.loop(turns) as turn:
                channel = b.mul(turn.index, tiling.width)
                start = b.mul(block.index, tiling.count * b.lanes)
                x = b.at(inputs, b.add(start, channel))
                tile = self.tile(x, w)
                at = b.mul(b.mul(outer.index, tiling.blocks), every)
                at = b.add(at, b.mul(block.index, b.lanes), channel)
                self.add(tile, b.at(sums, b.mul(at, b.lanes)), every)

    def tile(self, x: ir.Value, w: ir.Value) -> Tile:
        b, tiling = self.b, self.tiling
        zeros = [b.splat(0.0)] * (tiling.blocks * tiling.width)
        tile = Tile(tiling.blocks, tiling.width, zeros)
        channels = {channel: channel for channel in range(tiling.width)}
        accumulate(b, tile, x, w, channels, [Reduction(tiling.count, b.lanes)])
        return tile

    def add(self, tile: Tile, into: ir.Value, every: int) -> None:
        """Add the sums of a register tile to those in scratch."""
        b = self.b
        for i, value in enumerate(tile.sums):
            block, channel = divmod(i, tile.pixels)
            offset = (block * every + channel) * b.lanes
            b.vstore(b.ir.fadd(b.vload(into, offset), value), into, offset)

    def finish(self, part: Index, block: Index, channel: Index) -> None:
        """The taps of a block of filters and a channel."""
        b, g, tiling = self.b, self.g, self.tiling
        rows, columns = (t.results for t in g.transforms)
        at = b.add(b.mul(block, tiling.channels * b.lanes), channel)
        source = b.at(self.sums, b.mul(at, b.lanes))
        height, width = g.sides
        half = []
        for j in range(width):
            column = [b.vload(source, (i * width + j) * g.sum_plane) for i in range(height)]
            half.append(multiply(b, rows, column))
        filters = b.add(b.mul(self.first, tiling.filters), block)
        channels = b.add(b.mul(self.second, tiling.channels * b.lanes), channel)
        row = b.add(b.mul(filters, g.rows), b.mul(channels, g.taps))
        into = b.at(self.into, b.add(b.mul(part, g.part), b.mul(row, b.lanes)))
        tap = 0
        for line in zip(*half, strict=True):
            for value in multiply(b, columns, list(line)):
                b.vstore(value, into, tap * b.lanes)
                tap += 1
