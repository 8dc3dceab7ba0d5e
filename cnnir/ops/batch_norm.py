"""Batch normalisation: by statistics that are known, and by those of the batch, for training."""

from __future__ import annotations

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.derivative import reshaped, scaled, total
from cnnir.ops.norm import (
    Normalisation,
    check_channels,
    check_epsilon,
    inverse_deviation,
    operand_cotangents,
    per_channel,
)
from cnnir.ops.tracing import converted, widened
from cnnir.tensortype import TensorType, compute_dtype


class BatchNorm(Normalisation):
    """Normalisation by known statistics: x is [N,C,...], the other operands are [C].

    y[n,c,...] = (x[n,c,...] - mean[c]) / sqrt(var[c] + epsilon) * scale[c] + bias[c]
    """

    name = "batch_norm"
    per_element = 2

    def infer(x, scale, bias, mean, var, *, epsilon=1e-5):
        check_channels(x, scale=scale, bias=bias, mean=mean, var=var)
        check_epsilon(epsilon)
        return x

    def evaluate(x, scale, bias, mean, var, *, epsilon):
        shape = (-1,) + (1,) * (x.ndim - 2)
        scale, bias, mean, var = (p.reshape(shape) for p in (scale, bias, mean, var))
        with np.errstate(all="ignore"):
            return (x - mean) / np.sqrt(var + x.dtype.type(epsilon)) * scale + bias

    def decompose(g, x, scale, bias, mean, var, *, epsilon):
        dtype, rank = x.type.dtype, x.type.rank
        scale, bias, mean, var = (widened(g, p) for p in (scale, bias, mean, var))
        deviation = g.add("sqrt", g.add("add", var, g.constant(epsilon, var.type.dtype)))
        factor = g.add("div", scale, deviation)
        shift = g.add("sub", bias, g.add("mul", mean, factor))
        # x itself is not widened: mul and add directly on it are what folds into a convolution
        factor, shift = (per_channel(g, converted(g, p, dtype), rank) for p in (factor, shift))
        return g.add("add", g.add("mul", x, factor), shift)


class BatchNormTraining(Normalisation):
    """Normalisation by the statistics of the batch: (y, mean, var); scale, bias, mean, var are [C].

    y[n,c,...] = (x[n,c,...] - mean[c]) / sqrt(var[c] + epsilon) * scale[c] + bias[c], with mean and
    var over the batch and all spatial axes. var is the mean of the squares (not divided by one
    less than their number); the statistics are f32 where x is a 16-bit float.
    """

    name = "batch_norm_training"
    per_element = 8

    def infer(x, scale, bias, *, epsilon=1e-5):
        check_channels(x, scale=scale, bias=bias)
        check_epsilon(epsilon)
        if x.size == 0:
            raise IRError("x is empty, wanted at least one element for the statistics")
        statistic = TensorType(compute_dtype(x.dtype), (x.shape[1],))
        return x, statistic, statistic

    def evaluate(x, scale, bias, *, epsilon):
        axes, shape = (0, *range(2, x.ndim)), (-1,) + (1,) * (x.ndim - 2)
        mean = x.mean(axes, keepdims=True)
        var = np.square(x - mean).mean(axes, keepdims=True)
        y = (x - mean) / np.sqrt(var + x.dtype.type(epsilon))
        y = y * scale.reshape(shape) + bias.reshape(shape)
        return y, mean.reshape(-1), var.reshape(-1)

    def decompose(g, x, scale, bias, *, epsilon):
        rank, wide = x.type.rank, widened(g, x)
        axes, channels = (0, *range(2, rank)), x.type.shape[1]
        mean = g.add("reduce_mean", wide, axes=axes)
        centred = g.add("sub", wide, mean)
        variance = g.add("reduce_mean", g.add("mul", centred, centred), axes=axes)
        scale, bias = (per_channel(g, widened(g, p), rank) for p in (scale, bias))
        factor = g.add("mul", scale, inverse_deviation(g, variance, epsilon))
        y = g.add("add", g.add("mul", centred, factor), bias)
        statistics = (reshaped(g, s, (channels,)) for s in (mean, variance))
        return converted(g, y, x.type.dtype), *statistics

    def vjp(g, node, dy, dmean, dvar):
        (x, scale, bias), (_, mean, var) = node.operands, node.results
        rank, axes = x.type.rank, (0, *range(2, x.type.rank))
        count = x.type.size // x.type.shape[1]
        wide = widened(g, x)
        centred = g.add("sub", wide, per_channel(g, mean, rank))
        inverse = per_channel(g, inverse_deviation(g, var, node.attrs["epsilon"]), rank)
        normal = g.add("mul", centred, inverse)
        parts, dscale, dbias = [], None, None
        if dy is not None:
            dy = widened(g, dy)
            dscale = g.add("reduce_sum", g.add("mul", dy, normal), axes=axes, keepdims=False)
            dbias = g.add("reduce_sum", dy, axes=axes, keepdims=False)
            means = [per_channel(g, scaled(g, s, 1 / count), rank) for s in (dbias, dscale)]
            factor = g.add("mul", per_channel(g, widened(g, scale), rank), inverse)
            rest = g.add("sub", dy, g.add("add", means[0], g.add("mul", normal, means[1])))
            parts.append(g.add("mul", rest, factor))
        if dmean is not None:
            parts.append(per_channel(g, scaled(g, dmean, 1 / count), rank))
        if dvar is not None:
            parts.append(g.add("mul", centred, per_channel(g, scaled(g, dvar, 2 / count), rank)))
        return operand_cotangents(g, (x, scale, bias), (total(g, *parts), dscale, dbias))
