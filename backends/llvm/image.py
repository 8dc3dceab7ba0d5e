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


class PackedTexts:
    """Texts by name in a twentieth of their size, as they come: few will want to read them."""

    def __init__(self) -> None:
        self._stream, self._parts = zlib.compressobj(1), list[bytes]()

    def add(self, name: str, text: str) -> None:
        """Take in one more."""
        self._parts.append(self._stream.compress(f"{name}\n{text}\0".encode()))

    def finish(self) -> bytes:
        """All of them; this is the end."""
        return b"".join(self._parts) + self._stream.flush()


def unpacked(texts: bytes) -> dict[str, str]:
    """The texts of `PackedTexts`, by name."""
    items = zlib.decompress(texts).decode().split("\0")[:-1]
    return dict(item.split("\n", 1) for item in items)


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
    """The modules of the kernels, as `PackedTexts` has them; see `kernels`."""
    constants: np.ndarray
    """The bytes of all packed weights."""

    def kernels(self) -> dict[str, str]:
        """The text of each kernel's module, by its function's name."""
        return unpacked(self.texts)

    def head(self) -> dict[str, Any]:
        """All but what is large, and what went wrong this time, as JSON has it."""
        head = head_of(self.signature, self.plan)
        return head | {"code": asdict(self.code), "errors": self.errors}


def dumped(head: dict[str, Any]) -> str:
    """A head as JSON; types are written as `f32[1,3]`."""
    return json.dumps(head, separators=(",", ":"))


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
