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

from cnnir.backends.base import Plan
from cnnir.backends.llvm.program import RunCode
from cnnir.backends.stored import head_of, plan_of, signature_of
from cnnir.signature import Signature


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
        head = head_of(self.signature, self.plan)
        return head | {"code": asdict(self.code), "errors": self.errors}


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
        signature_of(head["signature"]),
        plan_of(head["plan"]),
        RunCode(**head["code"]),
        [tuple(words) for words in head["errors"]],
        objects,
        texts,
        constants,
    )
