"""The native `run(context, thread, threads)` of a model: its kernel calls in order, on all threads.

Sits on `step_loop` and `threads`; made from a list of `Call`s by the plan, it knows no ops and no
layouts. Every thread walks the same table of steps. Threads share a step's items by an atomic
counter and meet at a barrier before a step that needs what an earlier one made; whoever arrives
last at a barrier also resets the counters used since the one before, so nothing else has to.
Steps of one item in a row stay on thread 0 without barriers. One thread takes no atomics at all.

The context is one block of memory, offsets in bytes:

    0 arena   8 constants   16 scratch   24 spins (i64)   32 inputs   40 outputs   48 errors
    56 profile   64 arrived (i64)   72 sleepers (i32)   128 generation (i32)   192 left (i64)
    256 counters (i64), 64 bytes apart

`inputs` and `outputs` are tables of pointers, `errors` holds an i32 and `profile` an i64 a step.
A context serves one run at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cnnir.backends.llvm.step_loop import COUNTERS, loops
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import WAIT_MICROSECONDS, aligned, spins
from cnnir.errors import BackendError

SLACK = 64
"""Readable bytes behind every buffer."""

_ALIGN = 128

_SPACES = {"arena": 0, "const": 8, "input": 32, "output": 40}

Source: TypeAlias = tuple[str, int]
"""Where a pointer argument points: ("arena", byte offset), ("const", byte offset), ("input", i) or
("output", j)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One step: `kernel(error, scratch, item, *pointers)` for every item in range(items)."""

    kernel: str
    """The function's name in another module of the same engine."""
    items: int
    scratch: int
    """Bytes of thread-private scratch the kernel wants, 64-byte aligned."""
    pointers: tuple[Source, ...]
    after: int | None = None
    """The latest earlier call this one must wait for, -1 for none; None is the call before it.
    What counts is memory: whoever writes what this reads or writes, or reads what this writes."""


@dataclass(frozen=True, slots=True)
class RunCode:
    """The module that defines `run` and `run_profiled`, and the sizes a Context needs."""

    text: str
    steps: int
    scratch: int
    """Bytes of scratch a thread."""
    counters: int
    inputs: int
    outputs: int
    barriers: int
    """Barriers in one run of several threads, for the curious."""

    exports = ("run", "run_profiled")


@dataclass(slots=True)
class _Row:
    """A row of the step table. owner: singles' thread before the modulo, -1 where threads share."""

    items: int
    owner: int = -1
    counter: int = 0
    barrier: bool = False
    first: int = 0
    last: int = 0
    """Counters that the barrier before this step resets."""


def emit_run(calls: Sequence[Call], target: CpuTarget) -> RunCode:
    """The step loop over `calls`; BackendError when one is malformed."""
    for number, call in enumerate(calls):
        _check(number, call)
    rows, counters, tail = _schedule(calls)
    scratch = max((call.scratch for call in calls), default=0)
    scratch += -scratch % _ALIGN
    parts = [
        loops(target, len(calls), scratch, tail, counters),
        _table(rows),
        *(_body(number, call) for number, call in enumerate(calls)),
        *_declarations(calls),
    ]
    count = {space: 0 for space in _SPACES}
    for space, index in (pointer for call in calls for pointer in call.pointers):
        count[space] = max(count[space], index + 1)
    barriers = sum(row.barrier for row in rows)
    return RunCode(
        "\n".join(parts), len(calls), scratch, counters, count["input"], count["output"], barriers
    )


def _check(number: int, call: Call) -> None:
    place = f"call {number} ({call.kernel})"
    if not re.fullmatch(r"[\w.$-]+", call.kernel):
        raise BackendError(f"{place}: not a function name")
    if call.items < 0 or call.scratch < 0:
        raise BackendError(f"{place}: items and scratch must not be negative")
    if call.after is not None and not -1 <= call.after < number:
        raise BackendError(f"{place}: after={call.after}, wanted -1 to {number - 1}")
    for space, offset in call.pointers:
        if space not in _SPACES or offset < 0:
            raise BackendError(f"{place}: no pointer source {(space, offset)}")


def _schedule(calls: Sequence[Call]) -> tuple[list[_Row], int, int]:
    """Table rows, how many counters there are, and the first that no barrier resets."""
    rows: list[_Row] = []
    start = counters = reset = singles = 0  # start: first step since the last barrier
    for number, call in enumerate(calls):
        after = number - 1 if call.after is None else call.after
        row = _Row(call.items)
        pending = rows[start : after + 1]
        chained = call.items == 1 and all(r.owner == 0 for r in pending)
        if pending and not chained:
            row.barrier, row.first, row.last = True, reset, counters
            start, reset, singles, pending = number, counters, 0, []
        if call.items == 1:
            row.owner = 0 if pending else singles
            singles += 1
        else:
            row.counter = counters
            counters += 1
        rows.append(row)
    return rows, counters, reset


def _table(rows: Sequence[_Row]) -> str:
    """Constant rows of eight words: body, items, owner, counter, barrier, first, last, 0."""
    kind = "{ ptr, i64, i64, i64, i64, i64, i64, i64 }"
    entries = ",\n  ".join(
        f"{kind} {{ ptr @step.{i}, i64 {r.items}, i64 {r.owner}, i64 {COUNTERS + 64 * r.counter}, "
        f"i64 {int(r.barrier)}, i64 {r.first}, i64 {r.last}, i64 0 }}"
        for i, r in enumerate(rows)
    )
    return f"@steps = internal constant [{len(rows)} x {kind}] [\n  {entries}\n], align 64"


def _body(number: int, call: Call) -> str:
    """`@step.N(context, scratch, item)`: looks the pointers up and calls the kernel.

    `optnone` halves the compile time of this module, and there is nothing to optimise.
    """
    lines = [
        f"define internal void @step.{number}(ptr %context, ptr %scratch, i64 %item) "
        "nounwind noinline optnone {"
    ]
    for space in sorted({space for space, _ in call.pointers}):
        lines.append(f"  %{space}.p = getelementptr i8, ptr %context, i64 {_SPACES[space]}")
        lines.append(f"  %{space} = load ptr, ptr %{space}.p")
    arguments = ["ptr %error", "ptr %scratch", "i64 %item"]
    for position, (space, offset) in enumerate(call.pointers):
        if space in ("input", "output"):
            lines.append(f"  %t{position} = getelementptr ptr, ptr %{space}, i64 {offset}")
            lines.append(f"  %p{position} = load ptr, ptr %t{position}")
        else:
            lines.append(f"  %p{position} = getelementptr i8, ptr %{space}, i64 {offset}")
        arguments.append(f"ptr %p{position}")
    lines += [
        "  %errors.p = getelementptr i8, ptr %context, i64 48",
        "  %errors = load ptr, ptr %errors.p",
        f"  %error = getelementptr i32, ptr %errors, i64 {number}",
        f'  call void @"{call.kernel}"({", ".join(arguments)})',
        "  ret void",
        "}",
    ]
    return "\n".join(lines)


def _declarations(calls: Sequence[Call]) -> list[str]:
    pointers: dict[str, int] = {}
    for call in calls:
        if pointers.setdefault(call.kernel, len(call.pointers)) != len(call.pointers):
            raise BackendError(f"kernel {call.kernel} is called with different numbers of pointers")
    return [
        f'declare void @"{name}"({", ".join(["ptr", "ptr", "i64"] + ["ptr"] * count)})'
        for name, count in pointers.items()
    ]


class Context:
    """The memory of one run at a time: arena, scratch, pointer tables, barrier and counters.

    Fill `inputs` and `outputs` with addresses before a run; look at `failures()` after it.
    constants: address of the constants, which the caller keeps alive.
    """

    def __init__(self, code: RunCode, threads: int, arena: int, constants: int) -> None:
        self.code, self.threads = code, threads
        self.arena = aligned(arena + SLACK)
        self._scratch = aligned(code.scratch * threads + SLACK)
        self.inputs = np.zeros(max(1, code.inputs), np.uint64)
        self.outputs = np.zeros(max(1, code.outputs), np.uint64)
        self.errors = np.zeros(max(1, code.steps), np.int32)
        self.profile = np.zeros(code.steps + 1, np.int64)
        self._block = aligned(COUNTERS + 64 * code.counters)
        self._block[:] = 0
        self._block[:64].view(np.uint64)[:] = (
            self.arena.ctypes.data,
            constants,
            self._scratch.ctypes.data,
            spins(WAIT_MICROSECONDS, threads),
            self.inputs.ctypes.data,
            self.outputs.ctypes.data,
            self.errors.ctypes.data,
            self.profile.ctypes.data,
        )
        self.address: int = self._block.ctypes.data

    def failures(self) -> list[tuple[int, int]]:
        """(step, code) of every step that met bad data in the last run; clears them."""
        if not self.errors.any():
            return []
        found = [(int(step), int(self.errors[step])) for step in np.flatnonzero(self.errors)]
        self.errors[:] = 0
        return found

    def step_seconds(self) -> list[float]:
        """Seconds of each step in the last run of `run_profiled`."""
        return [float(ns) * 1e-9 for ns in np.diff(self.profile)]
