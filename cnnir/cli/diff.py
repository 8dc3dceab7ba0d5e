"""`cnnir diff`: two models, or one model between two passes, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from cnnir.cli.application import Json, Model, Passes, Shapes, app, load_model, progress, show
from cnnir.pipeline import optimise
from cnnir.report import cost, history
from cnnir.report.diff import diff_rows, diff_table, differs
from cnnir.report.diff_page import diff_page


@app.command()
def diff(
    model: Model,
    other: Annotated[
        Path | None, typer.Argument(help="Another model; without it, passes are compared.")
    ] = None,
    begin: Annotated[str, typer.Option("--from", help="The state before.")] = "import",
    end: Annotated[
        str | None, typer.Option("--to", help="The state after.", show_default="the last pass")
    ] = None,
    passes: Passes = None,
    values: Annotated[bool, typer.Option(help="Compare values too, in f64.")] = True,
    context: Annotated[int, typer.Option(help="Nodes to show around those that differ.")] = 1,
    html: Annotated[Path | None, typer.Option(help="Write a page to this file too.")] = None,
    shape: Shapes = None,
    as_json: Json = False,
) -> None:
    """Show two models, or one between any two passes, side by side: nodes, weights and values."""
    left = load_model(model, shape)
    if other is not None:
        right, names = load_model(other, shape), (model.name, other.name)
    else:
        imported = left.clone()
        with progress("running the passes"):
            records = optimise(left, passes, snapshots=True)
        end = end or records[-1].label
        left, right = (history.graph(imported, records, label) for label in (begin, end))
        names = (f"after {begin}", f"after {end}")
    with progress("comparing"):
        rows = diff_rows(left, right, values)
    if html is not None:
        html.write_text(diff_page(names, rows, differs), "utf-8")
    found: dict[str, Any] = {"left": cost.summary(left), "right": cost.summary(right), "rows": rows}
    tables: list[RenderableType] = [diff_table(" and ".join(names), rows, context)]
    for name, graph in zip(names, (left, right), strict=True):
        tables.append(Text(f"{name}: {cost.summary_text(graph)}"))
    show(found, tables, as_json)
