"""Reading at indices held in tensors: gather, gather_nd, gather_elements, one_hot.

Indices are i32 or i64; a negative one counts from the end of its axis. One that is out of range
makes the run raise a RuntimeError; only one_hot takes it as the index of nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError, RuntimeError
from cnnir.ops.base import Op
from cnnir.ops.derivative import filled, transposed
from cnnir.ops.reduce import check_axis
from cnnir.ops.tracing import converted
from cnnir.tensortype import TensorType


def check_indices(indices: TensorType) -> None:
    """IRError unless the elements can be indices."""
    if indices.dtype not in ("i32", "i64"):
        raise IRError(f"indices are {indices.dtype}, wanted i32 or i64")


def check_not_empty(shape: tuple[int, ...], axes: Any, reads: int) -> None:
    """IRError where elements are read at indices of an axis that has none."""
    for axis in axes:
        if reads and shape[axis] == 0:
            raise IRError(f"axis {axis} is empty, wanted at least one element to index")


def valid_indices(indices: np.ndarray, extent: int, word: str = "indices") -> np.ndarray:
    """The indices counted from the start of an axis; RuntimeError when one is out of range."""
    wide = np.asarray(indices, np.int64)
    bad = wide[(wide < -extent) | (wide >= extent)]
    if bad.size:
        raise RuntimeError(f"{word} out of range: {bad.flat[0]}, wanted {-extent} to {extent - 1}")
    return np.where(wide < 0, wide + extent, wide)


def index_tuple(indices: np.ndarray, extents: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The last axis of indices as one valid index array for each of the extents."""
    return tuple(valid_indices(indices[..., k], e) for k, e in enumerate(extents))


def checked_tuple(m: Any, indices: Any, at: tuple, extents: tuple[int, ...]) -> tuple[Any, ...]:
    """The valid index that the last axis of indices holds at `at`."""
    return tuple(
        m.checked(m.cast(indices[(*at, k)], "i64"), extent, "indices")
        for k, extent in enumerate(extents)
    )


class Gather(Op):
    """Slices of x along `axis`: y[a.., i.., b..] = x[a.., indices[i..], b..]."""

    name = "gather"

    def infer(x, indices, *, axis):
        check_indices(indices)
        check_axis(axis, x.rank)
        result = x.with_shape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])
        check_not_empty(x.shape, (axis,), result.size)
        return result

    def evaluate(x, indices, *, axis):
        return np.asarray(np.take(x, valid_indices(indices, x.shape[axis]), axis))

    def element(m, at, x, indices, *, axis):
        stop = axis + len(indices.shape)
        i = m.checked(m.cast(indices[at[axis:stop]], "i64"), x.shape[axis], "indices")
        return x[(*at[:axis], i, *at[stop:])]

    def vjp(g, node, dy):
        (x, indices), axis = node.operands, node.attrs["axis"]
        stop, rank = axis + indices.type.rank, x.type.rank
        order = (*range(axis, stop), *range(axis), *range(stop, dy.type.rank))
        front = (axis, *range(axis), *range(axis + 1, rank))
        zeros = filled(g, x.type.with_shape(tuple(x.type.shape[a] for a in front)))
        rows = g.add("reshape", indices, shape=(*indices.type.shape, 1))
        updates = transposed(g, dy, order)
        dx = g.add("scatter_nd", zeros, rows, updates, reduction="add")
        return transposed(g, dx, tuple(front.index(a) for a in range(rank))), None


class GatherND(Op):
    """Slices of x at index tuples, the rows of indices[.., k].

    y[b.., i.., c..] = x[b.., indices[b.., i.., 0], ..., indices[b.., i.., k - 1], c..] where b
    are `batch_dims` axes that x and indices share.
    """

    name = "gather_nd"

    def infer(x, indices, *, batch_dims=0):
        check_indices(indices)
        if indices.rank == 0:
            raise IRError("indices are a single number, wanted rows of them")
        most = min(x.rank, indices.rank - 1)
        if type(batch_dims) is not int or not 0 <= batch_dims <= most:
            raise IRError(f"attribute batch_dims is {batch_dims!r}, wanted one from 0 to {most}")
        if x.shape[:batch_dims] != indices.shape[:batch_dims]:
            raise IRError(f"the first {batch_dims} dimensions differ, wanted equal ones")
        k = indices.shape[-1]
        if k > x.rank - batch_dims:
            raise IRError(f"index tuples have {k} entries, wanted at most {x.rank - batch_dims}")
        result = x.with_shape(indices.shape[:-1] + x.shape[batch_dims + k :])
        check_not_empty(x.shape, range(batch_dims, batch_dims + k), result.size)
        return result

    def evaluate(x, indices, *, batch_dims):
        batch, k = x.shape[:batch_dims], indices.shape[-1]
        flat = x.reshape(math.prod(batch), *x.shape[batch_dims:])
        rows = indices.reshape(math.prod(batch), math.prod(indices.shape[batch_dims:-1]), k)
        picked = index_tuple(rows, x.shape[batch_dims : batch_dims + k])
        member = np.broadcast_to(np.arange(len(flat))[:, None], rows.shape[:2])
        return flat[(member, *picked)].reshape(indices.shape[:-1] + x.shape[batch_dims + k :])

    def element(m, at, x, indices, *, batch_dims):
        q, k = len(indices.shape) - 1, indices.shape[-1]
        picked = checked_tuple(m, indices, at[:q], x.shape[batch_dims : batch_dims + k])
        return x[(*at[:batch_dims], *picked, *at[q:])]

    def vjp(g, node, dy):
        (x, indices), batch = node.operands, node.attrs["batch_dims"]
        rows = indices
        if batch:  # which member of the batch, before the index in it
            shape = indices.type.shape[:-1]
            members = np.moveaxis(np.indices(shape)[:batch], 0, -1)
            rows = converted(g, indices, "i64")
            rows = g.add("concat", g.constant(members, "i64"), rows, axis=len(shape))
        return g.add("scatter_nd", filled(g, x.type), rows, dy, reduction="add"), None


def check_elementwise_indices(x: TensorType, indices: TensorType, axis: Any) -> None:
    """IRError unless indices picks single elements of x along `axis`."""
    check_indices(indices)
    check_axis(axis, x.rank)
    if indices.rank != x.rank:
        raise IRError(f"indices have rank {indices.rank}, wanted that of x, {x.rank}")
    for a, (d, limit) in enumerate(zip(indices.shape, x.shape, strict=True)):
        if a != axis and d > limit:
            raise IRError(f"indices have {d} elements on axis {a}, wanted at most {limit}")
    check_not_empty(x.shape, (axis,), indices.size)


def mesh_index(indices: np.ndarray, extent: int, axis: int) -> tuple[np.ndarray, ...]:
    """For each element of indices its own index, but the valid index it holds on `axis`."""
    index: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    index[axis] = valid_indices(indices, extent)
    return tuple(index)


class GatherElements(Op):
    """Single elements of x along `axis`: y[a.., i, b..] = x[a.., indices[a.., i, b..], b..].

    The other axes of indices may be shorter than those of x.
    """

    name = "gather_elements"

    def infer(x, indices, *, axis):
        check_elementwise_indices(x, indices, axis)
        return x.with_shape(indices.shape)

    def evaluate(x, indices, *, axis):
        return x[mesh_index(indices, x.shape[axis], axis)]

    def element(m, at, x, indices, *, axis):
        i = m.checked(m.cast(indices[at], "i64"), x.shape[axis], "indices")
        return x[(*at[:axis], i, *at[axis + 1 :])]

    def vjp(g, node, dy):
        (x, indices), axis = node.operands, node.attrs["axis"]
        zeros = filled(g, x.type)
        return g.add("scatter_elements", zeros, indices, dy, axis=axis, reduction="add"), None


class OneHot(Op):
    """values = [off, on]: y[a.., d, b..] = on where indices[a.., b..] = d, else off.

    `depth` elements are put at `axis` of the result. Negative indices count from depth; where an
    index is out of range all are off.
    """

    name = "one_hot"

    def infer(indices, values, *, depth, axis):
        check_indices(indices)
        check_axis(axis, indices.rank + 1)
        if type(depth) is not int or depth < 0:
            raise IRError(f"attribute depth is {depth!r}, wanted an integer >= 0")
        if values.shape != (2,):
            raise IRError(f"values is {values}, wanted {values.dtype}[2]: off and on")
        return values.with_shape((*indices.shape[:axis], depth, *indices.shape[axis:]))

    def evaluate(indices, values, *, depth, axis):
        wide = np.expand_dims(np.asarray(indices, np.int64), axis)
        line = np.arange(depth).reshape(-1, *[1] * (indices.ndim - axis))
        return np.where(np.where(wide < 0, wide + depth, wide) == line, values[1], values[0])

    def element(m, at, indices, values, *, depth, axis):
        i = m.cast(indices[(*at[:axis], *at[axis + 1 :])], "i64")
        i = m.select(i < 0, i + depth, i)
        return m.select(m.equal(i, at[axis]), values[(1,)], values[(0,)])

    def vjp(g, node, dy):
        indices, values = node.operands
        line = g.constant(np.array([0, 1]), values.type.dtype)
        hit = g.add("mul", dy, g.add("one_hot", indices, line, **node.attrs))
        sums = [
            g.add("reduce_sum", v, axes=tuple(range(v.type.rank)), keepdims=False)
            for v in (g.add("sub", dy, hit), hit)
        ]
        parts = (g.add("reshape", v, shape=(1,)) for v in sums)
        return None, g.add("concat", *parts, axis=0)
