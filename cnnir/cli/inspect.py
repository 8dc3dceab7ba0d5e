"""`cnnir inspect`: the graph as text, at any point of the pipeline, and what passes did."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from cnnir.cli.application import (
    Json,
    Model,
    Passes,
    Shapes,
    Target,
    Threads,
    app,
    compile_model,
    load_model,
    progress,
    show,
)
from cnnir.compile import save_onnx
from cnnir.culprit import find
from cnnir.errors import PassError
from cnnir.ir import Graph
from cnnir.pipeline import optimise
from cnnir.report import cost, history
from cnnir.report.dot import dot as dot_text
from cnnir.report.table import size
from cnnir.verify import widened


@app.command()
def inspect(
    model: Model,
    pass_name: Annotated[
        str | None, typer.Option("--pass", help="Text after this pass; import is the beginning.")
    ] = None,
    diff: Annotated[bool, typer.Option(help="What changed instead of the whole text.")] = False,
    passes: Passes = None,
    costs: Annotated[bool, typer.Option(help="Operations and bytes by op.")] = False,
    verify: Annotated[
        bool, typer.Option(help="What each pass and rule changes, on the model widened to f64.")
    ] = False,
    bisect: Annotated[
        Path | None,
        typer.Option(help="Find the first rewrite that changes values; write THIS.onnx and .npz."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Change allowed: 1e-9 for --verify, 1e-4 for --bisect.")
    ] = None,
    dot: Annotated[bool, typer.Option(help="The graph for Graphviz instead of the text.")] = False,
    cuda: Annotated[bool, typer.Option(help="The optimised graph as CUDA C instead.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a report that opens offline to this file instead.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="About how long to measure for --html; 0 for not at all.")
    ] = 2.0,
    target: Target = "cpu",
    threads: Threads = None,
    shape: Shapes = None,
    as_json: Json = False,
) -> None:
    """Show the graph as text: as imported, after any pass, or at the end with what passes did."""
    graph = load_model(model, shape)
    if html is not None:
        exe = compile_model(graph, target, threads, passes)
        with progress("writing the report"):
            exe.report(html, title=model.stem, seconds=seconds)
        show({"report": str(html)}, [Text(f"{html}: {size(html.stat().st_size)}")], as_json)
    elif verify:
        _verify(model, graph, passes, 1e-9 if tolerance is None else tolerance, as_json)
    elif bisect is not None:
        _bisect(graph, passes, bisect, 1e-4 if tolerance is None else tolerance, as_json)
    elif cuda:
        optimise(graph, passes)
        source = importlib.import_module("cnnir.backends.cuda").print_graph(graph)
        show({"cuda": source}, [Text(source)], as_json)
    elif costs and not as_json:
        show({}, [cost.cost_table(graph)], False)
    else:
        _texts(model, graph, passes, pass_name, diff, dot, as_json)


def _texts(
    model: Path,
    graph: Graph,
    passes: str | None,
    pass_name: str | None,
    diff: bool,
    dot: bool,
    as_json: bool,
) -> None:
    """The graph as text or for Graphviz, after a pass or at the end, with what the passes did."""
    imported, before = graph.text(), cost.summary(graph)
    cost_rows, original = cost.cost_rows(graph), graph.clone()
    with progress("running the passes"):
        records = optimise(graph, passes, snapshots=True)
    if dot:
        drawn = graph if pass_name is None else history.graph(original, records, pass_name)
        source = dot_text(drawn)
        show({"dot": source}, [Text(source)], as_json)
        return
    shown = history.text(imported, records, pass_name, diff)
    rows = history.history_rows(records)
    found = {"model": str(model), "imported": before, "costs": cost_rows}
    found |= {"optimised": cost.summary(graph), "history": rows, "text": shown}
    tables: list[RenderableType] = [Text(shown)]
    if pass_name is None:
        tables.append(history.history_table(records))
        if any(record.declined for record in records):
            tables.append(history.declined_table(records))
        tables.append(Text(cost.summary_text(graph)))
    show(found, tables, as_json)


def _verify(model: Path, graph: Graph, passes: str | None, tolerance: float, as_json: bool) -> None:
    """Tables of passes and rules with the change that each made; an error beyond the tolerance."""
    with progress("running the passes, and evaluating before and after each in f64"):
        records = optimise(widened(graph), passes, verify=True, tolerance=tolerance)
    worst = max((record.difference or 0.0 for record in records), default=0.0)
    said = f"no pass changes an output by more than {worst:.1e} of its largest number"
    found = {
        "model": str(model),
        "difference": worst,
        "history": history.history_rows(records),
        "rules": history.rule_rows(records),
    }
    tables: list[RenderableType] = [history.history_table(records)]
    tables += [history.rule_table(records), Text(said)]
    show(found, tables, as_json)


def _bisect(graph: Graph, passes: str | None, stem: Path, tolerance: float, as_json: bool) -> None:
    """The first rewrite that changes values, as two files and a text; an error where there is."""
    with progress("looking for the first rewrite that changes values"):
        culprit = find(graph, passes, tolerance)
    if culprit is None:
        said = f"no pass and no rewrite changes a value by more than {tolerance:g}"
        show({"culprit": None}, [Text(said)], as_json)
        return
    files = culprit.save(str(stem), save_onnx)
    raise PassError(f"{culprit.text()}\nwritten to {' and '.join(files)}")
