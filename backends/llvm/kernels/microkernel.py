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

# Bytes by which packed weights are asked for ahead of their use. They come from beyond L2 once for
# each block of filters, faster than the hardware's own prefetching follows.
AHEAD = 2048
LINE = 64

FMAS, LOADS, LATENCY = 2, 2, 4  # a cycle; a cycle; cycles
INPUT_COST, WEIGHT_COST = 0.05, 0.25  # cycles a broadcast and a weight vector not hidden by FMAs
TILE_COST = 40  # cycles to start and store a tile, besides two a vector


def tile_cycles(blocks: int, pixels: int, steps: int) -> float:
    """Cycles of a tile, for a core with two FMA pipes and two load ports.

    The constants were fitted to benchmarks/kernels.py; they need to rank tiles, not to be right.
    """
    vectors = blocks * pixels
    ports = max(vectors / FMAS, (blocks + pixels) / LOADS, LATENCY)
    step = ports + INPUT_COST * pixels + WEIGHT_COST * blocks
    return steps * step + TILE_COST + 2 * vectors


def widest_tile(registers: int, blocks: int) -> int:
    """The pixels whose sums fit in the registers beside the weights and one broadcast input."""
    return max(1, (registers - 1 - blocks) // blocks)


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
    row: int | None = None,
) -> tuple[list[ir.Value], ir.Value]:
    """Run the nest; returns the accumulators, block-major, and the weights that come next.

    state[block * len(pixels) + pixel] starts each sum; pixels are offsets from x in floats; weights
    hold, for each step of the nest, one vector a block: packed and aligned, or rows of a matrix
    `row` floats apart.
    """
    loops = simplify(nest)
    factors = unrolling(loops, len(state))
    blocks = len(state) // len(pixels)
    packed = blocks * builder.lanes
    align = 4 * builder.lanes if row is None else 4
    emitter = _Nest(
        builder, list(pixels), blocks, loops, factors, packed if row is None else row, align
    )
    *sums, weights = emitter.run(0, [*state, weights], x, 0)
    return sums, weights


@dataclass
class _Nest:
    builder: Builder
    pixels: list[int]
    blocks: int
    loops: list[Reduction]
    factors: list[int]
    row: int
    align: int

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
        if self.align > 4:
            for line in range(0, self.row, LINE // 4):
                b.prefetch(weights, line + AHEAD // 4, locality=3)
        vectors = [b.vload(weights, block * b.lanes, self.align) for block in range(self.blocks)]
        for p, pixel in enumerate(self.pixels):
            value = b.broadcast(x, offset + pixel)
            for block, vector in enumerate(vectors):
                i = block * len(self.pixels) + p
                sums[i] = b.fma(vector, value, sums[i])
        return [*sums, b.at(weights, self.row)]
