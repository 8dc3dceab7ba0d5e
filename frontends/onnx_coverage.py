"""Which operators of ONNX the importer takes, beside what the installed onnx defines.

Read from the importer's registry, so it cannot fall behind it. That an operator is taken does not
say that every attribute and element type is: those are refused by name when a model has them.
"""

from __future__ import annotations

from typing import Any

import onnx

from cnnir.frontends import onnx_import  # noqa: F401  (registers the operators)
from cnnir.frontends.onnx_builder import OPERATORS


def coverage_rows() -> list[dict[str, Any]]:
    """A row an operator of the default domain, by name: opset of its newest form, taken or not."""
    newest: dict[str, Any] = {}
    for schema in onnx.defs.get_all_schemas():
        if schema.domain == "" and not schema.deprecated:
            newest[schema.name] = schema
    return [
        {"operator": name, "since": schema.since_version, "imported": name in OPERATORS}
        for name, schema in sorted(newest.items())
    ]
