"""`cnnir ops`: the operator set, and which operators of ONNX are imported."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer
from rich.text import Text

from cnnir.cli.application import (
    Json,
    app,
    show,
)
from cnnir.errors import InputError
from cnnir.ops import OPS
from cnnir.report import operators
from cnnir.report.table import Column, number, table


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
        show({"coverage": rows}, [table(title, columns, rows)], as_json)
    elif name is None:
        show({"ops": operators.operator_rows()}, [operators.operator_table()], as_json)
    elif name in OPS:
        rows = operators.operator_rows([name])
        show({"ops": rows}, [Text(operators.operator_text(name))], as_json)
    else:
        raise InputError(f"there is no op {name!r}; `cnnir ops` lists them")
