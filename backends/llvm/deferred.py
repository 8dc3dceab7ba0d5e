"""Nodes that need no step of their own, as the steps that use them do what they would.

The plan leaves them out until somebody else needs their result as it is. Weights that are turned
round before a convolution are read where they lie (packing.py); the gradient of a maximum pool
finds the maxima again (kernels/max_pool_grad.py).
"""

from __future__ import annotations

from cnnir.backends.fused import anchor_of, outer_values
from cnnir.backends.llvm.packing import MOVES
from cnnir.ir import Graph, Node, Value


def deferred(graph: Graph) -> set[Node]:
    """Those nodes whose results are only used by steps that can do without."""
    found: set[Node] = set()
    for node in reversed(graph.order()):
        if not _may_wait(graph, node) or graph.is_output(node.results[0]):
            continue
        result = node.results[0]
        users = [user for user, _ in graph.users(result)]
        if users and all(user in found or _does_without(user) is result for user in users):
            found.add(node)
    return found


def _may_wait(graph: Graph, node: Node) -> bool:
    if node.name == "max_pool_index":
        return node.attrs["storage_order"] == 0
    return node.name in MOVES and graph.array(node.operands[0]) is None


def _does_without(node: Node) -> Value | None:
    """The operand that a node does not need as it is, where nothing else in it reads that."""
    anchor = anchor_of(node)
    if anchor.name not in ("conv", "conv_transpose", "max_pool_grad"):
        return None
    outer = outer_values(node)
    inner = anchor.operands[1]
    assert inner is not None
    value = outer.get(inner, inner)
    if value is None or sum(v is value for v in node.operands) != 1:
        return None
    index = value.node.name == "max_pool_index"
    return value if index == (anchor.name == "max_pool_grad") else None
