"""`cnnir explain`: the chain rule of a small net, written out."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from cnnir.cli.application import Json, Model, Shapes, app, load_model, show
from cnnir.mathematics.chain_rule import chain_rule


@app.command()
def explain(
    model: Model,
    gradient: Annotated[
        str | None, typer.Option(help="The output to differentiate.", show_default="the only one")
    ] = None,
    second: Annotated[
        bool, typer.Option(help="Second derivatives too, along a direction.")
    ] = False,
    latex: Annotated[bool, typer.Option(help="LaTeX instead of text.")] = False,
    shape: Shapes = None,
    as_json: Json = False,
) -> None:
    """Show every local derivative on the way back from an output, and how they multiply."""
    rule = chain_rule(load_model(model, shape), gradient, second=second)
    lines = [
        {"name": line.name, "sources": line.sources, "forward": line.forward and str(line.forward),
         "backward": [str(term) for term in line.backward],
         "derived": line.derived and str(line.derived), "type": str(line.type)}
        for line in rule.lines
    ]  # fmt: skip
    bent = {str(name): str(term) for name, term in rule.second}
    show(
        {"of": rule.of, "lines": lines, "second": bent},
        [Text(rule.latex() if latex else str(rule))],
        as_json,
    )
