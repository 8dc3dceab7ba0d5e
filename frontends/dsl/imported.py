"""A graph as a layer: an imported net becomes part of a new one, to be trained further."""

from __future__ import annotations

import difflib
from typing import Any

from cnnir.errors import IRError, quoted
from cnnir.frontends.dsl.initialisers import constant
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.tensor import Tensor, op
from cnnir.frontends.onnx_import import load
from cnnir.ir import Graph, Node, Value
from cnnir.tensortype import is_float

STATISTICS = {"batch_norm": (3, 4)}
"""Operands that a training step leaves alone: mean and variance."""


class Imported(Module):
    """An ONNX model (a path, its bytes, a ModelProto) or a Graph as a layer.

    Its params are the layer's weights, under their names there; single numbers, integers and the
    statistics of batch normalisation are not trained. `until` names a value or a source node: what
    comes after it is left out, for a new head to take its place. An ONNX model is imported again
    for inputs of another shape; a Graph has the shapes that it has.
    """

    def __init__(self, source: Any, until: str | None = None) -> None:
        self.source, self.until = source, until
        self.imported = source if isinstance(source, Graph) else load(source)
        if self.imported.trims:
            raise IRError("the graph has outputs as long as data says, wanted fixed ones")
        self._results(self.imported)

    def forward(self, *xs: Tensor) -> Any:
        """What the graph computes of its inputs."""
        graph = self._graph_for(xs)
        wanted = self._results(graph)
        tensors: dict[Value, Tensor] = dict(zip(graph.inputs, xs, strict=True))
        for node in _needed(graph, wanted):
            if node.kind == "param":
                tensors[node.results[0]] = self._weight(graph, node)
            elif node.op is not None:
                tensors.update(self._built(node, tensors))
        results = tuple(tensors[value] for value in wanted)
        return results[0] if len(results) == 1 else results

    def _graph_for(self, xs: tuple[Tensor, ...]) -> Graph:
        graph = self.imported
        names = [v.name or "" for v in graph.inputs]
        if len(xs) != len(names):
            raise IRError(f"{len(xs)} inputs given, the graph takes {', '.join(names)}")
        shapes = {name: x.shape for name, x in zip(names, xs, strict=True)}
        if not isinstance(self.source, Graph) and any(
            v.type.shape != x.shape for v, x in zip(graph.inputs, xs, strict=True)
        ):
            graph = load(self.source, shapes)
        for value, x in zip(graph.inputs, xs, strict=True):
            if value.type != x.type:
                raise IRError(f"input {quoted(value.name or '')} is {value.type} in the graph")
        return graph

    def _results(self, graph: Graph) -> list[Value]:
        if self.until is None:
            return graph.outputs
        named: dict[str, Value] = {}
        for node in graph.order():
            if node.op is not None:
                named.update((source, node.results[0]) for source in node.sources)
        for node in graph.order():
            named.update((v.name, v) for v in node.results if v.name)
        if self.until not in named:
            close = ", ".join(difflib.get_close_matches(self.until, named, 3)) or "none"
            raise IRError(f"there is no {quoted(self.until)} in the graph; close ones are {close}")
        return [named[self.until]]

    def _weight(self, graph: Graph, node: Node) -> Tensor:
        value = node.results[0]
        array, users = graph.params[node.attrs["ref"]], graph.users(value)
        known = any(place in STATISTICS.get(user.name, ()) for user, place in users)
        learnt = is_float(value.type.dtype) and array.size > 1 and not known
        return self.param(
            node.attrs["ref"],
            value.type.shape,
            constant(array),
            dtype=value.type.dtype,
            trainable=learnt,
        )

    def _built(self, node: Node, tensors: dict[Value, Tensor]) -> dict[Value, Tensor]:
        """The same node in the graph that is traced; its name is the layer's and its own."""
        assert node.op is not None
        operands = [None if v is None else tensors[v] for v in node.operands]
        trace = self._trace()
        sources = [trace.path(self, s) for s in node.sources] or [trace.path(self, node.name)]
        with trace.graph.provenance(*sources):
            made = op(node.op, *operands, **node.attrs)
        made = made if isinstance(made, tuple) else (made,)
        for old, new in zip(node.results, made, strict=True):
            new.value.name = old.name and trace.path(self, old.name)
        return dict(zip(node.results, made, strict=True))


def _needed(graph: Graph, wanted: list[Value]) -> list[Node]:
    """The nodes that these values depend on, in order."""
    needed: set[Node] = set()
    for node in reversed(graph.order()):
        if node in needed or any(v in wanted for v in node.results):
            needed |= {node, *graph.nx.pred[node]}
    return [node for node in graph.order() if node in needed]
