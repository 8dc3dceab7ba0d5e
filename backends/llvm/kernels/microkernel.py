"""The micro-kernel of convolution and matmul: a tile of output vectors kept in registers.

`accumulate` adds, for every step of a nest of reduction loops, (block vector of weights) x (one
input value broadcast) to blocks x pixels accumulators. Input addresses are a base, a fixed offset a
pixel and a stride a loop, so the same code reads blocked, plain and copied input; weights are read
strictly in sequence. It neither initialises nor stores: that is the template's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir

from cnnir.backends.llvm.builder import Builder

# FMAs in an unrolled body. Enough to hide the loop's own instructions, and no more: time in LLVM is
# proportional to it, and a model has dozens of kernels.
BODY = 128


@dataclass(frozen=True)
class Reduction:
    """One loop of the reduction: how often, and how far the input address moves each time."""

    extent: int
    stride: int


def simplify(nest: Sequence[Reduction]) -> list[Reduction]:
    """Drop loops of one turn; join neighbours that together walk with one stride."""
    loops: list[Reduction] = []
    for loop in nest:
        if loop.extent == 1:
            continue
        if loops and loops[-1].stride == loop.extent * loop.stride:
            loops[-1] = Reduction(loops[-1].extent * loop.extent, loop.stride)
        else:
            loops.append(loop)
    return loops or [Reduction(1, 0)]


def unrolling(nest: Sequence[Reduction], fmas: int, body: int = BODY) -> list[int]:
    """How many turns of each loop are unrolled, innermost first filled, about `body` FMAs in all.

    A loop is unrolled by a divisor of its extent, so that there is never a rest; outer loops only
    once the inner ones are unrolled entirely.
    """
    factors, room = [1] * len(nest), max(1, body // fmas)
    for level in reversed(range(len(nest))):
        extent = nest[level].extent
        # A small prime extent is better unrolled a little beyond the budget than not at all.
        limit = room if room > 1 and extent > 2 * room else 2 * room
        factors[level] = max(f for f in range(1, extent + 1) if extent % f == 0 and f <= limit)
        room //= factors[level]
        if factors[level] < extent or room < 2:
            break
    return factors


def accumulate(
    builder: Builder,
    state: Sequence[ir.Value],
    x: ir.Value,
    weights: ir.Value,
    pixels: Sequence[int],
    nest: Sequence[Reduction],
    body: int = BODY,
) -> tuple[list[ir.Value], ir.Value]:
    """Run the nest; returns the accumulators, block-major, and the weights that come next.

    state[block * len(pixels) + pixel] starts each sum; pixels are offsets from x in floats; weights
    hold, for each step of the nest, one vector a block.
    """
    loops = simplify(nest)
    factors = unrolling(loops, len(state), body)
    emitter = _Nest(builder, list(pixels), len(state) // len(pixels), loops, factors)
    *sums, weights = emitter.run(0, [*state, weights], x, 0)
    return sums, weights


@dataclass
class _Nest:
    builder: Builder
    pixels: list[int]
    blocks: int
    loops: list[Reduction]
    factors: list[int]

    def run(self, level: int, state: list, x: ir.Value, offset: int) -> list:
        """The loops from `level` inwards; state ends with the weight pointer."""
        if level == len(self.loops):
            return self._step(state, x, offset)
        loop, factor = self.loops[level], self.factors[level]
        if factor == loop.extent:
            for turn in range(factor):
                state = self.run(level + 1, state, x, offset + turn * loop.stride)
            return state
        b = self.builder
        base = b.at(x, offset)
        with b.loop(loop.extent // factor, carry=[*state, base]) as turns:
            *inner, base = turns.state
            for turn in range(factor):
                inner = self.run(level + 1, inner, base, turn * loop.stride)
            turns.state[:] = [*inner, b.at(base, factor * loop.stride)]
        return turns.result[:-1]

    def _step(self, state: list, x: ir.Value, offset: int) -> list:
        b = self.builder
        *sums, weights = state
        vectors = [b.vload(weights, block * b.lanes) for block in range(self.blocks)]
        for p, pixel in enumerate(self.pixels):
            value = b.broadcast(x, offset + pixel)
            for block, vector in enumerate(vectors):
                i = block * len(self.pixels) + p
                sums[i] = b.fma(vector, value, sums[i])
        return [*sums, b.at(weights, self.blocks * b.lanes)]
