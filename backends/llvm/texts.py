"""Texts of kernels kept on disk, so that a model met again is not written again.

Between `emit` and `cache`. To write a network's kernels takes longer than to load their code, so
their texts are kept beside it, under the kernel's key, the target, and a digest of everything that
writes, cnnir's own source. Kernels with ops of a user's own are not kept, as their source is
elsewhere. A text that is found goes the way of one that was written: checked, and compiled unless
there is an object for it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import cnnir.loops as loops
import cnnir.ops as ops
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.schedule import Code, Kernel
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Graph, Node

Written = tuple[Code, str]
"""What is known of a kernel, and its module."""


class Texts:
    """The texts that a cache has, and where new ones are put; without a cache, neither."""

    def __init__(self, cache: ObjectCache | None, target: CpuTarget) -> None:
        self._source = source_digest() if cache is not None else ""
        self._cache = cache if self._source else None
        self._target = target

    def get(self, kernel: Kernel) -> Written | None:
        """The text of a kernel, if it is there."""
        if self._cache is None or not _ours(kernel.node):
            return None
        found = self._cache.get(self._key(self._cache, kernel))
        if found is None:
            return None
        head, _, text = found.decode().partition("\n")
        known = json.loads(head)
        return Code(**known | {"errors": tuple(known["errors"])}), text

    def put(self, kernel: Kernel, written: Written) -> None:
        """Keep a text."""
        if self._cache is not None and _ours(kernel.node):
            code, text = written
            content = json.dumps(asdict(code)) + "\n" + text
            self._cache.put(self._key(self._cache, kernel), content.encode())

    def _key(self, cache: ObjectCache, kernel: Kernel) -> str:
        return cache.key(repr(kernel.key), self._target, ("text", self._source, self._target))


def _ours(node: Node) -> bool:
    """Whether cnnir itself declares all ops of a node, so that `source_digest` covers them."""
    body = node.attrs.get("body")
    nodes = [node, *(body.order() if isinstance(body, Graph) else ())]
    return all(n.op is None or n.op.__module__.startswith("cnnir.") for n in nodes)


@lru_cache(maxsize=1)
def source_digest() -> str:
    """SHA-256 over the modules that a kernel's text may depend on; empty if they are not files."""
    digest = hashlib.sha256()
    files = [path for root in _roots() for path in root.rglob("*.py")]
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return digest.hexdigest() if files else ""


def _roots() -> list[Path]:
    """The backends, the kernel language, the ops. What graphs, types and passes make of a model
    shows in the keys of its kernels."""
    return [Path(__file__).parents[1], *(Path(p.__file__ or "").parent for p in (loops, ops))]
