"""Depthwise convolution and small groups on Blocked(V): one lane a filter, windows read in place.

Output lane l of a block needs one input lane of one block for each of the s channels of its group:
for s = 1 that is lane l itself, otherwise a shuffle with a constant pattern. Several neighbouring
results share the loaded inputs. Served are s dividing V, and m filters a group with s dividing m
(m = s is the plain case; m > s is a channel multiplier).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Target,
    storage,
)
from cnnir.backends.llvm.kernels.window import Tile, Windows, tiles

MAX_PHASES = 4
BODY = 384  # FMAs in the unrolled body of a tile, at most


@dataclass(frozen=True)
class Tiling:
    pixels: int  # neighbouring results in a tile


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    s, m = spec.channels // spec.groups, spec.filters // spec.groups
    if spec.plain:
        return "input is not blocked"
    if spec.lanes % s:
        return f"{s} channels a group do not divide a block of {spec.lanes}"
    if m % s or m // s > MAX_PHASES:
        return f"{m} filters for {s} channels a group, wanted 1 to {MAX_PHASES} times as many"
    if s * spec.kernel[-1] > BODY // 2:
        return f"a kernel {spec.kernel[-1]} wide over {s} channels, too much to unroll"
    return spec.problem() or _windows(spec, Tiling(2)).problem()


def choose(spec: ConvSpec, target: Target) -> Tiling:
    """As many results as registers allow beside a row of weights; no fewer than 2."""
    s = spec.channels // spec.groups
    row = s * spec.kernel[-1]
    room = target.registers - min(spec.kernel[-1], 4) - 2
    # with shuffles the loaded inputs stay in registers too, for the next channel of the group
    pixels = room if s == 1 else room // 3
    pixels = max(2, min(pixels, 12, BODY // row))
    while pixels < spec.out_sizes[-1] and _windows(spec, Tiling(pixels)).problem():
        pixels += 1
    return Tiling(pixels)


def tilings(spec: ConvSpec, target: Target, count: int) -> list[Tiling]:
    """The choice, then narrower and wider tiles."""
    best = choose(spec, target).pixels
    near = dict.fromkeys((best, best - 2, best + 2, best // 2, best - 1, best + 1))
    fitting = [n for n in near if n >= 2 and not _windows(spec, Tiling(n)).problem()]
    return [Tiling(n) for n in fitting][:count]


def estimate(spec: ConvSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core: the FMAs and shuffles, or the bytes, whatever takes longer."""
    s = spec.channels // spec.groups
    work = spec.flops / (2 * target.fmas * spec.lanes * target.hz) * (1.05 if s == 1 else 1.5)
    moved = spec.batch * spec.lanes * 4
    moved *= spec.in_blocks * prod(spec.sizes) + spec.out_blocks * prod(spec.out_sizes)
    return max(work, moved / target.cached)


def packed_size(spec: ConvSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    return spec.out_blocks * spec.lanes * (spec.channels // spec.groups) * prod(spec.kernel)


def pack(
    weights: np.ndarray, spec: ConvSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[O,s,*kernel] as [block][tap][channel of the group][V]."""
    s, taps = spec.channels // spec.groups, prod(spec.kernel)
    filters = np.zeros((spec.out_blocks * spec.lanes, s, taps), np.float32)
    filters[: spec.filters] = weights.reshape(spec.filters, s, taps)
    packed = storage(out, filters.size)
    split = filters.reshape(spec.out_blocks, spec.lanes, s, taps).transpose(0, 3, 2, 1)
    packed.reshape(split.shape)[...] = split
    return packed


def emit(
    module: ir.Module,
    name: str,
    spec: ConvSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    x, w, *_, y = b.pointers
    windows = _windows(spec, tiling)
    s = spec.channels // spec.groups
    for tile in tiles(b, windows, x):
        start = b.splat(0.0)
        if spec.bias:
            start = b.vload(b.pointers[2], b.mul(tile.block, b.lanes))
        weights = b.at(w, b.mul(tile.block, prod(spec.kernel) * s * b.lanes))
        patterns = [_lanes(spec, tile.phase, j) for j in range(s)]
        state = [start] * tile.segment.width
        state = tile.reduce(b, state, _step(b, tile, weights, patterns))
        tile.store(b, y, state, epilogue)
    summary = (
        f"depthwise {'x'.join(map(str, spec.kernel))}, groups of {s} to "
        f"{spec.filters // spec.groups}, {tiling.pixels} pixels a tile, {windows.band} rows an item"
    )
    return KernelCode(name, windows.items, 0, spec.flops, before, summary, b.finish())


def _windows(spec: ConvSpec, tiling: Tiling) -> Windows:
    depth, height, width = spec.axes()
    return Windows(
        spec.batch,
        spec.out_blocks,
        (depth, height, width),
        len(spec.sizes),
        tiling.pixels,
        spec.lanes,
        spec.filters // spec.channels,
    )


def _lanes(spec: ConvSpec, phase: int, j: int) -> list[int]:
    """The input lane that each output lane needs as channel j of its group."""
    s, m = spec.channels // spec.groups, spec.filters // spec.groups
    return [(phase * spec.lanes + lane) // m * s + j for lane in range(spec.lanes)]


def _step(b: Builder, tile: Tile, weights: ir.Value, patterns: list[list[int]]):
    """One row of taps: every input is loaded (and shuffled) once, then used by all that see it."""
    taps_wide = tile.windows.axes[2].taps
    size = len(patterns) * b.lanes
    identity = list(range(b.lanes))

    def step(state, load, row):
        w = b.at(weights, b.mul(row, taps_wide * size))
        for j, lanes in enumerate(patterns):
            shuffled: dict[ir.Value, ir.Value] = {}
            for tap in range(taps_wide):
                vector = b.vload(w, tap * size + j * b.lanes)
                for p in range(len(state)):
                    if tap in tile.segment.taps[p]:
                        x = load(p, tap)
                        if lanes != identity:
                            if x not in shuffled:
                                shuffled[x] = b.shuffle(x, lanes)
                            x = shuffled[x]
                        state[p] = b.fma(x, vector, state[p])
        return state

    return step
