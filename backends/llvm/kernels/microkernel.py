"""The micro-kernel of convolution and matmul: a tile of output vectors kept in registers.

`accumulate` adds, for every step of a nest of reduction loops, (block vector of weights) x (one
input value broadcast) to blocks x pixels accumulators. Input addresses are a base, a fixed offset a
pixel and a stride a loop, so the same code reads blocked, plain and copied input; weights are read
strictly in sequence. It neither initialises nor stores: that is the template's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index

# FMAs in an unrolled body. Enough to hide the loop's own instructions, and no more: time in LLVM is
# proportional to it, and a model has dozens of kernels.
BODY = 128

# Bytes by which packed weights are asked for ahead of their use, into L1 and into L2. They come
# from beyond L2 once for each block of filters, faster than the hardware's own prefetching follows.
AHEAD = 2048
FAR_AHEAD = 32768
LINE = 64

LOADS, LATENCY = 1.8, 4  # a cycle; cycles
STREAMED = 20  # bytes of weights a cycle, from L2
STEP_COST, INPUT_COST = 0.1, 0.01  # cycles of a step, and of each of its inputs, not hidden
TILE_COST, VECTOR_COST = 40, 5  # cycles to start and store a tile, and for each of its vectors


def tile_cycles(blocks: int, pixels: int, steps: float, lanes: int, fmas: int) -> float:
    """Cycles of a tile on a core that begins `fmas` fused multiply-adds of `lanes` a cycle.

    A step loads its pixels and weights and asks for two lines of weights for each that it reads.
    The constants were fitted on Zen 4, where 512 bits are two halves, to single tiles of 30 shapes
    (within 5 % from 32 steps on); they need to rank tiles, not to be right.
    """
    vectors = blocks * pixels
    lines = -(-blocks * lanes * 4 // LINE)
    loads = pixels + blocks + 2 * lines
    ports = max(vectors / fmas, loads / LOADS, LATENCY, 4 * blocks * lanes / STREAMED)
    step = ports + STEP_COST + INPUT_COST * pixels
    return steps * step + TILE_COST + VECTOR_COST * vectors


def widest_tile(registers: int, blocks: int) -> int:
    """The pixels whose sums fit in the registers beside the weights and one broadcast input."""
    return max(1, (registers - 1 - blocks) // blocks)


FAR = 1024  # floats between planes from which on they are prefetched


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


@dataclass
class Tile:
    """The sums of blocks x pixels results, as LLVM values: sums[block * pixels + pixel]."""

    blocks: int
    pixels: int
    sums: list[ir.Value]

    @contextmanager
    def loop(self, b: Builder, stop: Index, start: Index = 0) -> Iterator[Index]:
        """A loop that carries the sums; yields its index."""
        with b.loop(stop, start, carry=self.sums) as loop:
            self.sums = loop.state
            yield loop.index
            loop.state[:] = self.sums
        self.sums = loop.result


def accumulate(
    b: Builder,
    tile: Tile,
    x: ir.Value,
    weights: ir.Value,
    pixels: Mapping[int, int],
    nest: Sequence[Reduction],
    row: int | None = None,
    body: int = BODY,
) -> None:
    """Run the nest, adding to the sums of `pixels` (number -> offset of its input from x).

    Weights are one vector a block for each step: packed and aligned, or rows of a matrix `row`
    floats apart. Offsets count floats.
    """
    loops = simplify(nest)
    factors = unrolling(loops, tile.blocks * len(pixels), body)
    align = 4 * b.lanes if row is None else 4
    row = tile.blocks * b.lanes if row is None else row
    emitter = _Nest(b, tile, dict(pixels), loops, factors, row, align)
    # Other taps are other calls, and read the same pixels, see `_reads_again`.
    emitter.run(0, b.opaque(x), 0, weights)


@dataclass
class _Nest:
    b: Builder
    tile: Tile
    pixels: dict[int, int]
    loops: list[Reduction]
    factors: list[int]
    row: int
    align: int

    def run(self, level: int, x: ir.Value, offset: int, weights: ir.Value) -> ir.Value:
        """The loops from `level` inwards; returns the weights that come next."""
        if level == len(self.loops):
            return self._step(x, offset, weights)
        loop, factor = self.loops[level], self.factors[level]
        if factor == loop.extent:
            again = self._reads_again(loop)
            for turn in range(factor):
                x = self.b.opaque(x) if again else x
                weights = self.run(level + 1, x, offset + turn * loop.stride, weights)
            return weights
        b, tile = self.b, self.tile
        used = [i for i in range(len(tile.sums)) if i % tile.pixels in self.pixels]
        carry = [*(tile.sums[i] for i in used), weights, b.at(x, offset)]
        with b.loop(loop.extent // factor, carry=carry) as turns:
            *sums, weights, x = turns.state
            self._set(used, sums)
            self._fetch(level, x)
            for turn in range(factor):
                weights = self.run(level + 1, x, turn * loop.stride, weights)
            sums = [tile.sums[i] for i in used]
            x = b.at(x, factor * loop.stride)
            turns.state[:] = [*sums, b.opaque(weights), b.opaque(x)]
        *sums, weights, _ = turns.result
        self._set(used, sums)
        return weights

    def _reads_again(self, loop: Reduction) -> bool:
        """Whether turns read pixels that earlier ones have read.

        LLVM would keep all of them, and spill some, where to read again costs nothing.
        """
        places = set(self.pixels.values())
        steps = range(loop.stride, loop.extent * loop.stride, loop.stride or 1)
        return any(place + step in places for step in steps for place in places)

    def _set(self, places: Sequence[int], sums: Sequence[ir.Value]) -> None:
        for place, value in zip(places, sums, strict=True):
            self.tile.sums[place] = value

    def _fetch(self, level: int, x: ir.Value) -> None:
        """Ask for the pixels of the next plane, which lies too far on for the hardware to guess.

        Only where each is read once a tile, as in a 1x1 convolution: taps find theirs in cache.
        """
        loop = self.loops[level]
        if level or len(self.loops) != 2 or self.align == 4 or loop.stride < FAR:
            return
        for place in self.pixels.values():
            self.b.prefetch(x, loop.stride + place, locality=3)

    def _step(self, x: ir.Value, offset: int, weights: ir.Value) -> ir.Value:
        b, tile = self.b, self.tile
        if self.align > 4:
            for line in range(0, self.row, LINE // 4):
                b.prefetch(weights, line + AHEAD // 4, locality=3)
                b.prefetch(weights, line + FAR_AHEAD // 4, locality=2)
        blocks = range(tile.blocks)
        vectors = [b.vload(weights, block * b.lanes, self.align) for block in blocks]
        for pixel, place in self.pixels.items():
            value = b.broadcast(x, offset + place)
            for block, vector in enumerate(vectors):
                i = block * tile.pixels + pixel
                tile.sums[i] = b.fma(vector, value, tile.sums[i])
        return b.at(weights, self.row)
