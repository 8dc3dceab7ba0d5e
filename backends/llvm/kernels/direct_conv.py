"""Direct convolution onto Blocked(V): 1-D to 3-D, any stride, dilation, padding, size and groups.

A work item is (image, band of output rows, chunk of output channel blocks). Inside it, tiles of
blocks x rows x columns go through the micro-kernel, weights outermost. Where there is padding the
item first copies its band of input with the zeros in place into scratch that stays in cache: about
one per cent of the time, and no edge code. An unpadded 1x1 convolution is one column of pixels.

Groups are served when each has whole blocks of channels; smaller ones are in depthwise.py. Which
layout the operands get is decided by the plan, not here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import llvmlite.ir as ir
import numpy as np

from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.band import copy_band
from cnnir.backends.llvm.kernels.conv_tiling import Geometry, Tiling, choose, estimate
from cnnir.backends.llvm.kernels.microkernel import Reduction, accumulate
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    aligned_empty,
    shares,
)

__all__ = ["ConvSpec", "Tiling", "choose", "emit", "estimate", "pack", "reject"]


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if spec.groups > 1:
        if spec.filters // spec.groups % spec.lanes:
            return f"{spec.filters // spec.groups} filters a group, not whole blocks"
        if not spec.plain and spec.channels // spec.groups % spec.lanes:
            return f"{spec.channels // spec.groups} channels a group, not whole blocks"
    return spec.problem()


def pack(weights: np.ndarray, spec: ConvSpec, tiling: Tiling) -> np.ndarray:
    """w[O,C/g,*kernel] in the order in which the kernel reads it.

    [group][tile of blocks][block of channels][tap][channel in the block][block in the tile][V]; the
    last block of channels has only its real channels, filters beyond the last are zero.
    """
    g, lanes = Geometry(spec, tiling), spec.lanes
    filters = np.zeros((spec.out_blocks * lanes, g.channels, g.taps), np.float32)
    filters[: spec.filters] = weights.reshape(spec.filters, g.channels, g.taps)
    packed = aligned_empty(filters.size)
    position = 0
    step = g.channels if spec.plain else lanes
    for group in range(spec.groups):
        first = group * g.blocks
        for _ in range(g.chunks):
            for count in shares(tiling.chunk, tiling.blocks):
                tile = filters[first * lanes : (first + count) * lanes]
                tile = tile.reshape(count, lanes, g.channels, g.taps)
                first += count
                for c in range(0, g.channels, step):
                    part = tile[:, :, c : c + step].transpose(3, 2, 0, 1).ravel()
                    packed[position : position + part.size] = part
                    position += part.size
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
    scratch = g.band.bytes if g.copied else 0
    return KernelCode(name, g.items, scratch, spec.flops, before, _summary(g), function)


def _summary(g: Geometry) -> str:
    tiling = g.tiling
    return (
        f"direct {'x'.join(map(str, g.spec.kernel))}, {tiling.blocks} blocks x "
        f"{tiling.rows * tiling.columns} pixels a tile, {tiling.chunk} of {g.blocks} blocks and "
        f"{tiling.band} of {g.rows.parts} row tiles an item, "
        f"{'padded band copied' if g.copied else 'input read in place'}"
    )


class ConvEmitter:
    """The loops of a work item. `store` and `bias_of` are what a scattering variant replaces."""

    def __init__(self, b: Builder, g: Geometry, epilogue: Epilogue | None) -> None:
        self.b, self.g, self.spec, self.tiling = b, g, g.spec, g.tiling
        self.epilogue = epilogue
        self.x, self.w, *rest, self.y = b.pointers
        self.bias = rest[0] if g.spec.bias else None

    def run(self) -> None:
        b, g, spec, tiling = self.b, self.g, self.spec, self.tiling
        extents = [spec.groups, g.chunks, spec.batch, g.axes[0].out, g.bands]
        group, chunk, self.image, self.slice, band = b.unflatten(b.item, extents)
        first = b.mul(band, tiling.band)
        last = b.min(b.add(first, tiling.band), g.rows.parts)
        self.locate(group, g.rows.start(b, first))
        split = shares(tiling.chunk, tiling.blocks)
        for blocks, parts in _runs(split):
            start = sum(split[: split.index(blocks)])
            with b.loop(parts) as tile:
                block = b.add(b.mul(tile.index, blocks), b.mul(chunk, tiling.chunk), start)
                block = b.add(block, b.mul(group, g.blocks))
                for row, height in g.rows.each(b, first, last):
                    for column, width in g.columns.each(b, 0, g.columns.parts):
                        self.tile(block, blocks, row, height, column, width)

    def locate(self, group: Index, row: Index) -> None:
        """Where the input of this item starts, and its strides; copies it first where needed."""
        b, g, spec = self.b, self.g, self.spec
        band, pixel = g.band, g.band.pixel
        sizes = [g.axes[0].size, g.axes[1].size, g.axes[2].size]
        planes = spec.channels if spec.plain else spec.in_blocks
        plane = b.add(b.mul(self.image, planes), b.mul(group, band.planes))
        x = b.at(self.x, b.mul(plane, prod(sizes) * pixel))
        if g.copied:
            first = (b.mul(self.slice, g.axes[0].stride), b.mul(row, g.axes[1].stride))
            copy_band(b, band, x, *first)
            self.base, self.first_row = b.scratch, row
            self.strides = band.strides
        else:
            strides = (prod(sizes), sizes[1] * sizes[2], sizes[2], 1)
            self.strides = tuple(s * pixel for s in strides)
            self.base = b.at(x, b.mul(self.slice, g.axes[0].stride * self.strides[1]))
            self.first_row = 0

    def tile(
        self, block: Index, blocks: int, row: Index, height: int, column: Index, width: int
    ) -> None:
        b, g = self.b, self.g
        _, _, row_stride, pixel = self.strides
        down, right = g.axes[1].stride * row_stride, g.axes[2].stride * pixel
        offset = b.add(b.mul(b.sub(row, self.first_row), down), b.mul(column, right))
        x = b.at(self.base, offset)
        pixels = [i * down + j * right for i in range(height) for j in range(width)]
        w = b.at(self.w, b.mul(block, g.channels * g.taps * b.lanes))
        state = []
        for i in range(blocks):
            start = b.splat(0.0)
            if self.bias is not None:
                start = b.vload(self.bias, b.mul(self.bias_of(b.add(block, i)), b.lanes))
            state += [start] * len(pixels)
        whole, rest = divmod(g.channels, b.lanes)
        if self.spec.plain:
            whole, rest = 0, g.channels
        if whole:
            state, w = accumulate(b, state, x, w, pixels, self.nest(whole, b.lanes))
        if rest:
            x = b.at(x, whole * self.strides[0])
            state, w = accumulate(b, state, x, w, pixels, self.nest(1, rest))
        for i in range(blocks):
            part = state[i * len(pixels) : (i + 1) * len(pixels)]
            self.store(b.add(block, i), row, height, column, width, part)

    def bias_of(self, block: Index) -> Index:
        return block

    def nest(self, planes: int, lanes: int) -> list[Reduction]:
        g = self.g
        plane, depth, row, pixel = self.strides
        return [
            Reduction(planes, plane),
            Reduction(g.axes[0].taps, g.axes[0].dilation * depth),
            Reduction(g.axes[1].taps, g.axes[1].dilation * row),
            Reduction(g.axes[2].taps, g.axes[2].dilation * pixel),
            Reduction(lanes, plane if self.spec.plain else 1),
        ]

    def store(
        self, block: Index, row: Index, height: int, column: Index, width: int, tile: list
    ) -> None:
        b, g = self.b, self.g
        sizes = [self.spec.batch, self.spec.out_blocks, g.axes[0].out, g.axes[1].out, g.axes[2].out]
        index = [self.image, block, self.slice, row, column]
        base = b.mul(b.flatten(index, sizes), b.lanes)
        y = b.at(self.y, base)
        for p, value in enumerate(tile):
            i, j = divmod(p, width)
            near = (i * g.axes[2].out + j) * b.lanes
            if self.epilogue is not None:
                where = self.coordinates(block, b.add(row, i), b.add(column, j))
                value = self.epilogue(b, value, Place(b.add(base, near), where, b.lanes))
            b.vstore(value, y, near)

    def coordinates(self, block: Index, row: Index, column: Index) -> Callable:
        b, g, out = self.b, self.g, self.spec.out_sizes
        if g.flat:
            return lambda: (self.image, block, *b.unflatten(row, out))
        spatial = {1: [row], 2: [row, column], 3: [self.slice, row, column]}[len(out)]
        return lambda: (self.image, block, *spatial)


def _runs(values: list[int]) -> list[tuple[int, int]]:
    """[2, 2, 1] -> [(2, 2), (1, 1)]: each value with how often it comes."""
    return [(v, values.count(v)) for v in sorted(set(values), reverse=True)]
