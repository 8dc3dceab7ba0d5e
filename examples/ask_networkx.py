"""Questions about a network that networkx answers: `graph.nx` is one of its graphs.

    python examples/ask_networkx.py [model.onnx]

Without a model it takes the ResNet-50 that ships with the onnx package.
"""

from __future__ import annotations

import sys
from pathlib import Path

import networkx as nx
import onnx

import cnnir
from cnnir.ir import Graph, Node

RESNET50 = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"


def named(node: Node) -> str:
    """The op and where it comes from."""
    return f"{node.name} ({node.sources[0]})" if node.sources else node.name


def critical_path(graph: Graph) -> tuple[int, list[Node]]:
    """The chain of nodes with the most operations: no number of cores makes a run shorter."""
    best: dict[Node, int] = {}
    before: dict[Node, Node] = {}
    for node in nx.topological_sort(graph.nx):
        earlier = max(graph.nx.pred[node], key=best.__getitem__, default=None)
        own = node.op.cost(node).flops if node.op is not None else 0
        best[node] = own + (best[earlier] if earlier is not None else 0)
        if earlier is not None:
            before[node] = earlier
    node = max(best, key=best.__getitem__)
    total, path = best[node], [node]
    while path[-1] in before:
        path.append(before[path[-1]])
    return total, path[::-1]


def bottlenecks(graph: Graph) -> list[Node]:
    """The nodes that all data goes through, from the first input to the first output."""
    computed = graph.nx.subgraph(n for n in graph.nx if n.kind != "param")
    start, end = graph.inputs[0].node, graph.outputs[0].node
    dominators = nx.immediate_dominators(computed, start)
    chain = [end]
    while chain[-1] is not start:
        chain.append(dominators[chain[-1]])
    return chain[::-1]


def most_alive(graph: Graph) -> tuple[int, Node]:
    """The most bytes of activations that exist at once, in the graph's order, and when."""
    computed = set().union(*(nx.descendants(graph.nx, v.node) | {v.node} for v in graph.inputs))
    order = [node for node in graph.order() if node in computed]
    at = {node: number for number, node in enumerate(order)}
    last = {n: max((at[u] for u in graph.nx.succ[n]), default=len(order)) for n in order}
    alive = [
        sum(v.type.nbytes for n in order[: now + 1] if last[n] >= now for v in n.results)
        for now in range(len(order))
    ]
    peak = max(alive)
    return peak, order[alive.index(peak)]


def main(path: str) -> None:
    """Ask and print."""
    graph = cnnir.load(path)
    print(f"{graph.name}: {graph.nx.number_of_nodes()} nodes, {graph.nx.number_of_edges()} edges")

    flops, chain = critical_path(graph)
    whole = sum(n.op.cost(n).flops for n in graph.order() if n.op is not None)
    print(f"critical path: {len(chain)} nodes, {flops / 1e9:.2f} of {whole / 1e9:.2f} GFLOP")

    through = bottlenecks(graph)
    print(f"all data goes through {len(through)} nodes, such as")
    for node in through[1:-1][:: max(1, len(through) // 6)]:
        print(f"  {named(node)} {node.results[0].type}")

    peak, when = most_alive(graph)
    print(f"most activations alive at once: {peak / 2**20:.1f} MiB, at {named(when)}")

    convolutions = [n for n in graph.nx if n.name == "conv"]
    first = min(convolutions, key=graph.order().index)
    reached = nx.descendants(graph.nx, first) & set(convolutions)
    print(f"{named(first)} reaches {len(reached)} of {len(convolutions)} convolutions")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(RESNET50))
