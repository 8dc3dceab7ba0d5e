"""Common subexpressions: nodes of the same op, operands and attributes become one.

All ops are pure, so one walk with a dict finds them. Params of equal type and content are one too.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from cnnir.ir import Graph, Node
from cnnir.passes.base import Pass
from cnnir.rewrite import Outcome, replace_values, unite


@dataclass(frozen=True)
class Cse(Pass):
    """op(x) and again op(x) => op(x)"""

    name = "cse"
    max_bytes: int = 1 << 16
    """Params larger than this are not compared by content."""

    def run(self, g: Graph) -> Outcome:
        """Merge in one walk: operands are merged before their users are looked at."""
        outcome = Outcome()
        first: dict[Hashable, Node] = {}
        for node in g.order():
            if node.kind == "input":
                continue
            kept = first.setdefault(self._key(g, node), node)
            if kept is not node:
                rewrite = outcome.record("cse" if node.op else "cse_param", [node])
                replace_values(g, rewrite, node.results, kept.results)
                kept.sources = unite([kept, node])
        g.sweep()
        return outcome

    def _key(self, g: Graph, node: Node) -> Hashable:
        if node.op is None:
            array = g.array(node.results[0])
            assert array is not None
            content = array.tobytes() if array.nbytes <= self.max_bytes else id(array)
            return str(node.results[0].type), content
        attrs = tuple((name, _frozen(value)) for name, value in sorted(node.attrs.items()))
        return node.op, tuple(map(id, node.operands)), attrs


def _frozen(value: Any) -> Hashable:
    """An attribute for comparison: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    return value.text(hints=False) if isinstance(value, Graph) else repr(value)
