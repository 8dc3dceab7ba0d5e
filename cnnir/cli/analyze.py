"""`cnnir analyze`: size, work and receptive field of every layer, before anything is compiled."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cnnir.cli.application import Json, Model, Shapes, app, load_model, show
from cnnir.errors import InputError
from cnnir.report.layers import layer_csv, layer_rows, layer_table

WIDTH = 180
"""Columns that the table wants; narrower terminals break its lines."""


@app.command()
def analyze(
    model: Model,
    shape: Shapes = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
    as_json: Json = False,
) -> None:
    """Show units, weights, multiply-adds, bytes and receptive field of every layer."""
    if as_csv and as_json:
        raise InputError("--csv and --json: wanted one of them")
    rows, total = layer_rows(load_model(model, shape))
    if as_csv:
        sys.stdout.write(layer_csv(rows, total))
        return
    found = {"model": str(model), "layers": rows, "total": total}
    show(found, [layer_table(rows, total, model.name)], as_json, WIDTH)
