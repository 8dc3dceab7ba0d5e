"""The native `run(context, thread, threads, epoch)` of a model: its kernel calls, on all threads.

Sits on `step_loop` and `threads`; made from a list of `Call`s by the plan, it knows no ops and no
layouts. Here calls become the rows of a table, which every thread walks, and here a run's memory is
laid out; how threads share rows is told in `step_loop`. One thread takes no atomics at all.

The context is one block of memory, offsets in bytes:

    0 arena   8 constants   16 scratch   24 spins (i64)   32 inputs   40 outputs   48 errors
    56 profile   64 epoch (i64)   72 team (null, or see `rescue`)
    128 event (i32)   132 sleepers (i32)
    256 a row's words, 64 bytes apart: 0 taken (i64), 8 done (i64)

`inputs` and `outputs` are tables of pointers, `errors` holds an i32 and `profile` an i64 a step.
A context serves one run at a time. Workers may still read the block and the code after `run` has
returned, though nothing else; `Pool.quiesce` waits for them before either is freed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cnnir.backends.llvm.step_loop import ROWS, common, loop
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
    """The module that defines `run`, `run_alone`, `run_profiled`; and the sizes a Context needs."""

    text: str
    steps: int
    scratch: int
    """Bytes of scratch a thread."""
    rows: int
    inputs: int
    outputs: int
    waits: int
    """Rows of `run` that wait for others, for the curious."""

    exports = ("run", "run_alone", "run_profiled")


@dataclass(slots=True)
class _Row:
    """A row of a table: its calls, one after another for each item, and the rows it waits for."""

    calls: list[int]
    items: int
    first: int
    last: int
    """Waits for the rows from first to last - 1."""


def emit_run(calls: Sequence[Call], target: CpuTarget) -> RunCode:
    """The loops over `calls`; BackendError when one is malformed."""
    for number, call in enumerate(calls):
        _check(number, call)
    rows = _rows(calls)
    steps = [_Row([n], call.items, max(0, n - 1), n) for n, call in enumerate(calls)]
    scratch = max((call.scratch for call in calls), default=0)
    scratch += -scratch % _ALIGN
    waited = max((row.last for row in rows), default=0)
    parts = [
        common(target),
        loop("run", "rows", len(rows), waited, scratch, stamps=False),
        loop("run_profiled", "steps", len(steps), max(0, len(steps) - 1), scratch, stamps=True),
        _table("rows", rows),
        _table("steps", steps),
        *(_chain(row.calls) for row in rows if len(row.calls) > 1),
        *(_body(number, call) for number, call in enumerate(calls)),
        *_declarations(calls),
    ]
    count = {space: 0 for space in _SPACES}
    for space, index in (pointer for call in calls for pointer in call.pointers):
        count[space] = max(count[space], index + 1)
    waits = sum(row.first < row.last for row in rows)
    return RunCode(
        "\n".join(parts), len(calls), scratch, len(steps), count["input"], count["output"], waits
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


def _rows(calls: Sequence[Call]) -> list[_Row]:
    """The table of `run`.

    Calls of one item that follow and need each other share a row, so that a chain of them costs no
    waiting. As `after` names the latest of what a call needs and not all, only a row that waits for
    everything before it may grow.
    """
    rows: list[_Row] = []
    row_of: list[int] = []  # of each call
    waited = 0  # the rows before this one are complete
    for number, call in enumerate(calls):
        after = number - 1 if call.after is None else call.after
        need = row_of[after] + 1 if after >= 0 else 0
        chained = rows and rows[-1].items == 1 and waited == len(rows) - 1
        if chained and call.items == 1 and need == len(rows):
            rows[-1].calls.append(number)
        else:
            last = max(waited, need)
            rows.append(_Row([number], call.items, waited, last))
            waited = last
        row_of.append(len(rows) - 1)
    return rows


def _table(name: str, rows: Sequence[_Row]) -> str:
    """Constant rows of four words, as `step_loop` describes them."""
    kind = "{ ptr, i64, i64, i64 }"
    entries = ",\n  ".join(
        f"{kind} {{ ptr @{_name(row.calls)}, i64 {row.items}, i64 {row.first}, i64 {row.last} }}"
        for row in rows
    )
    return f"@{name} = internal constant [{len(rows)} x {kind}] [\n  {entries}\n], align 64"


def _name(calls: Sequence[int]) -> str:
    return f"step.{calls[0]}" if len(calls) == 1 else f"chain.{calls[0]}"


def _chain(calls: Sequence[int]) -> str:
    """A body that calls those of several steps."""
    parameters = "ptr %context, ptr %scratch, i64 %item"
    return "\n".join(
        [
            f"define internal void @{_name(calls)}({parameters}) nounwind noinline optnone {{",
            *(f"  call void @step.{number}({parameters})" for number in calls),
            "  ret void",
            "}",
        ]
    )


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
    """The memory of one run at a time: arena, scratch, pointer tables and rows.

    Fill `inputs` and `outputs` with addresses before a run; look at `failures()` after it.
    constants: address of the constants, which the caller keeps alive.
    """

    def __init__(self, code: RunCode, threads: int, arena: int, constants: int) -> None:
        self.code, self.threads = code, threads
        self.arena = aligned(arena + SLACK)
        self._scratch = aligned(code.scratch * threads + SLACK)
        self.inputs = np.zeros(max(1, code.inputs), np.uint64)
        self.outputs = np.zeros(max(1, code.outputs), np.uint64)
        self._error_bytes = bytearray(4 * max(1, code.steps))
        self._no_errors = bytes(self._error_bytes)
        self.errors = np.frombuffer(self._error_bytes, np.int32)
        self.profile = np.zeros(code.steps + 1, np.int64)
        self._block = aligned(ROWS + 64 * code.rows)
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

    def set_constants(self, address: int) -> None:
        """Let the next run read its constants elsewhere."""
        self._block[8:16].view(np.uint64)[:] = address

    @property
    def failed(self) -> bool:
        """Whether a step met bad data since `failures` was last asked."""
        return self._error_bytes != self._no_errors

    def failures(self) -> list[tuple[int, int]]:
        """(step, code) of every step that met bad data in the last run; clears them."""
        found = [(int(step), int(self.errors[step])) for step in np.flatnonzero(self.errors)]
        self.errors[:] = 0
        return found

    def step_seconds(self) -> list[float]:
        """Seconds of each step in the last run of `run_profiled`."""
        return [float(ns) * 1e-9 for ns in np.diff(self.profile)]
