"""The gradient of a convolution by its weights in Winograd's way: fewer products a tile of pixels.

    dw = A^T [ sum over tiles of (G dy G^T) * (B^T x B) ] A

which is F(m x m', r x r') with the r x r' taps as results and m x m' pixels of dy as taps; the
transforms are those of winograd_transforms.py. For stride 1, no dilation and no groups. A work item
is (part of the tiles, some blocks of filters, some of channels): for a group of tiles at a time it
transforms dy and x, multiplies for each of the products, and adds to sums in scratch, which are
transformed to taps at the end. Parts are added by weight_grad_sum.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod

import llvmlite.ir as ir

from cnnir.backends.llvm.builder import Builder, Condition, Index
from cnnir.backends.llvm.kernels.microkernel import (
    FMAS,
    Reduction,
    Tile,
    accumulate,
    tile_cycles,
)
from cnnir.backends.llvm.kernels.small_matrix import multiply, operations
from cnnir.backends.llvm.kernels.spec import ConvSpec, Epilogue, KernelCode, Strides, Target
from cnnir.backends.llvm.kernels.winograd import reject
from cnnir.backends.llvm.kernels.winograd_tiling import OPERATION, PRODUCTS, STREAM, TOUCHED
from cnnir.backends.llvm.kernels.winograd_transforms import Transforms, transforms

__all__ = ["Geometry", "Tiling", "choose", "emit", "estimate", "reject"]

ITEM_COST = 2500  # cycles to fetch a work item
ITEMS = 16  # wanted; tiles are split in parts where weights alone make fewer
PARTS_BYTES = 8 << 20  # of all parts, at most
GROUPS = (8, 16, 24, 32)  # tiles that are transformed at a time
WIDEST = 4  # filter blocks in a register tile, at most
MOST = 8  # blocks of filters or channels in a work item, at most


@dataclass(frozen=True)
class Tiling:
    tile: tuple[int, int]  # pixels of dy in a Winograd tile: rows, columns
    count: int  # Winograd tiles in a group
    filters: int  # blocks of filters in a work item, a divisor of all
    channels: int  # blocks of channels in a work item, a divisor of all
    blocks: int  # blocks of filters in a register tile, a divisor of `filters`
    width: int  # channels in it, a divisor of V
    parts: int = 1


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec as tiles of dy, with what a tiling makes of them; lengths count floats."""

    spec: ConvSpec
    tiling: Tiling

    @cached_property
    def transforms(self) -> tuple[Transforms, Transforms]:
        """Along the rows' axis and the columns'."""
        _, height, width = self.spec.axes()
        rows, columns = self.tiling.tile
        return transforms(height.taps, rows), transforms(width.taps, columns)

    @property
    def sides(self) -> tuple[int, int]:
        rows, columns = self.transforms
        return len(rows.inputs), len(columns.inputs)

    @property
    def products(self) -> int:
        return prod(self.sides)

    @property
    def grid(self) -> tuple[int, int]:
        _, height, width = self.spec.axes()
        rows, columns = self.tiling.tile
        return -(-height.out // rows), -(-width.out // columns)

    @property
    def tiles(self) -> int:
        return self.spec.batch * prod(self.grid)

    @property
    def groups(self) -> int:
        return -(-self.tiles // self.tiling.count)

    @property
    def taps(self) -> int:
        return prod(self.spec.kernel)

    @property
    def rows(self) -> int:
        """Vectors of a block of filters: a channel and tap each, those of pad lanes too."""
        return self.spec.in_blocks * self.spec.lanes * self.taps

    @property
    def part(self) -> int:
        """Floats of a part."""
        return self.spec.out_blocks * self.rows * self.spec.lanes

    @property
    def chunks(self) -> tuple[int, int]:
        """Work items of a part: by filters, by channels."""
        spec, tiling = self.spec, self.tiling
        return spec.out_blocks // tiling.filters, spec.in_blocks // tiling.channels

    # an odd number of vectors in a plane: equal elements of planes are in different cache sets

    @property
    def x_plane(self) -> int:
        return (self.tiling.channels * self.tiling.count | 1) * self.spec.lanes

    @property
    def dy_plane(self) -> int:
        return (self.tiling.filters * self.tiling.count | 1) * self.spec.lanes

    @property
    def sum_plane(self) -> int:
        tiling, lanes = self.tiling, self.spec.lanes
        return (tiling.filters * tiling.channels * lanes | 1) * lanes

    @property
    def scratch(self) -> int:
        return self.spec.lanes + self.products * (self.x_plane + self.dy_plane + self.sum_plane)


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The kind of tile and the cut with the least cost; it does not depend on threads."""
    return min(_tilings(spec, target), key=lambda t: (_cycles(spec, t, target), t.count, t.filters))


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    return _cycles(spec, tiling, target) * (2 * FMAS * spec.lanes) / target.peak


def _tilings(spec: ConvSpec, target: Target) -> Iterator[Tiling]:
    _, height, width = spec.axes()
    kinds = [[1] if a.taps == 1 else [n - a.taps + 1 for n in PRODUCTS] for a in (height, width)]
    register_tiles = [
        (blocks, channels)
        for blocks in range(1, WIDEST + 1)
        for channels in (spec.lanes, spec.lanes // 2, spec.lanes // 4)
        if channels and blocks * channels + blocks + 1 <= target.registers
    ]
    for tile in product(*([m for m in kind if m > 0] for kind in kinds)):
        for filters, channels in product(_divisors(spec.out_blocks), _divisors(spec.in_blocks)):
            best = min(
                (t for t in register_tiles if filters % t[0] == 0),
                key=lambda t: tile_cycles(*t, 16) / (t[0] * t[1]),
                default=None,
            )
            for count in GROUPS if best else ():
                g = Geometry(spec, Tiling(tile, count, filters, channels, *best))
                most = max(1, PARTS_BYTES // (4 * g.part))
                parts = max(1, min(-(-ITEMS // prod(g.chunks)), g.groups, most))
                yield Tiling(tile, count, filters, channels, *best, parts)


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, min(count, MOST) + 1) if count % n == 0]


@lru_cache(maxsize=4096)
def _cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    g = Geometry(spec, tiling)
    x_cost, dy_cost, last = _transform_cycles(spec, tiling.tile)
    turns = (tiling.filters // tiling.blocks) * (tiling.channels * spec.lanes // tiling.width)
    sums = tiling.blocks * tiling.width
    multiplied = (
        g.products * turns * (tile_cycles(tiling.blocks, tiling.width, tiling.count) + sums)
    )
    group = tiling.count * (tiling.channels * x_cost + tiling.filters * dy_cost) + multiplied
    if 4 * g.scratch > target.l2 * 3 // 4:
        group += 8 * g.products * g.sum_plane / STREAM
    end = tiling.filters * tiling.channels * spec.lanes * (last + g.products)
    return prod(g.chunks) * (g.groups * group + tiling.parts * (end + ITEM_COST))


@lru_cache(maxsize=64)
def _transform_cycles(spec: ConvSpec, tile: tuple[int, int]) -> tuple[float, float, float]:
    """Of a tile of x, of one of dy, and of sums, a vector an element."""
    g = Geometry(spec, Tiling(tile, 1, 1, 1, 1, 1))
    (rows, columns), (height, width) = g.transforms, g.sides
    x = width * operations(rows.inputs) + height * operations(columns.inputs)
    dy = tile[1] * operations(rows.taps) + height * operations(columns.taps)
    last = width * operations(rows.results) + len(rows.results) * operations(columns.results)
    touched = [2 * g.products, g.products + prod(tile), g.products + g.taps]
    x, dy, last = (
        OPERATION * work + TOUCHED * moved
        for work, moved in zip((x, dy, last), touched, strict=True)
    )
    return x, dy, last


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
