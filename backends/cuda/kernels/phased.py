"""Transposed convolution as products, one a phase: any kernel, stride and dilation.

    y[n,o,q * s + r] = sum over c, u of w[c,o,u] x[n,c,q + (r + begin - u * dilation) / s]

where s is the stride and u are the taps for which the division has no rest. For each phase r (one
of s along every axis) that is a convolution of stride 1 with those taps backwards, whose results
lie s apart in y: what `gemm.py` computes, with a `Phase` that says where taps and results are. All
phases read the same w. One that no tap meets only stores what follows the sums. The gradient of a
strided convolution by its input is such a one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import gcd, prod

import numpy as np

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gemm import Gemm, Tile
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec, Phase
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import LAUNCH, CudaTarget

MOST_PHASES = 16
"""Each is a kernel of its own."""
Tiles = tuple[Tile, ...]


@dataclass(frozen=True)
class PhasedSpec(GemmSpec):
    """A transposed convolution: `stride` and `padding` are those of x in y, whose sizes are `out`.

    w is [f, c, *kernel], taps in their own order.
    """

    @property
    def flops(self) -> int:
        return sum(part.flops for part in self.parts)

    @cached_property
    def parts(self) -> tuple[GemmSpec, ...]:
        """The products of the phases that have results."""
        ways = [[self._along(axis, r) for r in range(self.stride[axis])] for axis in (0, 1)]
        every = (self._part(down, right) for down, right in product(*ways))
        return tuple(part for part in every if min(part.out) > 0)

    def _along(self, axis: int, r: int) -> _Along:
        """A phase along one axis."""
        stride, dilation = self.stride[axis], self.dilation[axis]
        at = r + self.padding[axis]
        taps = [u for u in range(self.kernel[axis]) if (at - u * dilation) % stride == 0]
        count = len(range(r, self.out[axis], stride))
        last = max(taps, default=0)
        common = gcd(stride, dilation)
        shift = (at - last * dilation) // stride
        return _Along(r, count, len(taps), last, stride // common, dilation // common, shift)

    def _part(self, down: _Along, right: _Along) -> GemmSpec:
        ways = (down, right)

        def both(name: str, sign: int = 1) -> tuple[int, int]:
            i, j = (sign * getattr(way, name) for way in ways)
            return i, j

        phase = Phase(
            both("first"), self.stride, self.out, both("last"), both("step", -1), self.kernel
        )
        return GemmSpec(
            images=self.images,
            channels=self.channels,
            sizes=self.sizes,
            filters=self.filters,
            out=both("count"),
            kernel=both("taps"),
            dilation=both("dilation"),
            padding=both("shift", -1),
            groups=self.groups,
            bias=self.bias,
            packed=self.packed,
            phase=phase,
        )


@dataclass(frozen=True)
class _Along:
    """A phase along one axis, taps backwards: `taps` of them from `last` on, `step` apart.

    The first reads x `shift` behind a result, each other `dilation` behind the one before.
    """

    first: int
    count: int
    taps: int
    last: int
    step: int
    dilation: int
    shift: int


class PhasedGemm:
    """A template for transposed convolutions, by one for products."""

    def __init__(self, gemm: Gemm) -> None:
        self.gemm, self.kind = gemm, f"phased_{gemm.kind}"
        self.order, self.storage, self.fastest = gemm.order, gemm.storage, gemm.fastest

    def reject(self, spec: PhasedSpec) -> str | None:
        if prod(spec.stride) > MOST_PHASES:
            return f"{prod(spec.stride)} phases"
        rejected = (self.gemm.reject(part) for part in spec.parts if part.depth)
        return self.gemm.reject(spec) or next(filter(None, rejected), None)

    def choose(self, spec: PhasedSpec, target: CudaTarget) -> tuple[Tiles, float]:
        return self.ranked(spec, target)[0]

    def ranked(self, spec: PhasedSpec, target: CudaTarget) -> list[tuple[Tiles, float]]:
        """The best tiles of all phases, the second best of all, and so on."""
        parts = [self.gemm.ranked(part, target) for part in spec.parts]
        launches = LAUNCH * (len(parts) - 1)
        return [
            (tuple(tile for tile, _ in chosen), sum(seconds for _, seconds in chosen) + launches)
            for chosen in zip(*parts, strict=False)
        ]

    def pack(self, w: np.ndarray, spec: PhasedSpec) -> np.ndarray:
        return self.gemm.pack(w, spec)

    def emit(self, name: str, spec: PhasedSpec, tiles: Tiles, epilogue: Epilogue) -> Code:
        codes = [
            self.gemm.emit(f"{name}_{number}", part, tile, epilogue)
            for number, (part, tile) in enumerate(zip(spec.parts, tiles, strict=True))
        ]
        summaries = dict.fromkeys(code.summary for code in codes)
        return Code(
            "\n".join(code.text for code in codes),
            tuple(launch for code in codes for launch in code.launches),
            max(code.scratch_bytes for code in codes),
            summary=f"{len(codes)} phases: {'; '.join(summaries)}",
        )
