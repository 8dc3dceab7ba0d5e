"""`cnnir inspect`: the graph as text, at any point of the pipeline, and what passes did."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from cnnir.cli.application import (
    Json,
    Model,
    Passes,
    Shapes,
    app,
    load_model,
    progress,
    show,
)
from cnnir.pipeline import optimise
from cnnir.report import cost, history


@app.command()
def inspect(
    model: Model,
    pass_name: Annotated[
        str | None, typer.Option("--pass", help="Text after this pass; import is the beginning.")
    ] = None,
    diff: Annotated[bool, typer.Option(help="What changed instead of the whole text.")] = False,
    passes: Passes = None,
    costs: Annotated[bool, typer.Option(help="Operations and bytes by op.")] = False,
    cuda: Annotated[bool, typer.Option(help="The optimised graph as CUDA C instead.")] = False,
    shape: Shapes = None,
    as_json: Json = False,
) -> None:
    """Show the graph as text: as imported, after any pass, or at the end with what passes did."""
    graph = load_model(model, shape)
    if cuda:
        optimise(graph, passes)
        source = importlib.import_module("cnnir.backends.cuda").print_graph(graph)
        show({"cuda": source}, [Text(source)], as_json)
        return
    imported, before = graph.text(), cost.summary(graph)
    if costs and not as_json:
        show({}, [cost.cost_table(graph)], False)
        return
    cost_rows = cost.cost_rows(graph)
    with progress("running the passes"):
        records = optimise(graph, passes, snapshots=True)
    shown = history.text(imported, records, pass_name, diff)
    rows = history.history_rows(records)
    found = {"model": str(model), "imported": before, "costs": cost_rows}
    found |= {"optimised": cost.summary(graph), "history": rows, "text": shown}
    tables: list[RenderableType] = [Text(shown)]
    if pass_name is None:
        tables.append(history.history_table(records))
        tables.append(Text(cost.summary_text(graph)))
    show(found, tables, as_json)
