"""Size and work of a graph by layer, as the user wrote it: what `cnnir analyze` shows.

A layer is what a node of the model (or a layer of a net) became: all IR nodes that carry the same
source names. One that is used several times is one layer. What a node costs is its op's `cost`;
nothing is counted in another way here.

units        elements of the results; renamed bytes (a flatten) are none
weights      numbers in floating-point params and in the operands of convolutions and products,
             each param once, without the running statistics of batch norms, which are not trained
connections  multiply-adds of convolutions and matrix products. Adding the bias is not one, so the
             5x5 layer C1 of LeNet-5 has 117,600 where LeCun, who counts them, has 122,304

A convolution by filters of a single 1 each, such as gathers the windows of a locally connected
layer, only moves numbers: it has neither weights nor connections, for all its operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from cnnir.analysis.receptive_field import Field, receptive_fields
from cnnir.errors import InputError
from cnnir.ir import Graph, Node, Value
from cnnir.ops import Cost
from cnnir.tensortype import TensorType, is_float

STATISTICS = {"batch_norm": (3, 4), "batch_norm_training": (3, 4)}
"""Operand positions of what is measured, not trained."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in figures. `field` is that of its result, `output` None for all layers together."""

    name: str
    op: str
    output: TensorType | None
    units: int
    weights: int
    cost: Cost
    field: Field | None = None
    nodes: tuple[Node, ...] = ()

    @property
    def connections(self) -> int:
        """Multiply-adds."""
        return self.cost.multiply_adds

    @property
    def flops(self) -> int:
        """Operations, a multiply-add as two."""
        return self.cost.flops

    @property
    def bytes(self) -> int:
        """Moved at least once: operands, weights and results of each node."""
        return self.cost.read + self.cost.written

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes if self.bytes else 0.0


def layers(graph: Graph) -> list[Layer]:
    """The layers in the order they run."""
    groups: dict[tuple[str, ...] | Node, list[Node]] = {}
    for node in graph.order():
        if node.op is not None:
            groups.setdefault(node.sources or node, []).append(node)
    fields = receptive_fields(graph)
    counted: set[Value] = set()
    return [_layer(graph, nodes, fields, counted) for nodes in groups.values()]


def total(rows: Iterable[Layer]) -> Layer:
    """All layers together."""
    rows = list(rows)
    units, weights = sum(row.units for row in rows), sum(row.weights for row in rows)
    return Layer("total", "", None, units, weights, sum((row.cost for row in rows), Cost()))


def layer_result(graph: Graph, name: str) -> Value:
    """What a layer gives, by the layer's name (or the value's own); InputError if there is none."""
    made = [node for node in graph.order() if node.op is not None]
    for node in reversed(made):
        if name in node.sources or name in [v.name for v in node.results]:
            return node.results[0]
    known = dict.fromkeys(source for node in made for source in node.sources)
    names = known or dict.fromkeys(v.name for node in made for v in node.results if v.name)
    raise InputError(
        f"there is no layer {name!r} in the net; there are {', '.join(map(str, names))}"
    )


def _layer(
    graph: Graph, nodes: list[Node], fields: dict[Value, Field], counted: set[Value]
) -> Layer:
    result = nodes[-1].results[0]
    weights = 0
    for node in nodes:
        for value in _weights(graph, node):
            if value not in counted:
                counted.add(value)
                weights += value.type.size
    return Layer(
        name=", ".join(nodes[0].sources) or result.name or nodes[0].name,
        op=" + ".join(dict.fromkeys(node.name for node in nodes)),
        output=result.type,
        units=_units(nodes),
        weights=weights,
        cost=sum((_cost(graph, node) for node in nodes), Cost()),
        field=fields.get(result),
        nodes=tuple(nodes),
    )


def _units(nodes: list[Node]) -> int:
    """Elements that leave the layer: results that none of its own nodes takes."""
    taken = {value for node in nodes for value in node.operands}
    return sum(
        value.type.size
        for node in nodes
        for value in node.results
        if value not in taken and node.op is not None and not node.op.view
    )


def _cost(graph: Graph, node: Node) -> Cost:
    """The cost of a node, without the connections of one that only moves numbers."""
    assert node.op is not None
    cost = node.op.cost(node)
    return replace(cost, multiply_adds=0) if _moves(graph, node) else cost


def _moves(graph: Graph, node: Node) -> bool:
    """Whether a node is a convolution whose every filter is a single 1."""
    if node.name != "conv" or node.operands[1] is None:
        return False
    weight = graph.array(node.operands[1])
    if weight is None:
        return False
    filters = weight.reshape(len(weight), -1)
    return bool((np.count_nonzero(filters, axis=1) == 1).all() and (filters.max(1) == 1).all())


def _weights(graph: Graph, node: Node) -> list[Value]:
    """The params of a node that are weights."""
    if _moves(graph, node):
        return []
    measured = STATISTICS.get(node.name, ())
    multiplied = node.name in ("conv", "conv_transpose", "matmul")
    return [
        value
        for position, value in enumerate(node.operands)
        if value is not None
        and graph.array(value) is not None
        and position not in measured
        and (is_float(value.type.dtype) or multiplied)
    ]
