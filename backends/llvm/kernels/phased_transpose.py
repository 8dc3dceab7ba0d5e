"""Transposed convolution onto Blocked(V), as a direct convolution a phase: any kernel and stride.

    y[n,o,q * s + r] = sum over c, u of w[c,o,u] * x[n,c,q + (r + begin - u * dilation) / s]

where s is the stride and u are the taps for which the division has no rest. For each phase r (one
of s along every axis) that is a convolution of stride 1 with those taps backwards, whose results
lie s apart: the loops of direct_conv.py with another store. A phase that no tap meets is filled
with the bias. The gradient of a strided convolution by its input is such a one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from math import prod

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels import direct_conv
from cnnir.backends.llvm.kernels.conv_tiling import Geometry, Tiling
from cnnir.backends.llvm.kernels.conv_transpose import ConvTransposeSpec
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    Strides,
    Target,
    storage,
)

MOST_PHASES = 9
ITEM_COST = 2500  # cycles to fetch a work item


@dataclass(frozen=True)
class PhasedSpec(ConvTransposeSpec):
    """x[N,C,*sizes] with w[C,O/groups,*kernel], to results of any stride."""

    @property
    def out_sizes(self) -> tuple[int, ...]:
        rank = len(self.sizes)
        return tuple(
            (n - 1) * s + (k - 1) * d + 1 - self.padding[i] - self.padding[rank + i] + more
            for i, (n, s, k, d, more) in enumerate(
                zip(
                    self.sizes,
                    self.stride,
                    self.kernel,
                    self.dilation,
                    self.output_padding,
                    strict=True,
                )
            )
        )

    @property
    def flops(self) -> int:
        return sum(2 * prod(p.sizes) * prod(map(len, p.taps)) for p in self.phases) * self._pairs

    @property
    def _pairs(self) -> int:
        return self.batch * self.filters * self.channels // self.groups

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Those that have results, each with the taps it sees."""
        every = [[_along(self, axis, r) for r in range(s)] for axis, s in enumerate(self.stride)]
        found = (Phase(*zip(*axes, strict=True)) for axes in product(*every))
        return tuple(phase for phase in found if min(phase.sizes) > 0)

    def conv(self, phase: Phase) -> ConvSpec:
        """The convolution of a phase. Padding behind the end may be negative: nothing is read."""
        begins = tuple(-shifts[0] for shifts in phase.shifts)
        steps = tuple(s[1] - s[0] if len(s) > 1 else 1 for s in phase.shifts)
        kernel = tuple(map(len, phase.taps))
        ends = (
            count - size - begin + (k - 1) * d
            for count, size, begin, k, d in zip(
                phase.sizes, self.sizes, begins, kernel, steps, strict=True
            )
        )
        return ConvSpec(
            self.batch,
            self.channels,
            self.filters,
            self.sizes,
            kernel,
            (1,) * len(kernel),
            steps,
            (*begins, *ends),
            self.groups,
            False,
            self.bias,
            self.lanes,
        )


@dataclass(frozen=True)
class Phase:
    """Along each axis: the first result, how many there are, the taps and where they read."""

    first: tuple[int, ...]
    sizes: tuple[int, ...]
    taps: tuple[tuple[int, ...], ...]
    shifts: tuple[tuple[int, ...], ...]

    @property
    def empty(self) -> bool:
        """Whether no tap meets it."""
        return not all(self.taps)


def _along(spec: PhasedSpec, axis: int, r: int) -> tuple:
    """A phase along one axis."""
    stride, begin, dilation = spec.stride[axis], spec.padding[axis], spec.dilation[axis]
    count = len(range(r, spec.out_sizes[axis], stride))
    taps = [u for u in range(spec.kernel[axis]) if (r + begin - u * dilation) % stride == 0]
    taps.reverse()  # so that they read forwards
    return r, count, tuple(taps), tuple((r + begin - u * dilation) // stride for u in taps)


def reject(spec: PhasedSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if len(spec.sizes) not in (1, 2, 3):
        return f"{len(spec.sizes)} spatial axes"
    if min(spec.out_sizes) < 1:
        return "an empty result"
    if prod(spec.stride) > MOST_PHASES:
        return f"{prod(spec.stride)} phases"
    if spec.groups > 1 and (
        spec.filters // spec.groups % spec.lanes or spec.channels // spec.groups % spec.lanes
    ):
        return "groups that are not whole blocks"
    if any(shifts and shifts[0] > 0 for phase in spec.phases for shifts in phase.shifts):
        return "a phase that begins behind the first pixel"
    return None


def choose(spec: PhasedSpec, target: Target) -> tuple[Tiling | None, ...]:
    """A tiling for each phase, none for those that are filled."""
    return tuple(
        None if phase.empty else direct_conv.choose(spec.conv(phase), target)
        for phase in spec.phases
    )


def estimate(spec: PhasedSpec, tiling: tuple[Tiling | None, ...], target: Target) -> float:
    """Seconds on one core."""
    total = 0.0
    for phase, tiles in zip(spec.phases, tiling, strict=True):
        if tiles is None:
            total += spec.batch * spec.out_blocks * (ITEM_COST + prod(phase.sizes)) / target.hz
        else:
            total += direct_conv.estimate(spec.conv(phase), tiles, target)
    return total


def packed_size(spec: PhasedSpec, tiling: tuple[Tiling | None, ...]) -> int:
    """Floats that `pack` makes of the weights."""
    pairs = zip(spec.phases, tiling, strict=True)
    return sum(direct_conv.packed_size(spec.conv(p), tiles) for p, tiles in pairs if tiles)


def pack(
    weights: np.ndarray,
    spec: PhasedSpec,
    tiling: tuple[Tiling | None, ...],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """w[C,O/g,*kernel] as the weights of the convolutions of all phases, one after another."""
    g, c, o = spec.groups, spec.channels // spec.groups, spec.filters // spec.groups
    turned = weights.reshape(g, c, o, *spec.kernel).swapaxes(1, 2).reshape(g * o, c, *spec.kernel)
    packed = storage(out, packed_size(spec, tiling))
    position = 0
    for phase, tiles in zip(spec.phases, tiling, strict=True):
        if tiles is not None:
            conv = spec.conv(phase)
            end = position + direct_conv.packed_size(conv, tiles)
            direct_conv.pack(_seen(turned, phase), conv, tiles, packed[position:end])
            position = end
    return packed


def _seen(weights: np.ndarray, phase: Phase) -> np.ndarray:
    """The taps of a phase, of weights [O,C,*kernel]."""
    for axis, taps in enumerate(phase.taps):
        weights = weights.take(taps, axis=2 + axis)
    return weights


def emit(
    module: ir.Module,
    name: str,
    spec: PhasedSpec,
    tiling: tuple[Tiling | None, ...],
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    items = scratch = weights = 0
    for phase, tiles in zip(spec.phases, tiling, strict=True):
        item = b.sub(b.item, items)
        if tiles is None:
            count = spec.out_blocks * spec.batch
            with b.when(b.inside(item, count)):
                _fill(b, spec, phase, item, epilogue)
        else:
            g = Geometry(spec.conv(phase), tiles)
            count = g.items
            with b.when(b.inside(item, count)):
                _PhaseEmitter(b, g, epilogue, spec, phase, item, weights).run()
            weights += spec.out_blocks * spec.lanes * g.channels * g.taps
            scratch = max(scratch, g.band.bytes if tiles.copy else 0)
        items += count
    summary = (
        f"transposed {'x'.join(map(str, spec.kernel))}, stride {'x'.join(map(str, spec.stride))}, "
        f"{sum(t is not None for t in tiling)} phases as direct convolutions"
    )
    return KernelCode(name, items, scratch, spec.flops, before, summary, b.finish())


def _place(
    b: Builder, spec: PhasedSpec, phase: Phase, block: Index, image: Index, at: list[Index]
) -> tuple[Index, Callable]:
    """Where result `at` of a phase lies in y: its offset, and its coordinates."""
    where = [b.add(b.mul(i, s), r) for i, s, r in zip(at, spec.stride, phase.first, strict=True)]
    lies: Strides = spec.y_strides
    offset = b.add(b.mul(block, lies.plane), b.mul(image, lies.image))
    offset = b.add(offset, b.mul(b.flatten(where, spec.out_sizes), lies.pixel))
    return offset, partial(tuple, (block, image, *where))


def _fill(
    b: Builder, spec: PhasedSpec, phase: Phase, item: Index, epilogue: Epilogue | None
) -> None:
    """All results of a phase that no tap meets, in one block of one image."""
    block, image = b.unflatten(item, [spec.out_blocks, spec.batch])
    start = b.vload(b.pointers[2], b.mul(block, b.lanes)) if spec.bias else b.splat(0.0)
    with b.loop(prod(phase.sizes)) as pixel:
        at = b.unflatten(pixel.index, phase.sizes)
        offset, where = _place(b, spec, phase, block, image, at)
        value = start
        if epilogue is not None:
            value = epilogue(b, start, Place(offset, where, b.lanes))
        b.vstore(value, b.pointers[-1], offset)


class _PhaseEmitter(direct_conv.ConvEmitter):
    def __init__(
        self,
        b: Builder,
        g: Geometry,
        epilogue: Epilogue | None,
        spec: PhasedSpec,
        phase: Phase,
        item: Index,
        weights: int,
    ) -> None:
        super().__init__(b, g, epilogue)
        self.transposed, self.phase = spec, phase
        self.item = b.value(item)
        self.w = b.at(self.w, weights)

    def store(
        self, block: Index, row: Index, height: int, column: Index, width: int, tile: list
    ) -> None:
        """Pixels of a tile that are neighbours in x are `stride` apart in y."""
        b = self.b
        for p, value in enumerate(tile):
            i, j = divmod(p, width)
            image, *pixel = self.position(b.add(row, i), b.add(column, j))
            offset, where = _place(b, self.transposed, self.phase, block, image, pixel)
            if self.epilogue is not None:
                value = self.epilogue(b, value, Place(offset, where, b.lanes))
            b.vstore(value, self.y, offset)
