"""The gradient of a convolution by its weights: a convolution of its input and its cotangent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.conv import check_spatial, per_axis, window_sizes, within
from cnnir.ops.conv_gradient import WindowShape, cropped_conv, input_gradient
from cnnir.ops.elementwise import common_dtype


class ConvWeightGrad(Op):
    """The cotangent [O,C/groups,*kernel] of the weights of a convolution.

    dw[o,c,u...] = sum over n,i... of dy[n,o,i...] * x[n, g*C/groups + c, i*stride + u*dilation -
    begin ...] where g = o // (O/groups): a convolution in which batch and channels, stride and
    dilation have changed places. x is [N,C,*sizes], dy [N,O,*out]; the attributes are those of
    conv, and negative padding cuts x.
    """

    name = "conv_weight_grad"

    def infer(x, dy, *, kernel, stride=(), padding=(), dilation=(), groups=1):
        common_dtype(("float",), x, dy)
        rank = check_spatial(x)
        if dy.rank != x.rank or dy.shape[0] != x.shape[0]:
            raise IRError(f"x is {x}, dy is {dy}: wanted one rank and batch")
        if type(groups) is not int or groups < 1 or dy.shape[1] % groups or x.shape[1] % groups:
            raise IRError(f"attribute groups is {groups!r}, wanted a divisor of the channels")
        kernel = per_axis("kernel", kernel, rank, 0, 1)
        stride = per_axis("stride", stride, rank, 1, 1)
        dilation = per_axis("dilation", dilation, rank, 1, 1)
        padding = per_axis("padding", padding, 2 * rank, 0, -(1 << 31))
        out = window_sizes(x.shape[2:], kernel, stride, dilation, padding)
        if dy.shape[2:] != out:
            raise IRError(f"dy has sizes {list(dy.shape[2:])}, the windows are {list(out)}")
        return x.with_shape((dy.shape[1], x.shape[1] // groups, *kernel))

    def evaluate(x, dy, *, kernel, stride, padding, dilation, groups):
        rank = x.ndim - 2
        stride, dilation = (v or (1,) * rank for v in (stride, dilation))
        source = _cut(x, padding or (0,) * (2 * rank))
        channels, filters = x.shape[1] // groups, dy.shape[1] // groups
        dw = np.zeros((dy.shape[1], channels, *kernel), x.dtype)
        axes = (0, *range(2, rank + 2))
        for taps in np.ndindex(*kernel):
            where = tuple(
                slice(u * d, u * d + (n - 1) * s + 1, s)
                for u, d, s, n in zip(taps, dilation, stride, dy.shape[2:], strict=True)
            )
            seen = source[(slice(None), slice(None), *where)]
            for k in range(groups):
                some = slice(k * filters, (k + 1) * filters)
                part = seen[:, k * channels : (k + 1) * channels]
                dw[(some, slice(None), *taps)] = np.tensordot(dy[:, some], part, (axes, axes))
        return dw

    def element(m, at, x, dy, *, kernel, stride, padding, dilation, groups):
        o, c, *taps = at
        rank = len(taps)
        stride, dilation = (v or (1,) * rank for v in (stride, dilation))
        begins = padding[:rank] or (0,) * rank
        group = 0 if groups == 1 else o // (dy.shape[1] // groups)
        channel = group * (x.shape[1] // groups) + c

        def source(position):
            axes = zip(position, stride, taps, dilation, begins, strict=True)
            return tuple(i * s + u * d - p for i, s, u, d, p in axes)

        def product(n, *position):
            return dy[(n, o, *position)] * x[(n, channel, *source(position))]

        def inside(n, *position):
            return m.all(*within(source(position), x.shape[2:]))

        where = inside if any(p > 0 for p in padding) else None
        return m.reduce("sum", (dy.shape[0], *dy.shape[2:]), product, where)

    def vjp(g, node, dw):
        x, dy = node.operands
        shape = WindowShape.of(node)
        return input_gradient(g, dy, dw, x.type.shape[2:], shape), cropped_conv(g, x, dw, shape)

    @staticmethod
    def cost(node: Any) -> Cost:
        """A multiplication and an addition for each weight and element of dy of its group."""
        moved, dw = Op.cost(node), node.results[0].type
        taps = math.prod(dw.shape[1:])
        return moved.of_products(taps * node.operands[1].type.size)


def _cut(x: np.ndarray, padding: tuple[int, ...]) -> np.ndarray:
    """x with zeros around its spatial axes, or without elements where padding is negative."""
    rank = x.ndim - 2
    pairs = [(padding[a], padding[rank + a]) for a in range(rank)]
    wide = np.pad(x, [(0, 0), (0, 0), *((max(b, 0), max(e, 0)) for b, e in pairs)])
    axes = zip(pairs, wide.shape[2:], strict=True)
    kept = (slice(max(0, -b), n - max(0, -e)) for (b, e), n in axes)
    return wide[(slice(None), slice(None), *kept)]
