"""The normalisations. All decompose into reductions and arithmetic.

`decompose` computes 16-bit floats in f32 by casts at both ends, as `evaluate` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op, broadcast_shapes
from cnnir.ops.derivative import reduce_to, scaled, total
from cnnir.ops.elementwise import common_dtype, is_number
from cnnir.ops.reduce import check_axis
from cnnir.ops.tracing import converted, widened
from cnnir.tensortype import TensorType, compute_dtype


def per_channel(g: Any, value: Any, rank: int) -> Any:
    """[C] as [C, 1, ...], which broadcasts along the channels of [N, C, ...]."""
    channels = value.type.shape[0]
    return g.add("reshape", value, shape=(channels,) + (1,) * (rank - 2))


def check_epsilon(epsilon: Any) -> None:
    if not is_number(epsilon) or not epsilon >= 0:
        raise IRError(f"attribute epsilon is {epsilon!r}, wanted a number >= 0")


def check_channels(x: TensorType, **per_channel: TensorType) -> None:
    """IRError unless x is [N, C, ...] and the others are [C] of its element type."""
    common_dtype(("float",), x)
    if x.rank < 2:
        raise IRError(f"rank is {x.rank}, wanted at least 2: [N, C, ...]")
    wanted = TensorType(x.dtype, (x.shape[1],))
    for name, type in per_channel.items():
        if type != wanted:
            raise IRError(f"{name} is {type}, wanted {wanted}")


class Normalisation(Op, abstract=True):
    """Shared by the ops here: a cost of so many operations an element of the first result."""

    per_element: ClassVar[int]

    @staticmethod
    def cost(node: Any) -> Cost:
        """`per_element` operations for each element of the first result."""
        moved = Op.cost(node)
        flops = node.op.per_element * node.results[0].type.size
        return Cost(flops, moved.read, moved.written)


class LayerNorm(Normalisation):
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
        check_epsilon(epsilon)
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
        normal, mean, inv_std = _normalised(g, widened(g, x), _mean_over(g, axes), epsilon)
        if scale is not None:
            normal = g.add("mul", normal, widened(g, scale))
        if bias is not None:
            normal = g.add("add", normal, widened(g, bias))
        return converted(g, normal, x.type.dtype), mean, inv_std

    def vjp(g, node, dy, dmean, dinverse):
        (x, scale, bias), (_, mean, inverse) = (*node.operands, None, None)[:3], node.results
        axes = tuple(range(node.attrs["axis"], x.type.rank))
        share = 1 / max(math.prod(x.type.shape[a] for a in axes), 1)
        normal = g.add("mul", g.add("sub", widened(g, x), mean), inverse)
        parts, dscale, dbias = [], None, None
        if dy is not None:
            dn = dy = widened(g, dy)
            if scale is not None:
                dscale = reduce_to(g, g.add("mul", dy, normal), scale.type.shape)
                dn = g.add("mul", dy, widened(g, scale))
            if bias is not None:
                dbias = reduce_to(g, dy, bias.type.shape)
            parts.append(_normal_cotangent(g, dn, normal, inverse, _mean_over(g, axes)))
        if dmean is not None:
            parts.append(scaled(g, dmean, share))
        if dinverse is not None:
            steep = g.add("mul", dinverse, g.add("mul", inverse, inverse))
            parts.append(g.add("mul", normal, scaled(g, steep, -share)))
        return operand_cotangents(g, (x, scale, bias), (total(g, *parts), dscale, dbias))


Mean: TypeAlias = Callable[[Any], Any]
"""Of a value: its means, which broadcast to it."""


def _mean_over(g: Any, axes: tuple[int, ...]) -> Mean:
    return lambda value: g.add("reduce_mean", value, axes=axes)


def _normalised(g: Any, x: Any, mean_of: Mean, epsilon: float) -> tuple[Any, Any, Any]:
    """((x - mean) * inv_std, mean, inv_std), by two passes over x for precision."""
    mean = mean_of(x)
    centred = g.add("sub", x, mean)
    variance = mean_of(g.add("mul", centred, centred))
    inv_std = inverse_deviation(g, variance, epsilon)
    return g.add("mul", centred, inv_std), mean, inv_std


def inverse_deviation(g: Any, variance: Any, epsilon: float) -> Any:
    """1 / sqrt(variance + epsilon)."""
    padded = g.add("add", variance, g.constant(epsilon, variance.type.dtype))
    return g.add("reciprocal", g.add("sqrt", padded))


def _normal_cotangent(g: Any, dn: Any, normal: Any, inverse: Any, mean_of: Mean) -> Any:
    """The cotangent of x from that of n = (x - mean x) / deviation x.

    dx = inverse * (dn - mean dn - n * mean(dn * n)) where inverse is 1 / deviation.
    """
    along, level = mean_of(g.add("mul", dn, normal)), mean_of(dn)
    rest = g.add("sub", dn, g.add("add", level, g.add("mul", normal, along)))
    return g.add("mul", rest, inverse)


def operand_cotangents(g: Any, operands: tuple, found: tuple) -> tuple:
    """Cotangents in the types and shapes of the operands, which they may have to broadcast to."""
    result = []
    for x, dx in zip(operands, found, strict=True):
        if x is not None and dx is not None:
            dx = converted(g, dx, x.type.dtype)
            if dx.type.shape != x.type.shape:
                dx = g.add("expand", dx, shape=x.type.shape)
        result.append(dx)
    return tuple(result)


class GroupNorm(Normalisation):
    """Normalisation of each sample over groups of channels: x is [N,C,...], scale and bias [C].

    y = (x - mean) / sqrt(variance + epsilon) * scale[c] + bias[c], with mean and variance over
    the C / groups channels of a group and all spatial axes. groups = C is instance
    normalisation.
    """

    name = "group_norm"
    per_element = 8

    def infer(x, scale, bias, *, groups, epsilon=1e-5):
        check_channels(x, scale=scale, bias=bias)
        check_epsilon(epsilon)
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
        rank, wide = x.type.rank, widened(g, x)
        normal = _normalised(g, wide, _group_mean(g, groups), epsilon)[0]
        scale, bias = (per_channel(g, widened(g, p), rank) for p in (scale, bias))
        return converted(g, g.add("add", g.add("mul", normal, scale), bias), x.type.dtype)

    def vjp(g, node, dy):
        (x, scale, bias), mean_of = node.operands, _group_mean(g, node.attrs["groups"])
        dy, rank = widened(g, dy), x.type.rank
        normal, _, inverse = _normalised(g, widened(g, x), mean_of, node.attrs["epsilon"])
        others = (0, *range(2, rank))
        dscale = g.add("reduce_sum", g.add("mul", dy, normal), axes=others, keepdims=False)
        dbias = g.add("reduce_sum", dy, axes=others, keepdims=False)
        dn = g.add("mul", dy, per_channel(g, widened(g, scale), rank))
        dx = _normal_cotangent(g, dn, normal, inverse, mean_of)
        return operand_cotangents(g, (x, scale, bias), (dx, dscale, dbias))


def _group_mean(g: Any, groups: int) -> Mean:
    """Of [N,C,...] the mean of each group, [N,C,1,...]: of channels, then over their means.

    So x keeps its shape, and with it a layout in which channels lie side by side.
    """

    def mean(x: Any) -> Any:
        n, channels, *spatial = x.type.shape
        means = g.add("reduce_mean", x, axes=tuple(range(2, x.type.rank))) if spatial else x
        if groups == channels:
            return means
        size = channels // groups
        lines = g.add("reshape", means, shape=(n, groups, size))
        each = g.add("expand", g.add("reduce_mean", lines, axes=(2,)), shape=(n, groups, size))
        return g.add("reshape", each, shape=means.type.shape)

    return mean
