"""The gradient of a convolution by its weights, from blocks of channels: sums over pixels.

    dw[o,c,u] = sum over n, i of dy[n,o,i] * x[n,c,i * stride + u * dilation - begin]

A tile keeps blocks of V filters (vectors of dy) times some channels (broadcasts of x) in registers
while it walks a band of pixels, whose part of x and dy stays in L1 for all taps. Taps that leave
the input are met by loop bounds. A work item is (part of the pixels, tile of filter blocks, block
of channels); parts are added in a fixed order by weight_grad_sum.py, so that results do not depend
on threads. What this template writes is [part][block of filters][channel][tap][V].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.microkernel import tile_cycles
from cnnir.backends.llvm.kernels.spec import (
    Axis,
    ConvSpec,
    Epilogue,
    KernelCode,
    Split,
    Target,
)

FMAS = 2  # a cycle, with which the costs here were fitted
BAND_BYTES = 20 << 10  # of x and dy that a tile walks for all taps
ITEMS = 32  # wanted; the pixels are split in parts where tiles alone are fewer
PARTS_BYTES = 8 << 20  # of all parts, at most
WIDEST = 4  # filter blocks in a tile
FLAT = (16, 128)  # columns of a row made of pixels, at least and at most


@dataclass(frozen=True)
class Tiling:
    blocks: int  # filter blocks in a tile, at most
    channels: int  # channels in a tile, a divisor of V or all of the group
    band: int  # rows of dy that are walked for all taps
    images: int  # whole images instead, where they have few rows
    parts: int  # in which all bands are summed


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec (of the forward convolution) as bands of pixels and tiles of weights."""

    spec: ConvSpec
    tiling: Tiling

    @cached_property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        return walked(self.spec)[1]

    @cached_property
    def batch(self) -> int:
        return walked(self.spec)[0]

    @property
    def channels(self) -> int:
        """Input channels in a group."""
        return self.spec.channels // self.spec.groups

    @property
    def in_blocks(self) -> int:
        """Blocks of them."""
        return -(-self.channels // self.spec.lanes)

    @property
    def out_blocks(self) -> int:
        """Blocks of filters in a group."""
        spec = self.spec
        return spec.filters // spec.groups // spec.lanes if spec.groups > 1 else spec.out_blocks

    @cached_property
    def out_tiles(self) -> Split:
        return Split(self.out_blocks, self.tiling.blocks)

    @property
    def taps(self) -> int:
        return prod(self.spec.kernel)

    @property
    def rows(self) -> int:
        """Vectors of a block of filters: a channel and tap each, those of the last tile whole."""
        return -(-self.channels // self.tiling.channels) * self.tiling.channels * self.taps

    @property
    def image_bands(self) -> int:
        """Bands along the rows of an image."""
        return -(-self.axes[1].out // self.tiling.band)

    @property
    def bands(self) -> int:
        if self.tiling.images > 1:
            return -(-self.batch // self.tiling.images)
        return self.batch * self.axes[0].out * self.image_bands

    @property
    def tiles(self) -> int:
        """Work items of each part."""
        return self.spec.groups * self.out_tiles.parts * self.in_blocks

    @property
    def part(self) -> int:
        """Floats of a part."""
        return self.spec.groups * self.out_blocks * self.rows * self.spec.lanes


def walked(spec: ConvSpec) -> tuple[int, tuple[Axis, Axis, Axis]]:
    """Images and axes to walk: a 1x1 convolution sees all pixels as rows of a fitting width."""
    depth, height, width = spec.axes()
    if not spec.padded and all(a.taps == 1 and a.stride == 1 for a in (depth, height, width)):
        pixels = spec.batch * prod(spec.sizes)
        for columns in range(min(FLAT[1], pixels), FLAT[0] - 1, -1):
            if pixels % columns == 0:
                one, rows = Axis(1, 1, 1, 1, 1, 0), pixels // columns
                return 1, (one, Axis(rows, rows, 1, 1, 1, 0), Axis(columns, columns, 1, 1, 1, 0))
    return spec.batch, (depth, height, width)


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if spec.groups > 1:
        if spec.filters // spec.groups % spec.lanes:
            return f"{spec.filters // spec.groups} filters a group, not whole blocks"
        if spec.channels // spec.groups % spec.lanes:
            return f"{spec.channels // spec.groups} channels a group, not whole blocks"
    if spec.plain:
        return "input is not blocked"
    return spec.problem()


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The tile with the least cost, bands that stay in L1, and parts that make enough items."""
    blocks, channels = min(_tiles(spec, target), key=lambda t: (_cycles(spec, *t), t))
    _, (depth, height, width) = walked(spec)
    pixels = max(1, BAND_BYTES // (4 * spec.lanes * (blocks + 1)))
    band = max(1, min(height.out, pixels // width.out))
    images = 1
    if depth.out == 1 and band == height.out:
        images = max(1, min(spec.batch, pixels // (height.out * width.out)))
    tiling = Tiling(blocks, channels, band, images, 1)
    g = Geometry(spec, tiling)
    most = max(1, PARTS_BYTES // (4 * g.part))
    parts = max(1, min(-(-ITEMS // g.tiles), g.bands, most))
    return Tiling(blocks, channels, band, images, parts)


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    cycles = _cycles(spec, tiling.blocks, tiling.channels)
    return cycles / target.hz


def _tiles(spec: ConvSpec, target: Target) -> Iterator[tuple[int, int]]:
    """Filter blocks and channels whose sums fit in the registers."""
    g = Geometry(spec, Tiling(1, 1, 1, 1, 1))
    widths = [n for n in range(1, spec.lanes + 1) if spec.lanes % n == 0]
    if g.channels < spec.lanes:
        widths = [n for n in widths if n < g.channels] + [g.channels]
    for blocks in range(1, min(WIDEST, g.out_blocks) + 1):
        for channels in widths:
            if blocks * channels + blocks + 1 <= target.registers or blocks * channels == 1:
                yield blocks, channels


def _cycles(spec: ConvSpec, blocks: int, channels: int) -> float:
    """All tiles over all pixels."""
    g = Geometry(spec, Tiling(blocks, channels, 1, 1, 1))
    pixels = spec.batch * prod(spec.out_sizes)
    total = 0.0
    for size, count in g.out_tiles.sizes():
        total += count * tile_cycles(size, channels, pixels, spec.lanes, FMAS)
    return total * spec.groups * -(-g.channels // channels) * g.taps


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
    summary = (
        f"weight gradient {'x'.join(map(str, spec.kernel))}, {tiling.blocks} blocks x "
        f"{tiling.channels} channels a tile, bands of "
        + (f"{tiling.images} images" if tiling.images > 1 else f"{tiling.band} rows")
        + f", {tiling.parts} parts"
    )
    return KernelCode(name, tiling.parts * g.tiles, 0, spec.flops, 3, summary, b.finish())


@dataclass(frozen=True)
class Band:
    """Images, slices and rows of dy: first and one past the last of each."""

    images: tuple[Index, Index]
    slices: tuple[Index, Index]
    rows: tuple[Index, Index]


def bands(b: Builder, g: Geometry, number: Index) -> Band:
    """The band of this number."""
    depth, height, _ = g.axes
    if g.tiling.images > 1:
        first = b.mul(number, g.tiling.images)
        last = b.min(b.add(first, g.tiling.images), g.batch)
        return Band((first, last), (0, 1), (0, height.out))
    image, z, band = b.unflatten(number, [g.batch, depth.out, g.image_bands])
    row = b.mul(band, g.tiling.band)
    end = b.min(b.add(row, g.tiling.band), height.out)
    return Band((image, b.add(image, 1)), (z, b.add(z, 1)), (row, end))


def seen(b: Builder, axis: Axis, tap: Index, bounds: tuple[Index, Index]) -> tuple[Index, Index]:
    """The results between bounds whose tap lies inside the input."""
    low, high = [], []
    for t in range(axis.taps):
        shift = t * axis.dilation - axis.begin
        low.append(max(0, -(shift // axis.stride)))
        high.append(max(0, min(axis.out, (axis.size - 1 - shift) // axis.stride + 1)))
    first, last = bounds
    if any(low):
        first = b.max(first, among(b, tap, low))
    if any(end < axis.out for end in high):
        last = b.min(last, among(b, tap, high))
    if isinstance(first, int) and isinstance(last, int) and first >= last:
        return b.value(first), b.value(last)  # none: a loop finds that out
    return first, last


def among(b: Builder, index: Index, values: list[int]) -> Index:
    """values[index], of a short list."""
    if isinstance(index, int):
        return values[index]
    found: Index = values[-1]
    for i in reversed(range(len(values) - 1)):
        if values[i] != values[i + 1]:
            inside = b.truth(b.less(index, i + 1))
            found = b.ir.select(inside, b.value(values[i]), b.value(found))
    return found


class _Emitter:
    """The loops of a work item."""

    def __init__(self, b: Builder, g: Geometry) -> None:
        self.b, self.g, self.spec, self.tiling = b, g, g.spec, g.tiling
        self.x, self.dy, self.sums = b.pointers

    def run(self) -> None:
        b, g, spec, tiling = self.b, self.g, self.spec, self.tiling
        extents = [tiling.parts, spec.groups, g.out_tiles.parts, g.in_blocks]
        part, group, tile, self.block = b.unflatten(b.item, extents)
        ends = [b.mul(p, g.bands) for p in (part, b.add(part, 1))]
        self.bands = b.div(ends[0], tiling.parts), b.div(ends[1], tiling.parts)
        plane = b.add(b.mul(group, g.in_blocks), self.block)
        x = b.at(self.x, b.mul(plane, spec.x_strides.plane))
        start = 0
        for blocks, count in g.out_tiles.sizes():
            position = b.sub(tile, start)
            with b.when(g.out_tiles.parts == count or b.inside(position, count)):
                block = b.add(g.out_tiles.start(b, tile), b.mul(group, g.out_blocks))
                dy = b.at(self.dy, b.mul(block, spec.y_strides.plane))
                sums = b.add(b.mul(part, g.part), b.mul(block, g.rows * b.lanes))
                self.tile(x, dy, b.at(self.sums, sums), blocks)
            start += count

    def tile(self, x: ir.Value, dy: ir.Value, sums: ir.Value, blocks: int) -> None:
        """All channels of the block, all taps, all bands of the part."""
        b, g, tiling = self.b, self.g, self.tiling
        whole, rest = divmod(g.channels, b.lanes)
        most = b.lanes // tiling.channels if whole else 1
        tiles: Index = most
        if whole and rest:
            last = -(-rest // tiling.channels)
            tiles = b.ir.select(b.truth(b.less(self.block, whole)), b.value(most), b.value(last))
        first = b.mul(self.block, most)
        with b.loop(tiles) as tile:
            rows = b.mul(b.add(first, tile.index), tiling.channels * g.taps)
            self.clear(b.at(sums, b.mul(rows, b.lanes)), blocks)
        with b.loop(self.bands[1], self.bands[0]) as number:
            band = bands(b, g, number.index)
            with b.loop(g.taps) as tap, b.loop(tiles) as tile:
                rows = b.mul(b.add(first, tile.index), tiling.channels * g.taps)
                into = b.at(sums, b.mul(b.add(rows, tap.index), b.lanes))
                source = b.at(x, b.mul(tile.index, tiling.channels))
                self.band(source, dy, into, band, tap.index, blocks)

    def clear(self, sums: ir.Value, blocks: int) -> None:
        b, g = self.b, self.g
        with b.loop(self.tiling.channels * g.taps) as row:
            for block in range(blocks):
                offset = b.add(b.mul(row.index, b.lanes), block * g.rows * b.lanes)
                b.vstore(b.splat(0.0), sums, offset)

    def band(
        self, x: ir.Value, dy: ir.Value, into: ir.Value, band: Band, tap: Index, blocks: int
    ) -> None:
        """One tap of one tile over one band, added to the sums."""
        b, g, channels = self.b, self.g, self.tiling.channels
        total = self.walk(x, dy, band, tap, blocks)
        for block in range(blocks):
            for channel in range(channels):
                offset = (block * g.rows + channel * g.taps) * b.lanes
                before = b.vload(into, offset)
                b.vstore(b.ir.fadd(before, total[block * channels + channel]), into, offset)

    def walk(
        self, x: ir.Value, dy: ir.Value, band: Band, tap: Index, blocks: int
    ) -> list[ir.Value]:
        """The sums over the pixels of a band."""
        b, g = self.b, self.g
        depth, height, width = g.axes
        taps = b.unflatten(tap, [a.taps for a in g.axes])
        slices = seen(b, depth, taps[0], band.slices)
        rows = seen(b, height, taps[1], band.rows)
        columns = seen(b, width, taps[2], (0, width.out))
        carry = [b.splat(0.0)] * (blocks * self.tiling.channels)
        with b.loop(band.images[1], band.images[0], carry=carry) as image:
            with b.loop(slices[1], slices[0], carry=image.state) as z:
                with b.loop(rows[1], rows[0], carry=z.state) as row:
                    at = [z.index, row.index, columns[0]]
                    target = b.at(dy, self.place(image.index, at, [a.out for a in g.axes]))
                    where = [
                        b.add(b.mul(i, a.stride), b.mul(t, a.dilation), -a.begin)
                        for i, t, a in zip(at, taps, g.axes, strict=True)
                    ]
                    source = b.at(x, self.place(image.index, where, [a.size for a in g.axes]))
                    count = b.sub(columns[1], columns[0])
                    row.state[:] = self.columns(source, target, count, blocks, row.state)
                z.state[:] = row.result
            image.state[:] = z.result
        return image.result

    def place(self, image: Index, at: list[Index], sizes: list[int]) -> Index:
        """Where a pixel lies in its plane, in floats."""
        b = self.b
        return b.mul(b.add(b.mul(image, prod(sizes)), b.flatten(at, sizes)), b.lanes)

    def columns(
        self, x: ir.Value, dy: ir.Value, count: Index, blocks: int, sums: list[ir.Value]
    ) -> list[ir.Value]:
        b, channels = self.b, self.tiling.channels
        plane, step = self.spec.y_strides.plane, self.g.axes[2].stride * b.lanes
        with b.loop(count, carry=sums) as column:
            pixel, source = b.mul(column.index, b.lanes), b.mul(column.index, step)
            vectors = [b.vload(dy, b.add(pixel, block * plane)) for block in range(blocks)]
            for channel in range(channels):
                value = b.broadcast(x, b.add(source, channel))
                for block, vector in enumerate(vectors):
                    i = block * channels + channel
                    column.state[i] = b.fma(vector, value, column.state[i])
        return column.result
