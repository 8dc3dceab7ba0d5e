"""A program before it is loaded: what the stages made of a graph, and all that running needs.

`make` builds images, `load` runs them, and `images` keeps them on disk. An image knows no graph,
and no weights but the packed ones.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cnnir.backends.base import Buffer, Plan, Step
from cnnir.backends.cache import NOTE
from cnnir.backends.llvm.program import RunCode
from cnnir.signature import Port, Signature
from cnnir.tensortype import TensorType


@dataclass
class Image:
    """A compiled graph of fixed shapes."""

    signature: Signature
    plan: Plan
    code: RunCode
    errors: list[tuple[str, ...]]
    """For each step what was out of range when it stores 1, 2 ..."""
    objects: list[bytes]
    """Object files, to be linked together."""
    texts: bytes
    """The modules of the kernels, packed; see `kernels`."""
    constants: np.ndarray
    """The bytes of all packed weights."""

    def kernels(self) -> dict[str, str]:
        """The text of each kernel's module, by its function's name."""
        found: dict[str, str] = json.loads(zlib.decompress(self.texts))
        return found

    def head(self) -> dict[str, Any]:
        """All but what is large, and what went wrong this time, as JSON has it."""
        notes = [note for note in self.plan.notes if not note.startswith(NOTE)]
        return {
            "signature": asdict(self.signature),
            "plan": asdict(self.plan) | {"notes": notes},
            "code": asdict(self.code),
            "errors": self.errors,
        }


def dumped(head: dict[str, Any]) -> str:
    """A head as JSON; types are written as `f32[1,3]`."""
    return json.dumps(head, separators=(",", ":"))


def packed(kernels: dict[str, str]) -> bytes:
    """Texts in a twentieth of their size; few will want to read them."""
    return zlib.compress(json.dumps(kernels).encode(), 1)


def image_of(
    head: dict[str, Any], objects: list[bytes], texts: bytes, constants: np.ndarray
) -> Image:
    """The image that has this head; KeyError, TypeError or ValueError where it is none."""
    return Image(
        _signature(head["signature"]),
        _plan(head["plan"]),
        RunCode(**head["code"]),
        [tuple(words) for words in head["errors"]],
        objects,
        texts,
        constants,
    )


def _signature(given: dict[str, Any]) -> Signature:
    ports = [[Port(p["name"], _type(p["type"])) for p in given[k]] for k in ("inputs", "outputs")]
    trims = {int(output): (pair[0], pair[1]) for output, pair in given["trims"].items()}
    carried = {int(output): int(position) for output, position in given["carried"].items()}
    return Signature(tuple(ports[0]), tuple(ports[1]), trims, carried)


def _plan(given: dict[str, Any]) -> Plan:
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
