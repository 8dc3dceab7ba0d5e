"""Transposed convolution whose windows do not overlap (stride = kernel), onto Blocked(V).

That is a 1x1 convolution to filters x taps channels, whose results go to stride-spaced places: the
loops of direct_conv.py with another store. Overlapping windows with
constant weights never come here: a pass says them as convolutions. Others are for the loop printer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels import direct_conv
from cnnir.backends.llvm.kernels.conv_tiling import Geometry, Tiling
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    Strides,
    Target,
)


@dataclass(frozen=True)
class ConvTransposeSpec:
    """x[N,C,*sizes] with w[C,O,*kernel]; layouts as in ConvSpec."""

    batch: int
    channels: int
    filters: int
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int = 1
    plain: bool = False
    bias: bool = False
    lanes: int = 16

    @property
    def out_sizes(self) -> tuple[int, ...]:
        return tuple(s * k for s, k in zip(self.sizes, self.kernel, strict=True))

    @property
    def out_blocks(self) -> int:
        return -(-self.filters // self.lanes)

    @property
    def y_strides(self) -> Strides:
        return Strides.blocked(self.batch, self.out_sizes, self.lanes)

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.channels * self.filters * prod(self.out_sizes)

    def product(self) -> ConvSpec:
        """The 1x1 convolution to all taps: its block t * out_blocks + b is block b of tap t."""
        rank = len(self.sizes)
        ones = (1,) * rank
        filters = self.taps * self.out_blocks * self.lanes
        return ConvSpec(
            self.batch,
            self.channels,
            filters,
            self.sizes,
            ones,
            ones,
            ones,
            (0,) * (2 * rank),
            1,
            self.plain,
            self.bias,
            self.lanes,
        )


def reject(spec: ConvTransposeSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if spec.stride != spec.kernel:
        return f"stride {spec.stride} is not the kernel {spec.kernel}"
    if any(spec.padding) or any(spec.output_padding):
        return "padding"
    if any(d != 1 and k > 1 for d, k in zip(spec.dilation, spec.kernel, strict=True)):
        return "dilation"
    if spec.groups != 1:
        return f"{spec.groups} groups"
    return direct_conv.reject(spec.product())


def choose(spec: ConvTransposeSpec, target: Target) -> Tiling:
    return direct_conv.choose(spec.product(), target)


def estimate(spec: ConvTransposeSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    return direct_conv.estimate(spec.product(), tiling, target)


def packed_size(spec: ConvTransposeSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    return direct_conv.packed_size(spec.product(), tiling)


def pack(
    weights: np.ndarray, spec: ConvTransposeSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[C,O,*kernel] as the 1x1 weights of `product`, packed."""
    width = spec.out_blocks * spec.lanes
    filters = np.zeros((spec.taps, width, spec.channels), np.float32)
    split = weights.reshape(spec.channels, spec.filters, spec.taps)
    filters[:, : spec.filters] = split.transpose(2, 1, 0)
    return direct_conv.pack(filters, spec.product(), tiling, out)


def emit(
    module: ir.Module,
    name: str,
    spec: ConvTransposeSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    g = Geometry(spec.product(), tiling)
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    _Scatter(b, g, epilogue, spec).run()
    summary = (
        f"transposed {'x'.join(map(str, spec.kernel))} as a 1x1 to {spec.taps} taps, "
        f"{tiling.blocks} blocks x {tiling.rows} pixels a tile"
    )
    return KernelCode(name, g.items, 0, spec.flops, before, summary, b.finish())


class _Scatter(direct_conv.ConvEmitter):
    def __init__(
        self, b: Builder, g: Geometry, epilogue: Epilogue | None, spec: ConvTransposeSpec
    ) -> None:
        super().__init__(b, g, epilogue)
        self.transposed = spec

    def bias_of(self, block: Index) -> Index:
        return self.b.rem(block, self.transposed.out_blocks)

    def store(
        self, block: Index, row: Index, height: int, column: Index, width: int, tile: list
    ) -> None:
        """The pixels of a tile are neighbours in x, and `kernel` apart in y."""
        b, spec = self.b, self.transposed
        strides = spec.y_strides
        tap = b.unflatten(b.div(block, spec.out_blocks), spec.kernel)
        target = b.rem(block, spec.out_blocks)
        for p, value in enumerate(tile):
            image, *pixel = self.position(b.add(row, p), column)
            at = [b.add(b.mul(i, k), t) for i, k, t in zip(pixel, spec.kernel, tap, strict=True)]
            offset = b.add(b.mul(target, strides.plane), b.mul(image, strides.image))
            offset = b.add(offset, b.mul(b.flatten(at, spec.out_sizes), strides.pixel))
            if self.epilogue is not None:
                where = partial(tuple, (target, image, *at))
                value = self.epilogue(b, value, Place(offset, where, b.lanes))
            b.vstore(value, self.y, offset)
