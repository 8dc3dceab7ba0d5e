"""The plan of a program as rows and tables: kernels, reasons, buffers, sizes, compile times."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from cnnir.backends.base import Plan
from cnnir.report.table import Column, duration, number, scaled, size, table


def plan_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row a step, in the order they run."""
    return [
        {
            "step": index,
            "kernel": step.kernel,
            "op": step.op,
            "result": str(step.result),
            "layout": step.layout,
            "items": step.items,
            "flops": step.flops,
            "bytes": step.bytes,
            "summary": step.summary,
            "reason": step.reason,
            "rejected": list(step.rejected),
            "sources": list(step.sources),
        }
        for index, step in enumerate(plan.steps)
    ]


def plan_table(plan: Plan, reasons: bool = False) -> Table:
    """The steps; with `reasons`, why each kernel was taken and what was rejected."""
    columns = [
        number("step", "#"),
        Column("kernel", "kernel"),
        Column("op", "op", wrap=True),
        Column("result", "result"),
        Column("layout", "layout"),
        number("items", "items"),
        number("flops", "FLOP", scaled),
        Column("summary", "how", wrap=True),
    ]
    if reasons:
        columns.append(Column("reason", "because", wrap=True))
        columns.append(Column("rejected", "rejected", "; ".join, wrap=True))
    return table(f"plan for {plan.target}", columns, plan_rows(plan))


def sizes(plan: Plan) -> dict[str, Any]:
    """What the program is and needs, as figures."""
    return {
        "target": plan.target,
        "steps": len(plan.steps),
        "flops": plan.flops,
        "arena_bytes": plan.arena_bytes,
        "constant_bytes": plan.constant_bytes,
        "code_bytes": plan.code_bytes,
        "seconds": dict(plan.seconds),
        "notes": list(plan.notes),
    }


def sizes_text(plan: Plan) -> str:
    """The same in two lines, and the notes."""
    parts = [f"{len(plan.steps)} steps", f"{scaled(plan.flops, 'FLOP')} a run"]
    parts += [
        f"{name} {size(count)}"
        for name, count in (
            ("arena", plan.arena_bytes),
            ("constants", plan.constant_bytes),
            ("code", plan.code_bytes),
        )
        if count
    ]
    lines = [", ".join(parts)]
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)


def seconds_table(seconds: dict[str, float]) -> Table:
    """Compile time by stage, and their sum."""
    rows = [{"stage": stage, "time": spent} for stage, spent in seconds.items()]
    rows.append({"stage": "total", "time": sum(seconds.values())})
    return table("", [Column("stage", "stage"), number("time", "time", duration)], rows)
