"""Depthwise convolution by kernels that are their own mirror image: each weight is used once.

    y[i,j] = sum over u, v of w[u,v] (x[i-u,j-v] + x[i-u,j+v] + x[i+u,j-v] + x[i+u,j+v])

Pixels that share a weight are added first. Rows of the image are folded, x[i-u] + x[i+u], once for
all results of a tile that see them; then for each result the columns of those. A 7x7 kernel has 16
weights: 16 products and 12 additions a result, and 3 additions a column of the tile, in place of 49
products; processors with adders beside their multipliers do both at once. (To add four pixels for
each weight and result would be 33 additions.) It rounds differently, so exact precision rules it
out. An axis of which the kernels are no mirror image is not folded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import prod

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.edges import element_place, inside
from cnnir.backends.llvm.kernels.spec import ConvSpec, Epilogue, KernelCode, Target, storage
from cnnir.backends.llvm.kernels.window import Tile, Windows, tiles
from cnnir.ops.boundary import ZERO

BODY = 256  # operations in the unrolled body of a tile, at most
OVERHEAD = 1.05  # of the operations: loads, stores and loops that are not hidden
# A vector's addition, in those of a product: less than one on Zen 4, whose adders are beside its
# multipliers. Where they share pipes the fold of one axis gains nothing, and loses nothing.
ADDITION = 0.35


@dataclass(frozen=True)
class SymmetricSpec(ConvSpec):
    """A depthwise convolution, and which of its last two axes its kernels are symmetric along."""

    mirrored: tuple[bool, bool] = (True, True)

    @classmethod
    def of(cls, spec: ConvSpec, weights: np.ndarray | None) -> SymmetricSpec:
        """What a convolution is by its weights, where they are known and depthwise."""
        given = {field.name: getattr(spec, field.name) for field in fields(ConvSpec)}
        if weights is None or weights.shape[1] > 1:
            return cls(**given, mirrored=(False, False))
        return cls(**given, mirrored=mirrored(weights))

    @property
    def taps(self) -> tuple[int, int]:
        """Of rows and columns."""
        _, height, width = self.axes()
        return height.taps, width.taps

    @property
    def folds(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For rows and for columns, the taps that share a weight: two, or one."""
        return tuple(
            tuple(tuple(dict.fromkeys((t, n - 1 - t))) for t in range((n + 1) // 2))
            if mirrored
            else tuple((t,) for t in range(n))
            for n, mirrored in zip(self.taps, self.mirrored, strict=True)
        )


@dataclass(frozen=True)
class Tiling:
    pixels: int  # neighbouring results in a tile


def mirrored(weights: np.ndarray) -> tuple[bool, bool]:
    """Whether kernels w[O,1,*kernel] are the same from both ends of their rows' axis (of several)
    and of their columns', bit by bit."""
    columns = np.array_equal(weights, np.flip(weights, -1))
    rows = weights.ndim > 3 and np.array_equal(weights, np.flip(weights, -2))
    return rows and weights.shape[-2] > 1, columns and weights.shape[-1] > 1


def reject(spec: SymmetricSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if not spec.groups == spec.channels == spec.filters:
        return f"{spec.filters} filters of {spec.channels // spec.groups} channels, not depthwise"
    if not any(spec.mirrored):
        return "the kernels are not symmetric"
    if spec.axes()[0].taps > 1:
        return "three axes"
    if spec.kernel[-1] > BODY // 8:
        return f"a kernel {spec.kernel[-1]} wide, too much to unroll"
    return spec.problem() or _windows(spec, Tiling(2)).problem()


def choose(spec: SymmetricSpec, target: Target) -> Tiling:
    """As many results as there is room for beside the folded pixels of one and its weights."""
    room = target.registers - spec.taps[1] - len(spec.folds[1]) - 3
    pixels = max(2, min(room, 14, BODY // (2 * spec.taps[1])))
    while pixels < spec.out_sizes[-1] and _windows(spec, Tiling(pixels)).problem():
        pixels += 1
    return Tiling(pixels)


def tilings(spec: SymmetricSpec, target: Target, count: int) -> list[Tiling]:
    """The choice, then narrower and wider tiles."""
    best = choose(spec, target).pixels
    near = dict.fromkeys((best, best - 2, best + 2, best - 4, best // 2))
    fitting = [n for n in near if n >= 2 and not _windows(spec, Tiling(n)).problem()]
    return [Tiling(n) for n in fitting][:count]


def operations(spec: SymmetricSpec, tiling: Tiling) -> tuple[int, float]:
    """Products and additions of vectors for each vector of results."""
    rows, columns = spec.folds
    pixels = min(tiling.pixels, spec.out_sizes[-1])
    seen = spec.axes()[2].span(pixels) / pixels
    added = sum(len(r) - 1 for r in rows) * seen
    added += len(rows) * sum(len(c) - 1 for c in columns)
    return len(rows) * len(columns), added


def estimate(spec: SymmetricSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core: the operations or the bytes, whatever takes longer."""
    vectors = spec.batch * spec.out_blocks * prod(spec.out_sizes)
    products, additions = operations(spec, tiling)
    work = OVERHEAD * vectors * (products + ADDITION * additions) / (target.fmas * target.hz)
    moved = spec.batch * spec.lanes * 4
    moved *= spec.in_blocks * prod(spec.sizes) + spec.out_blocks * prod(spec.out_sizes)
    return max(work, moved / target.cached)


def packed_size(spec: SymmetricSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    return spec.out_blocks * spec.lanes * prod(len(folds) for folds in spec.folds)


def pack(
    weights: np.ndarray, spec: SymmetricSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[O,1,*kernel] as [block][row][column][V], of those that share a weight the first."""
    rows, columns = (len(folds) for folds in spec.folds)
    filters = np.zeros((spec.out_blocks * spec.lanes, rows, columns), np.float32)
    filters[: spec.filters] = weights.reshape(spec.filters, *spec.taps)[:, :rows, :columns]
    packed = storage(out, filters.size)
    split = filters.reshape(spec.out_blocks, spec.lanes, rows, columns).transpose(0, 2, 3, 1)
    packed.reshape(split.shape)[...] = split
    return packed


def emit(
    module: ir.Module,
    name: str,
    spec: SymmetricSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    x, w, *_, y = b.pointers
    windows = _windows(spec, tiling)
    zeros = _zero_row(b, windows)
    rows, columns = (len(folds) for folds in spec.folds)
    for tile in tiles(b, windows, x):
        start = b.splat(0.0)
        if spec.bias:
            start = b.vload(b.pointers[2], b.mul(tile.block, b.lanes))
        weights = b.at(w, b.mul(tile.block, rows * columns * b.lanes))
        sums = _sums(b, tile, spec, weights, zeros, [start] * tile.segment.width)
        tile.store(b, y, sums, epilogue)
    scratch = 0 if zeros is None else 4 * windows.line
    summary = (
        f"depthwise {'x'.join(map(str, spec.kernel))} by {rows}x{columns} weights, "
        f"{tiling.pixels} pixels a tile, {windows.band} rows an item"
    )
    return KernelCode(name, windows.items, scratch, spec.flops, before, summary, b.finish())


def _windows(spec: SymmetricSpec, tiling: Tiling) -> Windows:
    depth, height, width = spec.axes()
    axes = (depth, height, width)
    return Windows(spec.batch, spec.out_blocks, axes, len(spec.sizes), tiling.pixels, spec.lanes)


def _zero_row(b: Builder, windows: Windows) -> ir.Value | None:
    """A row of zeros to read beyond the image, where windows reach so far."""
    height, width = windows.axes[1:]
    if inside(height) or height.boundary != ZERO:
        return None
    with b.loop(width.size) as column:
        b.vstore(b.splat(0.0), b.scratch, b.mul(column.index, b.lanes))
    return b.scratch


def _sums(
    b: Builder,
    tile: Tile,
    spec: SymmetricSpec,
    weights: ir.Value,
    zeros: ir.Value | None,
    state: list[ir.Value],
) -> list[ir.Value]:
    """The results of a tile: pairs of rows that share weights in a loop, then single ones."""
    rows, columns = spec.folds
    first = 0
    for size in (2, 1):
        count = sum(len(taps) == size for taps in rows)
        if not count:
            continue
        with b.loop(first + count, first, carry=state) as loop:
            taps = (loop.index, b.sub(spec.taps[0] - 1, loop.index))[:size]
            load = tile.loader(b, [_line(b, tile, tap, zeros) for tap in taps])
            row = b.at(weights, b.mul(loop.index, len(columns) * b.lanes))
            loop.state[:] = _row_sums(b, tile, columns, row, load, list(loop.state))
        state = loop.result
        first += count
    return state


def _line(b: Builder, tile: Tile, tap: Index, zeros: ir.Value | None) -> ir.Value:
    """Where the row of the image starts that a row of taps sees."""
    height = tile.windows.axes[1]
    own = b.add(b.mul(tile.row, height.stride), b.mul(tap, height.dilation), -height.begin)
    last = height.span(height.out) - 1 - height.begin
    row, known = element_place(b, height, own, -height.begin, last)
    line = b.at(tile.plane, b.mul(row, tile.windows.line))
    return line if zeros is None else b.ir.select(b.truth(known), line, zeros)


def _row_sums(
    b: Builder,
    tile: Tile,
    columns: tuple[tuple[int, ...], ...],
    weights: ir.Value,
    load: Callable[[int, int], ir.Value],
    state: list[ir.Value],
) -> list[ir.Value]:
    """A row of weights added: result after result, so that few folded pixels live at a time."""
    vectors = [b.vload(weights, number * b.lanes) for number in range(len(columns))]
    for p, valid in enumerate(tile.segment.taps):
        for vector, taps in zip(vectors, columns, strict=True):
            seen = [load(p, tap) for tap in taps if tap in valid]
            if seen:
                pixel = seen[0] if len(seen) == 1 else b.ir.fadd(*seen)
                state[p] = b.fma(pixel, vector, state[p])
    return state
