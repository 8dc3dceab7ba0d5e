"""How direct convolution cuts its work: an analytic model, so that plans repeat on every machine.

Costs are in cycles (see microkernel.py), which Target.peak turns into seconds. They need to rank
the choices, not to be right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

from cnnir.backends.llvm.kernels.band import Band
from cnnir.backends.llvm.kernels.microkernel import FMAS, tile_cycles, widest_tile
from cnnir.backends.llvm.kernels.spec import Axis, ConvSpec, Split, Target, shares

ITEM_COST = 2500  # cycles to fetch a work item
STREAM = 12  # bytes a cycle from beyond L2, for input that is copied or read the first time
WIDEST = 4  # output blocks in a tile, at most
THREADS = (1, 4, 16)  # what the number of work items is meant to suit

ONE = Axis(1, 1, 1, 1, 1, 0)


@dataclass(frozen=True)
class Tiling:
    """How the work is cut. Sizes are limits: parts are made as equal as possible below them."""

    blocks: int  # output blocks in a tile
    rows: int  # output rows in a tile
    columns: int  # output columns in a tile
    band: int = 1  # row tiles in a work item
    chunk: int = 1  # output blocks in a work item, a divisor of those in a group


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec seen as images of depth x height x width, with what a tiling makes of them."""

    spec: ConvSpec
    tiling: Tiling = Tiling(1, 1, 1)

    @cached_property
    def flat(self) -> bool:
        """A 1x1 convolution reads pixels where they lie: they may as well be one column."""
        axes = self.spec.axes()
        return not self.spec.padded and all(a.taps == 1 and a.stride == 1 for a in axes)

    @cached_property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        depth, height, width = self.spec.axes()
        if self.flat:
            size = prod(self.spec.sizes)
            return ONE, Axis(size, size, 1, 1, 1, 0), ONE
        if len(self.spec.sizes) == 1:
            return ONE, width, ONE  # rows of one pixel, so that bands cut the only axis
        return depth, height, width

    @property
    def copied(self) -> bool:
        return self.spec.padded

    @property
    def channels(self) -> int:
        """Input channels in a group."""
        return self.spec.channels // self.spec.groups

    @property
    def blocks(self) -> int:
        """Output blocks in a group."""
        spec = self.spec
        return spec.filters // spec.groups // spec.lanes if spec.groups > 1 else spec.out_blocks

    @property
    def taps(self) -> int:
        return prod(self.spec.kernel)

    @cached_property
    def rows(self) -> Split:
        return Split(self.axes[1].out, self.tiling.rows)

    @cached_property
    def columns(self) -> Split:
        return Split(self.axes[2].out, self.tiling.columns)

    @cached_property
    def bands(self) -> int:
        return -(-self.rows.parts // self.tiling.band)

    @cached_property
    def chunks(self) -> int:
        return self.blocks // self.tiling.chunk

    @property
    def items(self) -> int:
        return self.spec.batch * self.axes[0].out * self.bands * self.spec.groups * self.chunks

    @property
    def band(self) -> Band:
        """The input that one work item sees."""
        depth, height, width = self.axes
        spec = self.spec
        rows = min(self.tiling.band * self.tiling.rows, height.out)
        planes = self.channels if spec.plain else -(-self.channels // spec.lanes)
        pixel = 1 if spec.plain else spec.lanes
        return Band(planes, depth, height, width, height.span(rows), pixel, spec.lanes)


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The tile with the least cost, then the work items that suit few and many threads alike."""
    tile = min(_tiles(spec, target), key=lambda t: (_tile_cycles(spec, t), t.blocks, t.columns))
    return min(_items(spec, tile), key=lambda t: (_mean_cycles(spec, t, target), t.band, t.chunk))


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    cycles = _item_cycles(spec, tiling, target) * Geometry(spec, tiling).items
    return cycles * (2 * FMAS * spec.lanes) / target.peak


def _tiles(spec: ConvSpec, target: Target) -> Iterator[Tiling]:
    """Every tile whose accumulators, weights and one broadcast value fit in the registers."""
    geometry = Geometry(spec)
    _, height, width = geometry.axes
    for blocks in range(1, min(WIDEST, geometry.blocks) + 1):
        pixels = widest_tile(target.registers, blocks)
        fewest = -(-width.out // pixels)
        for parts in range(fewest, min(fewest + 2, width.out) + 1):
            columns = -(-width.out // parts)
            rows = min(height.out, pixels // columns) if columns == width.out else 1
            for tall in {rows, max(1, rows - 1), max(1, rows // 2)}:
                yield Tiling(blocks, tall, columns)


def _tile_cycles(spec: ConvSpec, tiling: Tiling) -> float:
    """All tiles of one image slice and group; a few per cent more for each body beyond one."""
    geometry = Geometry(spec, tiling)
    steps = geometry.channels * geometry.taps
    total, bodies = 0.0, 0
    for blocks, b_count in _sizes(shares(geometry.blocks, tiling.blocks)):
        for rows, r_count in geometry.rows.sizes():
            for columns, c_count in geometry.columns.sizes():
                bodies += 1
                count = b_count * r_count * c_count
                total += count * tile_cycles(blocks, rows * columns, steps)
    return total * (1 + 0.01 * (bodies - 1))


def _sizes(parts: list[int]) -> list[tuple[int, int]]:
    return [(size, parts.count(size)) for size in sorted(set(parts))]


def _items(spec: ConvSpec, tile: Tiling) -> Iterator[Tiling]:
    geometry = Geometry(spec, tile)
    rows = geometry.rows.parts
    bands = sorted({-(-rows // n) for n in range(1, min(rows, 256) + 1)})
    whole = [c for c in range(1, geometry.blocks + 1) if geometry.blocks % c == 0]
    for chunk in [c for c in whole if c % tile.blocks == 0 or c == geometry.blocks] or whole:
        for band in bands:
            yield replace(tile, band=band, chunk=chunk)


def _item_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    geometry = Geometry(spec, tiling)
    share = tiling.chunk / geometry.blocks / geometry.bands
    compute = _tile_cycles(spec, tiling) * share
    seen = geometry.band.bytes
    weights = 4 * geometry.channels * geometry.taps * tiling.chunk * spec.lanes
    every = weights * geometry.chunks * spec.groups
    passes = 1 + (seen > target.l2 // 2) * (-(-tiling.chunk // tiling.blocks) - 1)
    moved = seen * passes + (weights if every > target.l2 // 2 else 0)
    return ITEM_COST + compute + moved / STREAM


def _mean_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Core time until the last thread is done, averaged over the numbers of threads."""
    items = Geometry(spec, tiling).items
    turns = sum(-(-items // threads) * threads for threads in THREADS) / len(THREADS)
    return turns * _item_cycles(spec, tiling, target)
