"""Buffer planning: how long values live, where each lies in one arena, and which steps conflict.

Target independent and ignorant of ops: a step says which values it reads and writes, sizes are in
bytes. Backends decide what may share a buffer and pass it as aliases and reuse. Values are any
hashable keys. Everything is deterministic: ties go by first use, then by order of appearance.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cnnir.errors import IRError

Key: TypeAlias = Any  # hashable
Alias: TypeAlias = tuple[Key, int]
"""(value, byte offset in it): another value's bytes lie inside that one's."""


@dataclass(frozen=True, slots=True)
class Access:
    """What one step does to memory."""

    reads: tuple[Key, ...] = ()
    writes: tuple[Key, ...] = ()
    reuse: tuple[tuple[Key, Key], ...] = ()
    """(result, operand) pairs, best first: the result may take the operand's buffer over if the
    operand is not needed afterwards, as the step reads no element after writing its place."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where every value lies."""

    offsets: dict[Key, int]
    """Byte offset of each value in the arena."""
    peak: int
    """Bytes of the arena."""
    bound: int
    """No placement of these buffers can need fewer bytes."""
    roots: dict[Key, Alias]
    """Value -> (the value whose buffer it lies in, offset in it); itself and 0 for most."""
    lives: dict[Key, tuple[int, int]]
    """Root -> first and last step that need its buffer, both included."""
    reused: tuple[tuple[Key, Key], ...]
    """The (result, operand) pairs that share a buffer."""


@dataclass(slots=True)
class _Group:
    """A buffer in the making: its size, its life, how early its root appeared."""

    root: Key
    size: int
    first: int
    last: int
    rank: int


def place(
    steps: Sequence[Access],
    sizes: Mapping[Key, int],
    *,
    aliases: Mapping[Key, Alias] | None = None,
    keep: Iterable[Key] = (),
    align: int = 64,
) -> Placement:
    """Assign arena offsets so that no two buffers needed at the same step overlap.

    sizes: bytes of each value that belongs in the arena; other values (inputs, constants) may
    appear in the steps and are ignored. aliases: values inside others, for reshape and for concat
    in place; chains are followed. keep: values needed after the last step. A value read before any
    step writes it is taken to be there from the start.
    """
    members = _resolve(sizes, aliases or {})
    groups = _live_groups(steps, sizes, members, keep)
    reused = _reuse(steps, members, groups, align)
    for group in groups.values():
        group.size += -group.size % align
    bound = _bound(list(groups.values()), len(steps))
    where, peak = _best(list(groups.values()), bound)
    offsets = {value: where[root] + shift for value, (root, shift) in members.items()}
    lives = {root: (group.first, group.last) for root, group in groups.items()}
    return Placement(offsets, peak, bound, members, lives, tuple(reused))


def _resolve(sizes: Mapping[Key, int], aliases: Mapping[Key, Alias]) -> dict[Key, Alias]:
    """Every value's root and its offset there."""
    members: dict[Key, Alias] = {}
    for value in sizes:
        root, shift, seen = value, 0, {value}
        while root in aliases:
            root, step = aliases[root]
            shift += step
            if root in seen:
                raise IRError(f"memory: {value!r} lies inside itself")
            if root not in sizes or step < 0:
                raise IRError(f"memory: {value!r} lies at {step} in {root!r}, which has no buffer")
            seen.add(root)
        members[value] = (root, shift)
    return members


def _live_groups(
    steps: Sequence[Access],
    sizes: Mapping[Key, int],
    members: Mapping[Key, Alias],
    keep: Iterable[Key],
) -> dict[Key, _Group]:
    groups: dict[Key, _Group] = {}
    for rank, (value, (root, shift)) in enumerate(members.items()):
        group = groups.setdefault(root, _Group(root, 0, len(steps), -1, rank))
        group.size = max(group.size, shift + sizes[value])
    for number, step in enumerate(steps):
        for value in step.reads:
            if value in members:
                group = groups[members[value][0]]
                if group.last < 0:
                    group.first = 0  # nothing wrote it: it is there from the start
                group.last = number
        for value in step.writes:
            if value in members:
                group = groups[members[value][0]]
                group.first, group.last = min(group.first, number), number
    for value in keep:
        if value in members:
            groups[members[value][0]].last = len(steps)
    for group in groups.values():
        if group.first > group.last or group.first == len(steps):
            group.first, group.last = 0, len(steps)  # no step names it: it lives throughout
    return groups


def _reuse(
    steps: Sequence[Access],
    members: dict[Key, Alias],
    groups: dict[Key, _Group],
    align: int,
) -> list[tuple[Key, Key]]:
    """Merge the buffers of results and of operands that die as they are made, where they fit."""
    reused = []
    for number, step in enumerate(steps):
        for result, operand in step.reuse:
            if result not in members or operand not in members:
                continue
            mine, theirs = groups[members[result][0]], groups[members[operand][0]]
            fits = -(-mine.size // align) == -(-theirs.size // align)
            whole = members[result][1] == 0 and members[operand][1] == 0
            if mine is theirs or not (fits and whole):
                continue
            if mine.first != number or theirs.last != number:
                continue
            touched = [v for v in (*step.reads, *step.writes) if v in members and v != operand]
            if any(members[v][0] == theirs.root for v in touched):
                continue
            theirs.last, theirs.size = mine.last, max(mine.size, theirs.size)
            del groups[mine.root]
            for value, (root, shift) in members.items():
                if root == mine.root:
                    members[value] = (theirs.root, shift)
            reused.append((result, operand))
    return reused


def _bound(groups: Sequence[_Group], steps: int) -> int:
    """The most bytes live at any one step."""
    change = [0] * (steps + 2)
    for group in groups:
        change[group.first] += group.size
        change[group.last + 1] -= group.size
    live = most = 0
    for delta in change:
        live += delta
        most = max(most, live)
    return most


def _best(groups: Sequence[_Group], bound: int) -> tuple[dict[Key, int], int]:
    """The best of a few greedy orders; the first that reaches the bound ends the search."""
    orders = (
        lambda g: (-g.size, g.first, g.rank),
        lambda g: (-g.size * (g.last - g.first + 1), g.first, g.rank),
        lambda g: (g.first, -g.size, g.rank),
        lambda g: (g.first - g.last, -g.size, g.rank),
    )
    best: tuple[dict[Key, int], int] | None = None
    for order in orders:
        offsets, peak = _greedy(sorted(groups, key=order))
        if best is None or peak < best[1]:
            best = offsets, peak
        if peak == bound:
            break
    return best or ({}, 0)


def _greedy(groups: Sequence[_Group]) -> tuple[dict[Key, int], int]:
    """Put each buffer into the smallest gap that holds it among those alive with it."""
    offsets: dict[Key, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; sorted
    peak = 0
    for group in groups:
        at, room, cursor = -1, 0, 0
        for start, end, first, last in placed:
            if last < group.first or group.last < first:
                continue
            gap = start - cursor
            if gap >= group.size and (at < 0 or gap < room):
                at, room = cursor, gap
            cursor = max(cursor, end)
        at = cursor if at < 0 else at
        offsets[group.root] = at
        insort(placed, (at, at + group.size, group.first, group.last))
        peak = max(peak, at + group.size)
    return offsets, peak


def conflicts(steps: Sequence[Access], sizes: Mapping[Key, int], placement: Placement) -> list[int]:
    """For each step the latest earlier one it must wait for, -1 for none.

    Counts real bytes: a step waits for one that wrote what it reads or writes, and for one that
    still reads what it writes, which includes whatever shared memory the placement gave them.
    """

    def spans(values: Iterable[Key]) -> list[tuple[int, int]]:
        at = placement.offsets
        return [(at[v], at[v] + sizes[v]) for v in values if v in at and sizes[v]]

    outside_writers: dict[Key, int] = {}  # values that lie elsewhere, such as outputs
    outside_readers: dict[Key, int] = {}
    past: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = []
    latest: list[int] = []
    for number, step in enumerate(steps):
        reads, writes = spans(step.reads), spans(step.writes)
        found = max((outside_writers.get(v, -1) for v in (*step.reads, *step.writes)), default=-1)
        found = max([found, *(outside_readers.get(v, -1) for v in step.writes)])
        for earlier in range(number - 1, found, -1):
            old_reads, old_writes = past[earlier]
            if _touch(reads, old_writes) or _touch(writes, old_writes + old_reads):
                found = earlier
                break
        latest.append(found)
        past.append((reads, writes))
        for value in step.writes:
            if value not in placement.offsets:
                outside_writers[value] = number
        outside_readers.update((v, number) for v in step.reads if v not in placement.offsets)
    return latest


def _touch(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> bool:
    return any(a < d and c < b for a, b in some for c, d in others)
