"""`cnnir check`: everything that keeps a model from being compiled, at once."""

from __future__ import annotations

from dataclasses import asdict

from rich.text import Text

from cnnir.cli import arguments
from cnnir.cli.application import Json, Model, Shapes, app, progress, show
from cnnir.compile import check as obstacles_of
from cnnir.errors import Error
from cnnir.report.table import Column, number, table


@app.command()
def check(model: Model, shape: Shapes = None, as_json: Json = False) -> None:
    """List every obstacle of a model: node, operator, types, opset, and what is supported."""
    with progress(f"reading {model.name}"):
        found = obstacles_of(str(model), arguments.shapes(shape or []))
    rows = [asdict(obstacle) for obstacle in found]
    if not rows:
        show({"obstacles": []}, [Text("nothing stands in the way")], as_json)
        return
    columns = [
        Column("where", "where", wrap=True),
        Column("operator", "operator"),
        number("opset", "opset", lambda version: str(version or "")),
        Column("operands", "operands", ", ".join, wrap=True),
        Column("what", "obstacle", wrap=True),
        Column("nearest", "supported", wrap=True),
    ]
    show({"obstacles": rows}, [table(f"{model.name}", columns, rows)], as_json)
    raise Error(f"{len(rows)} obstacles")
