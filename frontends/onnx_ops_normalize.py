"""ONNX normalisations and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_tensors import element_type
from cnnir.ir import Value


@onnx_op("BatchNormalization")
def batch_normalization(
    b: Builder,
    x: Value,
    scale: Value,
    bias: Value,
    mean: Value,
    var: Value,
    *,
    epsilon: float = 1e-5,
    is_test: int = 1,
    momentum: float = 0.9,
    spatial: int = 1,
    training_mode: int = 0,
) -> tuple[Value, ...]:
    """Normalisation by running statistics; with training_mode=1 by those of the batch."""
    b.require(x.type.rank >= 1, "X has rank 0, wanted at least 1")
    if b.opset < 14 and any(b.outputs[1:]):
        raise UnsupportedError("training outputs before opset 14")
    dtype, rank = x.type.dtype, x.type.rank
    wide = mean.type.dtype if mean.type.dtype != scale.type.dtype else dtype
    operands = [b.cast(v, wide) for v in (x, scale, bias, mean, var)]
    if not spatial:
        return (b.cast(_by_element(b, operands, epsilon), dtype),)
    if rank < 2:  # [N]: one channel
        operands[0] = b.reshape(operands[0], (*x.type.shape, 1))
    if not training_mode:
        y = b.add("batch_norm", *operands, epsilon=epsilon)
        return (b.cast(b.reshape(y, x.type.shape), dtype),)
    channels = operands[1].type.shape
    axes = tuple(a for a in range(operands[0].type.rank) if a != 1)
    seen = b.add("reduce_mean", operands[0], axes=axes, keepdims=True)
    away = b.add("sub", operands[0], seen)
    spread = b.add("reduce_mean", b.add("mul", away, away), axes=axes, keepdims=True)
    seen, spread = b.reshape(seen, channels), b.reshape(spread, channels)
    y = b.add("batch_norm", *operands[:3], seen, spread, epsilon=epsilon)
    running = [_mixed(b, o, n, momentum) for o, n in zip(operands[3:], (seen, spread), strict=True)]
    results = (b.reshape(y, x.type.shape), *running)
    return tuple(b.cast(v, t.type.dtype) for v, t in zip(results, (x, mean, var), strict=True))


def _mixed(b: Builder, old: Value, new: Value, momentum: float) -> Value:
    kept = b.add("mul", old, b.like(momentum, old))
    return b.add("add", kept, b.add("mul", new, b.like(1 - momentum, new)))


def _by_element(b: Builder, operands: Sequence[Value], epsilon: float) -> Value:
    """Statistics for each element of a sample, not only for each channel (spatial=0)."""
    x, scale, bias, mean, var = operands
    deviation = b.add("sqrt", b.add("add", var, b.like(epsilon, var)))
    normal = b.add("div", b.add("sub", x, mean), deviation)
    return b.add("add", b.add("mul", normal, scale), bias)


@onnx_op("InstanceNormalization")
def instance_normalization(
    b: Builder, x: Value, scale: Value, bias: Value, *, epsilon: float = 1e-5
) -> Value:
    """Normalisation of each channel of each sample."""
    b.require(x.type.rank >= 3, f"input has rank {x.type.rank}, wanted at least 3: [N,C,...]")
    return b.add("group_norm", x, scale, bias, groups=x.type.shape[1], epsilon=epsilon)


@onnx_op("GroupNormalization")
def group_normalization(
    b: Builder,
    x: Value,
    scale: Value,
    bias: Value,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Value:
    """Normalisation of each group of channels; scale and bias are per group before opset 21."""
    b.require(x.type.rank >= 2, f"X has rank {x.type.rank}, wanted at least 2: [N,C,...]")
    channels = x.type.shape[1]
    if num_groups < 1 or channels % num_groups:
        b.reject(f"num_groups must be a divisor of the {channels} channels, got {num_groups}")
    if b.opset < 21:
        scale = _repeated(b, scale, num_groups, channels, "scale")
        bias = _repeated(b, bias, num_groups, channels, "bias")
    return b.add("group_norm", x, scale, bias, groups=num_groups, epsilon=epsilon)


def _repeated(b: Builder, v: Value, groups: int, channels: int, name: str) -> Value:
    """One number a group as one a channel."""
    b.require(
        v.type.shape == (groups,), f"{name} has shape {list(v.type.shape)}, wanted [{groups}]"
    )
    if groups == channels:
        return v
    spread = b.add("expand", b.reshape(v, (groups, 1)), shape=(groups, channels // groups))
    return b.reshape(spread, (channels,))


@onnx_op("LayerNormalization")
def layer_normalization(
    b: Builder,
    x: Value,
    scale: Value,
    bias: Value | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Value, Value, Value]:
    """Normalisation over the axes from `axis` on; also the mean and the inverse deviation."""
    axis = b.axis(axis, x.type.rank)
    y, mean, inverse = b.add("layer_norm", x, scale, bias, axis=axis, epsilon=epsilon)
    stash = element_type(stash_type, "stash_type")
    return y, b.cast(mean, stash), b.cast(inverse, stash)


@onnx_op("RMSNormalization")
def rms_normalization(
    b: Builder,
    x: Value,
    scale: Value,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Value:
    """x / sqrt(mean(x * x) + epsilon) * scale, over the axes from `axis` on."""
    axes = tuple(range(b.axis(axis, x.type.rank), x.type.rank))
    stash = element_type(stash_type, "stash_type")
    wide = b.cast(x, stash)
    square = b.add("reduce_mean", b.add("mul", wide, wide), axes=axes, keepdims=True)
    deviation = b.add("sqrt", b.add("add", square, b.like(epsilon, square)))
    normal = b.cast(b.add("div", wide, deviation), scale.type.dtype)
    return b.add("mul", normal, scale)


@onnx_op("LRN")
def lrn(
    b: Builder,
    x: Value,
    *,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    bias: float = 1.0,
) -> Value:
    """Normalisation by the squares of neighbouring channels."""
    b.require(size >= 1, f"size must be >= 1, got {size}")
    return b.add("lrn", x, size=size, alpha=alpha, beta=beta, bias=bias)


@onnx_op("LpNormalization")
def lp_normalization(b: Builder, x: Value, *, axis: int = -1, p: int = 2) -> Value:
    """x divided by its p-norm along an axis; 0 where the norm is 0."""
    b.require(p in (1, 2), f"p must be 1 or 2, got {p}")
    axes = (b.axis(axis, x.type.rank),)
    if p == 1:
        norm = b.add("reduce_sum", b.add("abs", x), axes=axes, keepdims=True)
    else:
        norm = b.add("sqrt", b.add("reduce_sum", b.add("mul", x, x), axes=axes, keepdims=True))
    empty = b.add("equal", norm, b.like(0, norm))
    return b.add("div", x, b.add("where", empty, b.like(1, norm), norm))


@onnx_op("MeanVarianceNormalization")
def mean_variance_normalization(b: Builder, x: Value, *, axes: Sequence[int] = (0, 2, 3)) -> Value:
    """(x - mean) / (deviation + 1e-9) over the axes."""
    over = tuple(sorted(b.axes(axes, x.type.rank)))
    away = b.add("sub", x, b.add("reduce_mean", x, axes=over, keepdims=True))
    variance = b.add("reduce_mean", b.add("mul", away, away), axes=over, keepdims=True)
    deviation = b.add("sqrt", variance)
    return b.add("div", away, b.add("add", deviation, b.like(1e-9, deviation)))


@onnx_op("Softmax", "LogSoftmax", "Hardmax")
def softmax(b: Builder, x: Value, *, axis: int | None = None) -> Value:
    """Along one axis; before opset 13 over all axes from `axis` on, taken together."""
    rank, shape = x.type.rank, x.type.shape
    if axis is None:
        axis = -1 if b.opset >= 13 else 1
    if b.opset < 13 and axis == rank == 1:
        return _along(b, b.reshape(x, (*shape, 1)), 1, shape)
    axis = b.axis(axis, rank)
    if b.opset >= 13 or axis == rank - 1:
        return _along(b, x, axis, shape)
    flat = b.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
    return _along(b, flat, 1, shape)


def _along(b: Builder, x: Value, axis: int, shape: Sequence[int]) -> Value:
    if b.op != "Hardmax":
        op = "softmax" if b.op == "Softmax" else "log_softmax"
        return b.reshape(b.add(op, x, axis=axis), shape)
    best = b.add("argmax", x, axis=axis, keepdims=True, select_last=False)
    numbers = np.arange(x.type.shape[axis]).reshape((-1, *(1,) * (x.type.rank - axis - 1)))
    hit = b.add("equal", best, b.constant(numbers, "i64"))
    return b.reshape(b.cast(hit, x.type.dtype), shape)
