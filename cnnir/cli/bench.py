"""`cnnir bench`: how fast a model is, beside another runtime, kernel by kernel."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from cnnir.cli import arguments
from cnnir.cli.application import (
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
from cnnir.compile import load
from cnnir.errors import BackendError, InputError
from cnnir.report import cost, profile, roofline, timing
from cnnir.report.table import scaled


@app.command()
def bench(
    model: Model,
    batch: Annotated[int | None, typer.Option(help="Size of the first dimension.")] = None,
    threads: Threads = None,
    tune: Tune = False,
    against: Annotated[str | None, typer.Option(help="Also time onnxruntime, in turn.")] = None,
    seconds: Annotated[float, typer.Option(help="About how long to measure.")] = 5.0,
    top: Annotated[int, typer.Option(help="Rows of the table of kernels.")] = 12,
    reasons: Annotated[
        bool, typer.Option(help="Also show why each kernel was taken, and what was rejected.")
    ] = False,
    shape: Shapes = None,
    target: Target = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time a model: medians, spread, and how near every kernel is to what the machine can do.

    A kernel is bound by its operations at the FMA peak of all threads, or by its bytes, whichever
    takes longer; both rates are measured. Every operand is read once and every result written once:
    activations in the smallest cache that holds those of the step, params in memory, unless the
    whole program fits in a cache. Operations are counted by definition: Winograd, which gets by
    with fewer, may be above 100 %.
    """
    threads = threads or arguments.available_threads()
    graph = load_model(model, shape)
    if batch is not None:
        graph = load(model, arguments.batched(graph, batch))
    feeds = arguments.feeds(graph, [], seed)
    runners: dict[str, Callable[[], object]] = {}
    if against is not None:
        runners[against] = _rival(against, model, feeds, threads)
    exe = compile_model(graph, target, threads, tune=tune)
    runners = {"cnnir": lambda: exe.run(feeds), **runners}
    flops = cost.summary(graph)["flops"]
    with progress(f"measuring for about {seconds:.0f} s"):
        timings = timing.interleaved(runners, seconds)
    rows = timing.timing_rows(timings, flops)
    title = f"{model.name}, {scaled(flops, 'FLOP')}, threads: {threads}"
    found: dict[str, Any] = {"model": str(model), "threads": threads, "flops": flops, "rows": rows}
    tables: list[RenderableType] = [timing.timing_table(title, rows)]
    if target == "cpu":
        with progress("measuring the kernels and the machine"):
            machine = _machine(threads)
            runs = [exe.profile(feeds) for _ in range(9)][2:]
        steps = profile.profile_rows(exe.plan, runs, machine)
        kinds = profile.kernel_rows(steps)
        found |= roofline.machine_row(machine) | {"kernels": kinds, "steps": steps}
        tables.append(profile.profile_table("by kernel", kinds))
        slowest = f"slowest steps; {roofline.machine_text(machine)}"
        tables.append(profile.profile_table(slowest, steps, top))
        if reasons:
            tables.append(profile.reasons_table("why", steps, top))
    show(found, tables, as_json)


def _machine(threads: int) -> roofline.Roofline:
    """What so many threads can do at most, measured."""
    peak = importlib.import_module("cnnir.backends.llvm.peak").fma_peak()
    rates = importlib.import_module("cnnir.backends.llvm.bandwidth").read_rates(threads)
    levels = [roofline.Level(name, size, rate) for name, (size, rate) in rates.items()]
    return roofline.Roofline(threads * peak * 1e9, levels)


def _rival(name: str, model: Path, feeds: dict[str, Any], threads: int) -> Callable[[], object]:
    """The model in another runtime, ready to run."""
    if name != "onnxruntime":
        raise InputError(f"cannot run against {name!r}, only against onnxruntime")
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError:
        raise BackendError("onnxruntime is not installed: pip install 'cnnir[bench]'") from None
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)
