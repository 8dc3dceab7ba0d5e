"""What a graph asks for before anything is compiled: operations and bytes, by op."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from cnnir.ir import Graph
from cnnir.ops import Cost
from cnnir.report.table import Column, number, percent, scaled, size, table


def cost_rows(graph: Graph) -> list[dict[str, Any]]:
    """A row an op of the graph, costliest first."""
    costs: dict[str, Cost] = {}
    counts: dict[str, int] = {}
    for node in graph.order():
        if node.op is not None:
            costs[node.name] = costs.get(node.name, Cost()) + node.op.cost(node)
            counts[node.name] = counts.get(node.name, 0) + 1
    total = sum(cost.flops for cost in costs.values()) or 1
    rows = [
        {
            "op": name,
            "nodes": counts[name],
            "flops": cost.flops,
            "share": cost.flops / total,
            "read": cost.read,
            "written": cost.written,
        }
        for name, cost in costs.items()
    ]
    return sorted(rows, key=lambda row: (-row["flops"], row["op"]))


def cost_table(graph: Graph) -> Table:
    """The cost by op; the footer has the totals."""
    rows = cost_rows(graph)
    columns = [
        Column("op", "op"),
        number("nodes", "nodes"),
        number("flops", "FLOP", scaled),
        number("share", "share", percent),
        number("read", "read", size),
        number("written", "written", size),
    ]
    return table("cost by op", columns, rows, summary_text(graph))


def summary(graph: Graph) -> dict[str, Any]:
    """The graph in figures."""
    nodes = [node for node in graph.order() if node.op is not None]
    return {
        "name": graph.name,
        "inputs": {str(v.name): str(v.type) for v in graph.inputs},
        "outputs": dict(zip(graph.output_names, (str(v.type) for v in graph.outputs), strict=True)),
        "nodes": len(nodes),
        "params": len(graph.params),
        "param_values": sum(array.size for array in graph.params.values()),
        "param_bytes": sum(array.nbytes for array in graph.params.values()),
        "flops": sum(node.op.cost(node).flops for node in nodes if node.op is not None),
    }


def summary_text(graph: Graph) -> str:
    """The figures in one line."""
    facts = summary(graph)
    return (
        f"{facts['nodes']} nodes, {scaled(facts['param_values'])} values in {facts['params']} "
        f"params ({size(facts['param_bytes'])}), {scaled(facts['flops'], 'FLOP')} a run"
    )
