"""What all commands share: the application, its options, progress, and how results are shown.

Commands load, compile and measure; how anything looks is decided in `cnnir.report`. Results go to
stdout, progress and errors to stderr. An error of ours or of the system is one paragraph and exit
code 1; anything else is a bug and shows its traceback.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from cnnir.cli import arguments
from cnnir.compile import TARGETS, Executable, compile, load
from cnnir.errors import Error, InputError
from cnnir.ir import Graph

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
Tune = Annotated[
    bool, typer.Option("--tune", help="Measure the best few kernels of each step first (cpu).")
]
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


def load_model(model: Path, shapes: list[str] | None) -> Graph:
    with progress(f"reading {model.name}"):
        return load(model, arguments.shapes(shapes or []))


def compile_model(
    graph: Graph,
    target: str,
    threads: int | None,
    passes: str | None = None,
    tune: bool = False,
) -> Executable:
    if tune and target != "cpu":
        raise InputError(f"--tune: only target cpu has kernels to choose from, not {target}")
    options: dict[str, Any] = {"tune": True} if tune else {}
    with progress(f"compiling for {target}"):
        return compile(graph, target, threads=threads, passes=passes, **options)


def show(
    found: dict[str, Any], tables: list[RenderableType], as_json: bool, least: int = 0
) -> None:
    """Everything as one JSON object, or the tables, not squeezed below `least` columns."""
    if as_json:
        print(json.dumps(_plain(found), allow_nan=False))
        return
    narrow = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=PLAIN_WIDTH if narrow else None, highlight=False)
    console.width = max(console.width, least)
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
def progress(what: str) -> Iterator[None]:
    """A turning sign on stderr while something takes its time; nothing when that is no terminal."""
    with Console(stderr=True).status(f"{what} ..."):
        yield
