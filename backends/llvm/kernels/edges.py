"""Windows at the edges of the input: which taps of which results lie inside it.

Results along an axis are cut in tiles. Neighbouring tiles with all taps inside make a segment,
every other tile is one by itself; code is emitted once for each segment, so that no inner loop
tests anything and padding is never stored. Taps that fall outside are left out where they see
zeros; at another boundary they read the input at the place that it continues with, some `shift`
from where they would. Where that would be too much code, taps come from loop bounds (`tap_range`)
and places from arithmetic (`place`), or the input is copied with its padding around (band.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cnnir.backends.llvm.builder import Builder, Condition, Index
from cnnir.backends.llvm.kernels.spec import Axis, Split
from cnnir.ops.boundary import ZERO, source


@dataclass(frozen=True)
class Segment:
    """`count` neighbouring tiles of `width` results from `start` on, with the same valid taps.

    `first` is the number of its first tile; taps[p] are the taps of result p that see the input,
    and shifts[p] how far from their own place each of them reads.
    """

    start: int
    first: int
    width: int
    count: int
    taps: tuple[tuple[int, ...], ...]
    shifts: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=1024)
def segments(axis: Axis, largest: int, unit: int = 1) -> tuple[Segment, ...]:
    """The results of an axis in tiles of at most `largest`, multiples of `unit`, in order."""
    split = Split(axis.out, largest, unit)
    found: list[Segment] = []
    start = tile = 0
    for width, count in split.sizes():
        if inside(axis):
            found.append(_whole(axis, start, tile, width, count))
            start, tile = start + width * count, tile + count
            continue
        for _ in range(count):
            whole, last = _whole(axis, start, tile, width, 1), found[-1] if found else None
            if not _reaches_out(axis, start, width):
                if last and last.taps == whole.taps and last.shifts == whole.shifts:
                    found[-1] = replace(last, count=last.count + 1)
                else:
                    found.append(whole)
            else:
                taps = tuple(valid_taps(axis, start + p) for p in range(width))
                shifts = tuple(
                    tuple(shift(axis, start + p, tap) for tap in seen)
                    for p, seen in enumerate(taps)
                )
                found.append(Segment(start, tile, width, 1, taps, shifts))
            start, tile = start + width, tile + 1
    return tuple(found)


def cut_results(axis: Axis) -> int:
    """Results whose windows reach out of the input."""
    first = -(-axis.begin // axis.stride)
    last = (axis.size + axis.begin - axis.span(1)) // axis.stride  # whose window is inside
    return axis.out - max(0, min(last, axis.out - 1) - first + 1)


def inside(axis: Axis) -> bool:
    """Whether every window lies inside the input."""
    return axis.begin == 0 and axis.span(axis.out) <= axis.size


def _whole(axis: Axis, start: int, tile: int, width: int, count: int) -> Segment:
    """Tiles that see all taps, each at its own place."""
    taps, shifts = (tuple(range(axis.taps)),) * width, ((0,) * axis.taps,) * width
    return Segment(start, tile, width, count, taps, shifts)


def _reaches_out(axis: Axis, start: int, width: int) -> bool:
    """Whether a tile sees anything outside of the input."""
    first = start * axis.stride - axis.begin
    return first < 0 or first + axis.span(width) > axis.size


@lru_cache(maxsize=1024)
def useful(axis: Axis) -> float:
    """The part of all taps that sees the input."""
    if inside(axis) or axis.boundary != ZERO:
        return 1.0
    return sum(len(valid_taps(axis, at)) for at in range(axis.out)) / (axis.out * axis.taps)


def valid_taps(axis: Axis, at: int) -> tuple[int, ...]:
    """The taps of result `at` that see the input."""
    first = at * axis.stride - axis.begin
    if axis.boundary != ZERO:
        return tuple(range(axis.taps))
    return tuple(t for t in range(axis.taps) if 0 <= first + t * axis.dilation < axis.size)


def shift(axis: Axis, at: int, tap: int) -> int:
    """How far from its own place a tap of result `at` reads, when it sees the input."""
    own = at * axis.stride - axis.begin + tap * axis.dilation
    reads = source(axis.boundary, own, axis.size)
    assert reads is not None, f"tap {tap} of {at} on {axis}"
    return reads - own


def place(b: Builder, axis: Axis, at: Index, low: int, high: int) -> Index:
    """Where element `at` of an endless input, known to be one of low..high, lies in this one.

    Beyond a zero boundary it is left as it is: the caller does not read it.
    """
    if isinstance(at, int):
        found = source(axis.boundary, at, axis.size)
        return at if found is None else found
    if axis.boundary == "circular":
        if low < -axis.size or high >= 2 * axis.size:  # round more than once
            turns = -(low // axis.size)
            return b.rem(b.add(at, turns * axis.size), axis.size)
        if low < 0:
            at = b.ir.select(b.truth(b.less(at, 0)), b.value(b.add(at, axis.size)), b.value(at))
        if high >= axis.size:
            back = b.value(b.sub(at, axis.size))
            at = b.ir.select(b.truth(b.less(at, axis.size)), b.value(at), back)
    if axis.boundary == "reflect":
        at = b.max(at, b.sub(0, at)) if low < 0 else at
        return b.min(at, b.sub(2 * (axis.size - 1), at)) if high >= axis.size else at
    if axis.boundary == "replicate":
        at = b.max(at, 0) if low < 0 else at
        return b.min(at, axis.size - 1) if high >= axis.size else at
    return at


def tap_place(b: Builder, axis: Axis, at: Index, tap: Index) -> Index:
    """Where a tap of result `at` reads; anything for one that is not valid."""
    own = b.add(b.mul(at, axis.stride), b.mul(tap, axis.dilation), -axis.begin)
    return place(b, axis, own, -axis.begin, axis.span(axis.out) - 1 - axis.begin)


def element_place(
    b: Builder, axis: Axis, at: Index, low: int, high: int
) -> tuple[Index, Condition]:
    """Where element `at`, known to be one of low..high, is read, and whether it is: zeros are not.

    Beyond a boundary that is not zero, there may be some behind the last that a window sees: those
    read anything that is there.
    """
    if low >= 0 and high < axis.size:
        return at, True
    if axis.boundary == ZERO:
        return at, b.inside(at, axis.size)
    last = axis.span(axis.out) - 1 - axis.begin
    seen = at if high <= last else b.min(at, last)
    return place(b, axis, seen, min(low, last), min(high, last)), True


def line_place(b: Builder, axis: Axis, at: Index) -> tuple[Index, Condition]:
    """The same for any row or slice, counted with the padding."""
    far = axis.size + axis.span(axis.out)
    return element_place(b, axis, b.add(at, -axis.begin), -axis.begin, far)


def tap_range(b: Builder, axis: Axis, at: Index) -> tuple[Index, Index]:
    """The taps of result `at` that see the input: first and one past the last."""
    if inside(axis) or axis.boundary != ZERO:
        return 0, axis.taps
    first = b.sub(b.mul(at, axis.stride), axis.begin)
    before = b.max(b.sub(axis.dilation - 1, first), 0)
    until = b.max(b.sub(axis.size + axis.dilation - 1, first), 0)
    low = b.min(b.div(before, axis.dilation), axis.taps)
    return low, b.min(b.div(until, axis.dilation), axis.taps)


@dataclass(frozen=True)
class Run:
    """Neighbouring taps first..last that the same results of a tile see.

    shifts[i] is how far from their own place they read for results[i].
    """

    first: Index
    last: Index
    results: tuple[int, ...]
    shifts: tuple[int, ...]


@lru_cache(maxsize=1024)
def runs(part: Segment, count: int) -> tuple[Run, ...]:
    """All `count` taps of a segment's tiles as runs; taps that no result sees are left out."""
    found: list[Run] = []
    seen = [dict(zip(*each, strict=True)) for each in zip(part.taps, part.shifts, strict=True)]
    for tap in range(count):
        results = tuple(p for p, places in enumerate(seen) if tap in places)
        shifts = tuple(seen[p][tap] for p in results)
        last = found[-1] if found else None
        if last and (last.last, last.results, last.shifts) == (tap, results, shifts):
            found[-1] = replace(last, last=tap + 1)
        elif results:
            found.append(Run(tap, tap + 1, results, shifts))
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
