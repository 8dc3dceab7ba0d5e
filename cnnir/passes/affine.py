"""The arithmetic of `batch_norm.py`: constant factors and shifts moved into constant weights.

Each function builds the new node and returns its value, or says in words why it cannot be. All is
computed in f64 and rounded once.
"""

from __future__ import annotations

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops.boundary import zeros_left
from cnnir.passes.constants import along_axis, rounded
from cnnir.tensortype import TensorType, is_float

CHANNEL_AXIS = 1

_NOT_CONSTANT = "the weights are not constant floats"
_NOT_FINITE = "the new weights would not be finite"
_NOT_PER_CHANNEL = "the constant differs within a channel"


def scaled_outputs(g: Graph, node: Node, factor: np.ndarray, type: TensorType) -> Value | str:
    """A convolution or matmul with its results, of `type`, multiplied by a factor."""
    if node.name == "matmul":
        return _matmul_scaled_outputs(g, node, factor, type)
    line = along_axis(factor, type, CHANNEL_AXIS)
    if line is None:
        return _NOT_PER_CHANNEL
    x, w, *given = node.operands
    weights, biases = _weights(g, w), [_weights(g, b) for b in given]
    if weights is None or any(b is None for b in biases):
        return _NOT_CONSTANT
    exact = [_by_channel(node, weights, line, node.name == "conv")]
    exact += [b * line for b in biases if b is not None]
    params = _params(g, [w, *given], exact)
    return g.add(node.name, x, *params, **node.attrs) if params else _NOT_FINITE


def scaled_inputs(g: Graph, node: Node, position: int, x: Value, factor: np.ndarray) -> Value | str:
    """The node on x * factor at an operand position, as one on x with other weights."""
    if node.name == "matmul":
        return _matmul_scaled_inputs(g, node, position, x, factor)
    line = along_axis(factor, x.type, CHANNEL_AXIS)
    if line is None:
        return _NOT_PER_CHANNEL
    _, w, *given = node.operands
    weights = _weights(g, w)
    if weights is None or position:
        return _NOT_CONSTANT
    params = _params(g, [w], [_by_channel(node, weights, line, node.name != "conv")])
    return g.add(node.name, x, *params, *given, **node.attrs) if params else _NOT_FINITE


def shifted_by_inputs(g: Graph, node: Node, x: Value, shift: np.ndarray) -> Value | str:
    """The node on x + shift, as one on x with another bias (for a matmul, an addition)."""
    w = node.operands[1]
    weights = _weights(g, w)
    if weights is None or w is None:
        return _NOT_CONSTANT
    if node.name == "matmul":
        line = along_axis(shift, x.type, x.type.rank - 1)
        if line is None:
            return _NOT_PER_CHANNEL
        product = line @ weights if weights.ndim == 2 else line[None, :] @ weights
        params = _params(g, [w], [product])
        return g.add("add", g.add("matmul", x, w), *params) if params else _NOT_FINITE
    if any(zeros_left(node.attrs["padding"], node.attrs["boundary"])):
        return "the padding is not shifted"
    line = along_axis(shift, x.type, CHANNEL_AXIS)
    if line is None:
        return _NOT_PER_CHANNEL
    given = _weights(g, node.operands[2]) if len(node.operands) > 2 else np.zeros(w.type.shape[0])
    if given is None:
        return _NOT_CONSTANT
    shifted = _by_channel(node, weights, line, False).sum(tuple(range(1, w.type.rank)))
    params = _params(g, [node.operands[2] if len(node.operands) > 2 else w], [given + shifted])
    return g.add("conv", x, w, *params, **node.attrs) if params else _NOT_FINITE


def _weights(g: Graph, value: Value | None) -> np.ndarray | None:
    """Constant floats in f64."""
    array = g.array(value)
    if array is None or value is None or not is_float(value.type.dtype):
        return None
    return array.astype(np.float64)


def _params(g: Graph, like: list[Value | None], exact: list[np.ndarray]) -> list[Value]:
    """f64 numbers as params of the type and name of those they replace; none if not finite."""
    arrays = [rounded(a, v.type) for v, a in zip(like, exact, strict=True) if v is not None]
    names = [(v and v.name) or "w" for v in like]
    if any(a is None for a in arrays):
        return []
    return [g.param(n, a) for n, a in zip(names, arrays, strict=True) if a is not None]


def _by_channel(node: Node, w: np.ndarray, line: np.ndarray, first: bool) -> np.ndarray:
    """Grouped weights times a number for each channel of the first or the second axis.

    conv has [O, C/g, *k], conv_transpose [C, O/g, *k]; `line` covers the channels of all groups.
    """
    groups = node.attrs["groups"]
    grouped = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    place = (groups, grouped.shape[1], 1) if first else (groups, 1, grouped.shape[2])
    return (grouped * line.reshape(*place, *[1] * (w.ndim - 2))).reshape(w.shape)


def _matmul_scaled_outputs(
    g: Graph, node: Node, factor: np.ndarray, type: TensorType
) -> Value | str:
    """A factor for each column goes into a constant right side, one for each row into a left."""
    x, y = node.operands
    left, right = _weights(g, x), _weights(g, y)
    if right is not None and (line := along_axis(factor, type, type.rank - 1)) is not None:
        params = _params(g, [y], [right * line])
        return g.add("matmul", x, *params) if params else _NOT_FINITE
    if left is not None and (line := along_axis(factor, type, type.rank - 2)) is not None:
        params = _params(g, [x], [left * line[:, None]])
        return g.add("matmul", *params, y) if params else _NOT_FINITE
    return _NOT_CONSTANT if left is None and right is None else _NOT_PER_CHANNEL


def _matmul_scaled_inputs(
    g: Graph, node: Node, position: int, x: Value, factor: np.ndarray
) -> Value | str:
    """A factor for each k of sum_k x[i, k] y[k, j] goes into the other side."""
    other = node.operands[1 - position]
    weights = _weights(g, other)
    if weights is None:
        return _NOT_CONSTANT
    line = along_axis(factor, x.type, x.type.rank - 1 - position)
    if line is None:
        return _NOT_PER_CHANNEL
    params = _params(g, [other], [weights * (line if position else line[:, None])])
    if not params:
        return _NOT_FINITE
    return g.add("matmul", *((params[0], x) if position else (x, params[0])))
