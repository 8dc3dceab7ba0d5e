"""How FFT convolution cuts its work, and what that is predicted to cost.

Overlap-save (see T. Stockham, High-speed convolution and correlation, 1966): a tile of n pixels
gives n - span + 1 results, where a kernel spans `span` pixels. A single tile along an axis may be
smaller than what its results see, where that wraps around onto padding of zeros. Along the second
of two axes any boundary may: a circular image of n pixels wraps around as its boundary does, and
at others the last results, which see the front of the tile behind its end, are corrected for the
difference. With m pixels too few these are m (m + 1) / 2 products for each row of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice, product
from math import prod
from typing import TypeVar

from cnnir.backends.llvm.kernels.fft import CYCLIC, REAL, Transform, radices, work
from cnnir.backends.llvm.kernels.fft_circle import Circle, circles
from cnnir.backends.llvm.kernels.spec import Axis, ConvSpec, Target
from cnnir.ops.boundary import ZERO

T = TypeVar("T")

ALONE, FIRST, SECOND = range(3)
"""Axes: a single one, and those of two."""

LARGEST = 512  # values of a transform along an axis, at most
NARROW = 1.1  # how much longer than half a vector of twice the lanes a vector takes
LOOKED_AT = 100  # tiles, those that look best at first sight
FILTERS = 4  # multiplied at once where there is more than one channel: 8 sums stay in registers
ITEM_COST = 150  # cycles to fetch a work item
OPERATION = 0.53  # cycles of an operation on a vector of a transform, with what moves the vector
TURN = 3.0  # of the factors between rows and columns of one axis, for a vector of complex values
MULTIPLY = 3.3  # of a complex product added to a sum, where there are several channels
ACROSS = 22.0  # operations on a vector of the other axis' transform, where that is not known
CORRECT = 4.0  # of a complex product that corrects a result
SPILL = 0.27  # of an operation more where a tile on its way is beyond L2
LINE = 10.0  # of a cache line of an image that is beyond L2, a row away from the last one
STREAM, MEMORY = 19.0, 7.0  # bytes of weights a cycle: from L3, and from memory
MOST = 256 << 20  # bytes of transformed weights, and of a thread's scratch
HOT = 8 << 20  # bytes of weights that may stay in L3 from run to run
"""Fitted to measurements on Zen 4, for targets that begin two vector operations a cycle."""


@dataclass(frozen=True)
class Tiling:
    """How the work is cut."""

    rows: int  # complex values along the first axis of a tile: each is two real ones
    columns: int  # along the second
    chunk: int  # filters of a group in a work item


@dataclass(frozen=True)
class Cut:
    """An axis of results as tiles."""

    results: int  # of a tile
    tiles: int
    short: int = 0  # pixels at the front of a tile that its last results see in the place of others


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec of one or two axes as tiles of rows x columns complex values.

    Of two axes the first is real, 2 rows long, and the second is as long as the columns. A single
    axis of 2 rows columns real values is folded into a rectangle.
    """

    spec: ConvSpec
    tiling: Tiling

    @cached_property
    def axes(self) -> list[Axis]:
        return self.spec.axes()[3 - len(self.spec.sizes) :]

    @cached_property
    def sides(self) -> tuple[int, ...]:
        """Pixels of a tile along each axis."""
        rows, columns = self.tiling.rows, self.tiling.columns
        return (2 * rows * columns,) if len(self.axes) == 1 else (2 * rows, columns)

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Along each axis; no results where a tile is too small."""
        if len(self.axes) == 1:
            return (_cut(self.axes[0], self.sides[0], ALONE),)
        (first, second), (high, wide) = self.axes, self.sides
        return _cut(first, high, FIRST), _cut(second, wide, SECOND)

    @cached_property
    def transforms(self) -> tuple[Transform | Circle, Transform]:
        """Along rows' axis and columns'."""
        rows, columns = self.tiling.rows, self.tiling.columns
        circle = not self.twisted and _is_circle(self.axes[0], 2 * rows) and circles(2 * rows)
        along = Circle(2 * rows) if circle else Transform(rows, REAL)
        return along, Transform(columns, CYCLIC)

    @cached_property
    def rows(self) -> int:
        """Complex values of a tile along the first axis, once it is transformed."""
        return len(self.transforms[0].scales)

    @property
    def tiles(self) -> int:
        return prod(cut.tiles for cut in self.cuts)

    @property
    def channels(self) -> int:
        """Input channels in a group."""
        return self.spec.channels // self.spec.groups

    @property
    def apart(self) -> int:
        """Vectors from a transformed value of a channel to the next one: an odd number, so that
        they fall into different cache sets."""
        return self.channels | 1

    @property
    def filters(self) -> int:
        """Filters in a group."""
        return self.spec.filters // self.spec.groups

    @property
    def block(self) -> int:
        """Filters that are multiplied at once, at most."""
        return FILTERS if self.channels > 1 else 1

    @property
    def extents(self) -> tuple[int, ...]:
        """What numbers a work item: group, chunk of its filters, image, tile along each axis."""
        chunks = self.filters // self.tiling.chunk
        return (self.spec.groups, chunks, self.spec.batch, *(cut.tiles for cut in self.cuts))

    @property
    def items(self) -> int:
        return prod(self.extents)

    @property
    def panels(self) -> tuple[int, int]:
        """Vectors along the columns, and along the rows."""
        lanes = self.spec.lanes
        return -(-self.tiling.columns // lanes), -(-self.rows // lanes)

    @property
    def vectors(self) -> int:
        """Vectors of complex numbers of a transformed tile."""
        return self.panels[1] * self.tiling.columns

    @property
    def room(self) -> int:
        """Floats of a tile on its way: either way that it lies, where the last panel's squares may
        reach beyond its end."""
        (wide, high), lanes = self.panels, self.spec.lanes
        along = (wide - 1) * self.rows + high * lanes
        across = (high - 1) * self.tiling.columns + wide * lanes
        return 2 * lanes * max(along, across)

    @property
    def stored_panels(self) -> int:
        """Vectors along the columns that hold results."""
        if len(self.axes) == 1:
            return self.panels[0]
        return -(-self.cuts[1].results // self.spec.lanes)

    @property
    def twisted(self) -> bool:
        """Whether rows and columns belong to one axis."""
        return len(self.axes) == 1

    @property
    def short(self) -> int:
        """Results of a tile's row that are corrected."""
        return self.cuts[-1].short

    @property
    def scratch(self) -> int:
        """Floats: two tiles on their way, transformed channels, sums of products of a block, and
        what the corrected results lack of each channel."""
        sums = self.block if self.channels > 1 else 0
        missing = self.panels[1] * self.short * self.channels
        vectors = self.vectors * (self.apart + sums) + missing
        return 2 * self.room + 2 * self.spec.lanes * vectors

    @property
    def weights(self) -> int:
        """Floats of transformed weights, all filters."""
        return 2 * self.spec.lanes * self.vectors * self.spec.filters * self.channels

    @property
    def last_taps(self) -> int:
        """Taps along the second axis that corrected results see behind the end of a tile."""
        return -(-self.short // self.axes[-1].dilation)

    @property
    def corrections(self) -> int:
        """Floats of these taps, transformed along the first axis, all filters."""
        vectors = self.panels[1] * self.last_taps * self.spec.filters * self.channels
        return 2 * self.spec.lanes * vectors

    @property
    def tables(self) -> tuple[int, int, int]:
        """Floats of factors: of the twist between the transforms, and of these. The twist is read
        by vectors, so it comes first."""
        rows, columns = (transform.table.size for transform in self.transforms)
        twist = 2 * self.tiling.rows * self.tiling.columns if self.twisted else 0
        return twist, rows, columns


def _is_circle(axis: Axis, side: int) -> bool:
    """Whether a tile is as long as a circular image, which wraps around as it does."""
    return axis.boundary == "circular" and max(axis.out, axis.span(1)) <= side == axis.size


def _cut(axis: Axis, side: int, which: int) -> Cut:
    """The tiles of an axis, as equal as they can be."""
    span, seen = axis.span(1), axis.span(axis.out)
    if side < span:
        return Cut(0, 0)
    if side >= seen:
        return Cut(axis.out, 1)
    holds = side >= max(axis.begin + axis.size, axis.out)
    if axis.boundary == ZERO:
        if holds and side >= seen - axis.begin:
            return Cut(axis.out, 1)
    elif _is_circle(axis, side) and (which == SECOND or (which == FIRST and circles(side))):
        return Cut(axis.out, 1)
    elif which == SECOND and holds:
        return Cut(axis.out, 1, seen - side)
    tiles = -(-axis.out // (side - span + 1))
    return Cut(-(-axis.out // tiles), tiles)


def none_fits(spec: ConvSpec) -> bool:
    """Whether the kernel is too large for any tile, or there are too many filters."""
    return next(_tiles(spec), None) is None


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The tile that is best on one core, its filters cut to suit the threads.

    The tile decides how results are rounded, so it must not depend on the number of threads.
    """
    tile = _best(spec, replace(target, threads=1))
    cuts = (replace(tile, chunk=chunk) for chunk in _chunks(spec))
    return min(cuts, key=lambda t: (_run_cycles(spec, t, target), -t.chunk))


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    return _run_cycles(spec, tiling, replace(target, threads=1)) / target.hz


def tilings(spec: ConvSpec, target: Target, count: int) -> list[Tiling]:
    """The choice, then other tiles, the best by prediction first."""
    others = sorted(_tiles(spec), key=lambda t: _run_cycles(spec, t, target))
    return list(dict.fromkeys((choose(spec, target), *others)))[:count]


def fitted(spec: ConvSpec, target: Target) -> ConvSpec:
    """With vectors of half the lanes where these are as quick and waste fewer of them."""
    alone = replace(target, threads=1)
    half = replace(spec, lanes=spec.lanes // 2)
    if spec.lanes != target.halved or none_fits(half):
        return spec
    specs = [(_run_cycles(each, _best(each, alone), alone), each) for each in (spec, half)]
    return min(specs, key=lambda pair: pair[0])[1]


@lru_cache(maxsize=256)
def _best(spec: ConvSpec, target: Target) -> Tiling:
    likely = islice(_tiles(spec), LOOKED_AT)
    return min(likely, key=lambda t: (_run_cycles(spec, t, target), t.rows, t.columns))


def _tiles(spec: ConvSpec) -> Iterator[Tiling]:
    """Tiles that give results: of each axis the cheapest sizes for every number of tiles, roughly
    the best pairs of them first."""
    sizes = {n: work(passes) for n in range(spec.lanes, LARGEST + 1) if (passes := radices(n))}
    *_, first, second = spec.axes()
    if len(spec.sizes) == 1:
        whole = [n for n in sizes if n % spec.lanes == 0]
        pairs = [(n, m) for n in whole for m in whole if n <= m]
        options = {(n, m): (2 * n * m, n * m * (sizes[n] + sizes[m])) for n, m in pairs}
        found = [pair for _, _, pair in sorted(_cheapest(second, options, ALONE))]
    else:
        lines = {
            n: n * each + -(-n // spec.lanes) * spec.lanes * ACROSS for n, each in sizes.items()
        }
        rows = _cheapest(first, {n: (2 * n, cost) for n, cost in lines.items()}, FIRST)
        columns = _cheapest(second, {n: (n, cost) for n, cost in lines.items()}, SECOND)
        found = [(n, m) for (_, _, n), (_, _, m) in sorted(product(rows, columns), key=_rough)]
    for n, m in found:
        tiling = Tiling(n, m, spec.filters // spec.groups)
        if 4 * max(Geometry(spec, tiling).weights, Geometry(spec, tiling).scratch) <= MOST:
            yield tiling


def _cheapest(
    axis: Axis, options: dict[T, tuple[int, float]], which: int
) -> list[tuple[float, int, T]]:
    """Of ways to transform so many pixels of an axis at such a cost, the cheapest for each number
    of tiles, with corrected results and without: (cost of all tiles, how many, way)."""
    best: dict[tuple[int, bool], tuple[float, int, T]] = {}
    for option, (pixels, cost) in options.items():
        cut = _cut(axis, pixels, which)
        found, kind = (cut.tiles * cost, cut.tiles, option), (cut.tiles, cut.short > 0)
        if cut.tiles and (kind not in best or found < best[kind]):
            best[kind] = found
    return list(best.values())


def _rough(pair: tuple[tuple[float, int, int], tuple[float, int, int]]) -> float:
    """How good a pair of sizes is, for a first order: operations for all lines along both axes."""
    (rows, down, n), (columns, across, m) = pair
    return rows * across * m + columns * down * n


def _chunks(spec: ConvSpec) -> list[int]:
    filters = spec.filters // spec.groups
    return [n for n in range(1, filters + 1) if filters % n == 0]


def _run_cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Core time until the last thread is done."""
    geometry = Geometry(spec, tiling)
    turns = -(-geometry.items // target.threads) * target.threads
    return turns * _item_cycles(geometry, target)


def _item_cycles(g: Geometry, target: Target) -> float:
    lanes, channels, chunk = g.spec.lanes, g.channels, g.tiling.chunk
    rows, columns = (transform.work for transform in g.transforms)
    vectors, along = g.vectors, g.panels[0] * g.tiling.rows
    stored = g.stored_panels * g.tiling.rows
    transforms = (channels * along + chunk * stored) * rows + (channels + chunk) * vectors * columns
    transforms *= OPERATION + (SPILL if 12 * g.room > target.l2 * 3 // 4 else 0)
    if g.twisted:
        transforms += TURN * vectors * (channels + chunk)
    products = g.panels[1] * g.short * (g.short + 1) / 2 / g.axes[-1].dilation
    transforms += CORRECT * products * channels * chunk
    multiply = MULTIPLY * vectors * channels * chunk if channels > 1 else 0.0
    per_vector = 2 / target.fmas * (NARROW / 2 if lanes < target.halved else 1)
    weights = 8 * lanes * vectors * channels * chunk
    moved = weights / (MEMORY if 4 * g.weights > HOT else STREAM)
    lines = (channels * vectors + chunk * stored) * lanes / 16
    spec = g.spec
    images = 4 * (spec.channels * prod(spec.sizes) + spec.filters * prod(spec.out_sizes))
    edges = LINE * lines if images > target.l2 else 0.0
    return ITEM_COST + transforms * per_vector + max(multiply * per_vector, moved) + edges
