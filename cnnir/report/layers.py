"""The layers of a graph as rows, as a table and as CSV: size, work, receptive field, shares."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from rich.table import Table

from cnnir.analysis.layers import Layer, layers, total
from cnnir.analysis.receptive_field import Field
from cnnir.ir import Graph
from cnnir.report.table import Column, number, short, size, table

SHARED = ("units", "weights", "connections", "flops", "bytes")
"""The figures of which every layer has a share."""


def layer_rows(graph: Graph) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row a layer, in order, and the row of all of them; see `analysis.layers` for the words.

    `field`, `stride` and `offset` are the receptive field's along each spatial axis of the input,
    None where there is none; `units_share` and so on are shares of the total.
    """
    found = layers(graph)
    everything = total(found)
    return [_row(layer, everything) for layer in found], _row(everything, everything)


def layer_table(rows: Sequence[dict[str, Any]], whole: dict[str, Any], title: str) -> Table:
    """The rows and, at the end, the total."""
    columns = [
        Column("layer", "layer", wrap=True),
        Column("op", "op", wrap=True),
        Column("output", "gives"),
        number("units", "units", short),
        *_shared("weights", "weights", short),
        *_shared("connections", "mul-adds", short),
        *_shared("flops", "FLOP", short),
        *_shared("bytes", "bytes", size),
        number("intensity", "FLOP/B", "{:.1f}".format),
        number("field", "field", _by_axis),
        number("stride", "stride", _by_axis),
        number("offset", "offset", _by_axis),
    ]
    return table(title, columns, [*rows, whole], dense=True)


def layer_csv(rows: Sequence[dict[str, Any]], whole: dict[str, Any]) -> str:
    """The same as CSV with a heading; what has several axes is written as 7x7."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(whole), lineterminator="\n")
    writer.writeheader()
    for row in (*rows, whole):
        axes = {key: _by_axis(row[key]) for key in ("field", "stride", "offset") if row[key]}
        writer.writerow(row | axes)
    return file.getvalue()


def _row(layer: Layer, everything: Layer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "layer": layer.name,
        "op": layer.op,
        "output": str(layer.output) if layer.output else None,
    }
    for name in SHARED:
        whole = getattr(everything, name)
        row[name] = getattr(layer, name)
        row[f"{name}_share"] = getattr(layer, name) / whole if whole else 0.0
    return row | {"intensity": layer.intensity, **_field(layer.field)}


def _field(field: Field | None) -> dict[str, Any]:
    if field is None:
        return {"field": None, "stride": None, "offset": None}
    return {
        "field": [math.ceil(span.size) for span in field],
        "stride": [_plain(span.stride) for span in field],
        "offset": [math.floor(span.offset) for span in field],
    }


def _plain(stride: Fraction) -> int | float:
    return int(stride) if stride.denominator == 1 else float(stride)


def _by_axis(values: list[int | float]) -> str:
    """`7` where all axes have it, else `7x3`."""
    same = len(set(values)) == 1
    return "x".join(f"{value:g}" for value in values[: 1 if same else None])


def _shared(key: str, heading: str, write: Any) -> tuple[Column, Column]:
    """A figure and its share; what a layer has nothing of is blank."""
    return (
        number(key, heading, lambda count: write(count) if count else ""),
        number(f"{key}_share", "%", lambda share: f"{share * 100:.1f}" if share else ""),
    )
