"""ONNX quantisation, written out as arithmetic: float around casts, and i32 inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_ops_conv import conv, matmul
from cnnir.frontends.onnx_tensors import element_type
from cnnir.ir import Value
from cnnir.tensortype import compute_dtype

Ints = Sequence[int]
_RANGES = {"u8": (0, 255), "i8": (-128, 127), "u16": (0, 65535), "i16": (-32768, 32767)}


def _spread(b: Builder, v: Value, x: Value, axis: int, block: int, name: str) -> Value:
    """A scale or zero point so that it broadcasts to x: one for all, per axis, or per block."""
    shape, own = x.type.shape, v.type.shape
    if own in ((), (1,)):
        return b.reshape(v, ())
    axis = b.axis(axis, x.type.rank)
    if not block:
        if own != (shape[axis],):
            b.reject(
                f"{name} has shape {list(own)}, wanted [] or [{shape[axis]}] as of axis {axis}"
            )
        return b.reshape(v, (*own, *(1,) * (x.type.rank - axis - 1)))
    b.require(block > 0, f"block_size must be positive, got {block}")
    blocks = (*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :])
    if own != blocks:
        b.reject(f"{name} has shape {list(own)}, wanted {list(blocks)} for blocks of {block}")
    return b.add("gather", v, b.constant(np.arange(shape[axis]) // block, "i64"), axis=axis)


def _centred(b: Builder, x: Value, zero: Value | None, dtype: str) -> Value:
    """x - zero in a wider type; just x where the zero point is a constant 0."""
    array = None if zero is None else b.graph.array(zero)
    wide = b.cast(x, dtype)
    if zero is None or (array is not None and not array.any()):
        return wide
    return b.add("sub", wide, b.cast(zero, dtype))


def _quantized(b: Builder, x: Value, zero: Value | None, dtype: str) -> Value:
    """round(x) + zero, saturated, in an integer type."""
    if dtype not in _RANGES:
        raise UnsupportedError(f"quantisation to {dtype}")
    number = b.cast(b.add("round", x), "f32")
    if zero is not None:
        number = b.add("add", number, b.cast(zero, "f32"))
    low, high = _RANGES[dtype]
    return b.cast(b.add("clip", number, lo=low, hi=high), dtype)


@onnx_op("QuantizeLinear")
def quantize_linear(
    b: Builder,
    x: Value,
    scale: Value,
    zero: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Value:
    """saturate(round(x / scale) + zero)."""
    dtype = "u8" if zero is None else zero.type.dtype
    if output_dtype:
        dtype = element_type(output_dtype, "output_dtype")
        b.require(
            zero is None or zero.type.dtype == dtype,
            f"output_dtype is {dtype}, not the zero point's",
        )
    divided = element_type(precision, "precision") if precision else scale.type.dtype
    scale = b.cast(_spread(b, scale, x, axis, block_size, "y_scale"), divided)
    if zero is not None:
        zero = _spread(b, zero, x, axis, block_size, "y_zero_point")
    return _quantized(b, b.add("div", b.cast(x, divided), scale), zero, dtype)


@onnx_op("DequantizeLinear")
def dequantize_linear(
    b: Builder,
    x: Value,
    scale: Value,
    zero: Value | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Value:
    """(x - zero) * scale."""
    dtype = element_type(output_dtype, "output_dtype") if output_dtype else scale.type.dtype
    wide = compute_dtype(dtype)
    scale = b.cast(_spread(b, scale, x, axis, block_size, "x_scale"), wide)
    if zero is not None:
        zero = _spread(b, zero, x, axis, block_size, "x_zero_point")
    # 32-bit integers have no zero point, so that f32 loses nothing
    return b.cast(b.add("mul", _centred(b, x, zero, wide), scale), dtype)


@onnx_op("DynamicQuantizeLinear")
def dynamic_quantize_linear(b: Builder, x: Value) -> tuple[Value, Value, Value]:
    """x in 8 bits, with the scale and zero point that its own range asks for."""
    axes, none = tuple(range(x.type.rank)), b.like(0, x)
    low = b.add("minimum", b.add("reduce_min", x, axes=axes, keepdims=False), none)
    high = b.add("maximum", b.add("reduce_max", x, axes=axes, keepdims=False), none)
    scale = b.add("div", b.add("sub", high, low), b.like(255, x))
    zero = _quantized(b, b.add("neg", b.add("div", low, scale)), None, "u8")
    return _quantized(b, b.add("div", x, scale), zero, "u8"), scale, zero


@onnx_op("ConvInteger")
def conv_integer(
    b: Builder,
    x: Value,
    w: Value,
    x_zero: Value | None = None,
    w_zero: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """A convolution of integers around their zero points, in i32."""
    if x_zero is not None:
        x_zero = _spread(b, x_zero, x, 0, 0, "x_zero_point")
    if w_zero is not None:
        w_zero = _spread(b, w_zero, w, 0, 0, "w_zero_point")
    return conv(
        b, _centred(b, x, x_zero, "i32"), _centred(b, w, w_zero, "i32"), auto_pad=auto_pad,
        dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip


@onnx_op("QLinearConv")
def qlinear_conv(
    b: Builder,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    w: Value,
    w_scale: Value,
    w_zero: Value,
    y_scale: Value,
    y_zero: Value,
    bias: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """A convolution of quantised values: i32 inside, then scaled to the output's range."""
    x_scale, x_zero, y_scale, y_zero = (
        _spread(b, v, x, 0, 0, n)
        for v, n in (
            (x_scale, "x_scale"), (x_zero, "x_zero_point"), (y_scale, "y_scale"),
            (y_zero, "y_zero_point"),
        )
    )  # fmt: skip
    w_scale, w_zero = (
        _spread(b, v, w, 0, 0, n) for v, n in ((w_scale, "w_scale"), (w_zero, "w_zero_point"))
    )
    total = conv(
        b, _centred(b, x, x_zero, "i32"), _centred(b, w, w_zero, "i32"), bias, auto_pad=auto_pad,
        dilations=dilations, group=group, kernel_shape=kernel_shape, pads=pads, strides=strides,
    )  # fmt: skip
    if w_scale.type.rank:  # [O, 1, 1, 1] for w becomes [O, 1, 1] for the result
        w_scale = b.reshape(w_scale, w_scale.type.shape[:-1])
    return _rescaled(b, total, (x_scale, w_scale, y_scale), y_zero)


def _rescaled(b: Builder, total: Value, scales: Sequence[Value], zero: Value) -> Value:
    """An i32 result in the output's range: times x_scale * w_scale / y_scale."""
    x, w, y = (b.cast(s, "f32") for s in scales)
    factor = b.add("div", b.add("mul", x, w), y)
    return _quantized(b, b.add("mul", b.cast(total, "f32"), factor), zero, zero.type.dtype)


@onnx_op("MatMulInteger")
def matmul_integer(
    b: Builder, x: Value, y: Value, x_zero: Value | None = None, y_zero: Value | None = None
) -> Value:
    """A matrix product of integers around their zero points, in i32."""
    x_zero = None if x_zero is None else _by_row(b, x_zero)
    return matmul(b, _centred(b, x, x_zero, "i32"), _centred(b, y, y_zero, "i32"))


def _by_row(b: Builder, v: Value) -> Value:
    """One number a row of a matrix, as it broadcasts; scalars and full ranks stay."""
    return b.reshape(v, (v.type.size, 1)) if v.type.rank == 1 and v.type.size > 1 else v


@onnx_op("QLinearMatMul")
def qlinear_matmul(
    b: Builder,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    y: Value,
    y_scale: Value,
    y_zero: Value,
    out_scale: Value,
    out_zero: Value,
) -> Value:
    """A matrix product of quantised values: i32 inside, then scaled to the output's range."""
    x_scale, x_zero = _by_row(b, x_scale), _by_row(b, x_zero)
    total = matmul_integer(b, x, y, x_zero, y_zero)
    return _rescaled(b, total, (x_scale, y_scale, _by_row(b, out_scale)), _by_row(b, out_zero))
