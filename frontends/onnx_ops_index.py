"""ONNX operators that read or write at indices: gather, scatter, one-hot, and their like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_windows import entries
from cnnir.ir import Value

_REDUCTIONS = ("none", "add", "mul", "max", "min")


@onnx_op("Gather")
def gather(b: Builder, x: Value, indices: Value, *, axis: int = 0) -> Value:
    """Slices of x along an axis."""
    return b.add("gather", x, indices, axis=b.axis(axis, x.type.rank))


@onnx_op("GatherElements")
def gather_elements(b: Builder, x: Value, indices: Value, *, axis: int = 0) -> Value:
    """Single elements of x along an axis."""
    return b.add("gather_elements", x, indices, axis=b.axis(axis, x.type.rank))


@onnx_op("GatherND")
def gather_nd(b: Builder, x: Value, indices: Value, *, batch_dims: int = 0) -> Value:
    """Slices of x at index tuples."""
    rank = min(x.type.rank, indices.type.rank)
    b.require(0 <= batch_dims < rank, f"batch_dims {batch_dims} must be 0 to {rank - 1}")
    return b.add("gather_nd", x, indices, batch_dims=batch_dims)


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(
    b: Builder, x: Value, indices: Value, updates: Value, *, axis: int = 0, reduction: str = "none"
) -> Value:
    """x with single elements along an axis replaced or combined."""
    b.choice("reduction", reduction, _REDUCTIONS)
    axis = b.axis(axis, x.type.rank)
    return b.add("scatter_elements", x, indices, updates, axis=axis, reduction=reduction)


@onnx_op("ScatterND")
def scatter_nd(
    b: Builder, x: Value, indices: Value, updates: Value, *, reduction: str = "none"
) -> Value:
    """x with slices at index tuples replaced or combined."""
    b.choice("reduction", reduction, _REDUCTIONS)
    return b.add("scatter_nd", x, indices, updates, reduction=reduction)


@onnx_op("OneHot")
def one_hot(b: Builder, indices: Value, depth: Value, values: Value, *, axis: int = -1) -> Value:
    """A vector of `depth` elements for each index, off but for one."""
    count = b.whole(depth, "depth")
    b.require(count >= 1, f"depth must be >= 1, got {count}")
    if values.type.shape != (2,):
        b.reject(f"values has shape {list(values.type.shape)}, wanted [2]: off and on")
    axis = b.axis(axis, indices.type.rank + 1)
    return b.add("one_hot", b.cast(indices, "i64"), values, depth=count, axis=axis)


@onnx_op("Compress")
def compress(b: Builder, x: Value, condition: Value, *, axis: int | None = None) -> Value:
    """The slices along an axis where a constant condition holds."""
    chosen = np.flatnonzero(b.array(condition, "condition"))
    b.require(condition.type.rank == 1, f"condition has rank {condition.type.rank}, wanted 1")
    if axis is None:
        x, axis = b.reshape(x, (x.type.size,)), 0
    axis = b.axis(axis, x.type.rank)
    return b.add("gather", x, b.constant(chosen, "i64"), axis=axis)


@onnx_op("Trilu")
def triangle(b: Builder, x: Value, k: Value | None = None, *, upper: int = 1) -> Value:
    """The part of each matrix above or below a diagonal; 0 elsewhere."""
    b.require(x.type.rank >= 2, f"input has rank {x.type.rank}, wanted at least 2")
    diagonal = 0 if k is None else b.whole(k, "k")
    rows, columns = x.type.shape[-2:]
    diagonal = min(max(diagonal, -rows), columns)  # further out there is nothing more
    return b.add("trilu", x, k=diagonal, upper=bool(upper))


@onnx_op("MaxUnpool")
def max_unpool(
    b: Builder,
    x: Value,
    indices: Value,
    target: Value | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Value:
    """x written to the places its maxima came from; 0 elsewhere."""
    (n, c, *spatial), count = x.type.shape, x.type.rank - 2
    b.require(count >= 1, f"X has rank {x.type.rank}, wanted at least 3: [N,C,...]")
    b.require(indices.type.shape == x.type.shape, "I must have the shape of X")
    kernel = entries(b, "kernel_shape", kernel_shape, count, 1)
    stride = entries(b, "strides", strides, count, 1)
    border = entries(b, "pads", pads, 2 * count, 0)
    pooled = [
        (d - 1) * s + k - border[i] - border[i + count]
        for i, (d, s, k) in enumerate(zip(spatial, stride, kernel, strict=True))
    ]
    b.require(all(d >= 0 for d in pooled), f"pads {list(border)} exceed the output {pooled}")
    inner = (n, c, *pooled)
    size = int(np.prod([int(d) for d in inner], dtype=object))
    flat = b.reshape(indices, (x.type.size,))
    zeros = b.full((size,), 0, x.type.dtype)
    updates = b.reshape(x, (x.type.size,))
    written = b.add("scatter_elements", zeros, flat, updates, axis=0, reduction="none")
    result = b.reshape(written, inner)
    if target is None:
        return result
    wanted = b.ints(target, "output_shape")
    if len(wanted) != len(inner) or any(w < i for w, i in zip(wanted, inner, strict=True)):
        b.reject(f"output_shape {list(wanted)} must be at least {list(inner)}")
    more = tuple(w - i for w, i in zip(wanted, inner, strict=True))
    if not any(more):
        return result
    return b.add("pad", result, padding=(*(0,) * len(more), *more), mode="constant", value=0)
