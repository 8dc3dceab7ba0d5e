"""ONNX reductions, ArgMax and its kin, TopK and the cumulative sum."""

from __future__ import annotations

from collections.abc import Sequence

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.ir import Value
from cnnir.tensortype import compute_dtype

_REDUCE = {
    "ReduceSum": "reduce_sum", "ReduceMean": "reduce_mean", "ReduceMax": "reduce_max",
    "ReduceMin": "reduce_min", "ReduceProd": "reduce_prod", "ReduceL1": "reduce_sum",
    "ReduceL2": "reduce_sum", "ReduceSumSquare": "reduce_sum", "ReduceLogSum": "reduce_sum",
}  # fmt: skip


def _axes(
    b: Builder, x: Value, given: Value | None, axes: Sequence[int] | None, noop: int
) -> tuple[int, ...]:
    """The axes to reduce, sorted; none given means all, or none at all with `noop`."""
    if given is not None:
        axes = b.ints(given, "axes")
    if not axes:
        return () if noop else tuple(range(x.type.rank))
    return tuple(sorted(b.axes(axes, x.type.rank)))


@onnx_op(*_REDUCE)
def reduce(
    b: Builder,
    x: Value,
    given: Value | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Value:
    """A reduction, with what comes before and after it for the composite ones."""
    over = _axes(b, x, given, axes, noop_with_empty_axes)
    dtype = x.type.dtype
    if b.op in ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"):
        x = b.cast(x, compute_dtype(dtype))  # rounding to 16 bits in the middle would show
    if b.op == "ReduceL1":
        x = b.add("abs", x)
    elif b.op in ("ReduceL2", "ReduceSumSquare"):
        x = b.add("mul", x, x)
    if over:
        if x.type.dtype == "bool":  # opset 20 has ReduceMax and ReduceMin of booleans
            x = b.cast(x, "u8")
        x = b.add(_REDUCE[b.op], x, axes=over, keepdims=bool(keepdims))
    if b.op == "ReduceL2":
        x = _through_float(b, "sqrt", x)
    elif b.op == "ReduceLogSum":
        x = _through_float(b, "log", x)
    return b.cast(x, dtype)


def _through_float(b: Builder, op: str, x: Value) -> Value:
    """A function that only floats have; integers go through f64 and back."""
    return b.add(op, b.cast(x, "f64") if x.type.dtype[0] in "iu" else x)


@onnx_op("ReduceLogSumExp")
def reduce_log_sum_exp(
    b: Builder,
    x: Value,
    given: Value | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Value:
    """log(sum(exp(x))), with the maximum taken out so that it does not overflow."""
    over = _axes(b, x, given, axes, noop_with_empty_axes)
    if not over and x.type.rank:
        return x
    dtype = x.type.dtype
    wide = b.cast(x, "f64" if dtype[0] in "iu" else compute_dtype(dtype))
    top = b.add("reduce_max", wide, axes=over, keepdims=True)
    # an infinite maximum must not give inf - inf
    top = b.add("where", b.add("is_inf", top, negative=True, positive=True), b.like(0, top), top)
    total = b.add("reduce_sum", b.add("exp", b.add("sub", wide, top)), axes=over, keepdims=True)
    result = b.add("add", b.add("log", total), top)
    if not keepdims:
        result = b.reshape(result, [d for a, d in enumerate(x.type.shape) if a not in over])
    return b.cast(result, dtype)


@onnx_op("ArgMax", "ArgMin")
def arg_reduce(
    b: Builder, x: Value, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Value:
    """Where the largest or smallest element along an axis is."""
    axis = b.axis(axis, x.type.rank)
    return b.add(
        b.op.lower(), x, axis=axis, keepdims=bool(keepdims), select_last=bool(select_last_index)
    )


@onnx_op("TopK")
def top_k(
    b: Builder,
    x: Value,
    count: Value | None = None,
    *,
    k: int | None = None,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Value, Value]:
    """The k largest or smallest elements along an axis, and their indices."""
    if count is not None:
        k = b.whole(count, "k")
    axis = b.axis(axis, x.type.rank)
    size = x.type.shape[axis]
    if k is None or not 0 <= k <= size:
        b.reject(f"k is {k}, wanted 0 to {size}, the size of axis {axis}")
    return b.add("topk", x, k=k, axis=axis, largest=bool(largest), sorted=bool(sorted))


@onnx_op("CumSum")
def cumulative_sum(
    b: Builder, x: Value, axis: Value, *, exclusive: int = 0, reverse: int = 0
) -> Value:
    """The running sum along an axis."""
    along = b.axis(b.whole(axis, "axis"), x.type.rank)
    return b.add("cumsum", x, axis=along, exclusive=bool(exclusive), reverse=bool(reverse))
