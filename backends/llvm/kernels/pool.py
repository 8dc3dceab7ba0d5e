"""Max and average pooling on Blocked(V), windows read in place.

Windows are cut at the edges by loop bounds, so padding is never read: it is minus infinity for the
maximum, and counts as zeros for an average only where `count_padding` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import F32, Builder, Index
from cnnir.backends.llvm.kernels.edges import tap_range
from cnnir.backends.llvm.kernels.spec import Axis, Epilogue, KernelCode, Target
from cnnir.backends.llvm.kernels.window import Tile, Windows, tiles

MAX_WIDTH = 32  # taps in a row of a window; wider ones would be a lot of code


@dataclass(frozen=True)
class PoolSpec:
    """Pooling of x[N,C,*sizes] to out_sizes, which say whether sizes were rounded up or down."""

    kind: str  # "max" or "average"
    batch: int
    channels: int
    sizes: tuple[int, ...]
    out_sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]  # begins, then ends
    count_padding: bool = False
    lanes: int = 16

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.lanes)

    @property
    def flops(self) -> int:
        return self.batch * self.channels * prod(self.out_sizes) * prod(self.kernel)

    def axes(self) -> tuple[Axis, Axis, Axis]:
        fields = (self.sizes, self.out_sizes, self.kernel, self.stride, self.dilation)
        axes = [
            Axis(*values) for values in zip(*fields, self.padding[: len(self.sizes)], strict=True)
        ]
        missing = [Axis(1, 1, 1, 1, 1, 0)] * (3 - len(axes))
        depth, height, width = missing + axes
        return depth, height, width


@dataclass(frozen=True)
class Tiling:
    pixels: int  # neighbouring results in a tile


def reject(spec: PoolSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if len(spec.sizes) not in (1, 2, 3):
        return f"{len(spec.sizes)} spatial axes"
    if min(spec.batch, spec.channels, *spec.sizes, *spec.out_sizes, *spec.kernel) < 1:
        return "an empty axis"
    if spec.kernel[-1] > MAX_WIDTH:
        return f"a window {spec.kernel[-1]} wide, more than {MAX_WIDTH}"
    if min(spec.padding) < 0:
        return "negative padding"
    return _windows(spec, Tiling(1)).problem()


def choose(spec: PoolSpec, target: Target) -> Tiling:
    """Enough neighbours to share loads and hide latency; wide windows have that by themselves."""
    pixels = max(1, min(8, target.registers // 2, 64 // spec.kernel[-1]))
    while pixels < spec.out_sizes[-1] and _windows(spec, Tiling(pixels)).problem():
        pixels += 1
    return Tiling(pixels)


def estimate(spec: PoolSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core: the bytes, or one vector operation a tap."""
    moved = 4 * spec.batch * spec.blocks * spec.lanes * (prod(spec.sizes) + prod(spec.out_sizes))
    operations = spec.flops / (target.fmas * spec.lanes * target.hz)
    return max(operations, moved / target.cached)


def emit(
    module: ir.Module,
    name: str,
    spec: PoolSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, `operands` epilogue operands, y."""
    b = Builder(module, name, operands + 2, spec.lanes, noalias=[operands + 1])
    windows = _windows(spec, tiling)
    combine = b.fmax if spec.kind == "max" else b.ir.fadd
    start = b.splat(float("-inf") if spec.kind == "max" else 0.0)
    for tile in tiles(b, windows, b.pointers[0]):
        state = tile.reduce(b, [start] * tile.segment.width, _step(tile, combine))
        if spec.kind == "average":
            state = _divide(b, spec, tile, state)
        tile.store(b, b.pointers[-1], state, epilogue)
    summary = (
        f"{spec.kind} pool {'x'.join(map(str, spec.kernel))}, {tiling.pixels} pixels a tile, "
        f"{windows.band} rows an item"
    )
    return KernelCode(name, windows.items, 0, spec.flops, 1, summary, b.finish())


def _windows(spec: PoolSpec, tiling: Tiling) -> Windows:
    return Windows(
        spec.batch,
        spec.blocks,
        spec.axes(),
        len(spec.sizes),
        tiling.pixels,
        spec.lanes,
    )


def _step(tile: Tile, combine: Callable[[ir.Value, ir.Value], ir.Value]):
    """One row of taps: combined as a tree, since a chain through the state would wait for each."""

    def step(state, load, row):
        for p, taps in enumerate(tile.segment.taps):
            values = [load(p, tap) for tap in taps]
            while len(values) > 1:
                pairs = [combine(a, c) for a, c in zip(values[::2], values[1::2], strict=False)]
                values = pairs + values[len(pairs) * 2 :]
            if values:
                state[p] = combine(state[p], values[0])
        return state

    return step


def _divide(b: Builder, spec: PoolSpec, tile: Tile, sums: list[ir.Value]) -> list[ir.Value]:
    """Each sum by how many taps count: known across the row, loop bounds along the others."""
    depth, height, width = spec.axes()
    if spec.count_padding:
        ends = (0,) * (3 - len(spec.sizes)) + spec.padding[len(spec.sizes) :]
        depth, height, width = (
            Axis(a.size + a.begin + end, a.out, a.taps, a.stride, a.dilation, 0)
            for a, end in zip((depth, height, width), ends, strict=True)
        )
    rows = b.mul(_count(b, depth, tile.slice), _count(b, height, tile.row))
    counts = _row_counts(spec, tile, width)
    quotients = {n: _splat_count(b, b.mul(rows, n)) for n in set(counts)}
    return [b.ir.fdiv(x, quotients[n]) for x, n in zip(sums, counts, strict=True)]


def _row_counts(spec: PoolSpec, tile: Tile, width: Axis) -> list[int]:
    if not spec.count_padding:
        return [len(taps) for taps in tile.segment.taps]
    # Tiles that loop lie inside of the input, where every tap counts.
    first = tile.segment.start
    return [
        sum((first + p) * width.stride + t * width.dilation < width.size for t in range(width.taps))
        for p in range(tile.segment.width)
    ]


def _count(b: Builder, axis: Axis, at: Index) -> Index:
    low, high = tap_range(b, axis, at)
    return b.sub(high, low)


def _splat_count(b: Builder, count: Index) -> ir.Value:
    if isinstance(count, int):
        return b.splat(float(count))
    return b.splat(b.ir.sitofp(count, F32))
