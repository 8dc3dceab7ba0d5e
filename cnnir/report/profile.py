"""Where the time of a run goes: a row a step of the plan, or one a kind of kernel."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from cnnir.backends.base import Plan
from cnnir.report.table import Column, duration, number, percent, table


def profile_rows(
    plan: Plan, runs: Sequence[Sequence[float]], peak: float | None = None
) -> list[dict[str, Any]]:
    """A row a step, slowest first, from the seconds of each step in several runs (the medians).

    `peak` is in GFLOP/s, for all threads that ran.
    """
    medians = [statistics.median(step) for step in zip(*runs, strict=True)]
    total = sum(medians) or 1.0
    rows = []
    for index, (step, seconds) in enumerate(zip(plan.steps, medians, strict=True)):
        rate = step.flops / seconds / 1e9 if seconds else 0.0
        rows.append(
            {
                "step": index,
                "kernel": step.kernel,
                "op": step.op,
                "result": str(step.result),
                "summary": step.summary,
                "flops": step.flops,
                "seconds": seconds,
                "share": seconds / total,
                "gflops": rate,
                "of_peak": rate / peak if peak else None,
            }
        )
    return sorted(rows, key=lambda row: -row["seconds"])


def kernel_rows(rows: list[dict[str, Any]], peak: float | None = None) -> list[dict[str, Any]]:
    """The rows of `profile_rows` united by kind of kernel, slowest first."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kernel"], []).append(row)
    united = []
    for kernel, members in kinds.items():
        seconds = sum(row["seconds"] for row in members)
        rate = sum(row["flops"] for row in members) / seconds / 1e9 if seconds else 0.0
        united.append(
            {
                "kernel": kernel,
                "steps": len(members),
                "seconds": seconds,
                "share": sum(row["share"] for row in members),
                "gflops": rate,
                "of_peak": rate / peak if peak else None,
            }
        )
    return sorted(united, key=lambda row: -row["seconds"])


def profile_table(title: str, rows: list[dict[str, Any]], top: int | None = None) -> Table:
    """The `top` slowest rows of either kind; the footer says what is left out."""
    shown = rows[:top]
    rest = sum(row["share"] for row in rows[len(shown) :])
    footer = f"{len(rows) - len(shown)} more take {percent(rest)}" if len(shown) < len(rows) else ""
    single = bool(rows) and "step" in rows[0]
    head = [
        number("step", "#"),
        Column("kernel", "kernel"),
        Column("op", "op", wrap=True),
        Column("result", "result"),
    ]
    columns = [
        *(head if single else [Column("kernel", "kernel"), number("steps", "steps")]),
        number("seconds", "time", duration),
        number("share", "share", percent),
        number("gflops", "GFLOP/s", "{:.1f}".format),
    ]
    if any(row["of_peak"] is not None for row in rows):
        columns.append(number("of_peak", "of peak", percent))
    return table(title, columns, shown, footer)
