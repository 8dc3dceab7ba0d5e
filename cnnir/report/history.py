"""What the passes did: a row a pass, the errors of rules, and the text of the graph in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from cnnir.errors import PassError
from cnnir.ir import Graph
from cnnir.records import PassRecord, difference
from cnnir.report.table import Column, duration, number, scaled, size, table


def history_rows(records: Sequence[PassRecord]) -> list[dict[str, Any]]:
    """A row a pass, in the order they ran."""
    return [
        {
            "pass": record.label,
            "options": record.options,
            "seconds": record.seconds,
            "fired": record.fired,
            "kinds": record.kinds,
            "before": asdict(record.before),
            "after": asdict(record.after),
            "difference": record.difference,
            "errors": record.errors,
            "rewrites": [asdict(rewrite) for rewrite in record.rewrites],
            "declined": [asdict(declined) for declined in record.declined],
        }
        for record in records
    ]


def history_table(records: Sequence[PassRecord]) -> Table:
    """The passes; nodes and costs are those after each, `left alone` counts what was declined."""
    rows = [
        row | row["after"] | {"left": len(record.declined) or None}
        for row, record in zip(history_rows(records), records, strict=True)
    ]
    columns = [
        Column("pass", "pass"),
        Column("fired", "rewrites", _counts, wrap=True),
        Column("kinds", "of the kind", _counts),
        number("nodes", "nodes"),
        number("flops", "FLOP", scaled),
        number("bytes", "moved", size),
        number("params", "weights", scaled),
        number("seconds", "time", duration),
        number("left", "left alone"),
    ]
    if any(row["difference"] is not None for row in rows):
        columns.append(number("difference", "values changed by", "{:.1e}".format))
    return table("passes", columns, rows)


def declined_rows(records: Sequence[PassRecord]) -> list[dict[str, Any]]:
    """A row for each reason for which a rule of a pass left something alone."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for record in records:
        for told in record.declined:
            row = rows.setdefault(
                (record.label, told.rule, told.reason),
                {"pass": record.label, "rule": told.rule, "reason": told.reason, "times": 0},
            )
            row["times"] += 1
            row.setdefault("where", told.sources[0] if told.sources else told.node)
    return list(rows.values())


def declined_table(records: Sequence[PassRecord]) -> Table:
    """The rows of `declined_rows`, each with the first node it is true of."""
    columns = [
        Column("pass", "pass"),
        Column("rule", "rule"),
        number("times", "times"),
        Column("reason", "left alone because", wrap=True),
        Column("where", "such as", wrap=True),
    ]
    return table("left alone", columns, declined_rows(records))


def rule_rows(records: Sequence[PassRecord]) -> list[dict[str, Any]]:
    """A row a rule that fired in a pass: how often, of which kind, and the errors it made."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        for rewrite in record.rewrites:
            row = rows.setdefault(
                (record.label, rewrite.rule),
                {
                    "pass": record.label,
                    "rule": rewrite.rule,
                    "kind": rewrite.kind,
                    "fired": 0,
                    "error": 0.0,
                    "difference": record.errors.get(rewrite.rule),
                },
            )
            row["fired"] += 1
            row["error"] = max(row["error"], rewrite.error)
    return list(rows.values())


def rule_table(records: Sequence[PassRecord]) -> Table:
    """The rows of `rule_rows`: the largest error of each rule."""
    columns = [
        Column("pass", "pass"),
        Column("rule", "rule"),
        Column("kind", "kind"),
        number("fired", "fired"),
        number("error", "weights changed by", lambda e: f"{e:.1e}" if e else ""),
        number("difference", "values changed by", "{:.1e}".format),
    ]
    return table("rules", columns, rule_rows(records))


def seconds(records: Sequence[PassRecord]) -> float:
    """The time of all passes."""
    return sum(record.seconds for record in records)


def text(imported: str, records: Sequence[PassRecord], label: str | None, diff: bool) -> str:
    """The graph after the pass `label`, or what that pass changed.

    None stands for all passes together, `import` for the graph before them. The records must hold
    texts; PassError when no pass has that label.
    """
    names = ["import", *(record.label for record in records)]
    texts = [imported, *(record.text or "" for record in records)]
    last = len(texts) - 1 if label is None else _position(records, label)
    if not diff:
        return texts[last]
    first = 0 if label is None else max(0, last - 1)
    return difference(texts[first], texts[last], (names[first], names[last])) or "nothing changed"


def graph(imported: Graph, records: Sequence[PassRecord], label: str) -> Graph:
    """The graph after a pass, of records with snapshots; `import` for the one before them."""
    position = _position(records, label)
    kept = imported if position == 0 else records[position - 1].graph
    assert kept is not None
    return kept


def _position(records: Sequence[PassRecord], label: str) -> int:
    """Which of the graphs a label stands for: 0 is the imported one. PassError for none."""
    names = ["import", *(record.label for record in records)]
    if label not in names:
        raise PassError(f"no pass {label!r} ran; there are {', '.join(names)}")
    return names.index(label)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
