"""How wide a graph's vectors are: as wide as the target's, or half of it where that wastes less.

A block of channels is a vector, and the lanes that pad the last one are worked on like all others.
Where half a vector costs half the time, a network of few channels is better off with half of them.
"""

from __future__ import annotations

from dataclasses import replace

from cnnir.backends.fused import anchor_of
from cnnir.backends.llvm.target import HALVING, CpuTarget
from cnnir.ir import Graph

WORTH = 0.85
"""Half the width must leave at most so much of the work: narrow kernels get nearer to the load
ports' limit (LeNet's second layer reaches 108 instead of 117 GFLOP/s), wide ones to the FMAs'."""

_BLOCKED = ("conv", "conv_transpose", "max_pool", "avg_pool")


def fitted(graph: Graph, target: CpuTarget) -> CpuTarget:
    """The target, with half of its lanes where the graph is better off with them."""
    half = target.lanes // 2
    if target.lanes < 16 or target.cpu not in HALVING:
        return target
    if _padded_work(graph, half) > WORTH * _padded_work(graph, target.lanes):
        return target
    return replace(target, lanes=half)


def _padded_work(graph: Graph, lanes: int) -> float:
    """Operations with those on pad lanes."""
    work = 0.0
    for node in graph.order():
        if node.op is None:
            continue
        operations: float = node.op.cost(node).flops
        shape = node.results[0].type.shape
        if anchor_of(node).name in _BLOCKED and shape[1]:
            operations *= -(-shape[1] // lanes) * lanes / shape[1]
        work += operations
    return work
