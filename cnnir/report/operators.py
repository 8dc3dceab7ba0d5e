"""The operator set as rows and tables: signature, how an op gets its code, documentation."""

from __future__ import annotations

import inspect
from typing import Any

from rich.table import Table

from cnnir.ops import OPS, Op
from cnnir.report.table import Column, table


def operator_rows(names: list[str] | None = None) -> list[dict[str, Any]]:
    """A row an op, by name."""
    return [
        {
            "op": name,
            "family": op.__module__.rpartition(".")[2],
            "operands": _operands(op),
            "attributes": {k: _default(v) for k, v in op.attributes.items()},
            "code": code_from(op),
            "meaning": inspect.getdoc(op) or "",
        }
        for name, op in sorted(OPS.items())
        if names is None or name in names
    ]


def operator_table() -> Table:
    """All ops, each with the first line of its documentation."""
    rows = operator_rows()
    for row in rows:
        row["meaning"] = row["meaning"].partition("\n")[0]
    columns = [
        Column("op", "op"),
        Column("operands", "operands", ", ".join),
        Column("attributes", "attributes", ", ".join, wrap=True),
        Column("code", "code from"),
        Column("meaning", "meaning", wrap=True),
    ]
    return table(f"{len(rows)} ops", columns, rows)


def operator_text(name: str) -> str:
    """Signature and documentation of one op."""
    (row,) = operator_rows([name])
    attributes = (k if v is None else f"{k}={v}" for k, v in row["attributes"].items())
    listed = ", ".join([*row["operands"], *(["*"] if row["attributes"] else []), *attributes])
    family = f"{row['family']}; code from {row['code']}"
    return f"{name}({listed})    [{family}]\n\n{row['meaning']}"


def code_from(op: type[Op]) -> str:
    """Which declaration a backend makes code from."""
    for kind in ("scalar", "element", "procedure", "decompose"):
        if getattr(op, kind) is not None:
            return f"{kind} (view)" if op.view else kind
    return "its body" if op.name == "fused" else "nothing"


def _operands(op: type[Op]) -> list[str]:
    names = [
        name if position < op.required else f"{name}=none"
        for position, name in enumerate(op.operand_names)
    ]
    parameters = inspect.signature(op.infer).parameters.values()
    return names + [f"*{p.name}" for p in parameters if p.kind is p.VAR_POSITIONAL]


def _default(value: Any) -> str | None:
    """A default as it is written, None for an attribute that must be given."""
    return None if value is inspect.Parameter.empty else repr(value)
