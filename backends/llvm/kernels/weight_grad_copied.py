"""The gradient of a convolution by its weights where few weights see each pixel.

Of a first layer with a row-major image of few channels, and of depthwise convolutions. A work item
takes a part of the pixels band by band: it copies the band of input with its padding in place to
scratch (band.py), so that every pixel of dy meets all taps, and keeps as many sums (a vector of
filters for each channel and tap) in registers as there is room for. A depthwise filter meets its
own channel, lane by lane; otherwise a vector of filters is multiplied by a broadcast input value.

Writes [part][block of filters][channel and tap][V], as weight_grad.py does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.band import Band, copy_band
from cnnir.backends.llvm.kernels.microkernel import tile_cycles
from cnnir.backends.llvm.kernels.spec import ConvSpec, Epilogue, KernelCode, Target, shares

FMAS = 2  # a cycle, with which the costs here were fitted
BAND_BYTES = 20 << 10  # of copied input
ITEMS = 32  # wanted
PARTS_BYTES = 8 << 20  # of all parts, at most
MOST_SUMS = 160  # channels and taps: each is an instruction
WIDEST = 2  # blocks of filters in a tile
COPIED = 10  # bytes a cycle of a band that is copied


@dataclass(frozen=True)
class Tiling:
    blocks: int  # blocks of filters in a tile, at most
    sums: int  # channels and taps in a tile, at most
    band: int  # rows of dy for which input is copied
    parts: int


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec as bands of pixels."""

    spec: ConvSpec
    tiling: Tiling

    @property
    def depthwise(self) -> bool:
        return self.spec.groups > 1

    @property
    def planes(self) -> int:
        """Planes of input that an item copies: channels, or a block of them."""
        return 1 if self.depthwise else self.spec.channels

    @property
    def rows(self) -> int:
        """Vectors of a block of filters: a channel of the group and a tap each."""
        return self.planes * prod(self.spec.kernel)

    @property
    def bands(self) -> int:
        depth, height, _ = self.spec.axes()
        return self.spec.batch * depth.out * -(-height.out // self.tiling.band)

    @property
    def blocks(self) -> int:
        """Blocks that are work items of their own."""
        return self.spec.out_blocks if self.depthwise else 1

    @property
    def part(self) -> int:
        """Floats of a part."""
        return self.spec.out_blocks * self.rows * self.spec.lanes

    @cached_property
    def band(self) -> Band:
        depth, height, width = self.spec.axes()
        span = height.span(min(self.tiling.band, height.out))
        source = self.spec.x_strides
        return Band(self.planes, depth, height, width, span, source, self.spec.lanes)

    def offsets(self) -> list[int]:
        """Where each channel and tap lies in the copied band, beside a pixel's first."""
        plane, *steps = self.band.strides
        along = zip(self.spec.axes(), steps, strict=True)
        taps = [[t * axis.dilation * step for t in range(axis.taps)] for axis, step in along]
        return [
            c * plane + z + y + x
            for c in range(self.planes)
            for z in taps[0]
            for y in taps[1]
            for x in taps[2]
        ]


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if spec.groups > 1:
        if not spec.groups == spec.channels == spec.filters or spec.plain:
            return f"{spec.groups} groups of {spec.channels} channels are not depthwise"
    elif not spec.plain:
        return "input is not row-major"
    if (sums := Geometry(spec, Tiling(1, 1, 1, 1)).rows) > MOST_SUMS:
        return f"{sums} channels and taps, more than {MOST_SUMS}"
    return spec.problem()


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """Blocks and sums that fit in the registers, bands in L1, and parts that make enough items."""
    options = [Tiling(n, (target.registers - 2 - n) // n, 1, 1) for n in range(1, WIDEST + 1)]
    if spec.groups > 1 or spec.out_blocks == 1:
        options = options[:1]
    tile = min(options, key=lambda t: _cycles(spec, t))
    depth, height, _ = spec.axes()
    wanted = -(-ITEMS // Geometry(spec, tile).blocks)
    most = max(1, min(height.out, height.out * spec.batch * depth.out // wanted))
    bands = [Tiling(tile.blocks, tile.sums, rows, 1) for rows in range(1, most + 1)]
    fitting = [t for t in bands if Geometry(spec, t).band.bytes <= BAND_BYTES]
    tile = (fitting or bands[:1])[-1]
    g = Geometry(spec, tile)
    most = max(1, PARTS_BYTES // (4 * g.part))
    return Tiling(tile.blocks, tile.sums, tile.band, min(-(-ITEMS // g.blocks), g.bands, most))


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    g = Geometry(spec, tiling)
    cycles = _cycles(spec, tiling) + g.blocks * g.bands * g.band.bytes / COPIED
    return cycles / target.hz


def _cycles(spec: ConvSpec, tiling: Tiling) -> float:
    g, pixels = Geometry(spec, tiling), spec.batch * prod(spec.out_sizes)
    return sum(
        tile_cycles(blocks, sums, pixels, spec.lanes, FMAS)
        for blocks in shares(spec.out_blocks, tiling.blocks)
        for sums in shares(g.rows, tiling.sums)
    )


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
        f"weight gradient {'x'.join(map(str, spec.kernel))}, "
        f"{'depthwise' if g.depthwise else f'{spec.channels} channels'}, {tiling.blocks} blocks x "
        f"{min(tiling.sums, g.rows)} sums a tile, {tiling.band} rows copied, {tiling.parts} parts"
    )
    items = tiling.parts * g.blocks
    return KernelCode(name, items, g.band.bytes, spec.flops, 3, summary, b.finish())


class _Emitter:
    """The loops of a work item."""

    def __init__(self, b: Builder, g: Geometry) -> None:
        self.b, self.g, self.spec, self.tiling = b, g, g.spec, g.tiling
        self.x, self.dy, self.sums = b.pointers

    def run(self) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        part, block = b.unflatten(b.item, [tiling.parts, g.blocks])
        ends = [b.div(b.mul(p, g.bands), tiling.parts) for p in (part, b.add(part, 1))]
        into = b.add(b.mul(part, g.part), b.mul(block, g.rows * b.lanes))
        self.into = b.at(self.sums, into)
        own = g.part // g.blocks
        with b.loop(own, step=b.lanes) as at:
            b.vstore(b.splat(0.0), self.into, at.index)
        with b.loop(ends[1], ends[0]) as number:
            self.band(block, number.index)

    def band(self, block: Index, number: Index) -> None:
        """Copy a band, and add what it gives."""
        b, g, spec = self.b, self.g, self.spec
        depth, height, width = spec.axes()
        count = -(-height.out // self.tiling.band)
        image, z, band = b.unflatten(number, [spec.batch, depth.out, count])
        row = b.mul(band, self.tiling.band)
        rows = b.sub(b.min(b.add(row, self.tiling.band), height.out), row)
        source, target = spec.x_strides, spec.y_strides
        x = b.at(self.x, b.add(b.mul(block, source.plane), b.mul(image, source.image)))
        copy_band(b, g.band, x, b.mul(z, depth.stride), b.mul(row, height.stride))
        pixel = b.flatten([z, row, 0], [depth.out, height.out, width.out])
        dy = b.add(b.mul(block, target.plane), b.mul(image, target.image), b.mul(pixel, b.lanes))
        first = 0
        offsets = g.offsets()
        for blocks in shares(spec.out_blocks // g.blocks, self.tiling.blocks):
            start = 0
            for sums in shares(g.rows, self.tiling.sums):
                at = b.at(self.dy, b.add(dy, first * target.plane))
                self.tile(at, rows, first, blocks, start, offsets[start : start + sums])
                start += sums
            first += blocks

    def tile(
        self,
        dy: ir.Value,
        rows: Index,
        first: int,
        blocks: int,
        start: int,
        offsets: Sequence[int],
    ) -> None:
        """Some blocks of filters and some channels and taps over a band."""
        b, g, spec = self.b, self.g, self.spec
        _, height, width = spec.axes()
        down, right = g.band.strides[2] * height.stride, g.band.pixel * width.stride
        carry = [b.splat(0.0)] * (blocks * len(offsets))
        with b.loop(rows, carry=carry) as row:
            x = b.at(b.scratch, b.mul(row.index, down))
            slopes = b.at(dy, b.mul(row.index, width.out * b.lanes))
            with b.loop(width.out, carry=row.state) as column:
                near = b.at(x, b.mul(column.index, right))
                pixel = b.mul(column.index, b.lanes)
                vectors = [
                    b.vload(slopes, b.add(pixel, block * spec.y_strides.plane))
                    for block in range(blocks)
                ]
                for i, offset in enumerate(offsets):
                    value = b.vload(near, offset) if g.depthwise else b.broadcast(near, offset)
                    for block, vector in enumerate(vectors):
                        k = block * len(offsets) + i
                        column.state[k] = b.fma(vector, value, column.state[k])
            row.state[:] = column.result
        for k, value in enumerate(row.result):
            block, i = divmod(k, len(offsets))
            at = ((first + block) * g.rows + start + i) * b.lanes
            b.vstore(b.ir.fadd(b.vload(self.into, at), value), self.into, at)
