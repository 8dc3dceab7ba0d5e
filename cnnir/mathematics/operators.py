"""Affine graphs as matrices: net(x) = M x + c, with x and the result flattened row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.compile import load
from cnnir.errors import InputError
from cnnir.evaluate import evaluate
from cnnir.gradient import gradient, jvp
from cnnir.ir import Graph, Value
from cnnir.mathematics.pieces import piecewise_nodes
from cnnir.mathematics.scipy_parts import sparse
from cnnir.mathematics.structure import Structure, structure_of
from cnnir.tensortype import is_float

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AffineOperator:
    """y = matrix x + shift, for tensors of the given shapes."""

    matrix: Any
    """A scipy.sparse.csr_array of f64 [outputs, inputs]; what is exactly 0 is not stored."""
    shift: np.ndarray
    """What 0 is mapped to, f64, of the output's shape."""
    input_shape: Shape
    output_shape: Shape

    def __call__(self, x: Any) -> np.ndarray:
        """The operator applied to an array of the input's shape."""
        x = np.asarray(x, np.float64)
        if x.shape != self.input_shape:
            raise InputError(f"x has shape {list(x.shape)}, wanted {list(self.input_shape)}")
        return (self.matrix @ x.ravel()).reshape(self.output_shape) + self.shift

    @property
    def structure(self) -> Structure:
        """What kind of matrix it is, along each axis of the image."""
        return structure_of(self.matrix, self.input_shape, self.output_shape)

    def __str__(self) -> str:
        shapes = f"{list(self.input_shape)} -> {list(self.output_shape)}"
        return f"{shapes}: {self.structure}{', and a shift' if self.shift.any() else ''}"


def as_matrix(source: Any, *shapes: Any) -> AffineOperator:
    """The matrix and shift of an affine graph, layer, net or ONNX model.

    source: with one input of a float type and one output; `shapes` is the input's shape where a
    layer has not been built, such as (1, 1, 8, 8). Columns (or rows, where there are fewer) come
    from the graph's derivative, applied to unit vectors in f64.

    Raises InputError, naming the node, where the graph is not affine.
    """
    graph = graph_of(source, shapes)
    x, y = sole_input(graph), sole_output(graph)
    if pieces := piecewise_nodes(graph):
        where = f" from {', '.join(pieces[0].sources)}" if pieces[0].sources else ""
        raise InputError(f"{pieces[0]!r}{where} is not affine; local_affine takes such nets")
    shift = evaluate(graph, [np.zeros(x.type.shape)], "f64")[0]
    return AffineOperator(
        jacobian(graph, np.zeros(x.type.shape)), shift, x.type.shape, y.type.shape
    )


def jacobian(graph: Graph, at: np.ndarray) -> Any:
    """The derivative of the sole output by the sole input, a scipy.sparse.csr_array of f64.

    By columns in forward mode or by rows in reverse mode, whichever are fewer.
    """
    x, y = sole_input(graph), sole_output(graph)
    by_rows = y.type.size < x.type.size
    name, unit = (graph.output_names[0], y) if by_rows else (x.name or "", x)
    if by_rows:
        ahead = gradient(graph, name, x.name, cotangents=True, outputs=False)
    else:
        ahead = jvp(graph, name, outputs=False)
    lines = []
    direction = np.zeros(unit.type.shape)
    for k in range(unit.type.size):
        direction.flat[k] = 1
        (line,) = evaluate(ahead, [at, direction], "f64")
        lines.append(sparse().csr_array(line.reshape(1, -1)))
        direction.flat[k] = 0
    if not lines:
        return sparse().csr_array((y.type.size, x.type.size))
    found = sparse().vstack(lines, format="csr")
    return found if by_rows else sparse().csr_array(found.T)


def graph_of(source: Any, shapes: tuple[Any, ...] = ()) -> Graph:
    """The graph of a Graph, of a layer or net for inputs of these shapes, or of an ONNX model."""
    if isinstance(source, Graph):
        return source
    if callable(trace := getattr(source, "graph", None)):
        return trace(*shapes)
    return load(source)


def sole_input(graph: Graph) -> Value:
    """The input; InputError where there is not just one, of a float type."""
    if len(graph.inputs) != 1 or not is_float(graph.inputs[0].type.dtype):
        listed = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs) or "none"
        raise InputError(f"the graph has the inputs {listed}; wanted one, of a float type")
    return graph.inputs[0]


def sole_output(graph: Graph) -> Value:
    """The output; InputError where there is not just one, of a float type."""
    if len(graph.outputs) != 1 or not is_float(graph.outputs[0].type.dtype):
        raise InputError(f"the graph has the outputs {graph.output_names}; wanted one, of floats")
    return graph.outputs[0]
