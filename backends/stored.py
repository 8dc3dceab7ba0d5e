"""Signatures and plans as JSON, and back: what of a program is kept on disk for every target."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cnnir.backends.base import Buffer, Plan, Step
from cnnir.backends.cache import NOTE
from cnnir.signature import Port, Signature
from cnnir.tensortype import TensorType


def head_of(signature: Signature, plan: Plan) -> dict[str, Any]:
    """Both as JSON has them, without what went wrong this time."""
    notes = [note for note in plan.notes if not note.startswith(NOTE)]
    return {"signature": asdict(signature), "plan": asdict(plan) | {"notes": notes}}


def signature_of(given: dict[str, Any]) -> Signature:
    """The signature; KeyError, TypeError or ValueError where it is none. So does `plan_of`."""
    ports = [[Port(p["name"], _type(p["type"])) for p in given[k]] for k in ("inputs", "outputs")]
    trims = {int(output): (pair[0], pair[1]) for output, pair in given["trims"].items()}
    carried = {int(output): int(position) for output, position in given["carried"].items()}
    return Signature(tuple(ports[0]), tuple(ports[1]), trims, carried)


def plan_of(given: dict[str, Any]) -> Plan:
    """The plan."""
    steps = [
        Step(
            **step
            | {
                "result": _type(step["result"]),
                "sources": tuple(step["sources"]),
                "rejected": tuple(step["rejected"]),
            }
        )
        for step in given["steps"]
    ]
    buffers = [Buffer(**buffer | {"type": _type(buffer["type"])}) for buffer in given["buffers"]]
    return Plan(**given | {"steps": steps, "buffers": buffers})


def _type(given: dict[str, Any]) -> TensorType:
    return TensorType(given["dtype"], tuple(given["shape"]))
