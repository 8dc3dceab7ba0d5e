"""Windows at the edges of the input: which taps of which results lie inside it.

Results along an axis are cut in tiles. Neighbouring tiles with all taps valid make a segment, every
other tile is one by itself; code is emitted once for each segment, with the taps that fall outside
left out, so that no inner loop tests anything and padding is never stored. Where that would be too
much code, taps come from loop bounds (`tap_range`), or the input is copied with its padding in
place (band.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.spec import Axis, Split


@dataclass(frozen=True)
class Segment:
    """`count` neighbouring tiles of `width` results from `start` on, with the same valid taps.

    `first` is the number of its first tile; taps[p] are the taps of result p that lie inside the
    input.
    """

    start: int
    first: int
    width: int
    count: int
    taps: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=1024)
def segments(axis: Axis, largest: int, unit: int = 1) -> tuple[Segment, ...]:
    """The results of an axis in tiles of at most `largest`, multiples of `unit`, in order."""
    split = Split(axis.out, largest, unit)
    found: list[Segment] = []
    start = tile = 0
    for width, count in split.sizes():
        if inside(axis):
            taps = (tuple(range(axis.taps)),) * width
            found.append(Segment(start, tile, width, count, taps))
            start, tile = start + width * count, tile + count
            continue
        for _ in range(count):
            taps = tuple(valid_taps(axis, start + p) for p in range(width))
            last, whole = found[-1] if found else None, all(len(t) == axis.taps for t in taps)
            if whole and last and last.taps == taps:
                found[-1] = Segment(last.start, last.first, width, last.count + 1, taps)
            else:
                found.append(Segment(start, tile, width, 1, taps))
            start, tile = start + width, tile + 1
    return tuple(found)


def inside(axis: Axis) -> bool:
    """Whether every window lies inside the input."""
    return axis.begin == 0 and axis.span(axis.out) <= axis.size


@lru_cache(maxsize=1024)
def useful(axis: Axis) -> float:
    """The part of all taps that lies inside the input."""
    if inside(axis):
        return 1.0
    return sum(len(valid_taps(axis, at)) for at in range(axis.out)) / (axis.out * axis.taps)


def valid_taps(axis: Axis, at: int) -> tuple[int, ...]:
    first = at * axis.stride - axis.begin
    return tuple(t for t in range(axis.taps) if 0 <= first + t * axis.dilation < axis.size)


def tap_range(b: Builder, axis: Axis, at: Index) -> tuple[Index, Index]:
    """The taps of result `at` that lie inside: first and one past the last."""
    if inside(axis):
        return 0, axis.taps
    first = b.sub(b.mul(at, axis.stride), axis.begin)
    before = b.max(b.sub(axis.dilation - 1, first), 0)
    until = b.max(b.sub(axis.size + axis.dilation - 1, first), 0)
    low = b.min(b.div(before, axis.dilation), axis.taps)
    return low, b.min(b.div(until, axis.dilation), axis.taps)


@dataclass(frozen=True)
class Run:
    """Neighbouring taps first..last that the same results of a tile see."""

    first: Index
    last: Index
    results: tuple[int, ...]


@lru_cache(maxsize=1024)
def runs(taps: tuple[tuple[int, ...], ...], count: int) -> tuple[Run, ...]:
    """All `count` taps as runs; taps that no result sees are left out."""
    found: list[Run] = []
    for tap in range(count):
        results = tuple(p for p, seen in enumerate(taps) if tap in seen)
        if found and found[-1].last == tap and found[-1].results == results:
            found[-1] = Run(found[-1].first, tap + 1, results)
        elif results:
            found.append(Run(tap, tap + 1, results))
    return tuple(found)


def each_tile(
    b: Builder, parts: Sequence[Segment], first: Index, last: Index
) -> Iterator[tuple[Segment, Index]]:
    """Emit loops over the tiles first..last: yields (segment, start) once for each segment."""
    end = parts[-1].first + parts[-1].count
    for part in parts:
        low = b.max(first, part.first) if part.first else first
        stop = part.first + part.count
        high = last if stop == end else b.min(last, stop)
        if isinstance(low, int) and isinstance(high, int) and low >= high:
            continue
        with b.loop(high, low) as tile:
            yield part, b.add(b.mul(b.sub(tile.index, part.first), part.width), part.start)
