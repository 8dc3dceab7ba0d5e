"""Where every source node ended, as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from cnnir.report.table import Column, duration, number, table


def trail_table(rows: list[dict[str, Any]]) -> Table:
    """The rows of `Executable.provenance`, as dicts."""
    columns = [
        Column("source", "source node", wrap=True),
        Column("node", "became", wrap=True),
        Column("op", "op", wrap=True),
        number("step", "step"),
        Column("kernel", "kernel"),
        Column("symbol", "function"),
        number("line", "line", lambda line: str(line) if line else ""),
        number("seconds", "time", duration),
        Column("note", "", wrap=True),
    ]
    return table("provenance", columns, rows)
