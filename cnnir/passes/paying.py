"""Whether a rewrite pays: the work of nodes that are there, and of nodes that might be.

Work is counted in operations; a byte read or written counts as `BYTE` of them. That is coarse on
purpose: it knows no machine, and orders what differs by a factor, not by a few percent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from cnnir.ir import Node, Value
from cnnir.ops import OPS, Cost
from cnnir.tensortype import TensorType

BYTE = 2
"""Operations that a core does in the time it takes to move a byte of an activation.

Measured where it decides: a depthwise convolution of 5x5 and more runs faster as two (a 7x7 in 0.7
of the time, the reading and writing between the two included), one of 3x3 does not.
"""


LANES, UNEVEN = 16, 5
"""Groups of a convolution that do not fill vectors of LANES make it take UNEVEN times as long."""


def work(costs: Iterable[Cost] | Cost) -> float:
    """Costs as one number."""
    total = sum([costs] if isinstance(costs, Cost) else costs, Cost())
    return float(total.flops + BYTE * (total.read + total.written))


def cost_of(*nodes: Node) -> Cost:
    """The cost of nodes that exist."""
    return sum((_cost(node) for node in nodes if node.op is not None), Cost())


def _cost(node: Node) -> Cost:
    """What the op says; more for a convolution in uneven groups, which no vector unit likes."""
    assert node.op is not None
    cost: Cost = node.op.cost(node)
    groups = node.attrs["groups"] if node.name == "conv" else 1
    if groups == 1 or node.operands[1] is None:
        return cost
    filters, channels = node.operands[1].type.shape[0] // groups, node.operands[1].type.shape[1]
    whole = filters % LANES == channels % LANES == 0
    # small groups share a vector, each channel with one filter or a few
    small = LANES % channels == filters % channels == 0
    return cost if whole or small else replace(cost, flops=UNEVEN * cost.flops)


def prospect(op: str, *types: TensorType | None, **attrs: Any) -> tuple[Cost, TensorType]:
    """What a node would cost and give, without adding it to a graph."""
    kind = OPS[op]
    full = kind.attributes | attrs
    leaf = Node("input")
    node = Node("op", kind, tuple(None if t is None else Value(leaf, 0, t) for t in types), full)
    type = kind.infer(*types, **full)
    node.results = (Value(node, 0, type),)
    cost = _cost(node)
    node.results = ()  # a node and its value hold each other: a thousand would wait for collection
    return cost, type


def ratio(after: float, before: float) -> str:
    """The change of work in words."""
    return f"{after / before:.2f} of the work" if before else "more work than none"
