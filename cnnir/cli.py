"""The command line: `cnnir run`, `compile`, `bench`, `inspect`, `ops`.

Commands load, compile and measure; how anything looks is decided in `cnnir.report`. Results go to
stdout, progress and errors to stderr. An error of ours or of the system is one paragraph and exit
code 1; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from cnnir import cli_arguments as arguments
from cnnir.compile import TARGETS, Executable, compile, load
from cnnir.errors import BackendError, Error, InputError
from cnnir.evaluate import evaluate, trimmed
from cnnir.ir import Graph
from cnnir.ops import OPS
from cnnir.pipeline import optimise
from cnnir.report import accuracy, cost, history, operators, plan, profile, timing, values
from cnnir.report.table import Column, number, scaled, table

PLAIN_WIDTH = 140
"""Columns of output that goes to a file or a pipe."""


class Commands(TyperGroup):
    """The commands, with our errors made readable."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors become a paragraph on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (Error, OSError) as error:
            Console(stderr=True, soft_wrap=True).print(Text(f"error: {error}", style="red"))
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A graph compiler for convolutional networks: ONNX in, native code out.",
)

Model = Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="Shape of an input: name=1,3,224,224.")
]
Target = Annotated[str, typer.Option(help=f"One of {', '.join(TARGETS)}.")]
Threads = Annotated[int | None, typer.Option(help="Worker threads.", show_default="all cores")]
Passes = Annotated[str | None, typer.Option(help="The pipeline, such as fold,cse,fuse.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="name=x.npy, x.npy, data.npz or random. Missing ones are random."),
]
Seed = Annotated[int, typer.Option(help="Seed of random inputs.")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Options of the program itself."""
    if version:
        print(f"cnnir {importlib.metadata.version('cnnir')}")
        raise typer.Exit()


@app.command()
def run(
    model: Model,
    input: Inputs = None,
    shape: Shapes = None,
    target: Target = "cpu",
    threads: Threads = None,
    check: Annotated[bool, typer.Option(help="Compare with the reference target in f64.")] = False,
    tolerance: Annotated[float, typer.Option(help="Error allowed by --check.")] = 1e-5,
    save: Annotated[Path | None, typer.Option(help="Write all outputs to this .npz.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Run a model once and show its outputs."""
    graph = _load(model, shape)
    feeds = arguments.feeds(graph, input or [], seed)
    exe = _compile(graph, target, threads)
    with _progress("running"):
        outputs = exe.run(feeds)
    rows = values.value_rows(outputs)
    found: dict[str, Any] = {"model": str(model), "target": target, "outputs": rows}
    tables: list[RenderableType] = [values.value_table(rows)]
    checks: list[dict[str, Any]] = []
    if check:
        with _progress("evaluating the reference in f64"):
            wanted = trimmed(graph, evaluate(graph, feeds, "f64"))
        checks = accuracy.accuracy_rows(outputs, wanted, tolerance)
        found["check"] = checks
        tables.append(accuracy.accuracy_table("against the reference in f64", checks))
    if save:
        arguments.save(save, outputs)
    _show(found, tables, as_json)
    if far := [row["output"] for row in checks if not row["ok"]]:
        raise Error(f"outputs {', '.join(far)} are too far from the reference")


@app.command(name="compile")
def compile_(
    model: Model,
    shape: Shapes = None,
    target: Target = "cpu",
    threads: Threads = None,
    passes: Passes = None,
    reasons: Annotated[bool, typer.Option(help="Show why each kernel was taken.")] = False,
    as_json: Json = False,
) -> None:
    """Compile a model and show the plan, the sizes, and where the time went."""
    start = time.perf_counter()
    graph = _load(model, shape)
    loaded = time.perf_counter() - start
    exe = _compile(graph, target, threads, passes)
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
    _show(found, tables, as_json)


@app.command()
def bench(
    model: Model,
    batch: Annotated[int | None, typer.Option(help="Size of the first dimension.")] = None,
    threads: Threads = None,
    against: Annotated[str | None, typer.Option(help="Also time onnxruntime, in turn.")] = None,
    seconds: Annotated[float, typer.Option(help="About how long to measure.")] = 5.0,
    top: Annotated[int, typer.Option(help="Rows of the table of kernels.")] = 12,
    shape: Shapes = None,
    target: Target = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time a model: medians, spread, GFLOP/s, and every kernel's share of the machine's peak."""
    threads = threads or arguments.available_threads()
    graph = _load(model, shape)
    if batch is not None:
        graph = load(model, arguments.batched(graph, batch))
    feeds = arguments.feeds(graph, [], seed)
    runners: dict[str, Callable[[], object]] = {}
    if against is not None:
        runners[against] = _rival(against, model, feeds, threads)
    exe = _compile(graph, target, threads)
    runners = {"cnnir": lambda: exe.run(feeds), **runners}
    flops = cost.summary(graph)["flops"]
    with _progress(f"measuring for about {seconds:.0f} s"):
        timings = timing.interleaved(runners, seconds)
    rows = timing.timing_rows(timings, flops)
    title = f"{model.name}, {scaled(flops, 'FLOP')}, threads: {threads}"
    found: dict[str, Any] = {"model": str(model), "threads": threads, "flops": flops, "rows": rows}
    tables: list[RenderableType] = [timing.timing_table(title, rows)]
    if target == "cpu":
        with _progress("measuring the kernels and the peak"):
            steps, kinds, peak = _profile(exe, feeds, threads)
        found |= {"peak_gflops": peak, "kernels": kinds, "steps": steps}
        tables.append(profile.profile_table("by kernel", kinds))
        slowest = f"slowest steps, peak {peak:.1f} GFLOP/s"
        tables.append(profile.profile_table(slowest, steps, top))
    _show(found, tables, as_json)


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
    graph = _load(model, shape)
    if cuda:
        optimise(graph, passes)
        source = importlib.import_module("cnnir.backends.cuda").print_graph(graph)
        _show({"cuda": source}, [Text(source)], as_json)
        return
    imported, before = graph.text(), cost.summary(graph)
    if costs and not as_json:
        _show({}, [cost.cost_table(graph)], False)
        return
    cost_rows = cost.cost_rows(graph)
    with _progress("running the passes"):
        records = optimise(graph, passes, snapshots=True)
    shown = history.text(imported, records, pass_name, diff)
    rows = history.history_rows(records)
    found = {"model": str(model), "imported": before, "costs": cost_rows}
    found |= {"optimised": cost.summary(graph), "history": rows, "text": shown}
    tables: list[RenderableType] = [Text(shown)]
    if pass_name is None:
        tables.append(history.history_table(records))
        tables.append(Text(cost.summary_text(graph)))
    _show(found, tables, as_json)


@app.command()
def ops(
    name: Annotated[str | None, typer.Argument(help="One op, with its documentation.")] = None,
    coverage: Annotated[bool, typer.Option(help="Which ONNX operators are imported.")] = False,
    as_json: Json = False,
) -> None:
    """Show the operator set, or one op, or the coverage of ONNX."""
    if coverage:
        module = importlib.import_module("cnnir.frontends.onnx_coverage")
        rows = module.coverage_rows()
        taken = sum(row["imported"] for row in rows)
        columns = [
            Column("operator", "ONNX operator"),
            number("since", "newest form since opset"),
            Column("imported", "imported", lambda yes: "yes" if yes else "-"),
        ]
        title = f"{taken} of {len(rows)} operators of onnx are imported"
        _show({"coverage": rows}, [table(title, columns, rows)], as_json)
    elif name is None:
        _show({"ops": operators.operator_rows()}, [operators.operator_table()], as_json)
    elif name in OPS:
        rows = operators.operator_rows([name])
        _show({"ops": rows}, [Text(operators.operator_text(name))], as_json)
    else:
        raise InputError(f"there is no op {name!r}; `cnnir ops` lists them")


def _load(model: Path, shapes: list[str] | None) -> Graph:
    with _progress(f"reading {model.name}"):
        return load(model, arguments.shapes(shapes or []))


def _compile(
    graph: Graph, target: str, threads: int | None, passes: str | None = None
) -> Executable:
    with _progress(f"compiling for {target}"):
        return compile(graph, target, threads=threads, passes=passes)


def _profile(
    exe: Executable, feeds: dict[str, Any], threads: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], float]:
    """Rows by step and by kind of kernel, and the peak of all threads in GFLOP/s."""
    peak = threads * importlib.import_module("cnnir.backends.llvm.peak").fma_peak()
    runs = [exe.profile(feeds) for _ in range(9)][2:]
    steps = profile.profile_rows(exe.plan, runs, peak)
    return steps, profile.kernel_rows(steps, peak), peak


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


def _show(found: dict[str, Any], tables: list[RenderableType], as_json: bool) -> None:
    """Everything as one JSON object, or the tables."""
    if as_json:
        print(json.dumps(_plain(found), allow_nan=False))
        return
    narrow = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=PLAIN_WIDTH if narrow else None, highlight=False)
    for part in tables:
        console.print(part, soft_wrap=isinstance(part, Text))


def _plain(found: Any) -> Any:
    """JSON has no infinities and no NaN: they are written as strings."""
    if isinstance(found, dict):
        return {str(key): _plain(value) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_plain(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return str(found)
    return found


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """A turning sign on stderr while something takes its time; nothing when that is no terminal."""
    with Console(stderr=True).status(f"{what} ..."):
        yield


def main() -> None:
    """The entry point of the `cnnir` script."""
    app()


if __name__ == "__main__":
    main()
