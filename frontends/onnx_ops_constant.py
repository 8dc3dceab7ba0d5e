"""ONNX operators whose result is known at import: constants, shapes, ranges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from onnx import SparseTensorProto, TensorProto

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_tensors import element_type
from cnnir.ir import Value
from cnnir.tensortype import DTYPES, is_float


@onnx_op("Constant")
def constant(
    b: Builder,
    *,
    value: TensorProto | None = None,
    sparse_value: SparseTensorProto | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
    value_string: str | None = None,
    value_strings: Sequence[str] | None = None,
) -> Value:
    """A tensor given by exactly one of the attributes."""
    given = (
        value, sparse_value, value_float, value_floats, value_int, value_ints, value_string,
        value_strings,
    )  # fmt: skip
    count = sum(v is not None for v in given)
    b.require(count == 1, f"Constant wants exactly one value attribute, got {count}")
    if value is not None:
        return b.constant(b.reader.read(value, "attribute value"))
    if sparse_value is not None:
        return b.constant(b.reader.read_sparse(sparse_value, "attribute sparse_value"))
    if value_string is not None or value_strings is not None:
        raise UnsupportedError("element type string (attribute value_string)")
    for number, dtype in (
        (value_float, "f32"), (value_floats, "f32"), (value_int, "i64"), (value_ints, "i64"),
    ):  # fmt: skip
        if number is not None:
            return b.constant(np.array(number, DTYPES[dtype]))
    raise AssertionError("unreachable: one attribute is given")


@onnx_op("ConstantOfShape")
def constant_of_shape(b: Builder, shape: Value, *, value: TensorProto | None = None) -> Value:
    """A tensor of one repeated number, f32 zero by default."""
    dims = b.ints(shape, "shape")
    b.require(all(d >= 0 for d in dims), f"shape {list(dims)} has a negative dimension")
    if value is None:
        return b.full(dims, 0, "f32")
    array = b.reader.read(value, "attribute value")
    b.require(array.size == 1, f"value has {array.size} elements, wanted one")
    return b.full(dims, array.reshape(()), element_type(value.data_type, "value"))


@onnx_op("Shape")
def shape(b: Builder, x: Value, *, start: int = 0, end: int | None = None) -> Value:
    """The dimensions of x, or a range of them."""
    return b.constant(np.array(x.type.shape[start:end], np.int64))


@onnx_op("Size")
def size(b: Builder, x: Value) -> Value:
    """How many elements x has."""
    return b.constant(np.array(x.type.size, np.int64))


@onnx_op("Range")
def number_range(
    b: Builder, start: Value, limit: Value, delta: Value, *, stash_type: int = 1
) -> Value:
    """The numbers from start on, in steps of delta, before limit."""
    first, last, step = (
        b.number(v, n) for v, n in ((start, "start"), (limit, "limit"), (delta, "delta"))
    )
    b.require(step != 0, "delta is 0")
    dtype = start.type.dtype
    if is_float(dtype):
        exact = (last - first) / step
        b.require(math.isfinite(exact), f"the range {first} to {last} by {step} has no end")
        count = max(math.ceil(exact), 0)
    else:
        count = max(-((first - last) // step), 0)
    b.check_bytes((count,), 8)
    if not is_float(dtype):
        return b.constant(np.array(range(first, last, step), DTYPES[dtype]))
    return b.constant((first + np.arange(count) * step).astype(DTYPES[dtype]))


@onnx_op("EyeLike")
def eye_like(b: Builder, x: Value, *, dtype: int | None = None, k: int = 0) -> Value:
    """Ones on a diagonal, in the shape of x."""
    b.require(x.type.rank == 2, f"input has rank {x.type.rank}, wanted 2")
    target = x.type.dtype if dtype is None else element_type(dtype, "dtype")
    rows, columns = x.type.shape
    b.check_bytes((rows, columns), 8)
    on = np.arange(columns) - np.arange(rows)[:, None] == k
    return b.constant(on.astype(DTYPES[target]))
