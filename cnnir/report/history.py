"""What the passes did: a row a pass, and the text of the graph before and after it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Protocol

from rich.table import Table

from cnnir.errors import PassError
from cnnir.report.table import Column, duration, number, table
from cnnir.rewrite import Accepted, Declined


class Record(Protocol):
    """What is read of a pipeline's record of one pass."""

    name: str
    options: str
    seconds: float
    rewrites: dict[str, int]
    nodes_before: int
    nodes_after: int
    declined: list[Declined]
    accepted: list[Accepted]
    text: str | None
    difference: float | None


def labels(records: Sequence[Record]) -> list[str]:
    """The passes' names; one that runs again is `fold#2`."""
    names = [record.name for record in records]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [f"{n}#{c}" if c > 1 else n for n, c in zip(names, counts, strict=True)]


def history_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A row a pass, in the order they ran."""
    return [
        {
            "pass": label,
            "options": record.options,
            "rewrites": dict(record.rewrites),
            "nodes_before": record.nodes_before,
            "nodes_after": record.nodes_after,
            "seconds": record.seconds,
            "difference": record.difference,
            "declined": [
                {"rule": d.rule, "node": d.node, "sources": list(d.sources), "reason": d.reason}
                for d in record.declined
            ],
            "accepted": [
                {
                    "rule": a.rule,
                    "node": a.node,
                    "sources": list(a.sources),
                    "reason": a.reason,
                    "error": a.error,
                }
                for a in record.accepted
            ],
        }
        for label, record in zip(labels(records), records, strict=True)
    ]


def history_table(records: Sequence[Record]) -> Table:
    """The rows of `history_rows`; the last column counts candidates that were left alone."""
    rows = history_rows(records)
    columns = [
        Column("pass", "pass"),
        Column("rewrites", "rewrites", _rewrites_text, wrap=True),
        number("nodes_before", "nodes before"),
        number("nodes_after", "after"),
        number("seconds", "time", duration),
        Column("declined", "left alone", _declined_text, wrap=True),
    ]
    if any(row["difference"] is not None for row in rows):
        columns.append(number("difference", "values changed by", "{:.1e}".format))
    return table("passes", columns, rows)


def seconds(records: Sequence[Record]) -> float:
    """The time of all passes."""
    return sum(record.seconds for record in records)


def text(imported: str, records: Sequence[Record], label: str | None, diff: bool) -> str:
    """The graph after the pass `label`, or what that pass changed.

    None stands for all passes together, `import` for the graph before them. The records must hold
    texts; PassError when no pass has that label.
    """
    names = ["import", *labels(records)]
    texts = [imported, *(record.text or "" for record in records)]
    if label is not None and label not in names:
        raise PassError(f"no pass {label!r} ran; there are {', '.join(names)}")
    last = len(texts) - 1 if label is None else names.index(label)
    if not diff:
        return texts[last]
    first = 0 if label is None else max(0, last - 1)
    lines = difflib.unified_diff(
        texts[first].splitlines(),
        texts[last].splitlines(),
        names[first],
        names[last],
        "",
        "",
        2,
        "",
    )
    return "\n".join(lines) or "nothing changed"


def _rewrites_text(rewrites: dict[str, int]) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in rewrites.items())


def _declined_text(declined: list[dict[str, Any]]) -> str:
    """Each reason with how often it came."""
    reasons = [f"{d['rule']}: {d['reason']}" for d in declined]
    counted = {reason: reasons.count(reason) for reason in reasons}
    return "; ".join(f"{count} x {reason}" for reason, count in counted.items())
