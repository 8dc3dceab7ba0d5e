"""Model-local functions: their table, and the size of the model once they are expanded.

Counting happens before anything is expanded, so that a few functions that call each other twice
cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import FunctionProto, ModelProto, NodeProto

from cnnir.errors import LimitError, ModelError, quoted
from cnnir.frontends.onnx_model import default_domain
from cnnir.frontends.onnx_scope import nodes_within

Key = tuple[str, str, str]


class Functions:
    """The functions of a model by domain, name and overload."""

    def __init__(self, model: ModelProto) -> None:
        self.table: dict[Key, FunctionProto] = {}
        for function in model.functions:
            key = (default_domain(function.domain), function.name, function.overload)
            if key in self.table:
                raise ModelError(f"function {quoted(function.name)} is defined twice (duplicate)")
            self.table[key] = function

    def find(self, node: NodeProto) -> FunctionProto | None:
        """The function that a node calls, None for an operator."""
        return self.table.get(_key(node))

    def expanded(self, nodes: Iterable[NodeProto], limit: int) -> int:
        """How many nodes there are once every call is replaced; LimitError above the limit."""
        sizes: dict[Key, int] = {}
        for key in self.table:
            self._measure(key, sizes)
        total = sum(sizes.get(_key(node), 0) + 1 for node in nodes_within(nodes))
        if total > limit:
            raise LimitError(
                f"the model has {total} nodes with its functions expanded, max_nodes={limit}"
            )
        return total

    def _measure(self, start: Key, sizes: dict[Key, int]) -> None:
        """Expanded sizes of a function and of all that it calls; ModelError on recursion."""
        open_: set[Key] = set()
        stack = [start]
        while stack:
            key = stack[-1]
            if key in sizes:
                stack.pop()
                continue
            calls = [k for n in nodes_within(self.table[key].node) if (k := _key(n)) in self.table]
            missing = [k for k in calls if k not in sizes]
            if not missing:
                own = sum(1 for _ in nodes_within(self.table[key].node))
                sizes[key] = own + sum(sizes[k] for k in calls)
                open_.discard(key)
                stack.pop()
                continue
            open_.add(key)
            for k in missing:
                if k in open_:
                    raise ModelError(f"function {quoted(k[1])} is recursive: it calls itself")
            stack.append(missing[0])


def _key(node: NodeProto) -> Key:
    return default_domain(node.domain), node.op_type, node.overload
