"""A feature brought back to the image: which pixels, and with which signs, made it what it is.

From one element of a layer (or a channel's largest) the way back goes node by node: convolutions
transposed, max-pools by where their maxima were. What a relu lets back is the rule's to say:

gradient        dy where x > 0: the derivative        (Simonyan, Vedaldi, Zisserman 2014)
deconvolution   relu(dy)                              (Zeiler, Fergus 2014)
guided          relu(dy) where x > 0                  (Springenberg et al. 2015)

Sources: M. Zeiler, R. Fergus, Visualizing and understanding convolutional networks, ECCV 2014;
K. Simonyan, A. Vedaldi, A. Zisserman, Deep inside convolutional networks, ICLR 2014 workshop;
J. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller, Striving for simplicity, ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np

from cnnir.analysis.layers import layer_result
from cnnir.errors import InputError
from cnnir.evaluate import evaluate
from cnnir.gradient import gradient
from cnnir.ir import Graph, Node, Value
from cnnir.mathematics.operators import graph_of, sole_input
from cnnir.mathematics.pieces import constant_array
from cnnir.tensortype import is_float

RULES = ("deconvolution", "guided", "gradient")


def project(
    source: Any,
    image: Any,
    layer: str,
    channel: int | None = None,
    at: Sequence[int] | None = None,
    rule: str = "deconvolution",
) -> np.ndarray:
    """One element of a layer brought back to the image, f64 of the image's shape [1,C,*sizes].

    source: a graph, net or ONNX model with one input. layer: its name, "conv2". channel, at: which
    element of the layer's [1,C,*sizes]; None is where it is largest. rule: one of RULES, see above.
    With rule "gradient" it is the exact derivative of the element by the image.

    Raises InputError for a layer or an element that there is not.
    """
    if rule not in RULES:
        raise InputError(f"the rule is {rule!r}, wanted one of {', '.join(RULES)}")
    image = np.asarray(image, np.float64)
    graph = graph_of(source, (image.shape,)).clone()
    x, y = sole_input(graph), layer_result(graph, layer)
    if image.shape != x.type.shape:
        raise InputError(f"the image has shape {list(image.shape)}, wanted {list(x.type.shape)}")
    behind = nx.ancestors(graph.nx, y.node) | {y.node}
    varied = nx.descendants(graph.nx, x.node) | {x.node}
    path = [node for node in graph.order() if node in behind and node in varied]
    values = _values(graph, path, image)
    signal = {y: np.zeros(y.type.shape)}
    signal[y][element_of(values[y], layer, channel, at)] = 1
    for node in reversed(path[1:]):
        dy = signal.pop(node.results[0], None)
        if dy is not None:
            for value, dx in _back(graph, node, values, dy, rule).items():
                signal[value] = signal.get(value, 0.0) + dx
    return signal.get(x, np.zeros(image.shape))


def element_of(
    array: np.ndarray, layer: str, channel: int | None, at: Sequence[int] | None
) -> tuple[int, ...]:
    """The index of an element of [1,C,*sizes]: what is not given is where the array is largest."""
    place = (0, channel, *(at if at is not None else (None,) * (array.ndim - 2)))
    fits = len(place) == array.ndim and all(
        i is None or 0 <= i < n for i, n in zip(place, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"channel {channel}, at {at}: {layer!r} gives {list(array.shape)}")
    part = array[tuple(slice(None) if i is None else slice(i, i + 1) for i in place)]
    best = np.unravel_index(part.argmax(), part.shape)
    return tuple(int(b) if i is None else i for i, b in zip(place, best, strict=True))


def _values(graph: Graph, path: list[Node], image: np.ndarray) -> dict[Value, np.ndarray]:
    """The arrays of all values on the way from the image, in f64."""
    probe = [v for node in path[1:] for v in node.results]
    graph.outputs, graph.trims = probe, {}
    graph.output_names = [f"y{k}" for k in range(len(probe))]
    found = evaluate(graph, [image], "f64")
    return {path[0].results[0]: image, **dict(zip(probe, found, strict=True))}


def _back(
    graph: Graph, node: Node, values: dict[Value, np.ndarray], dy: np.ndarray, rule: str
) -> dict[Value, np.ndarray]:
    """What goes back to each operand of a node that depends on the image."""
    if node.name == "relu" and rule != "gradient":
        (x,) = node.operands
        assert x is not None
        passed = np.maximum(dy, 0)
        return {x: passed * (values[x] > 0) if rule == "guided" else passed}
    alone = Graph("node")
    given = {v: None for v in node.operands if v is not None}
    inner = {v: alone.input(v.type, f"x{k}") for k, v in enumerate(given)}
    made = alone.add(node.op, *(v and inner[v] for v in node.operands), **node.attrs)  # type: ignore[arg-type]
    alone.output(made[0] if isinstance(made, tuple) else made, "y")
    wanted = [v for v in given if v in values and is_float(v.type.dtype)]
    if not wanted:
        return {}
    names = [str(inner[v].name) for v in wanted]
    backward = gradient(alone, "y", names, cotangents=True, outputs=False)
    arrays = [values[v] if v in values else constant_array(graph, v) for v in given]
    return dict(zip(wanted, evaluate(backward, [*arrays, dy], "f64"), strict=True))
