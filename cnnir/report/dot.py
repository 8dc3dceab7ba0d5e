"""A graph in Graphviz's language, which `dot -Tsvg` draws.

Boxes are nodes, their colour says what kind; edges carry types. Params are left out, but for those
that the graph returns: what a node reads of them is in its label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from cnnir.ir import Graph, Node
from cnnir.ops import Elementwise
from cnnir.printer import graph_names

_COLOURS = {"input": "#dbeafe", "output": "#fde68a", "param": "#e5e7eb", "fused": "#bbf7d0"}
_ELEMENTWISE, _OTHER = "#fef9c3", "#ddd6fe"


def dot(graph: Graph) -> str:
    """The text of a `digraph`."""
    return "\n".join(["digraph {", *(f"  {line}" for line in _lines(graph)), "}"])


def _lines(graph: Graph) -> Iterator[str]:
    yield f"graph [label={_quoted(graph.name)} fontname=Helvetica]"
    yield "node [shape=box style=filled fontname=Helvetica fontsize=10]"
    yield "edge [fontname=Helvetica fontsize=8]"
    names = graph_names(graph)
    shown = [n for n in graph.order() if n.kind != "param" or graph.is_output(n.results[0])]
    number = {node: f"n{i}" for i, node in enumerate(shown)}
    for node in shown:
        label = "\n".join([names[node.results[0]], *_described(graph, node)])
        tip = ", ".join(node.sources) or node.name
        yield (
            f"{number[node]} [label={_quoted(label)} fillcolor={_quoted(_colour(node))} "
            f"tooltip={_quoted(tip)}]"
        )
        for value in node.operands:
            if value is not None and value.node in number:
                yield f"{number[value.node]} -> {number[node]} [label={_quoted(str(value.type))}]"
    for i, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        yield f"o{i} [label={_quoted(name)} fillcolor={_quoted(_COLOURS['output'])}]"
        yield f"{number[value.node]} -> o{i} [label={_quoted(str(value.type))}]"


def _described(graph: Graph, node: Node) -> Iterator[str]:
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        yield " + ".join(n.name for n in body.order() if n.op is not None)
    else:
        yield node.name
    weights = [str(v.type) for v in node.operands if graph.array(v) is not None and v is not None]
    if weights:
        yield ", ".join(weights)


def _colour(node: Node) -> str:
    if node.op is not None and issubclass(node.op, Elementwise):
        return _ELEMENTWISE
    return _COLOURS.get(node.name, _OTHER)


def _quoted(text: str) -> str:
    """Graphviz reads the escapes of JSON strings but for those of other characters."""
    return json.dumps(text, ensure_ascii=False)
