"""How Winograd convolution cuts its work: an analytic model, as conv_tiling.py is for direct.

Costs are in cycles; they need to rank the choices, and to compare with direct convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from math import prod

from cnnir.backends.llvm.builder import Index
from cnnir.backends.llvm.kernels.microkernel import LINE, tile_cycles, widest_tile
from cnnir.backends.llvm.kernels.small_matrix import operations
from cnnir.backends.llvm.kernels.spec import Axis, ConvSpec, Target, shares, varied
from cnnir.backends.llvm.kernels.winograd_transforms import Transforms, transforms

ITEM_COST = 500  # cycles to fetch a work item
OPERATION, TOUCHED = 0.6, 2.3  # vector operations, vectors loaded or stored: cycles times FMAs
STREAM = 12  # bytes a cycle from beyond L2, partly hidden behind arithmetic
MEMORY = 5.5  # bytes a cycle from memory
HIDING = 0.9  # part of arithmetic that may hide reading weights
WIDEST = 4  # output blocks in a tile of the multiplication, at most
PRODUCTS = (4, 6, 8)  # products along an axis: F(2,3), F(4,3) and F(6,3), F(2,5), F(4,5) ...
FAR = 1 << 20  # bytes of weights that come from beyond L2
MOST_TILES = 64  # of a work item
BEST = 3  # kinds of tile that are tried with all cuts


@dataclass(frozen=True)
class Tiling:
    """How the work is cut."""

    tile: tuple[int, int]  # results of a Winograd tile: rows, columns
    count: int  # Winograd tiles in a work item
    chunk: int  # output blocks in a work item, a divisor of those in a group
    blocks: int  # output blocks in a register tile of the multiplication, at most
    pixels: int  # Winograd tiles in it


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec as tiles, with what a tiling makes of them; lengths count floats."""

    spec: ConvSpec
    tiling: Tiling

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        _, height, width = self.spec.axes()
        return height, width

    @property
    def depth(self) -> Axis:
        """The axis that is not transformed: its taps are so many more channels."""
        return self.spec.axes()[0]

    @cached_property
    def transforms(self) -> tuple[Transforms, Transforms]:
        """Along the rows' axis and the columns'."""
        height, width = self.axes
        rows, columns = self.tiling.tile
        return transforms(rows, height.taps), transforms(columns, width.taps)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles in a phase: results that are one dilation apart."""
        (height, width), (rows, columns) = self.axes, self.tiling.tile
        longest = (-(-axis.out // axis.dilation) for axis in (height, width))
        return tuple(-(-n // m) for n, m in zip(longest, (rows, columns), strict=True))  # type: ignore

    @cached_property
    def extents(self) -> tuple[int, ...]:
        """What numbers a tile: image, slice, then phase and place of its row, and of its column."""
        (height, width), (rows, columns) = self.axes, self.grid
        return (self.spec.batch, self.depth.out, height.dilation, rows, width.dilation, columns)

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of products of a tile."""
        (height, width), (rows, columns) = self.axes, self.tiling.tile
        return rows + height.taps - 1, columns + width.taps - 1

    @property
    def products(self) -> int:
        return self.sides[0] * self.sides[1]

    @property
    def tiles(self) -> int:
        return prod(self.extents)

    @property
    def in_blocks(self) -> int:
        """Input blocks in a group."""
        return -(-self.spec.channels // self.spec.groups // self.spec.lanes)

    @property
    def out_blocks(self) -> int:
        """Output blocks in a group."""
        return self.spec.out_blocks // self.spec.groups

    @property
    def planes(self) -> int:
        """Transformed blocks of input that a result is the sum of: those of all slices it sees."""
        return self.depth.taps * self.in_blocks

    @property
    def channels(self) -> int:
        """Channels in them."""
        return self.depth.taps * (self.spec.channels // self.spec.groups)

    @property
    def parts(self) -> int:
        """Work items that share the tiles."""
        return -(-self.tiles // self.tiling.count)

    @property
    def chunks(self) -> int:
        """Of all groups."""
        return self.spec.out_blocks // self.tiling.chunk

    @property
    def items(self) -> int:
        return self.parts * self.chunks

    @property
    def input_plane(self) -> int:
        """From one product to the next in the transformed input."""
        return self._plane(self.planes)

    @property
    def result_plane(self) -> int:
        """From one product to the next in the results to be transformed."""
        return self._plane(self.tiling.chunk)

    def _plane(self, blocks: int) -> int:
        # An odd number of vectors: equal elements of the planes fall into different cache sets.
        return (blocks * self.tiling.count | 1) * self.spec.lanes

    @property
    def scratch(self) -> int:
        """Zeros for what lies outside of the input, transformed input, results."""
        return self.spec.lanes + self.products * (self.input_plane + self.result_plane)

    @property
    def weights(self) -> int:
        """Transformed weights of one chunk."""
        return self.products * self.channels * self.tiling.chunk * self.spec.lanes

    @property
    def turns(self) -> int:
        """Register tiles that use the same weights."""
        return -(-self.tiling.count // self.tiling.pixels)

    @property
    def spread(self) -> bool:
        """Whether all turns share in asking for the weights that come next.

        Where a vector is a whole line, a tile has so many results that asking within it is better.
        """
        far = 4 * self.weights * self.chunks > FAR
        return self.turns > 1 and 4 * self.spec.lanes < LINE and far


@dataclass(frozen=True)
class Position:
    """Image and slice of a tile; its phase, and its place in that, along rows and columns."""

    image: Index
    slice: Index
    phase: tuple[Index, Index]
    tile: tuple[Index, Index]


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The kind of tile that is best on one core, cut to suit the threads.

    The kind decides how results are rounded, so it must not depend on the number of threads.
    """
    best = _best(spec, replace(target, threads=1))
    if target.threads == 1:
        return best
    cuts = _cuts(spec, best.tile, target)
    return min(cuts, key=lambda t: (_run_cycles(spec, t, target), t.count, t.chunk))


def tilings(spec: ConvSpec, target: Target, count: int) -> list[Tiling]:
    """The best choices by prediction, of different kinds of tiles and different work items."""
    options = [
        cut
        for kind in sorted(tile_kinds(spec), key=lambda kind: _kind_cycles(spec, kind, target))[
            :BEST
        ]
        for cut in _cuts(spec, kind, target)
    ]
    options.sort(key=lambda t: (_run_cycles(spec, t, target), t.count, t.chunk))
    return varied(options, lambda t: t.tile, lambda t: (t.chunk, t.blocks), count)


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    alone = replace(target, threads=1)
    return _run_cycles(spec, tiling, alone) / target.hz


def results(taps: int) -> list[int]:
    """Results of a tile along an axis of so many taps, that there are transforms for."""
    return [1] if taps == 1 else [n - taps + 1 for n in PRODUCTS if n - taps + 1 > 1]


def tile_kinds(spec: ConvSpec) -> Iterator[tuple[int, int]]:
    """Kinds of tile that could serve; they hold whole windows of a pool."""
    _, height, width = spec.axes()
    _, high, wide = spec.pool.sides if spec.pool else (1, 1, 1)
    for tile in product(results(height.taps), results(width.taps)):
        if tile[0] % high == 0 and tile[1] % wide == 0:
            yield tile


@lru_cache(maxsize=256)
def _best(spec: ConvSpec, target: Target) -> Tiling:
    kinds = sorted(tile_kinds(spec), key=lambda tile: _kind_cycles(spec, tile, target))
    cuts = (cut for tile in kinds[:BEST] for cut in _cuts(spec, tile, target))
    return min(cuts, key=lambda t: (_run_cycles(spec, t, target), t.count, t.chunk))


def _kind_cycles(spec: ConvSpec, tile: tuple[int, int], target: Target) -> float:
    """A first guess of what a kind of tile costs, with a usual cut."""
    geometry = Geometry(spec, Tiling(tile, 1, 1, 1, 1))
    tiles, count = geometry.tiles, min(geometry.tiles, 28)
    tiling = Tiling(tile, count, geometry.out_blocks, 2, min(count, 14))
    return _item_cycles(spec, tiling, target) * tiles / count


def _cuts(spec: ConvSpec, tile: tuple[int, int], target: Target) -> Iterator[Tiling]:
    geometry = Geometry(spec, Tiling(tile, 1, 1, 1, 1))
    tiles, out_blocks = geometry.tiles, geometry.out_blocks
    fewest = -(-tiles // MOST_TILES)
    counts = sorted({-(-tiles // parts) for parts in range(fewest, min(tiles, 8 * fewest) + 1)})
    chunks = [c for c in range(1, out_blocks + 1) if out_blocks % c == 0]
    for count in counts:
        for chunk in chunks:
            for blocks in range(1, min(WIDEST, chunk) + 1):
                widest = min(count, widest_tile(target.registers, blocks))
                even = (-(-count // -(-count // most)) for most in (widest, widest - 1) if most)
                for pixels in dict.fromkeys(even):
                    yield Tiling(tile, count, chunk, blocks, pixels)


def _run_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Core time until the last thread is done."""
    items = Geometry(spec, tiling).items
    turns = -(-items // target.threads) * target.threads
    return turns * _item_cycles(spec, tiling, target)


def _item_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    geometry = Geometry(spec, tiling)
    taps = geometry.axes[0].taps, geometry.axes[1].taps
    into, out = (cycles / target.fmas for cycles in _transform_cycles(tiling.tile, *taps))
    multiply, turns = 0.0, geometry.turns
    asked = 1 / turns if geometry.spread else None
    for blocks in shares(tiling.chunk, tiling.blocks):
        multiply += turns * tile_cycles(
            blocks, tiling.pixels, geometry.channels, spec.lanes, target.fmas, asked
        )
    multiply *= geometry.products
    scratch, weights = 4 * geometry.scratch, 4 * geometry.weights
    moved = 2.0 * scratch if scratch > target.l2 * 3 // 4 else 0
    first = weights / geometry.parts  # an item's share of reading them from memory
    moved += weights - first if weights * geometry.chunks + scratch > target.l2 else 0
    first /= MEMORY
    return (
        ITEM_COST
        + tiling.count * (geometry.planes * into + tiling.chunk * out)
        + multiply
        # the first turn reads weights from memory, the others find them
        + max(0.0, first - HIDING * multiply / (1 if geometry.spread else turns))
        + moved / STREAM
    )


@lru_cache(maxsize=64)
def _transform_cycles(tile: tuple[int, int], *taps: int) -> tuple[float, float]:
    """Cycles to transform the input of a tile, and its results, for one block of channels."""
    rows, columns = (transforms(m, r) for m, r in zip(tile, taps, strict=True))
    height, width = len(rows.inputs), len(columns.inputs)
    into = width * operations(rows.inputs) + height * operations(columns.inputs)
    out = width * operations(rows.results) + tile[0] * operations(columns.results)
    read, written = height * width, tile[0] * tile[1]
    return OPERATION * into + 2 * TOUCHED * read, OPERATION * out + TOUCHED * (read + written)
