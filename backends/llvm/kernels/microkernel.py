"""The micro-kernel of convolution and matmul: a tile of output vectors kept in registers.

`accumulate` adds, for every step of a nest of reduction loops, (block vector of weights) x (one
input value broadcast) to blocks x pixels accumulators. Input addresses are a base, a fixed offset a
pixel and a stride a loop, so the same code reads blocked, plain and copied input; weights are read
strictly in sequence. It neither initialises nor stores: that is the template's business.

Weights mostly come from beyond L2, and what helps depends on how fast they are used up (`Ahead`).
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

# Bytes by which packed weights are asked for ahead of their use, into L1 and into L2.
NEAR, FAR = 2048, 32768
LINE = 64
FLOATS = LINE // 4

LOADS, LATENCY = 1.8, 4  # a cycle; cycles
STREAMED = 20  # bytes of weights a cycle, from L2
STEP_COST, INPUT_COST = 0.1, 0.01  # cycles of a step, and of each of its inputs, not hidden
TILE_COST, VECTOR_COST = 40, 5  # cycles to start and store a tile, and for each of its vectors


def near(lanes: int) -> bool:
    """Whether weights are asked for into L1 as well as into L2.

    Narrower vectors mean more loads for as many sums, and those bind before the lines do.
    """
    return 4 * lanes >= LINE


def tile_cycles(
    blocks: int, pixels: int, steps: float, lanes: int, fmas: int, asked: float | None = None
) -> float:
    """Cycles of a tile on a core that begins `fmas` fused multiply-adds of `lanes` a cycle.

    A step loads its pixels and weights, and asks for `asked` lines for each line of weights. The
    constants were fitted on Zen 4, where 512 bits are two halves, to single tiles of 30 shapes
    (within 5 % from 32 steps on); they need to rank tiles, not to be right.
    """
    vectors = blocks * pixels
    asked = 1 + near(lanes) if asked is None else asked
    lines = -(-blocks * lanes * 4 // LINE)
    loads = pixels + blocks + asked * lines
    ports = max(vectors / fmas, loads / LOADS, LATENCY, 4 * blocks * lanes / STREAMED)
    step = ports + STEP_COST + INPUT_COST * pixels
    return steps * step + TILE_COST + VECTOR_COST * vectors


def widest_tile(registers: int, blocks: int) -> int:
    """The pixels whose sums fit in the registers beside the weights and one broadcast input."""
    return max(1, (registers - 1 - blocks) // blocks)


PLANE = 1024  # floats between planes from which on they are prefetched


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


@dataclass(frozen=True)
class Ahead:
    """Which packed weights to ask for while others are used.

    Without a start, what follows the weights in use, soon into L1 and earlier into L2: for weights
    that are used once, a few lines at a time. Weights of a panel that is used `turns` times are
    needed at once when their first turn comes, so `turns` turns of the panel before share in asking
    for them: `start` is where this turn's share lies, and it goes into L2. A product of few rows
    asks for nothing: it waits for memory anyway, which the hardware reads faster undisturbed.
    """

    start: ir.Value | None = None
    turns: int = 1

    def later(self, b: Builder, floats: int) -> Ahead:
        """The same, where so many floats of the panel in use have been used."""
        if self.start is None or not floats:
            return self
        return Ahead(b.at(self.start, floats // self.turns), self.turns)


FOLLOWING = Ahead()


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
    ahead: Ahead | None = FOLLOWING,
) -> None:
    """Run the nest, adding to the sums of `pixels` (number -> offset of its input from x).

    Weights are one vector a block for each step: packed and aligned, or rows of a matrix `row`
    floats apart, which are not asked for ahead. Offsets count floats.
    """
    loops = simplify(nest)
    factors = unrolling(loops, tile.blocks * len(pixels), body)
    packed = row is None
    row = tile.blocks * b.lanes if row is None else row
    emitter = _Nest(b, tile, dict(pixels), loops, factors, row, packed, ahead if packed else None)
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
    packed: bool
    ahead: Ahead | None

    def __post_init__(self) -> None:
        self.coming = self.ahead.start if self.ahead else None
        self.used = 0  # floats of weights, since the body began

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
        walking = [] if self.coming is None else [self.coming]
        carry = [*(tile.sums[i] for i in used), weights, b.at(x, offset), *walking]
        with b.loop(loop.extent // factor, carry=carry) as turns:
            weights, x = self._enter(used, turns.state)
            self._fetch(level, x)
            for turn in range(factor):
                weights = self.run(level + 1, x, turn * loop.stride, weights)
            sums = [tile.sums[i] for i in used]
            x = b.at(x, factor * loop.stride)
            walking = [b.opaque(place) for place in self._asked()]
            turns.state[:] = [*sums, b.opaque(weights), b.opaque(x), *walking]
        weights, _ = self._enter(used, turns.result)
        return weights

    def _enter(self, used: Sequence[int], state: Sequence[ir.Value]) -> tuple[ir.Value, ir.Value]:
        """Take over what a loop carries; the weights and the input among it."""
        count = len(used)
        for place, value in zip(used, state[:count], strict=True):
            self.tile.sums[place] = value
        if self.coming is not None:
            self.coming, self.used = state[-1], 0
        return state[count], state[count + 1]

    def _reads_again(self, loop: Reduction) -> bool:
        """Whether turns read pixels that earlier ones have read.

        LLVM would keep all of them, and spill some, where to read again costs nothing.
        """
        places = set(self.pixels.values())
        steps = range(loop.stride, loop.extent * loop.stride, loop.stride or 1)
        return any(place + step in places for step in steps for place in places)

    def _fetch(self, level: int, x: ir.Value) -> None:
        """Ask for the pixels of the next plane, which lies too far on for the hardware to guess.

        Only where each is read once a tile, as in a 1x1 convolution: taps find theirs in cache.
        """
        loop = self.loops[level]
        if level or len(self.loops) != 2 or not self.packed or loop.stride < PLANE:
            return
        for place in self.pixels.values():
            self.b.prefetch(x, loop.stride + place, locality=3)

    def _step(self, x: ir.Value, offset: int, weights: ir.Value) -> ir.Value:
        b, tile = self.b, self.tile
        if self.coming is not None:
            self._ask()
        elif self.ahead is not None:
            for line in range(0, self.row, FLOATS):
                if near(b.lanes):
                    b.prefetch(weights, line + NEAR // 4, locality=3)
                b.prefetch(weights, line + FAR // 4, locality=2)
        align = 4 * b.lanes if self.packed else 4
        vectors = [b.vload(weights, block * b.lanes, align) for block in range(tile.blocks)]
        for pixel, place in self.pixels.items():
            value = b.broadcast(x, offset + place)
            for block, vector in enumerate(vectors):
                i = block * tile.pixels + pixel
                tile.sums[i] = b.fma(vector, value, tile.sums[i])
        return b.at(weights, self.row)

    def _ask(self) -> None:
        """Ask for a step's share of the weights to come."""
        first, self.used = self._lines(), self.used + self.row
        for line in range(first, self._lines()):
            self.b.prefetch(self.coming, line * FLOATS, locality=2)

    def _asked(self) -> list[ir.Value]:
        """Where the weights to come go on after a body, whose last line may be asked for early."""
        if self.coming is None:
            return []
        return [self.b.at(self.coming, self._lines() * FLOATS)]

    def _lines(self) -> int:
        """Lines that the steps of a body have asked for."""
        assert self.ahead is not None
        return -(-self.used // (self.ahead.turns * FLOATS))
