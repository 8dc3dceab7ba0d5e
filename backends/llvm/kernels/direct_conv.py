"""Direct convolution onto Blocked(V): 1-D to 3-D, any stride, dilation, padding, size and groups.

A work item is (chunk of output channel blocks, image, band of output rows). Inside it, tiles of
blocks x rows x columns go through the micro-kernel, weights outermost. At the edges of padded input
taps that lie outside are left out by code of their own; where that would be too much code, the item
first copies its band of input with the zeros in place into scratch. An unpadded 1x1 convolution is
one column of pixels, those of all images where the input is in blocks.

Groups are served when each has whole blocks of channels; smaller ones are in depthwise.py,
others in grouped_conv.py. Which
layout the operands get is decided by the plan, not here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.band import copy_band
from cnnir.backends.llvm.kernels.conv_tiling import Geometry, Tiling, choose, estimate, tilings
from cnnir.backends.llvm.kernels.conv_window import Window
from cnnir.backends.llvm.kernels.edges import Run, Segment, each_tile, inside, runs, tap_range
from cnnir.backends.llvm.kernels.microkernel import Tile
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    Strides,
    repeats,
    shares,
    storage,
)

__all__ = [
    "ConvSpec", "Tiling", "choose", "emit", "estimate", "pack", "packed_size", "reject", "tilings",
]  # fmt: skip


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if spec.groups > 1:
        if spec.filters // spec.groups % spec.lanes:
            return f"{spec.filters // spec.groups} filters a group, not whole blocks"
        if not spec.plain and spec.channels // spec.groups % spec.lanes:
            return f"{spec.channels // spec.groups} channels a group, not whole blocks"
    return spec.problem()


def packed_size(spec: ConvSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    g = Geometry(spec, tiling)
    return spec.out_blocks * spec.lanes * g.channels * g.taps


def pack(
    weights: np.ndarray, spec: ConvSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[O,C/g,*kernel] in the order in which the kernel reads it.

    [group][tile of blocks][block of channels][tap][channel in the block][block in the tile][V]; the
    last block of channels has only its real channels, filters beyond the last are zero.
    """
    g, lanes = Geometry(spec, tiling), spec.lanes
    filters = weights.reshape(spec.filters, g.channels, g.taps)
    packed = storage(out, packed_size(spec, tiling))
    step = g.channels if spec.plain else lanes
    position = first = 0
    for count in shares(tiling.chunk, tiling.blocks) * (spec.groups * g.chunks):
        tile = filters[first * lanes : (first + count) * lanes]
        for c in range(0, g.channels, step):
            part = tile[:, c : c + step].transpose(2, 1, 0)
            size = part.shape[0] * part.shape[1] * count * lanes
            into = packed[position : position + size].reshape(*part.shape[:2], count * lanes)
            into[..., : len(tile)] = part
            into[..., len(tile) :] = 0
            position += size
        first += count
    return packed


def emit(
    module: ir.Module,
    name: str,
    spec: ConvSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    g = Geometry(spec, tiling)
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    ConvEmitter(b, g, epilogue).run()
    function = b.finish()
    scratch = g.band.bytes if tiling.copy else 0
    return KernelCode(name, g.items, scratch, spec.flops, before, _summary(g), function)


def _summary(g: Geometry) -> str:
    tiling = g.tiling
    return (
        f"direct {'x'.join(map(str, g.spec.kernel))}, {tiling.blocks} blocks x "
        f"{tiling.rows * tiling.columns} pixels a tile, {tiling.chunk} of {g.blocks} blocks and "
        f"{tiling.band} of {g.rows.parts} row tiles an item, "
        f"{'padded band copied' if tiling.copy else 'input read in place'}{g.spec.pooled}"
    )


class ConvEmitter:
    """The loops of a work item. What variants replace: where the input of an item lies (`locate`),
    where a tile belongs (`bias_of`, `store`) and how a vector is stored (`put`)."""

    def __init__(self, b: Builder, g: Geometry, epilogue: Epilogue | None) -> None:
        self.b, self.g, self.spec, self.tiling = b, g, g.spec, g.tiling
        self.epilogue = epilogue
        self.groups, self.item = g.spec.groups, b.item
        self.x, self.w, *rest, self.y = b.pointers
        self.bias = rest[0] if g.spec.bias else None

    def run(self) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        extents = [self.groups, g.chunks, g.images, g.axes[0].out, g.bands]
        group, chunk, self.image, self.slice, band = b.unflatten(self.item, extents)
        first = b.mul(band, tiling.band)
        last = b.min(b.add(first, tiling.band), g.rows.parts)
        self.locate(group, g.rows.start(b, first))
        split = shares(tiling.chunk, tiling.blocks)
        for blocks, parts in repeats(split):
            start = sum(split[: split.index(blocks)])
            with b.loop(parts) as tile:
                block = b.add(b.mul(tile.index, blocks), b.mul(chunk, tiling.chunk), start)
                block = b.add(block, b.mul(group, g.blocks))
                for rows, row in each_tile(b, g.row_parts, first, last):
                    for columns, column in each_tile(b, g.column_parts, 0, g.columns.parts):
                        self.tile(block, blocks, (rows, columns), row, column)

    def locate(self, group: Index, row: Index) -> None:
        """Where the input of this item starts, and its strides; copies it first where needed."""
        b, g, spec = self.b, self.g, self.spec
        band, source = g.band, spec.x_strides
        depth, height, width = g.axes
        plane = b.mul(group, band.planes * source.plane)
        x = b.at(self.x, b.add(plane, b.mul(self.image, source.image)))
        if self.tiling.copy:
            first = (b.mul(self.slice, depth.stride), b.mul(row, height.stride))
            copy_band(b, band, x, *first)
            self.base, self.strides = b.scratch, band.strides
            self.first_slice, self.first_row = self.slice, row
        else:
            pixels = (height.size * width.size, width.size, 1)
            self.base, self.strides = x, (source.plane, *(n * source.pixel for n in pixels))
            self.first_slice = self.first_row = 0

    def tile(
        self, block: Index, blocks: int, parts: tuple[Segment, Segment], row: Index, column: Index
    ) -> None:
        b, g = self.b, self.g
        rows, columns = parts
        sums: list[ir.Value] = []
        for i in range(blocks):
            start = b.splat(0.0)
            if self.bias is not None:
                start = b.vload(self.bias, b.mul(self.bias_of(b.add(block, i)), b.lanes))
            sums += [start] * (rows.width * columns.width)
        tile = Tile(blocks, rows.width * columns.width, sums)
        window = self.window(parts, row, column)
        whole, rest = (0, g.channels) if self.spec.plain else divmod(g.channels, b.lanes)
        w = b.at(self.w, b.mul(block, g.channels * g.taps * b.lanes))
        if whole:
            window.reduce(b, tile, self.base, w, whole, b.lanes)
        if rest:
            x = b.at(self.base, whole * self.strides[0])
            w = b.at(w, whole * b.lanes * g.taps * blocks * b.lanes)
            window.reduce(b, tile, x, w, 1, rest)
        for i in range(blocks):
            part = tile.sums[i * tile.pixels : (i + 1) * tile.pixels]
            self.store(b.add(block, i), row, rows.width, column, columns.width, part)

    def window(self, parts: tuple[Segment, Segment], row: Index, column: Index) -> Window:
        """What a tile at (row, column) sees of the input."""
        b, g = self.b, self.g
        depth, height, width = g.seen
        slices = (0, depth.taps) if self.tiling.copy else tap_range(b, depth, self.slice)
        at = (b.sub(self.slice, self.first_slice), b.sub(row, self.first_row), column)
        origin: Index = 0
        for index, axis, stride in zip(at, g.seen, self.strides[1:], strict=True):
            origin = b.add(origin, b.mul(index, axis.stride * stride), -axis.begin * stride)
        rows = runs(parts[0], height.taps)
        if g.row_range:
            rows = (Run(*tap_range(b, height, row), (0,), (0,)),)
        columns = runs(parts[1], width.taps)
        lane = self.strides[0] if self.spec.plain else 1
        shape = (parts[0].width, parts[1].width)
        start = (None if inside(g.seen[0]) else at[0], at[1] if g.row_range else None)
        return Window(g.seen, self.strides, lane, origin, slices, rows, columns, shape, start)

    def bias_of(self, block: Index) -> Index:
        return block

    def store(
        self, block: Index, row: Index, height: int, column: Index, width: int, tile: list
    ) -> None:
        b, g, pool = self.b, self.g, self.spec.pool
        lines = [tile[i * width : (i + 1) * width] for i in range(height)]
        lines = self.finished(block, row, column, lines)
        sizes = [axis.out for axis in g.axes]
        if pool is not None:
            lines = pool.of(b, lines, g.window)
            row, column = (
                b.div(at, side) for at, side in zip((row, column), g.window, strict=True)
            )
            sizes[1:] = (size // side for size, side in zip(sizes[1:], g.window, strict=True))
        y = b.at(self.y, self.offset(self.spec.y_strides, sizes, block, row, column))
        for i, line in enumerate(lines):
            for j, value in enumerate(line):
                self.put(value, y, (i * sizes[2] + j) * b.lanes)

    def finished(self, block: Index, row: Index, column: Index, lines: list[list]) -> list[list]:
        """The results of a tile after the epilogue, which sees the whole result."""
        epilogue = self.epilogue
        if epilogue is None:
            return lines
        b, g, spec = self.b, self.g, self.spec
        sizes = [axis.out for axis in g.axes]
        if spec.pool is not None:
            sizes[1:] = (*spec.conv_sizes, 1)[-2:] if len(spec.sizes) == 1 else spec.conv_sizes[-2:]
        base = self.offset(spec.conv_strides, sizes, block, row, column)

        def finish(value: ir.Value, i: int, j: int) -> ir.Value:
            where = self.coordinates(block, b.add(row, i), b.add(column, j))
            near = (i * sizes[2] + j) * b.lanes
            return epilogue(b, value, Place(b.add(base, near), where, b.lanes))

        return [
            [finish(value, i, j) for j, value in enumerate(line)] for i, line in enumerate(lines)
        ]

    def offset(
        self, lies: Strides, sizes: list[int], block: Index, row: Index, column: Index
    ) -> Index:
        """Where the pixel at (row, column) of an activation of such sizes lies."""
        b = self.b
        pixel = b.flatten([self.slice, row, column], sizes)
        base = b.add(b.mul(block, lies.plane), b.mul(self.image, lies.image))
        return b.add(base, b.mul(pixel, lies.pixel))

    def put(self, value: ir.Value, y: ir.Value, offset: int) -> None:
        self.b.vstore(value, y, offset)

    def coordinates(self, block: Index, row: Index, column: Index) -> Callable:
        return lambda: (block, *self.position(row, column))

    def position(self, row: Index, column: Index) -> tuple[Index, ...]:
        """The image and the spatial coordinates of a result."""
        out = self.spec.out_sizes
        if not self.g.flat:
            spatial = {1: [row], 2: [row, column], 3: [self.slice, row, column]}[len(out)]
            return (self.image, *spatial)
        if self.g.images == self.spec.batch:
            return (self.image, *self.b.unflatten(row, out))
        return tuple(self.b.unflatten(row, (self.spec.batch, *out)))
