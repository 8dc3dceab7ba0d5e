"""Convolution in groups that are not whole blocks of channels, on Blocked(V): the loops of
direct_conv.py for one group at a time.

A work item is (group, image, band of output rows). It copies the group's channels of its band of
input, with the padding in place, to scratch, where the channels of a pixel lie side by side. Every
block of filters that the group has a part in is computed whole, with weights of zero for foreign
lanes, and only the group's own lanes are stored: items that share a block touch different lanes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import I32, Builder, Index
from cnnir.backends.llvm.kernels import direct_conv
from cnnir.backends.llvm.kernels.conv_tiling import Geometry, Tiling
from cnnir.backends.llvm.kernels.edges import line_place, place
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Target,
    storage,
)
from cnnir.ops.boundary import ZERO

LEAST_USE = 1 / 8  # of the lanes that are computed; with less, printed loops are as good


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    channels, filters = spec.channels // spec.groups, spec.filters // spec.groups
    if spec.groups == 1 or not (channels % spec.lanes or filters % spec.lanes):
        return "groups of whole blocks"
    if spec.plain:
        return "input is not blocked"
    if filters < LEAST_USE * _spanned(filters, spec) * spec.lanes:
        return f"{filters} filters a group, too few for blocks of {spec.lanes}"
    return spec.problem()


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """As for a group by itself; an item computes all of its blocks, so as to copy once."""
    return tilings(spec, target, 1)[0]


def tilings(spec: ConvSpec, target: Target, count: int) -> list[Tiling]:
    """The best choices by prediction, of different tiles."""
    one = _one_group(spec)
    found = direct_conv.tilings(one, target, 2 * count)
    copied = (replace(tiling, copy=True, chunk=one.out_blocks) for tiling in found)
    return list(dict.fromkeys(copied))[:count]


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    return spec.groups * direct_conv.estimate(_one_group(spec), tiling, target)


def packed_size(spec: ConvSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    return spec.groups * direct_conv.packed_size(_one_group(spec), tiling)


def pack(
    weights: np.ndarray, spec: ConvSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[O,C/g,*kernel] as one convolution a group, whose filters begin where a block does."""
    one, filters = _one_group(spec), spec.filters // spec.groups
    packed = storage(out, packed_size(spec, tiling))
    spread = np.zeros((one.filters, *weights.shape[1:]), np.float32)
    for group, part in enumerate(packed.reshape(spec.groups, -1)):
        first = group * filters % spec.lanes
        spread[:] = 0
        spread[first : first + filters] = weights[group * filters : (group + 1) * filters]
        direct_conv.pack(spread, one, tiling, part)
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
    g = Geometry(_one_group(spec), tiling)
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    emitter = _GroupEmitter(b, g, epilogue, spec)
    emitter.run()
    summary = (
        f"{spec.groups} groups of {g.channels} to {spec.filters // spec.groups} in {g.blocks} "
        f"blocks, {'x'.join(map(str, spec.kernel))}, {tiling.blocks} blocks x "
        f"{tiling.rows * tiling.columns} pixels a tile, {tiling.band} of {g.rows.parts} row tiles "
        "an item"
    )
    items, scratch = spec.groups * g.items, emitter.scratch_bytes
    return KernelCode(name, items, scratch, spec.flops, before, summary, b.finish())


def _spanned(count: int, spec: ConvSpec) -> int:
    """The most blocks that the `count` channels of a group have a part in."""
    firsts = [group * count for group in range(spec.groups)]
    return max((first + count - 1) // spec.lanes - first // spec.lanes + 1 for first in firsts)


def _one_group(spec: ConvSpec) -> ConvSpec:
    """A group by itself, as the tiles see it: its channels are planes of scratch."""
    filters = _spanned(spec.filters // spec.groups, spec) * spec.lanes
    channels = spec.channels // spec.groups
    return replace(spec, channels=channels, filters=filters, groups=1, plain=True)


class _GroupEmitter(direct_conv.ConvEmitter):
    def __init__(
        self, b: Builder, g: Geometry, epilogue: Epilogue | None, grouped: ConvSpec
    ) -> None:
        super().__init__(b, g, epilogue)
        self.grouped, self.groups = grouped, grouped.groups
        self.filters = grouped.filters // grouped.groups
        self.planes = _spanned(g.channels, grouped)
        # a pixel in scratch: room for what comes before its first channel, then its planes
        pixel = (self.planes + 1) * b.lanes
        row = g.band.columns * pixel
        self.strides = (1, g.band.rows * row, row, pixel)
        self.scratch_bytes = 4 * g.band.slices * self.strides[1]

    def locate(self, group: Index, row: Index) -> None:
        """Copy the group's band of input, pixel by pixel."""
        b, band = self.b, self.g.band
        depth, height, _ = self.g.axes
        self.group = group
        channel = b.mul(group, self.g.channels)
        first = b.div(channel, b.lanes)
        self.base = b.at(b.scratch, b.lanes)
        target = b.at(self.base, b.sub(0, b.rem(channel, b.lanes)))
        with b.loop(band.slices) as s, b.loop(band.rows) as r:
            z, deep = line_place(b, band.depth, b.add(b.mul(self.slice, depth.stride), s.index))
            i, down = line_place(b, band.height, b.add(b.mul(row, height.stride), r.index))
            offset = b.add(b.mul(s.index, self.strides[1]), b.mul(r.index, self.strides[2]))
            pixels = b.mul(b.add(b.mul(z, height.size), i), band.width.size)
            known, into = b.both(deep, down), b.at(target, offset)
            if known is True:
                self._copy_row(first, pixels, into)
            else:
                with b.either(known) as (yes, no):
                    with yes:
                        self._copy_row(first, pixels, into)
                    with no:
                        self._zeros(into, 0, band.columns)
        self.first_slice, self.first_row = self.slice, row

    def _copy_row(self, first: Index, pixels: Index, target: ir.Value) -> None:
        """The padding to the left, the row, the padding to the right."""
        b, band, source = self.b, self.g.band, self.grouped.x_strides
        width = band.width
        left, end = 0, band.columns
        if width.boundary == ZERO:
            left = min(width.begin, band.columns)
            end = left + min(width.size, band.columns - left)
        self._zeros(target, 0, left)
        if left < end:
            image = b.at(self.x, b.mul(self.image, source.image))
            image = b.at(image, b.mul(pixels, source.pixel))
            with b.loop(end, left) as j:
                low, high = left - width.begin, end - 1 - width.begin
                column = place(b, width, b.add(j.index, -width.begin), low, high)
                at = b.mul(j.index, self.strides[3])
                for q in range(self.planes):
                    # a group that has a part in fewer blocks reads one twice, and uses it once
                    plane = b.min(b.add(first, q), self.grouped.in_blocks - 1)
                    offset = b.add(b.mul(plane, source.plane), b.mul(column, source.pixel))
                    b.vstore(b.vload(image, offset), target, b.add(at, q * b.lanes), align=4)
        self._zeros(target, end, band.columns - end)

    def _zeros(self, target: ir.Value, start: int, count: int) -> None:
        b = self.b
        if count > 0:
            with b.loop(start + count, start) as j:
                at = b.mul(j.index, self.strides[3])
                for q in range(self.planes):
                    b.vstore(b.splat(0.0), target, b.add(at, q * b.lanes), align=4)

    def real(self, block: Index) -> Index:
        """The block of the result that a block of the groups one after another belongs to."""
        b = self.b
        first = b.div(b.mul(self.group, self.filters), b.lanes)
        return b.add(b.sub(block, b.mul(self.group, self.g.blocks)), first)

    def bias_of(self, block: Index) -> Index:
        return self.b.min(self.real(block), self.grouped.out_blocks - 1)

    def store(
        self, block: Index, row: Index, height: int, column: Index, width: int, tile: list
    ) -> None:
        """As ever, but for the lanes of other groups."""
        b, block = self.b, self.real(block)
        start = b.sub(b.mul(self.group, self.filters), b.mul(block, b.lanes))
        self.mask = _between(b, start, b.add(start, self.filters))
        # the last blocks are no group's where this one has a part in fewer than others have
        with b.when(b.less(block, self.grouped.out_blocks)):
            super().store(block, row, height, column, width, tile)

    def put(self, value: ir.Value, y: ir.Value, offset: int) -> None:
        b = self.b
        arguments = [value, b.at(y, offset), ir.Constant(I32, 4 * b.lanes), self.mask]
        b.call(f"llvm.masked.store.v{b.lanes}f32.p0", ir.VoidType(), arguments)


def _between(b: Builder, low: Index, high: Index) -> ir.Value:
    """Which lanes l have low <= l < high."""
    kind = ir.VectorType(I32, b.lanes)
    lanes = ir.Constant(kind, list(range(b.lanes)))

    def all_lanes(x: Index) -> ir.Value:
        narrow = b.ir.trunc(b.value(x), I32)
        first = b.ir.insert_element(ir.Poison(kind), narrow, ir.Constant(I32, 0))
        return b.shuffle(first, [0] * b.lanes)

    above = b.ir.icmp_signed(">=", lanes, all_lanes(low))
    return b.ir.and_(above, b.ir.icmp_signed("<", lanes, all_lanes(high)))
