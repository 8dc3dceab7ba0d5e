"""`cnnir why`: what became of a node of the model, and which rules left it alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from cnnir.cli import arguments
from cnnir.cli.application import (
    Json,
    Model,
    Passes,
    Seed,
    Shapes,
    Target,
    Threads,
    app,
    progress,
    show,
)
from cnnir.compile import compile
from cnnir.report import trails


@app.command()
def why(
    model: Model,
    node: Annotated[
        str | None, typer.Argument(help="A node or a tensor of the model; none lists them all.")
    ] = None,
    shape: Shapes = None,
    target: Target = "cpu",
    threads: Threads = None,
    passes: Passes = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Tell what became of a node: its rewrites, its kernel, its time, and what was left alone."""
    with progress(f"compiling for {target}"):
        exe = compile(
            str(model), target, threads=threads, shapes=arguments.shapes(shape or []), passes=passes
        )
    feeds = arguments.feeds(exe.graph, [], seed) if target in ("cpu", "cuda-emu") else None
    if node is None:
        rows = [asdict(row) for row in exe.provenance(feeds)]
        show({"provenance": rows}, [trails.trail_table(rows)], as_json)
        return
    story = exe.why(node, feeds)
    show(asdict(story), [Text(str(story))], as_json)
