"""What the passes did: a row a pass, the errors of rules, and the text of the graph in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from cnnir.errors import PassError
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
    rows = [row | row["after"] for row in history_rows(records)]
    columns = [
        Column("pass", "pass"),
        Column("fired", "rewrites", _counts, wrap=True),
        Column("kinds", "of the kind", _counts),
        number("nodes", "nodes"),
        number("flops", "FLOP", scaled),
        number("bytes", "moved", size),
        number("params", "weights", scaled),
        number("seconds", "time", duration),
        Column("declined", "left alone", _declined_text, wrap=True),
    ]
    if any(row["difference"] is not None for row in rows):
        columns.append(number("difference", "values changed by", "{:.1e}".format))
    return table("passes", columns, rows)


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
    if label is not None and label not in names:
        raise PassError(f"no pass {label!r} ran; there are {', '.join(names)}")
    last = len(texts) - 1 if label is None else names.index(label)
    if not diff:
        return texts[last]
    first = 0 if label is None else max(0, last - 1)
    return difference(texts[first], texts[last], (names[first], names[last])) or "nothing changed"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _declined_text(declined: list[dict[str, Any]]) -> str:
    """Each reason with how often it came."""
    reasons = [f"{d['rule']}: {d['reason']}" for d in declined]
    counted = {reason: reasons.count(reason) for reason in reasons}
    return "; ".join(f"{count} x {reason}" for reason, count in counted.items())
