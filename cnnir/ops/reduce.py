"""Reductions over axes: sum, mean, max, min, product, argmax, argmin, and the cumulative sum.

Global pooling is a reduction over the spatial axes with keepdims=True.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import reshaped, scaled
from cnnir.ops.elementwise import check_number, common_dtype
from cnnir.tensortype import TensorType, compute_dtype, is_float, is_int


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """The shape left by a reduction; IRError unless axes are increasing and in range."""
    rank = len(shape)
    wanted = f"wanted increasing axes from 0 to {rank - 1}"
    if not isinstance(axes, tuple) or any(type(a) is not int for a in axes):
        raise IRError(f"attribute axes is {axes!r}, {wanted}")
    if list(axes) != sorted(set(axes)) or any(not 0 <= a < rank for a in axes):
        raise IRError(f"attribute axes is {axes}, {wanted}")
    check_number("keepdims", keepdims, True)
    if keepdims:
        return tuple(1 if a in axes else d for a, d in enumerate(shape))
    return tuple(d for a, d in enumerate(shape) if a not in axes)


def check_axis(axis: Any, rank: int) -> None:
    """IRError unless `axis` is a single axis of a tensor of this rank, counted from 0."""
    if type(axis) is not int or not 0 <= axis < rank:
        raise IRError(f"attribute axis is {axis!r}, wanted one from 0 to {rank - 1}")


class _Reduction(Op, abstract=True):
    """Shared by the reductions: the attributes and what may be reduced."""

    accepts: ClassVar[tuple[str, ...]] = ("float", "int")

    def __init_subclass__(cls, abstract: bool = False) -> None:
        accepts = cls.accepts

        def infer(x, *, axes, keepdims=True):
            common_dtype(accepts, x)
            return x.with_shape(reduced_shape(x.shape, axes, keepdims))

        cls.infer = infer
        super().__init_subclass__(abstract=abstract)

    @staticmethod
    def cost(node: Any) -> Cost:
        """One operation an operand element."""
        moved = Op.cost(node)
        return Cost(max(node.operands[0].type.size, moved.flops), moved.read, moved.written)


def _reduce(m: Any, kind: str, at: tuple, x: Any, axes: tuple, keepdims: bool, wide: str) -> Any:
    """m.reduce of x over axes at the result index `at`, in the element type `wide`."""
    kept = [a for a in range(len(x.shape)) if a not in axes]
    index: list[Any] = [None] * len(x.shape)
    for position, axis in enumerate(kept):
        index[axis] = at[axis if keepdims else position]

    def body(*inner: Any) -> Any:
        for axis, i in zip(axes, inner, strict=True):
            index[axis] = i
        value = x[tuple(index)]
        return value if m.dtype(value) == wide else m.cast(value, wide)

    return m.reduce(kind, tuple(x.shape[a] for a in axes), body)


class ReduceSum(_Reduction):
    """The sum over `axes`; 0 where there is nothing to add. Integers wrap."""

    name = "reduce_sum"

    def evaluate(x, *, axes, keepdims):
        return np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)

    def element(m, at, x, *, axes, keepdims):
        return _reduce(m, "sum", at, x, axes, keepdims, compute_dtype(x.dtype))

    def vjp(g, node, dy):
        return (_expanded(g, node, dy),)


class ReduceProd(_Reduction):
    """The product over `axes`; 1 where there is nothing to multiply. Integers wrap."""

    name = "reduce_prod"

    def evaluate(x, *, axes, keepdims):
        return np.prod(x, axis=axes, keepdims=keepdims, dtype=x.dtype)

    def element(m, at, x, *, axes, keepdims):
        return _reduce(m, "prod", at, x, axes, keepdims, compute_dtype(x.dtype))

    def vjp(g, node, dy):
        # y / x is the product of the others; of a single zero it is that of all but it
        (x,) = node.operands
        zero, one = (g.constant(k, x.type.dtype) for k in (0, 1))
        hit, axes = g.add("equal", x, zero), node.attrs["axes"]
        safe = g.add("where", hit, one, x)
        zeros = g.add("reduce_sum", g.add("where", hit, one, zero), axes=axes)
        rest = g.add("reduce_prod", safe, axes=axes)
        single = g.add("where", g.add("equal", zeros, one), rest, zero)
        other = g.add("where", g.add("equal", zeros, zero), g.add("div", rest, safe), zero)
        slope = g.add("where", hit, single, other)
        return (g.add("mul", _expanded(g, node, dy), slope),)


class ReduceMean(_Reduction):
    """The mean over `axes`: the sum divided by the number of elements; NaN over none.

    Integers are added in 64 bits and the mean truncates towards 0; over none it is 0.
    """

    name = "reduce_mean"

    def evaluate(x, *, axes, keepdims):
        count = math.prod(x.shape[a] for a in axes)
        with np.errstate(all="ignore"):
            if x.dtype.kind not in "iu":
                total = np.sum(x, axis=axes, keepdims=keepdims, dtype=x.dtype)
                return np.asarray(total / x.dtype.type(count))
            wide = np.dtype(np.uint64 if x.dtype == np.uint64 else np.int64)
            total = np.sum(x, axis=axes, keepdims=keepdims, dtype=wide)
            # magnitudes, because numpy's division of integers floors
            size = np.abs(total).astype(np.uint64) // np.uint64(max(count, 1))
            return np.where(total < 0, -size.astype(wide), size.astype(wide)).astype(x.dtype)

    def element(m, at, x, *, axes, keepdims):
        count = math.prod(x.shape[a] for a in axes)
        if is_float(x.dtype):
            wide = compute_dtype(x.dtype)
            return _reduce(m, "sum", at, x, axes, keepdims, wide) / m.const(count, wide)
        wide = "u64" if x.dtype == "u64" else "i64"
        total = _reduce(m, "sum", at, x, axes, keepdims, wide)
        return m.cast(m.div(total, m.const(max(count, 1), wide)), x.dtype)

    @staticmethod
    def cost(node: Any) -> Cost:
        """One operation an operand element, and a division each result element."""
        return _Reduction.cost(node) + Cost(node.results[0].type.size)

    def vjp(g, node, dy):
        (x,) = node.operands
        count = math.prod(x.type.shape[a] for a in node.attrs["axes"])
        return (_expanded(g, node, scaled(g, dy, 1 / max(count, 1))),)


class ReduceMax(_Reduction):
    """The maximum over `axes`; NaN when there is one.

    Over nothing it is -inf, the lowest integer, or False.
    """

    name = "reduce_max"
    accepts = ("float", "int", "bool")

    def evaluate(x, *, axes, keepdims):
        return np.max(x, axis=axes, keepdims=keepdims, initial=_lowest(x.dtype))

    def element(m, at, x, *, axes, keepdims):
        return _extremum(m, "max", at, x, axes, keepdims)

    def vjp(g, node, dy):
        return _shared(g, node, dy)


class ReduceMin(_Reduction):
    """The minimum over `axes`; NaN when there is one.

    Over nothing it is inf, the highest integer, or True.
    """

    name = "reduce_min"
    accepts = ("float", "int", "bool")

    def evaluate(x, *, axes, keepdims):
        return np.min(x, axis=axes, keepdims=keepdims, initial=_highest(x.dtype))

    def element(m, at, x, *, axes, keepdims):
        return _extremum(m, "min", at, x, axes, keepdims)

    def vjp(g, node, dy):
        return _shared(g, node, dy)


def _extremum(m: Any, kind: str, at: tuple, x: Any, axes: tuple, keepdims: bool) -> Any:
    if x.dtype != "bool":
        return _reduce(m, kind, at, x, axes, keepdims, compute_dtype(x.dtype))
    # over nothing, max gives the lowest and min the highest u8: False and True again
    return m.cast(_reduce(m, kind, at, x, axes, keepdims, "u8"), "bool")


def _expanded(g: Any, node: Any, dy: Any) -> Any:
    """What belongs to a result, at each element that it was reduced from."""
    (x,) = node.operands
    kept = reduced_shape(x.type.shape, node.attrs["axes"], True)
    dy = reshaped(g, dy, kept)
    return dy if kept == x.type.shape else g.add("expand", dy, shape=x.type.shape)


def _shared(g: Any, node: Any, dy: Any) -> tuple[Any]:
    """The vjp of an extremum: elements that are equally extreme share the cotangent."""
    (x,), (y,) = node.operands, node.results
    zero, one = (g.constant(k, x.type.dtype) for k in (0, 1))
    best = g.add("equal", x, _expanded(g, node, y))
    count = g.add("reduce_sum", g.add("where", best, one, zero), axes=node.attrs["axes"])
    part = g.add("div", reshaped(g, dy, count.type.shape), count)
    return (g.add("where", best, part, zero),)


def _lowest(dtype: np.dtype) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).min
    return False if dtype.kind == "b" else -np.inf


def _highest(dtype: np.dtype) -> Any:
    if dtype.kind in "iu":
        return np.iinfo(dtype).max
    return True if dtype.kind == "b" else np.inf


class _ArgReduction(Op, abstract=True):
    """Shared by argmax and argmin."""

    def infer(x, *, axis, keepdims=True, select_last=False):
        common_dtype(("float", "int"), x)
        check_axis(axis, x.rank)
        check_number("select_last", select_last, False)
        shape = reduced_shape(x.shape, (axis,), keepdims)
        if x.shape[axis] == 0:
            raise IRError(f"axis {axis} is empty, wanted at least one element")
        return TensorType("i64", shape)

    @staticmethod
    def cost(node: Any) -> Cost:
        """One comparison an operand element."""
        return _Reduction.cost(node)


def _arg_evaluate(pick: Any, x: np.ndarray, axis: int, keepdims: bool, last: bool) -> np.ndarray:
    where = pick(np.flip(x, axis) if last else x, axis=axis, keepdims=keepdims)
    return np.asarray(x.shape[axis] - 1 - where if last else where, np.int64)


def _arg_element(m: Any, at: tuple, x: Any, axis: int, keepdims: bool, wins: Any) -> Any:
    """The index along `axis` of the element that wins against all others, NaN first."""
    rest = at[:axis] + (at[axis + 1 :] if keepdims else at[axis:])

    def load(i: Any) -> Any:
        return x[(*rest[:axis], i, *rest[axis:])]

    def step(idx: tuple, state: tuple) -> tuple:
        best, where = state
        value = load(idx[0])
        better = wins(value, best)
        return m.select(better, value, best), m.select(better, idx[0], where)

    zero = m.const(0, "i64")
    return m.fold((x.shape[axis],), (load(zero), zero), step)[1]


def _beats(m: Any, dtype: str, larger: bool, last: bool) -> Any:
    """When a later value takes over from the best so far."""

    def wins(value: Any, best: Any) -> Any:
        a, b = (value, best) if larger else (best, value)
        ahead = a >= b if last else a > b
        if is_int(dtype):
            return ahead
        if last:
            return ahead | m.is_nan(value)
        return ahead | (m.is_nan(value) & ~m.is_nan(best))

    return wins


class ArgMax(_ArgReduction):
    """The index of the maximum along `axis`.

    Of equal ones the first, or the last with select_last; NaN counts as the largest.
    """

    name = "argmax"

    def evaluate(x, *, axis, keepdims, select_last):
        return _arg_evaluate(np.argmax, x, axis, keepdims, select_last)

    def element(m, at, x, *, axis, keepdims, select_last):
        wins = _beats(m, x.dtype, True, select_last)
        return _arg_element(m, at, x, axis, keepdims, wins)


class ArgMin(_ArgReduction):
    """The index of the minimum along `axis`.

    Of equal ones the first, or the last with select_last; NaN counts as the smallest.
    """

    name = "argmin"

    def evaluate(x, *, axis, keepdims, select_last):
        return _arg_evaluate(np.argmin, x, axis, keepdims, select_last)

    def element(m, at, x, *, axis, keepdims, select_last):
        wins = _beats(m, x.dtype, False, select_last)
        return _arg_element(m, at, x, axis, keepdims, wins)


class CumSum(Op):
    """Running sums along `axis`: y[i] = x[0] + ... + x[i].

    exclusive leaves x[i] itself out; reverse runs from the other end. Integers wrap.
    """

    name = "cumsum"

    def infer(x, *, axis, exclusive=False, reverse=False):
        common_dtype(("float", "int"), x)
        check_axis(axis, x.rank)
        check_number("exclusive", exclusive, False)
        check_number("reverse", reverse, False)
        return x

    def evaluate(x, *, axis, exclusive, reverse):
        turned = np.flip(x, axis) if reverse else x
        sums = np.cumsum(turned, axis=axis, dtype=x.dtype)
        if exclusive:
            rest = np.take(sums, range(x.shape[axis] - 1), axis) if x.shape[axis] else sums
            zero = np.zeros((*x.shape[:axis], min(1, x.shape[axis]), *x.shape[axis + 1 :]), x.dtype)
            sums = np.concatenate([zero, rest], axis)
        return np.flip(sums, axis) if reverse else sums

    def procedure(m, outs, x, *, axis, exclusive, reverse):
        extent, wide = x.shape[axis], compute_dtype(x.dtype)
        others = x.shape[:axis] + x.shape[axis + 1 :]
        with m.loop(math.prod(others), parallel=True) as line:
            rest = unravel(line, others)
            before, after = rest[:axis], rest[axis:]
            total = m.variable(m.const(0, wide), wide)
            with m.loop(extent) as step:
                at = (*before, extent - 1 - step if reverse else step, *after)
                if exclusive:
                    value = x[at]
                    m.store(outs[0], at, total.value)
                    total.set(total.value + value)
                else:
                    total.set(total.value + x[at])
                    m.store(outs[0], at, total.value)

    def vjp(g, node, dy):
        attrs = node.attrs | {"reverse": not node.attrs["reverse"]}
        return (g.add("cumsum", dy, **attrs),)


def unravel(flat: Any, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The index of the flat row-major position."""
    index: list[Any] = []
    for extent in reversed(shape):
        index.insert(0, flat % max(extent, 1))  # of an empty shape no index is ever used
        flat = flat // max(extent, 1)
    return tuple(index)
