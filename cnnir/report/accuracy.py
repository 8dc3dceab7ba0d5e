"""How far outputs are from expected ones: a row an output, errors relative to its largest value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from rich.table import Table

from cnnir.report.table import Column, number, table
from cnnir.tensortype import TensorType, is_float, short_dtype

ROUNDINGS = 8
"""Units of an element type's last place that are forgiven whatever tolerance is asked for."""


def accuracy_rows(
    outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = 1e-5
) -> list[dict[str, Any]]:
    """A row an output; for floats `error` is max|y - e| / max|e|, else the share that differs.

    Values that are not finite must be the same on both sides. f16 and bf16 cannot be nearer than
    their own precision, so `ok` allows them more than `tolerance`.
    """
    rows = []
    for name, y in outputs.items():
        e = expected[name]
        if y.shape != e.shape:
            error, allowed = np.inf, tolerance
        elif is_float(short_dtype(y.dtype)):
            error, allowed = (
                _float_error(y, e),
                max(tolerance, ROUNDINGS * float(ml_dtypes.finfo(y.dtype).eps)),
            )
        else:
            error, allowed = float(np.mean(y != e)) if y.size else 0.0, 0.0
        row = {"output": name, "type": str(TensorType.of(y)), "error": float(error)}
        rows.append(row | {"allowed": allowed, "ok": bool(error <= allowed)})
    return rows


def accuracy_table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The rows of `accuracy_rows`."""
    columns = [
        Column("output", "output"),
        Column("type", "type"),
        number("error", "error / max|y|", "{:.2e}".format),
        number("allowed", "allowed", "{:.1e}".format),
        Column("ok", "", lambda ok: "ok" if ok else "TOO FAR"),
    ]
    return table(title, columns, rows)


def _float_error(y: np.ndarray, e: np.ndarray) -> float:
    if not y.size:
        return 0.0
    y, e = y.astype(np.float64), e.astype(np.float64)
    same = (y == e) | (np.isnan(y) & np.isnan(e))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(y - e))
    finite = np.abs(e[np.isfinite(e)])
    worst = float(np.where(np.isfinite(apart), apart, np.inf).max())
    scale = float(finite.max()) if finite.size else 0.0
    return worst / scale if scale else worst
