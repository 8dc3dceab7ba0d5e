"""Derivatives of elementwise ops, and what the `vjp` of other ops shares.

A `vjp` (vector-Jacobian product) builds the cotangents of a node's operands from those of its
results; a `jvp` the tangents of the results from those of the operands. Elementwise ops have both
from the same partial derivatives. Going through a whole graph is `cnnir/gradient.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cnnir.ops.dual import DualAlgebra
from cnnir.ops.tracing import GraphAlgebra, Traced, converted
from cnnir.tensortype import TensorType, compute_dtype, is_float


@dataclass(frozen=True, slots=True)
class Undefined:
    """Stands for a cotangent that does not exist; asking for it raises with the reason."""

    reason: str


def partials(op: Any, m: Any, y: Any, xs: list[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    """The partial derivatives of an elementwise op with result y, in the algebra m."""
    if op.derivative is not None:
        given = op.derivative(m, y, *xs, **attrs)
        return given if isinstance(given, tuple) else (given,)
    d = DualAlgebra(m, len(xs))
    duals = (x if m.dtype(x) == "bool" else d.variable(x, k) for k, x in enumerate(xs))
    return d.slopes(op.scalar(d, *duals, **attrs))


def _node_partials(g: Any, node: Any) -> tuple[GraphAlgebra, tuple[Any, ...]]:
    (y,) = node.results
    m = GraphAlgebra(g, compute_dtype(y.type.dtype))
    xs = [m.widened(x) for x in node.operands]
    return m, partials(node.op, m, m.widened(y), xs, node.attrs)


def elementwise_vjp(g: Any, node: Any, dy: Any) -> tuple[Any, ...]:
    """dx = dy * (partial derivative by x), summed where x was broadcast."""
    m, slopes = _node_partials(g, node)
    wide = m.widened(dy)
    return tuple(
        _cotangent(g, m.mul(wide, slope), x.type) if is_float(x.type.dtype) else None
        for x, slope in zip(node.operands, slopes, strict=True)
    )


def _cotangent(g: Any, product: Any, type: TensorType) -> Any:
    if not isinstance(product, Traced):
        return None  # the number 0
    return converted(g, reduce_to(g, product.value, type.shape), type.dtype)


def elementwise_jvp(g: Any, node: Any, *tangents: Any) -> tuple[Any, ...]:
    """The sum of each operand's tangent times the partial derivative by it."""
    (y,) = node.results
    m, slopes = _node_partials(g, node)
    total: Any = 0.0
    for tangent, slope in zip(tangents, slopes, strict=True):
        if tangent is not None:
            wide = m.cast(m.widened(tangent), m.number_dtype)
            total = total + m.mul(wide, slope)
    if not isinstance(total, Traced):
        return (None,)
    value = converted(g, total.value, y.type.dtype)
    if value.type.shape != y.type.shape:
        value = g.add("expand", value, shape=y.type.shape)
    return (value,)


# ---------------------------------------------------------------- for the vjp of any op


def reduce_to(g: Any, value: Any, shape: tuple[int, ...]) -> Any:
    """The sum of a value over the axes on which `shape` was broadcast to its shape."""
    given = value.type.shape
    extra = len(given) - len(shape)
    axes = tuple(a for a, n in enumerate(given) if a < extra or (shape[a - extra] == 1 and n != 1))
    if axes:
        value = g.add("reduce_sum", value, axes=axes, keepdims=False)
    return reshaped(g, value, shape)


def reshaped(g: Any, value: Any, shape: tuple[int, ...]) -> Any:
    """A value under another shape; itself where it has that already."""
    return value if value.type.shape == shape else g.add("reshape", value, shape=shape)


def transposed(g: Any, value: Any, perm: tuple[int, ...]) -> Any:
    """A value with its axes in another order; itself where that is the same order."""
    same = perm == tuple(range(len(perm)))
    return value if same else g.add("transpose", value, perm=perm)


def filled(g: Any, type: TensorType, number: float = 0) -> Any:
    """A tensor of one number."""
    one = g.constant(number, type.dtype)
    return g.add("expand", one, shape=type.shape) if type.shape else one


def scaled(g: Any, value: Any, factor: float) -> Any:
    """A value times a number."""
    return value if factor == 1 else g.add("mul", value, g.constant(factor, value.type.dtype))


def total(g: Any, *terms: Any) -> Any:
    """The sum of the terms that are not None; None where there are none."""
    present = [t for t in terms if t is not None]
    result = present[0] if present else None
    for term in present[1:]:
        result = g.add("add", result, term)
    return result
