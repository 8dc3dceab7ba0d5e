"""Fused nodes as backends see them: what the anchor is, who reads what, what equal code needs."""

from __future__ import annotations

import networkx as nx

from cnnir.backends.base import Step
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout
from cnnir.ops import Elementwise
from cnnir.tensortype import TensorType


def outer_values(node: Node) -> dict[Value, Value | None]:
    """The operands of a fused node by the inputs of its body; nothing for another node."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return {}
    return dict(zip(body.inputs, node.operands, strict=True))


def epilogue_inputs(node: Node, anchor: Node) -> list[int]:
    """Positions of the operands of a fused node that other nodes than the anchor use."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return []
    return [
        position
        for position, value in enumerate(body.inputs)
        if any(user is not anchor for user, _ in body.users(value))
    ]


def anchor_of(node: Node) -> Node:
    """The node of a fused body that is not elementwise (the last node where all are), else it."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return node
    inner = [n for n in body.order() if n.op is not None]
    for candidate in inner:
        assert candidate.op is not None
        if not issubclass(candidate.op, Elementwise):
            return candidate
    return inner[-1]


def read_in_place(node: Node) -> set[int]:
    """Positions of the operands of which a result element needs the one in its own place alone.

    Elementwise nodes and what stands behind an anchor read so, where shapes are equal.
    """
    anchor = anchor_of(node)
    assert anchor.op is not None
    if issubclass(anchor.op, Elementwise):
        return set(range(len(node.operands)))
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return set()
    before = {anchor, *nx.ancestors(body.nx, anchor)}
    return {k for k, v in enumerate(body.inputs) if before.isdisjoint(body.nx.succ[v.node])}


def described(node: Node) -> str:
    """`conv + add + relu` for a fused node, the op's name for another."""
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        return " + ".join(n.name for n in body.order() if n.op is not None)
    return node.name


def step_of(node: Node, kind: str, layout: Layout, rejected: list[str]) -> Step:
    """A step of the plan that computes a node; its reason is for the planner to say."""
    assert node.op is not None
    cost = node.op.cost(node)
    params = {v: v.type.nbytes for v in node.operands if v is not None and v.node.kind == "param"}
    moved = cost.read + cost.written
    return Step(
        kernel=kind,
        op=described(node),
        sources=node.sources,
        result=node.results[0].type,
        layout=str(layout),
        reason="",
        rejected=tuple(rejected),
        flops=cost.flops,
        bytes=moved,
        constant_bytes=min(moved, sum(params.values())),
        serial=node.serial,
    )


def copy_node(type: TensorType) -> Node:
    """A node that copies a value of a type; it belongs to no model."""
    graph = Graph("copy")
    node: Node = graph.add("identity", graph.input(type, "x")).node
    return node


def canonical(node: Node) -> str:
    """All of a node that its code depends on, without names of values."""
    body = node.attrs.get("body")
    attrs = {k: v for k, v in sorted(node.attrs.items()) if k != "body"}
    operands = ["none" if v is None else str(v.type) for v in node.operands]
    text = body.text(hints=False) if isinstance(body, Graph) else ""
    return f"{node.name}({', '.join(operands)}) {attrs} {text}"
