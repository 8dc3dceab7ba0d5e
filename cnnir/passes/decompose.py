"""Ops that a backend has no code for become the ops that they are made of.

This runs just before fusing, so that earlier passes see a softmax as a softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

from cnnir.ir import Graph, Node
from cnnir.passes.base import RulePass
from cnnir.rewrite import Result, rule


@rule(kind="reassociating")
def decompose_op(g: Graph, node: Node) -> Result:
    """op(x) => its `decompose`  [the op has no `element` or `procedure` of its own]"""
    op = node.op
    if op is None or op.decompose is None or op.element or op.procedure:
        return None
    return op.decompose(g, *node.operands, **node.attrs)


@dataclass(frozen=True)
class Decompose(RulePass):
    """Expand ops that are defined by others."""

    name = "decompose"
    rules = (decompose_op,)
