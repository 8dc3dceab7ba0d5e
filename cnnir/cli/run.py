"""`cnnir run`: a model once, its outputs, and how far they are from the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import RenderableType

from cnnir.cli import arguments
from cnnir.cli.application import (
    Inputs,
    Json,
    Model,
    Seed,
    Shapes,
    Target,
    Threads,
    Tune,
    app,
    compile_model,
    load_model,
    progress,
    show,
)
from cnnir.compile import compile, load
from cnnir.errors import Error
from cnnir.evaluate import evaluate, trimmed
from cnnir.report import accuracy, values


@app.command()
def run(
    model: Model,
    input: Inputs = None,
    shape: Shapes = None,
    target: Target = "cpu",
    threads: Threads = None,
    tune: Tune = False,
    check: Annotated[bool, typer.Option(help="Compare with the reference target in f64.")] = False,
    tolerance: Annotated[float, typer.Option(help="Error allowed by --check.")] = 1e-5,
    watch: Annotated[
        list[str] | None, typer.Option(help="Also show this tensor or node of the model.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write all outputs to this .npz.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run a model once and show its outputs."""
    graph = load_model(model, shape)
    feeds = arguments.feeds(graph, input or [], seed)
    exe = compile_model(graph, target, threads, tune=tune)
    with progress("running"):
        outputs = exe.run(feeds)
        watched = {
            name: _watched(model, name, shape, target, threads, feeds) for name in watch or []
        }
    rows = values.value_rows(outputs)
    found: dict[str, Any] = {"model": str(model), "target": target, "outputs": rows}
    tables: list[RenderableType] = [values.value_table(rows)]
    if watch:
        found["watched"] = values.value_rows(watched)
        tables.append(values.value_table(found["watched"], "watched"))
    checks: list[dict[str, Any]] = []
    if check:
        with progress("evaluating the reference in f64"):
            wanted = trimmed(graph, evaluate(graph, feeds, "f64"))
        checks = accuracy.accuracy_rows(outputs, wanted, tolerance)
        found["check"] = checks
        tables.append(accuracy.accuracy_table("against the reference in f64", checks))
    if save:
        arguments.save(save, outputs | watched)
    show(found, tables, as_json)
    if far := [row["output"] for row in checks if not row["ok"]]:
        raise Error(f"outputs {', '.join(far)} are too far from the reference")


def _watched(
    model: Path,
    name: str,
    shape: list[str] | None,
    target: str,
    threads: int | None,
    feeds: dict[str, np.ndarray],
) -> np.ndarray:
    """A tensor inside the model: what leads to it, compiled by itself."""
    part = load(model, arguments.shapes(shape or []), outputs=[name])
    exe = compile(part, target, threads=threads)
    try:
        (value,) = exe.run(feeds).values()
        return value
    finally:
        exe.close()
