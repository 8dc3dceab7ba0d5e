"""What came out of a run: a summary of each output, and the largest values where that tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from cnnir.report.table import Column, number, table
from cnnir.tensortype import TensorType

TOP = 5


def value_rows(outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row an output. `top` lists (flat index, value) of its largest values, best first."""
    return [
        {"output": name, "type": str(TensorType.of(y)), **_summary(y), "top": _top(y)}
        for name, y in outputs.items()
    ]


def value_table(rows: list[dict[str, Any]], title: str = "outputs") -> Table:
    """The rows of `value_rows`."""
    columns = [
        Column("output", "output"),
        Column("type", "type"),
        number("mean", "mean", "{:.6g}".format),
        number("min", "min", "{:.6g}".format),
        number("max", "max", "{:.6g}".format),
        number("not_finite", "not finite", lambda n: str(n) if n else ""),
        Column("top", "largest", _top_text, wrap=True),
    ]
    return table(title, columns, rows)


def _summary(y: np.ndarray) -> dict[str, Any]:
    numbers = y.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    facts: dict[str, Any] = {"not_finite": int(numbers.size - finite.size)}
    if finite.size:
        facts |= {"mean": float(finite.mean()), "min": float(finite.min())}
        facts |= {"max": float(finite.max())}
    return facts


def _top(y: np.ndarray) -> list[tuple[int, float]]:
    flat = y.astype(np.float64).reshape(-1)
    flat = np.where(np.isnan(flat), -np.inf, flat)
    count = min(TOP, flat.size)
    best = np.argpartition(-flat, count - 1)[:count] if count else np.empty(0, int)
    best = best[np.argsort(-flat[best], kind="stable")]
    return [(int(i), float(flat[i])) for i in best]


def _top_text(top: list[tuple[int, float]]) -> str:
    return ", ".join(f"{i}: {value:.6g}" for i, value in top)
