"""The reference target: runs a graph by the ops' own `evaluate`, node by node, in numpy.

Slow and plain on purpose: it is what every other target is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnir.backends.base import Plan, Program, Step
from cnnir.evaluate import evaluate
from cnnir.ir import Graph, Node

OPTIMISE = False
"""The reference meaning is that of the graph as it came in."""

REMEMBERS = False
"""There is nothing to keep."""


class ReferenceProgram(Program):
    """Evaluates its graph on every run."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.signature = graph, graph.signature()
        steps = [_step(node) for node in graph.order() if node.op is not None]
        self.plan = Plan("reference", steps, serials=[node.serial for node in graph.order()])
        self.plan.constant_bytes = sum(a.nbytes for a in graph.params.values())

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        # outputs may be inputs, params or each other: callers get arrays of their own
        return [np.array(a, order="C", copy=True) for a in evaluate(self.graph, list(arrays))]


def _step(node: Node) -> Step:
    assert node.op is not None
    cost = node.op.cost(node)
    return Step(
        kernel="numpy",
        op=node.name,
        sources=node.sources,
        result=node.results[0].type,
        layout="plain",
        reason="the reference target evaluates every op in numpy",
        flops=cost.flops,
        bytes=cost.read + cost.written,
        serial=node.serial,
    )


def build(graph: Callable[[], Graph], **options: Any) -> Program:
    """A program for a graph; it takes no options that matter to it."""
    return ReferenceProgram(graph())
