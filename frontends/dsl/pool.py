"""Pooling: over windows, over everything (global), and to a given size (adaptive)."""

from __future__ import annotations

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.function_layer import layer, single
from cnnir.frontends.dsl.tensor import Tensor, op
from cnnir.frontends.dsl.windows import (
    Ints,
    Padding,
    Size,
    channels,
    check_image,
    entries,
    kernel_of,
    pads,
)


def _window(
    x: Tensor, kernel: Size, stride: Size | None, padding: Padding, dilation: Size
) -> dict[str, Ints]:
    sizes = kernel_of(kernel)
    rank = len(sizes)
    check_image(x, rank)
    steps = sizes if stride is None else entries("stride", stride, rank)
    spread = entries("dilation", dilation, rank)
    border = pads(padding, x.shape[2:], sizes, steps, spread)
    return {"kernel": sizes, "stride": steps, "padding": border, "dilation": spread}


def max_pool(
    x: Tensor,
    kernel: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The maximum over windows of x [N,C,*sizes], which by default do not overlap.

    kernel: a number is a square of a 2-D image. ceil_mode: a last window may run over the end.
    """
    return op("max_pool", x, **_window(x, kernel, stride, padding, dilation), ceil_mode=ceil_mode)


def avg_pool(
    x: Tensor,
    kernel: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    *,
    dilation: Size = 1,
    ceil_mode: bool = False,
    count_padding: bool = False,
) -> Tensor:
    """The mean over windows of x [N,C,*sizes], which by default do not overlap.

    count_padding: padding counts as zeros, where otherwise only what lies in x is averaged.
    """
    area = _window(x, kernel, stride, padding, dilation)
    return op("avg_pool", x, **area, ceil_mode=ceil_mode, count_include_pad=count_padding)


def lp_pool(
    x: Tensor, kernel: Size, p: int = 2, stride: Size | None = None, padding: Padding = 0
) -> Tensor:
    """The p-norm over windows of x [N,C,*sizes], which by default do not overlap."""
    return op("lp_pool", x, **_window(x, kernel, stride, padding, 1), p=p)


def global_avg_pool(x: Tensor, keepdims: bool = False) -> Tensor:
    """The mean of each channel: [N,C], or [N,C,1,...] with keepdims."""
    return x.mean(_spatial(x), keepdims)


def global_max_pool(x: Tensor, keepdims: bool = False) -> Tensor:
    """The maximum of each channel: [N,C], or [N,C,1,...] with keepdims."""
    return x.max(_spatial(x), keepdims)


def _spatial(x: Tensor) -> Ints:
    if x.rank < 3:
        raise IRError(f"x has rank {x.rank}, wanted at least 3: [N, C, sizes]")
    return tuple(range(2, x.rank))


def adaptive_avg_pool(x: Tensor, size: Size) -> Tensor:
    """Means over as many windows as `size` says; window i runs from i n/m up to (i + 1) n/m."""
    y = x
    if even := _even(x, size):
        return op("avg_pool", x, **even)
    for axis, count in enumerate(_targets(x, size), 2):
        y = _averaged(y, axis, count)
    return y


def adaptive_max_pool(x: Tensor, size: Size) -> Tensor:
    """Maxima over as many windows as `size` says; window i runs from i n/m up to (i + 1) n/m."""
    y = x
    if even := _even(x, size):
        return op("max_pool", x, **even)
    for axis, count in enumerate(_targets(x, size), 2):
        bins = _bins(x.shape[axis], count)
        widest = max(len(b) for b in bins)
        # a window that is narrower than the widest sees its last element again
        seen = np.array([[b[min(k, len(b) - 1)] for k in range(widest)] for b in bins], np.int64)
        indices = x.trace.constant(seen)
        y = op("gather", y, indices, axis=axis).max(axis + 1)
    return y


def _targets(x: Tensor, size: Size) -> Ints:
    rank = x.rank - 2
    channels(x), _spatial(x)
    return entries("size", size, rank)


def _even(x: Tensor, size: Size) -> dict[str, Ints] | None:
    """The windows of a plain pool where all have one size; None where they do not."""
    counts, sizes = _targets(x, size), x.shape[2:]
    if any(n % m for n, m in zip(sizes, counts, strict=True)):
        return None
    kernel = tuple(n // m for n, m in zip(sizes, counts, strict=True))
    rank = len(kernel)
    ones = (1,) * rank
    return {"kernel": kernel, "stride": kernel, "padding": (0,) * (2 * rank), "dilation": ones}


def _bins(extent: int, count: int) -> list[range]:
    return [range(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]


def _averaged(x: Tensor, axis: int, count: int) -> Tensor:
    """Means along one axis, as a product with a matrix of weights."""
    extent = x.shape[axis]
    matrix = np.zeros((extent, count), x.type.numpy)
    for column, b in enumerate(_bins(extent, count)):
        matrix[b.start : b.stop, column] = single(1 / len(b), 0.0)
    weights = x.trace.constant(matrix)
    last = x.rank - 1
    perm = [*range(axis), last, *range(axis + 1, last), axis] if axis != last else range(x.rank)
    return (x.transpose(*perm) @ weights).transpose(*perm)


MaxPool = layer("MaxPool", max_pool)
AvgPool = layer("AvgPool", avg_pool)
LpPool = layer("LpPool", lp_pool)
GlobalAvgPool = layer("GlobalAvgPool", global_avg_pool)
GlobalMaxPool = layer("GlobalMaxPool", global_max_pool)
AdaptiveAvgPool = layer("AdaptiveAvgPool", adaptive_avg_pool)
AdaptiveMaxPool = layer("AdaptiveMaxPool", adaptive_max_pool)
