"""Where the time of a run goes: a row a step of the plan, or one a kind of kernel.

Each row has the share of what the machine could do at most, as `roofline` says, and why the kernel
was taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cnnir.backends.base import Plan
from cnnir.report.roofline import Roofline
from cnnir.report.table import Column, duration, number, percent, table


def profile_rows(
    plan: Plan, runs: Sequence[Sequence[float]], machine: Roofline
) -> list[dict[str, Any]]:
    """A row a step, slowest first, from the seconds of each step in several runs (the medians).

    `bound` is the least time in seconds, by what `binds`: "FMA", a cache, or memory.
    """
    medians = [statistics.median(step) for step in zip(*runs, strict=True)]
    total = sum(medians) or 1.0
    rows = []
    for index, (step, seconds) in enumerate(zip(plan.steps, medians, strict=True)):
        bound = machine.bound(step, plan)
        row = {
            "step": index,
            "kernel": step.kernel,
            "op": step.op,
            "result": str(step.result),
            "summary": step.summary,
            "flops": step.flops,
            "bytes": step.bytes,
            "bound": bound.seconds,
            "binds": bound.binds,
            "reason": step.reason,
            "rejected": list(step.rejected),
        }
        rows.append(row | _rates(step.flops, step.bytes, bound.seconds, seconds, total))
    return sorted(rows, key=lambda row: -row["seconds"])


def kernel_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `profile_rows` united by kind of kernel, slowest first."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kernel"], []).append(row)
    total = sum(row["seconds"] for row in rows) or 1.0
    united = []
    for kernel, members in kinds.items():
        flops, moved, bound, seconds = (
            sum(row[key] for row in members) for key in ("flops", "bytes", "bound", "seconds")
        )
        binding = sorted({row["binds"] for row in members})
        row = {"kernel": kernel, "steps": len(members), "binds": ", ".join(binding)}
        united.append(row | _rates(flops, moved, bound, seconds, total))
    return sorted(united, key=lambda row: -row["seconds"])


def _rates(
    flops: int, moved: int, bound: float, seconds: float, total: float
) -> dict[str, float | None]:
    return {
        "seconds": seconds,
        "share": seconds / total,
        "gflops": flops / seconds / 1e9 if seconds else 0.0,
        "gbytes": moved / seconds / 1e9 if seconds else 0.0,
        "of_bound": bound / seconds if seconds else None,
    }


_STEP = [
    number("step", "#"),
    Column("kernel", "kernel"),
    Column("op", "op", wrap=True),
    Column("result", "result"),
]
_KIND = [Column("kernel", "kernel"), number("steps", "steps")]
_RATES = [
    number("seconds", "time", duration),
    number("share", "share", percent),
    number("gflops", "GFLOP/s", "{:.1f}".format),
    number("gbytes", "GB/s", "{:.1f}".format),
    number("of_bound", "of bound", percent),
    Column("binds", "by", wrap=True),
]


def profile_table(title: str, rows: list[dict[str, Any]], top: int | None = None) -> Table:
    """The `top` slowest rows of either kind; the footer says what is left out."""
    single = bool(rows) and "step" in rows[0]
    return table(title, [*(_STEP if single else _KIND), *_RATES], *_slowest(rows, top))


def reasons_table(title: str, rows: list[dict[str, Any]], top: int | None = None) -> Table:
    """Why the kernels of the `top` slowest rows of `profile_rows` were taken, and what was not."""
    columns = [
        number("step", "#"),
        Column("kernel", "kernel"),
        number("seconds", "time", duration),
        Column("summary", "how", wrap=True),
        Column("reason", "because", wrap=True),
        Column("rejected", "rejected", "; ".join, wrap=True),
    ]
    return table(title, columns, *_slowest(rows, top))


def _slowest(rows: list[dict[str, Any]], top: int | None) -> tuple[list[dict[str, Any]], str]:
    """The first rows, and a footer that says what the others take."""
    shown = rows[:top]
    rest = sum(row["share"] for row in rows[len(shown) :])
    more = len(rows) - len(shown)
    return shown, f"{more} more take {percent(rest)}" if more else ""
