"""Writing at indices held in tensors: scatter_nd, scatter_elements.

Indices are i32 or i64; negative ones count from the end of their axis, and one that is out of
range makes the run raise a RuntimeError. Updates of one element take place in their row-major
order, so the last one stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Op
from cnnir.ops.derivative import filled
from cnnir.ops.gather import (
    check_elementwise_indices,
    check_indices,
    check_not_empty,
    checked_tuple,
    index_tuple,
    mesh_index,
)
from cnnir.ops.reduce import unravel
from cnnir.tensortype import TensorType

REDUCTIONS = {
    "add": (lambda m, old, new: old + new, np.add),
    "mul": (lambda m, old, new: old * new, np.multiply),
    "max": (lambda m, old, new: m.max(old, new), np.maximum),
    "min": (lambda m, old, new: m.min(old, new), np.minimum),
}
"""How an update meets the element that is there: in the algebra and in numpy."""


def check_updates(
    x: TensorType, updates: TensorType, shape: tuple[int, ...], reduction: Any
) -> None:
    """IRError unless updates are elements of x, of this shape, and the reduction is known."""
    if reduction != "none" and reduction not in REDUCTIONS:
        wanted = ", ".join(["none", *REDUCTIONS])
        raise IRError(f"attribute reduction is {reduction!r}, wanted one of {wanted}")
    if reduction != "none" and x.dtype == "bool":
        raise IRError("element type is bool, wanted float or int unless reduction is 'none'")
    if updates != x.with_shape(shape):
        raise IRError(f"updates are {updates}, wanted {x.with_shape(shape)}")


def _update(x: np.ndarray, where: tuple, updates: np.ndarray, reduction: str) -> np.ndarray:
    result = x.copy()
    if reduction == "none":
        result[where] = updates
    else:
        REDUCTIONS[reduction][1].at(result, where, updates)
    return result


def _put(m: Any, out: Any, index: tuple, value: Any, reduction: str) -> None:
    combine: Callable[..., Any] | None = REDUCTIONS.get(reduction, (None,))[0]
    m.store(out, index, value if combine is None else combine(m, out[index], value))


class ScatterND(Op):
    """x with slices at index tuples, the rows of indices[.., k], replaced or combined.

    y = x; y[indices[i.., 0], ..., indices[i.., k - 1], c..] = updates[i.., c..], or its sum with
    (product with, maximum of) what is there, as `reduction` says.
    """

    name = "scatter_nd"

    def infer(x, indices, updates, *, reduction="none"):
        check_indices(indices)
        if indices.rank == 0 or indices.shape[-1] > x.rank:
            raise IRError(f"indices are {indices}, wanted tuples of at most {x.rank} entries")
        k = indices.shape[-1]
        check_updates(x, updates, indices.shape[:-1] + x.shape[k:], reduction)
        check_not_empty(x.shape, range(k), math.prod(indices.shape[:-1]))
        return x

    def evaluate(x, indices, updates, *, reduction):
        # at least one row, so that an index of no entries still has a place for each update
        picked = index_tuple(indices, x.shape[: indices.shape[-1]])
        if picked:
            return _update(x, picked, updates, reduction)
        result = x.copy()
        for update in updates.reshape(-1, *x.shape):
            result = _update(result, (), update, reduction)
        return result

    def procedure(m, outs, x, indices, updates, *, reduction):
        q, k = len(indices.shape) - 1, indices.shape[-1]
        with m.loop(math.prod(x.shape)) as i:
            at = unravel(i, x.shape)
            m.store(outs[0], at, x[at])
        with m.loop(math.prod(indices.shape[:q])) as row:
            at = unravel(row, indices.shape[:q])
            picked = checked_tuple(m, indices, at, x.shape[:k])
            with m.loop(math.prod(x.shape[k:])) as i:
                rest = unravel(i, x.shape[k:])
                _put(m, outs[0], (*picked, *rest), updates[(*at, *rest)], reduction)

    def vjp(g, node, dy):
        indices = node.operands[1]

        def read(value):
            return g.add("gather_nd", value, indices)

        def write(value, updates, reduction):
            return g.add("scatter_nd", value, indices, updates, reduction=reduction)

        return _cotangents(g, node, dy, read, write)


class ScatterElements(Op):
    """x with single elements along `axis` replaced or combined.

    y = x; y[a.., indices[a.., i, b..], b..] = updates[a.., i, b..], or its sum with (product
    with, maximum of) what is there, as `reduction` says. The other axes of indices may be
    shorter than those of x.
    """

    name = "scatter_elements"

    def infer(x, indices, updates, *, axis, reduction="none"):
        check_elementwise_indices(x, indices, axis)
        check_updates(x, updates, indices.shape, reduction)
        return x

    def evaluate(x, indices, updates, *, axis, reduction):
        return _update(x, mesh_index(indices, x.shape[axis], axis), updates, reduction)

    def procedure(m, outs, x, indices, updates, *, axis, reduction):
        others = x.shape[:axis] + x.shape[axis + 1 :]
        covered = indices.shape[:axis] + indices.shape[axis + 1 :]
        # updates stay on their line along the axis, so lines are independent
        with m.loop(math.prod(others), parallel=True) as line:
            at = unravel(line, others)
            before, after = at[:axis], at[axis:]
            with m.loop(x.shape[axis]) as i:
                m.store(outs[0], (*before, i, *after), x[(*before, i, *after)])
            with (
                m.when(m.all(*(i < e for i, e in zip(at, covered, strict=True)))),
                m.loop(indices.shape[axis]) as step,
            ):
                place = (*before, step, *after)
                i = m.checked(m.cast(indices[place], "i64"), x.shape[axis], "indices")
                _put(m, outs[0], (*before, i, *after), updates[place], reduction)

    def vjp(g, node, dy):
        indices, axis = node.operands[1], node.attrs["axis"]

        def read(value):
            return g.add("gather_elements", value, indices, axis=axis)

        def write(value, updates, reduction):
            attrs = {"axis": axis, "reduction": reduction}
            return g.add("scatter_elements", value, indices, updates, **attrs)

        return _cotangents(g, node, dy, read, write)


# ---------------------------------------------------------------- cotangents of both


def _cotangents(g: Any, node: Any, dy: Any, read: Any, write: Any) -> tuple[Any, None, Any]:
    """Those of x, indices and updates; `read` and `write` are at the node's indices."""
    x, _, updates = node.operands
    reduction = node.attrs["reduction"]
    if reduction == "add":
        return dy, None, read(dy)
    if reduction == "none":
        dx = write(dy, filled(g, updates.type), "none")
        last = _stays(g, x, updates, read, write)
        zero = g.constant(0, dy.type.dtype)
        return dx, None, g.add("where", last, read(dy), zero)
    slopes = _product if reduction == "mul" else _extremum
    return slopes(g, node, dy, read, write)


def _stays(g: Any, x: Any, updates: Any, read: Any, write: Any) -> Any:
    """Whether an update is the last one of its element: their numbers are written the same way."""
    numbers = g.constant(np.arange(updates.type.size).reshape(updates.type.shape), "i64")
    written = write(filled(g, x.type.with_dtype("i64")), numbers, "none")
    return g.add("equal", read(written), numbers)


def _product(g: Any, node: Any, dy: Any, read: Any, write: Any) -> tuple[Any, None, Any]:
    """A factor's slope is the product of the others, which a single zero does not spoil."""
    x, _, updates = node.operands
    zero, one = (g.constant(k, x.type.dtype) for k in (0, 1))
    hits = [g.add("equal", v, zero) for v in (x, updates)]
    pairs = list(zip(hits, (x, updates), strict=True))
    safe = [g.add("where", hit, one, v) for hit, v in pairs]
    rest = write(*safe, "mul")
    zeros = write(*(g.add("where", hit, one, zero) for hit in hits), "add")
    single = g.add("where", g.add("equal", zeros, one), rest, zero)
    whole = g.add("where", g.add("equal", zeros, zero), rest, zero)

    def cotangent(hit, v, at):
        slope = g.add("where", hit, at(single), g.add("div", at(whole), v))
        return g.add("mul", at(dy), slope)

    return (
        cotangent(hits[0], safe[0], lambda value: value),
        None,
        cotangent(hits[1], safe[1], read),
    )


def _extremum(g: Any, node: Any, dy: Any, read: Any, write: Any) -> tuple[Any, None, Any]:
    """Elements that are equally extreme share the cotangent."""
    (x, _, updates), (y,) = node.operands, node.results
    zero, one = (g.constant(k, x.type.dtype) for k in (0, 1))
    best = [g.add("equal", x, y), g.add("equal", updates, read(y))]
    count = write(*(g.add("where", b, one, zero) for b in best), "add")
    part = g.add("div", dy, count)
    dx, du = (g.add("where", b, p, zero) for b, p in zip(best, (part, read(part)), strict=True))
    return dx, None, du
