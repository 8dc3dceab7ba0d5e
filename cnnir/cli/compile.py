"""`cnnir compile`: the plan, the sizes, and where the time went."""

from __future__ import annotations

import time
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
    Tune,
    app,
    compile_model,
    load_model,
    show,
)
from cnnir.report import history, plan


@app.command(name="compile")
def compile_(
    model: Model,
    shape: Shapes = None,
    target: Target = "cpu",
    threads: Threads = None,
    tune: Tune = False,
    passes: Passes = None,
    emit: Annotated[
        str | None,
        typer.Option(
            help="Write code: of ll, opt, asm, obj (cpu), cu, ptx, cubin, sass, launch, resources."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of --emit.")] = Path(
        "emitted"
    ),
    reasons: Annotated[bool, typer.Option(help="Show why each kernel was taken.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a model and show the plan, the sizes, and where the time went."""
    start = time.perf_counter()
    graph = load_model(model, shape)
    loaded = time.perf_counter() - start
    exe = compile_model(graph, target, threads, passes, tune=tune)
    seconds = {"import": loaded, "passes": history.seconds(exe.history), **exe.plan.seconds}
    found = {
        "model": str(model),
        **plan.sizes(exe.plan),
        "seconds": seconds,
        "plan": plan.plan_rows(exe.plan),
    }
    tables: list[RenderableType] = [
        plan.plan_table(exe.plan, reasons),
        Text(plan.sizes_text(exe.plan) + "\n"),
        plan.seconds_table(seconds),
    ]
    if emit is not None:
        files = exe.emit(output, *(form.strip() for form in emit.split(",")))
        found["files"] = [str(file) for file in files]
        tables.append(Text(f"{len(files)} files written to {output}"))
    show(found, tables, as_json)
