"""Softmax and the normalisations. All but lrn decompose into reductions and arithmetic.

`decompose` computes 16-bit floats in f32 by casts at both ends, as `evaluate` does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op, broadcast_shapes
from cnnir.ops.elementwise import common_dtype, is_number
from cnnir.ops.reduce import check_axis
from cnnir.tensortype import TensorType, compute_dtype


def _widened(g: Any, value: Any) -> Any:
    """A value in the type that arithmetic on it is done in."""
    return _cast(g, value, compute_dtype(value.type.dtype))


def _cast(g: Any, value: Any, dtype: str) -> Any:
    return value if value.type.dtype == dtype else g.add("cast", value, dtype=dtype)


def _per_channel(g: Any, value: Any, rank: int) -> Any:
    """[C] as [C, 1, ...], which broadcasts along the channels of [N, C, ...]."""
    channels = value.type.shape[0]
    return g.add("reshape", value, shape=(channels,) + (1,) * (rank - 2))


def _check_epsilon(epsilon: Any) -> None:
    if not is_number(epsilon) or not epsilon >= 0:
        raise IRError(f"attribute epsilon is {epsilon!r}, wanted a number >= 0")


def _check_channels(x: TensorType, **per_channel: TensorType) -> None:
    """IRError unless x is [N, C, ...] and the others are [C] of its element type."""
    common_dtype(("float",), x)
    if x.rank < 2:
        raise IRError(f"rank is {x.rank}, wanted at least 2: [N, C, ...]")
    wanted = TensorType(x.dtype, (x.shape[1],))
    for name, type in per_channel.items():
        if type != wanted:
            raise IRError(f"{name} is {type}, wanted {wanted}")


class _Normalisation(Op, abstract=True):
    """Shared by the ops here: a cost of so many operations an element of the first result."""

    per_element: ClassVar[int]

    @staticmethod
    def cost(node: Any) -> Cost:
        """`per_element` operations for each element of the first result."""
        moved = Op.cost(node)
        flops = node.op.per_element * node.results[0].type.size
        return Cost(flops, moved.read, moved.written)


class Softmax(_Normalisation):
    """y = e^(x - max x) / sum e^(x - max x), along `axis`.

    NaN along the whole line where it holds NaN or inf, or nothing but -inf.
    """

    name = "softmax"
    per_element = 5

    def infer(x, *, axis):
        common_dtype(("float",), x)
        check_axis(axis, x.rank)
        return x

    def evaluate(x, *, axis):
        if x.size == 0:
            return x
        with np.errstate(all="ignore"):
            e = np.exp(x - x.max(axis, keepdims=True))
            return e / e.sum(axis, keepdims=True)

    def decompose(g, x, *, axis):
        wide = _widened(g, x)
        e = g.add("exp", g.add("sub", wide, g.add("reduce_max", wide, axes=(axis,))))
        y = g.add("div", e, g.add("reduce_sum", e, axes=(axis,)))
        return _cast(g, y, x.type.dtype)


class LogSoftmax(_Normalisation):
    """y = x - max x - ln sum e^(x - max x), along `axis`: the logarithm of softmax."""

    name = "log_softmax"
    per_element = 5

    def infer(x, *, axis):
        common_dtype(("float",), x)
        check_axis(axis, x.rank)
        return x

    def evaluate(x, *, axis):
        if x.size == 0:
            return x
        with np.errstate(all="ignore"):
            shifted = x - x.max(axis, keepdims=True)
            return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))

    def decompose(g, x, *, axis):
        wide = _widened(g, x)
        shifted = g.add("sub", wide, g.add("reduce_max", wide, axes=(axis,)))
        total = g.add("reduce_sum", g.add("exp", shifted), axes=(axis,))
        return _cast(g, g.add("sub", shifted, g.add("log", total)), x.type.dtype)


class BatchNorm(_Normalisation):
    """Normalisation by known statistics: x is [N,C,...], the other operands are [C].

    y[n,c,...] = (x[n,c,...] - mean[c]) / sqrt(var[c] + epsilon) * scale[c] + bias[c]
    """

    name = "batch_norm"
    per_element = 2

    def infer(x, scale, bias, mean, var, *, epsilon=1e-5):
        _check_channels(x, scale=scale, bias=bias, mean=mean, var=var)
        _check_epsilon(epsilon)
        return x

    def evaluate(x, scale, bias, mean, var, *, epsilon):
        shape = (-1,) + (1,) * (x.ndim - 2)
        scale, bias, mean, var = (p.reshape(shape) for p in (scale, bias, mean, var))
        with np.errstate(all="ignore"):
            return (x - mean) / np.sqrt(var + x.dtype.type(epsilon)) * scale + bias

    def decompose(g, x, scale, bias, mean, var, *, epsilon):
        dtype, rank = x.type.dtype, x.type.rank
        scale, bias, mean, var = (_widened(g, p) for p in (scale, bias, mean, var))
        deviation = g.add("sqrt", g.add("add", var, g.constant(epsilon, var.type.dtype)))
        factor = g.add("div", scale, deviation)
        shift = g.add("sub", bias, g.add("mul", mean, factor))
        # x itself is not widened: mul and add directly on it are what folds into a convolution
        factor, shift = (_per_channel(g, _cast(g, p, dtype), rank) for p in (factor, shift))
        return g.add("add", g.add("mul", x, factor), shift)


class LayerNorm(_Normalisation):
    """Normalisation over the axes from `axis` to the last: (y, mean, inv_std).

    y = (x - mean) * inv_std * scale + bias with inv_std = 1 / sqrt(variance + epsilon).
    scale (1 when left out) and bias (0) broadcast to x. mean and inv_std keep the axes with
    extent 1; they are f32 where x is a 16-bit float.
    """

    name = "layer_norm"
    per_element = 8

    def infer(x, scale=None, bias=None, *, axis, epsilon=1e-5):
        common_dtype(("float",), x)
        check_axis(axis, x.rank)
        _check_epsilon(epsilon)
        for name, operand in (("scale", scale), ("bias", bias)):
            if operand is None:
                continue
            if operand.dtype != x.dtype or broadcast_shapes(x.shape, operand.shape) != x.shape:
                raise IRError(f"{name} is {operand}, wanted what broadcasts to {x}")
        outer = x.shape[:axis] + (1,) * (x.rank - axis)
        statistic = TensorType(compute_dtype(x.dtype), outer)
        return x, statistic, statistic

    def evaluate(x, scale=None, bias=None, *, axis, epsilon):
        lines = x.reshape(*x.shape[:axis], int(np.prod(x.shape[axis:])))
        count = x.dtype.type(lines.shape[-1])
        with np.errstate(all="ignore"):
            mean = lines.sum(-1, keepdims=True) / count
            variance = np.square(lines - mean).sum(-1, keepdims=True) / count
            inv_std = 1 / np.sqrt(variance + x.dtype.type(epsilon))
            y = ((lines - mean) * inv_std).reshape(x.shape)
            y = y if scale is None else y * scale
            y = y if bias is None else y + bias
        outer = (*x.shape[:axis], *(1,) * (x.ndim - axis))
        return y, mean.reshape(outer), inv_std.reshape(outer)

    def decompose(g, x, scale=None, bias=None, *, axis, epsilon):
        axes = tuple(range(axis, x.type.rank))
        normal, mean, inv_std = _normalised(g, _widened(g, x), axes, epsilon)
        if scale is not None:
            normal = g.add("mul", normal, _widened(g, scale))
        if bias is not None:
            normal = g.add("add", normal, _widened(g, bias))
        return _cast(g, normal, x.type.dtype), mean, inv_std


def _normalised(g: Any, x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, Any, Any]:
    """((x - mean) * inv_std, mean, inv_std) over axes, by two passes over x for precision."""
    mean = g.add("reduce_mean", x, axes=axes)
    centred = g.add("sub", x, mean)
    variance = g.add("reduce_mean", g.add("mul", centred, centred), axes=axes)
    padded = g.add("add", variance, g.constant(epsilon, x.type.dtype))
    inv_std = g.add("reciprocal", g.add("sqrt", padded))
    return g.add("mul", centred, inv_std), mean, inv_std


class GroupNorm(_Normalisation):
    """Normalisation of each sample over groups of channels: x is [N,C,...], scale and bias [C].

    y = (x - mean) / sqrt(variance + epsilon) * scale[c] + bias[c], with mean and variance over
    the C / groups channels of a group and all spatial axes. groups = C is instance
    normalisation.
    """

    name = "group_norm"
    per_element = 8

    def infer(x, scale, bias, *, groups, epsilon=1e-5):
        _check_channels(x, scale=scale, bias=bias)
        _check_epsilon(epsilon)
        if type(groups) is not int or groups < 1 or x.shape[1] % groups:
            raise IRError(f"groups is {groups!r}, wanted a divisor of the {x.shape[1]} channels")
        return x

    def evaluate(x, scale, bias, *, groups, epsilon):
        if x.size == 0:
            return x
        lines = x.reshape(x.shape[0], groups, -1)
        centred = lines - lines.mean(-1, keepdims=True)
        with np.errstate(all="ignore"):
            variance = np.square(centred).mean(-1, keepdims=True)
            normal = (centred / np.sqrt(variance + x.dtype.type(epsilon))).reshape(x.shape)
            shape = (-1,) + (1,) * (x.ndim - 2)
            return normal * scale.reshape(shape) + bias.reshape(shape)

    def decompose(g, x, scale, bias, *, groups, epsilon):
        (n, channels, *spatial), rank = x.type.shape, x.type.rank
        wide = _widened(g, x)
        if groups == channels:
            normal, _, _ = _normalised(g, wide, tuple(range(2, rank)), epsilon)
        elif groups == 1:
            normal, _, _ = _normalised(g, wide, tuple(range(1, rank)), epsilon)
        else:
            split = (n, groups, channels // groups, *spatial)
            grouped = g.add("reshape", wide, shape=split)
            normal, _, _ = _normalised(g, grouped, tuple(range(2, rank + 1)), epsilon)
            normal = g.add("reshape", normal, shape=x.type.shape)
        scale, bias = (_per_channel(g, _widened(g, p), rank) for p in (scale, bias))
        return _cast(g, g.add("add", g.add("mul", normal, scale), bias), x.type.dtype)


class Lrn(Op):
    """Local response normalisation across the channels of x [N,C,...].

    y[n,c,...] = x[n,c,...] / (bias + alpha / size * sum_i x[n,i,...]^2)^beta over the channels i
    from c - floor((size - 1) / 2) to c + ceil((size - 1) / 2) that there are.
    """

    name = "lrn"

    def infer(x, *, size, alpha=1e-4, beta=0.75, bias=1.0):
        _check_channels(x)
        if type(size) is not int or size < 1:
            raise IRError(f"attribute size is {size!r}, wanted an integer >= 1")
        for name, value in (("alpha", alpha), ("beta", beta), ("bias", bias)):
            if not is_number(value):
                raise IRError(f"attribute {name} is {value!r}, wanted a number")
        return x

    def evaluate(x, *, size, alpha, beta, bias):
        before, channels = (size - 1) // 2, x.shape[1]
        total = np.zeros_like(x)
        with np.errstate(all="ignore"):
            for c in range(channels):
                window = x[:, max(0, c - before) : min(channels, c - before + size)]
                total[:, c] = np.square(window).sum(1)
            return x / (bias + alpha / size * total) ** beta

    def element(m, at, x, *, size, alpha, beta, bias):
        n, c, *rest = at
        before = (size - 1) // 2

        def square(i):
            channel = c - before + i
            inside = m.all(channel >= 0, channel < x.shape[1])
            value = x.get((n, channel, *rest), inside=inside, other=0.0)
            return value * value

        total = bias + (alpha / size) * m.reduce("sum", (size,), square)
        return x[at] / _power(m, total, beta)

    @staticmethod
    def cost(node: Any) -> Cost:
        """Two operations for each channel of the window, and a power and a division."""
        moved = Op.cost(node)
        flops = (2 * node.attrs["size"] + 4) * node.results[0].type.size
        return Cost(flops, moved.read, moved.written)


def _power(m: Any, base: Any, exponent: float) -> Any:
    """base^exponent; by square roots, which are quicker, for the exponents that models use."""
    if exponent == 1.0:
        return base
    if exponent == 0.5:
        return m.sqrt(base)
    if exponent == 0.75:
        root = m.sqrt(base)
        return root * m.sqrt(root)
    return m.pow(base, m.const(exponent, m.dtype(base)))
