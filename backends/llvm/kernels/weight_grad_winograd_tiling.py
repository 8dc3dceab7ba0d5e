"""How the weight gradient in Winograd's way cuts its work: an analytic model, in cycles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from math import prod

from cnnir.backends.llvm.kernels.microkernel import tile_cycles
from cnnir.backends.llvm.kernels.small_matrix import operations
from cnnir.backends.llvm.kernels.spec import ConvSpec, Target
from cnnir.backends.llvm.kernels.winograd_tiling import OPERATION, PRODUCTS, STREAM, TOUCHED
from cnnir.backends.llvm.kernels.winograd_transforms import Transforms, transforms

ITEM_COST = 2500  # cycles to fetch a work item
FMAS = 2  # a cycle, with which the costs here were fitted
ITEMS = 16  # wanted; tiles are split in parts where weights alone make fewer
PARTS_BYTES = 8 << 20  # of all parts, at most
GROUPS = (8, 16, 24, 32)  # tiles that are transformed at a time
WIDEST = 4  # filter blocks in a register tile, at most
MOST = 8  # blocks of filters or channels in a work item, at most


@dataclass(frozen=True)
class Tiling:
    tile: tuple[int, int]  # pixels of dy in a Winograd tile: rows, columns
    count: int  # Winograd tiles in a group
    filters: int  # blocks of filters in a work item, a divisor of all
    channels: int  # blocks of channels in a work item, a divisor of all
    blocks: int  # blocks of filters in a register tile, a divisor of `filters`
    width: int  # channels in it, a divisor of V
    parts: int = 1


@dataclass(frozen=True)
class Geometry:
    """A ConvSpec as tiles of dy, with what a tiling makes of them; lengths count floats."""

    spec: ConvSpec
    tiling: Tiling

    @cached_property
    def transforms(self) -> tuple[Transforms, Transforms]:
        """Along the rows' axis and the columns'."""
        _, height, width = self.spec.axes()
        rows, columns = self.tiling.tile
        return transforms(height.taps, rows), transforms(width.taps, columns)

    @property
    def sides(self) -> tuple[int, int]:
        rows, columns = self.transforms
        return len(rows.inputs), len(columns.inputs)

    @property
    def products(self) -> int:
        return prod(self.sides)

    @property
    def grid(self) -> tuple[int, int]:
        _, height, width = self.spec.axes()
        rows, columns = self.tiling.tile
        return -(-height.out // rows), -(-width.out // columns)

    @property
    def tiles(self) -> int:
        return self.spec.batch * prod(self.grid)

    @property
    def groups(self) -> int:
        return -(-self.tiles // self.tiling.count)

    @property
    def taps(self) -> int:
        return prod(self.spec.kernel)

    @property
    def rows(self) -> int:
        """Vectors of a block of filters: a channel and tap each, those of pad lanes too."""
        return self.spec.in_blocks * self.spec.lanes * self.taps

    @property
    def part(self) -> int:
        """Floats of a part."""
        return self.spec.out_blocks * self.rows * self.spec.lanes

    @property
    def chunks(self) -> tuple[int, int]:
        """Work items of a part: by filters, by channels."""
        spec, tiling = self.spec, self.tiling
        return spec.out_blocks // tiling.filters, spec.in_blocks // tiling.channels

    # an odd number of vectors in a plane: equal elements of planes are in different cache sets

    @property
    def x_plane(self) -> int:
        return (self.tiling.channels * self.tiling.count | 1) * self.spec.lanes

    @property
    def dy_plane(self) -> int:
        return (self.tiling.filters * self.tiling.count | 1) * self.spec.lanes

    @property
    def sum_plane(self) -> int:
        tiling, lanes = self.tiling, self.spec.lanes
        return (tiling.filters * tiling.channels * lanes | 1) * lanes

    @property
    def scratch(self) -> int:
        return self.spec.lanes + self.products * (self.x_plane + self.dy_plane + self.sum_plane)


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    depth, height, width = spec.axes()
    if depth.taps > 1 or depth.size > 1:
        return "three spatial axes"
    if spec.groups > 1:
        return f"{spec.groups} groups"
    if spec.plain:
        return "input is not blocked"
    if any(axis.stride > 1 or axis.dilation > 1 for axis in (height, width)):
        return f"stride {spec.stride}, dilation {spec.dilation}"
    if height.taps * width.taps == 1:
        return "one tap has nothing to save"
    if any(axis.taps >= max(PRODUCTS) for axis in (height, width)):
        return f"more than {max(PRODUCTS) - 1} taps"
    return spec.problem()


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """The kind of tile and the cut with the least cost; it does not depend on threads."""
    return min(_tilings(spec, target), key=lambda t: (_cycles(spec, t, target), t.count, t.filters))


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core."""
    return _cycles(spec, tiling, target) / target.hz


def _tilings(spec: ConvSpec, target: Target) -> Iterator[Tiling]:
    _, height, width = spec.axes()
    kinds = [[1] if a.taps == 1 else [n - a.taps + 1 for n in PRODUCTS] for a in (height, width)]
    register_tiles = [
        (blocks, channels)
        for blocks in range(1, WIDEST + 1)
        for channels in (spec.lanes, spec.lanes // 2, spec.lanes // 4)
        if channels and blocks * channels + blocks + 1 <= target.registers
    ]
    down, right = ([m for m in kind if m > 0] for kind in kinds)
    for tile in product(down, right):
        for filters, channels in product(_divisors(spec.out_blocks), _divisors(spec.in_blocks)):
            fitting = [t for t in register_tiles if filters % t[0] == 0]
            if not fitting:
                continue
            blocks, wide = min(
                fitting, key=lambda t: _turn_cycles(spec, t[0], t[1], 16) / (t[0] * t[1])
            )
            for count in GROUPS:
                tiling = Tiling(tile, count, filters, channels, blocks, wide)
                g = Geometry(spec, tiling)
                most = max(1, PARTS_BYTES // (4 * g.part))
                parts = max(1, min(-(-ITEMS // prod(g.chunks)), g.groups, most))
                yield replace(tiling, parts=parts)


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, min(count, MOST) + 1) if count % n == 0]


def _turn_cycles(spec: ConvSpec, blocks: int, channels: int, count: int) -> float:
    return tile_cycles(blocks, channels, count, spec.lanes, FMAS)


@lru_cache(maxsize=4096)
def _cycles(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    g = Geometry(spec, tiling)
    x_cost, dy_cost, last = _transform_cycles(spec, tiling.tile)
    turns = (tiling.filters // tiling.blocks) * (tiling.channels * spec.lanes // tiling.width)
    sums = tiling.blocks * tiling.width
    multiplied = (
        g.products * turns * (_turn_cycles(spec, tiling.blocks, tiling.width, tiling.count) + sums)
    )
    group = tiling.count * (tiling.channels * x_cost + tiling.filters * dy_cost) + multiplied
    if 4 * g.scratch > target.l2 * 3 // 4:
        group += 8 * g.products * g.sum_plane / STREAM
    end = tiling.filters * tiling.channels * spec.lanes * (last + g.products)
    return prod(g.chunks) * (g.groups * group + tiling.parts * (end + ITEM_COST))


@lru_cache(maxsize=64)
def _transform_cycles(spec: ConvSpec, tile: tuple[int, int]) -> tuple[float, float, float]:
    """Of a tile of x, of one of dy, and of sums, a vector an element."""
    g = Geometry(spec, Tiling(tile, 1, 1, 1, 1, 1))
    (rows, columns), (height, width) = g.transforms, g.sides
    x = width * operations(rows.inputs) + height * operations(columns.inputs)
    dy = tile[1] * operations(rows.taps) + height * operations(columns.taps)
    last = width * operations(rows.results) + len(rows.results) * operations(columns.results)
    return (
        OPERATION * x + 2 * TOUCHED * g.products,
        OPERATION * dy + TOUCHED * (g.products + prod(tile)),
        OPERATION * last + TOUCHED * (g.products + g.taps),
    )
