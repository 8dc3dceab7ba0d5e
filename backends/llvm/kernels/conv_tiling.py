"""How direct convolution cuts its work: an analytic model, so that plans repeat on every machine.

Costs are in cycles (see microkernel.py), which Target.hz turns into seconds. They need to rank
the choices, not to be right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import prod

from cnnir.backends.llvm.kernels.band import Band
from cnnir.backends.llvm.kernels.edges import (
    Segment,
    cut_results,
    inside,
    runs,
    segments,
    useful,
)
from cnnir.backends.llvm.kernels.microkernel import tile_cycles, widest_tile
from cnnir.backends.llvm.kernels.spec import Axis, ConvSpec, Split, Target, shares, varied

ITEM_COST = 500  # cycles to fetch a work item
COPIED = 20  # bytes a cycle of a band that is copied
STREAM = 35  # bytes a cycle from beyond L2, mostly hidden behind arithmetic
MEMORY, SHARED = 5.5, 15  # bytes of weights a cycle from memory, from a cache beyond L2
HIDING = 0.9  # part of arithmetic that may hide reading weights
BODY_COST = 0.002  # of the time, for each inner loop: they cost time in LLVM
BEST_TILES = 4  # that are tried with all work items
MAX_BODIES = 20  # inner loops, at most, unless there is no other way
MANY = 4  # tiles in a chunk from which on they need not be equal
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
    copy: bool = False  # the padded band of input goes through scratch


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec seen as images of depth x height x width, with what a tiling makes of them."""

    spec: ConvSpec
    tiling: Tiling = Tiling(1, 1, 1)

    @cached_property
    def flat(self) -> bool:
        """A 1x1 convolution reads pixels where they lie: they may as well be one column.

        In blocks of channels the pixels of all images are; see `images`.
        """
        axes, spec = self.spec.axes(), self.spec
        return not (spec.padded or spec.pool) and all(a.taps == 1 and a.stride == 1 for a in axes)

    @property
    def images(self) -> int:
        """How many images there are to walk, beside those that lie in the one column."""
        return 1 if self.flat and not self.spec.plain else self.spec.batch

    @cached_property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        depth, height, width = self.spec.axes()
        if self.flat:
            size = prod(self.spec.sizes) * self.spec.batch // self.images
            return ONE, Axis(size, size, 1, 1, 1, 0), ONE
        if len(self.spec.sizes) == 1:
            return ONE, width, ONE  # rows of one pixel, so that bands cut the only axis
        return depth, height, width

    @cached_property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the windows that are pooled in the store: tiles hold whole ones."""
        _, height, width = self.spec.pool.sides if self.spec.pool else (1, 1, 1)
        return (width, 1) if len(self.spec.sizes) == 1 else (height, width)

    @cached_property
    def seen(self) -> tuple[Axis, Axis, Axis]:
        """The axes of the input as read: without padding once that is copied."""
        if not self.tiling.copy:
            return self.axes
        depth, height, width = (replace(a, size=a.span(a.out), begin=0) for a in self.axes)
        return depth, height, width

    @property
    def row_range(self) -> bool:
        """Tiles of one row get their valid taps from loop bounds: less code, no more work."""
        return self.tiling.rows == 1 and not inside(self.seen[1])

    @cached_property
    def row_parts(self) -> tuple[Segment, ...]:
        height = self.seen[1]
        if self.row_range:
            height = replace(height, size=height.span(height.out), begin=0)
        return segments(height, self.tiling.rows, self.window[0])

    @cached_property
    def column_parts(self) -> tuple[Segment, ...]:
        return segments(self.seen[2], self.tiling.columns, self.window[1])

    @cached_property
    def bodies(self) -> int:
        """How many inner loops the code will have."""
        rows = sum(len(runs(part, self.axes[1].taps)) for part in self.row_parts)
        columns = sum(len(runs(part, self.axes[2].taps)) for part in self.column_parts)
        rest = 1 + bool(self.channels % self.spec.lanes and not self.spec.plain)
        return rows * columns * rest * len(set(shares(self.tiling.chunk, self.tiling.blocks)))

    @property
    def is_short(self) -> bool:
        """Whether the code has few inner loops. Tiles at edges have one at least, and to know more
        of those of very large kernels takes long."""
        _, height, width = self.seen
        edges = cut_results(width) // self.tiling.columns
        if not self.row_range:
            edges = max(edges, cut_results(height) // self.tiling.rows)
        return edges - 2 <= MAX_BODIES and self.bodies <= MAX_BODIES

    @property
    def useful(self) -> float:
        """The part of all taps that lies inside the input as read."""
        return prod(useful(axis) for axis in self.seen)

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
        return Split(self.axes[1].out, self.tiling.rows, self.window[0])

    @cached_property
    def columns(self) -> Split:
        return Split(self.axes[2].out, self.tiling.columns, self.window[1])

    @cached_property
    def bands(self) -> int:
        return -(-self.rows.parts // self.tiling.band)

    @cached_property
    def chunks(self) -> int:
        return self.blocks // self.tiling.chunk

    @property
    def items(self) -> int:
        return self.images * self.axes[0].out * self.bands * self.spec.groups * self.chunks

    @property
    def band(self) -> Band:
        """The input that one work item sees."""
        depth, height, width = self.axes
        spec = self.spec
        rows = min(self.tiling.band * self.tiling.rows, height.out)
        planes = self.channels if spec.plain else -(-self.channels // spec.lanes)
        return Band(planes, depth, height, width, height.span(rows), spec.x_strides, spec.lanes)


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The tile with the least cost, then the work items that suit few and many threads alike.

    Padding is met either by code for the edges or by copying the band of an item with its padding;
    the best of both wins.
    """
    return tilings(spec, target, 1)[0]


def tilings(spec: ConvSpec, target: Target, count: int) -> list[Tiling]:
    """The best choices by prediction, of different tiles and different work items."""
    options: list[Tiling] = []
    for copy in (False, True) if spec.padded else (False,):
        tiles = [replace(tile, copy=copy) for tile in _tiles(spec, target)]
        tiles = [tile for tile in tiles if copy or Geometry(spec, tile).is_short]
        tiles.sort(key=lambda t: (_alone(spec, t, target.fmas), t.blocks, t.columns))
        options += (option for tile in tiles[:BEST_TILES] for option in _items(spec, tile))
    options.sort(key=lambda t: (_mean_cycles(spec, t, target), t.band, t.chunk, t.copy))
    return varied(options, lambda t: replace(t, band=1, chunk=1), lambda t: t.chunk, count)


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    cycles = _item_cycles(spec, tiling, target) * Geometry(spec, tiling).items
    return cycles / target.hz


def _tiles(spec: ConvSpec, target: Target) -> Iterator[Tiling]:
    """Every tile whose accumulators, weights and one broadcast value fit in the registers."""
    geometry = Geometry(spec)
    _, height, width = geometry.axes
    high, wide = geometry.window
    across = width.out // wide
    for blocks in range(1, min(WIDEST, geometry.blocks) + 1):
        windows = widest_tile(target.registers, blocks) // (high * wide)
        if not windows:
            return
        fewest = -(-across // windows)
        for parts in range(fewest, min(fewest + 2, across) + 1):
            columns = -(-across // parts)
            rows = min(height.out // high, windows // columns) if columns == across else 1
            for tall in {rows, max(1, rows - 1), max(1, rows // 2)}:
                yield Tiling(blocks, tall * high, columns * wide)


@lru_cache(maxsize=256)
def _tile_cycles(spec: ConvSpec, tiling: Tiling, fmas: int) -> float:
    """All tiles of a chunk of one image slice; a little more the more code there is."""
    geometry = Geometry(spec, tiling)
    steps = geometry.channels * geometry.taps * geometry.useful
    total = 0.0
    for blocks, b_count in _sizes(shares(tiling.chunk, tiling.blocks)):
        for rows, r_count in geometry.rows.sizes():
            for columns, c_count in geometry.columns.sizes():
                count = b_count * r_count * c_count
                total += count * tile_cycles(blocks, rows * columns, steps, spec.lanes, fmas)
    return total * (1 + BODY_COST * geometry.bodies)


def _alone(spec: ConvSpec, tile: Tiling, fmas: int) -> float:
    """All tiles of one image slice and group, before the work is cut."""
    return _tile_cycles(spec, replace(tile, chunk=Geometry(spec, tile).blocks), fmas)


def _sizes(parts: list[int]) -> list[tuple[int, int]]:
    return [(size, parts.count(size)) for size in sorted(set(parts))]


def _items(spec: ConvSpec, tile: Tiling) -> Iterator[Tiling]:
    geometry = Geometry(spec, tile)
    rows = geometry.rows.parts
    bands = sorted({-(-rows // n) for n in range(1, min(rows, 256) + 1)})
    whole = [c for c in range(1, geometry.blocks + 1) if geometry.blocks % c == 0]
    # a chunk of many tiles may end in smaller ones
    fitting = [c for c in whole if c % tile.blocks == 0 or c >= MANY * tile.blocks]
    for chunk in [*fitting, geometry.blocks] if geometry.blocks not in fitting else fitting:
        for band in bands:
            yield replace(tile, band=band, chunk=chunk)


def _item_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    geometry = Geometry(spec, tiling)
    compute = _tile_cycles(spec, replace(tiling, band=1), target.fmas) / geometry.bands
    seen = geometry.band.bytes
    weights = 4 * geometry.channels * geometry.taps * tiling.chunk * spec.lanes
    every = weights * geometry.chunks * spec.groups
    passes = 1 + (seen > target.l2 // 2) * (-(-tiling.chunk // tiling.blocks) - 1)
    copied = geometry.band.bytes / COPIED if tiling.copy else 0
    if every > target.l2 // 2:
        # the first tiles of an item fetch its weights: from memory for the first item that reads
        # them, from a cache for the others
        once = compute / (min(tiling.band, geometry.rows.parts) * geometry.columns.parts)
        first = geometry.chunks * spec.groups / geometry.items
        fetched = weights * (first / MEMORY + (1 - first) / SHARED)
        compute += max(0.0, fetched - HIDING * once) + weights / STREAM
    return ITEM_COST + compute + copied + seen * passes / STREAM


def _mean_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Core time until the last thread is done, averaged over the numbers of threads."""
    items = Geometry(spec, tiling).items
    turns = sum(-(-items // threads) * threads for threads in THREADS) / len(THREADS)
    return turns * _item_cycles(spec, tiling, target)
