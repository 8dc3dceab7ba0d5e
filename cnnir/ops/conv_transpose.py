"""Transposed convolution, over any number of spatial axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.conv import check_spatial, per_axis
from cnnir.ops.conv_gradient import WindowShape, channel_sum, cropped_conv
from cnnir.ops.elementwise import common_dtype


class ConvTranspose(Op):
    """Transposed convolution of x [N,C,*sizes] with w [C,O/groups,*kernel]: conv's adjoint.

    Every x[n,c,i...] adds w[c,o,u...] * x[n,c,i...] to y[n, g*O/groups + o, i*stride + u*dilation
    - begin ...] with g = c // (C/groups); what falls outside of y is dropped. An axis of y has
    (size - 1)*stride + dilation*(kernel - 1) + 1 + output_padding - begin - end elements.
    """

    name = "conv_transpose"

    def infer(x, w, b=None, *, stride=(), padding=(), output_padding=(), dilation=(), groups=1):
        common_dtype(("float",), *(v for v in (x, w, b) if v is not None))
        rank = check_spatial(x)
        if w.rank != x.rank:
            raise IRError(f"w has rank {w.rank}, wanted {x.rank} as x has")
        if type(groups) is not int or groups < 1:
            raise IRError(f"attribute groups is {groups!r}, wanted an integer >= 1")
        if x.shape[1] != w.shape[0] or x.shape[1] % groups:
            raise IRError(
                f"x has {x.shape[1]} channels, w has {w.shape[0]}; wanted as many, "
                f"a multiple of {groups} groups"
            )
        filters = w.shape[1] * groups
        if b is not None and b.shape != (filters,):
            raise IRError(f"b is {b}, wanted [{filters}]")
        stride = per_axis("stride", stride, rank, 1, 1)
        dilation = per_axis("dilation", dilation, rank, 1, 1)
        # negative padding widens the result, as a requested output shape may
        padding = per_axis("padding", padding, 2 * rank, 0, -(1 << 31))
        more = per_axis("output_padding", output_padding, rank, 0, 0)
        if min(w.shape[2:]) < 1:
            raise IRError(f"the kernel is {list(w.shape[2:])}, wanted at least 1 on every axis")
        if any(e >= max(s, d) for e, s, d in zip(more, stride, dilation, strict=True)):
            raise IRError(
                f"attribute output_padding is {more}, wanted less than the stride {stride} "
                f"or the dilation {dilation}"
            )
        out = _transposed_sizes(x.shape[2:], w.shape[2:], stride, dilation, padding, more)
        if min(out) < 1:
            raise IRError(f"the result would have sizes {list(out)}, wanted at least 1")
        return x.with_shape((x.shape[0], filters, *out))

    def evaluate(x, w, b=None, *, stride, padding, output_padding, dilation, groups):
        rank = x.ndim - 2
        stride, dilation = (v or (1,) * rank for v in (stride, dilation))
        padding = padding or (0,) * (2 * rank)
        more = output_padding or (0,) * rank
        out = _transposed_sizes(x.shape[2:], w.shape[2:], stride, dilation, padding, more)
        channels, filters = x.shape[1] // groups, w.shape[1]
        full = tuple(
            max((s - 1) * t + d * (k - 1) + 1, o + p)
            for s, t, d, k, o, p in zip(
                x.shape[2:], stride, dilation, w.shape[2:], out, padding, strict=False
            )
        )
        y = np.zeros((x.shape[0], filters * groups, *full), x.dtype)
        for taps in np.ndindex(*w.shape[2:]):
            where = tuple(
                slice(u * d, u * d + (s - 1) * t + 1, t)
                for u, d, s, t in zip(taps, dilation, x.shape[2:], stride, strict=True)
            )
            for g in range(groups):
                part = x[:, g * channels : (g + 1) * channels]
                weights = w[(slice(g * channels, (g + 1) * channels), slice(None), *taps)]
                target = y[(slice(None), slice(g * filters, (g + 1) * filters), *where)]
                target += np.einsum("nc...,co->no...", part, weights)
        y = _cropped(y, padding[:rank], out)
        return y if b is None else y + b.reshape(-1, *(1,) * rank)

    def element(m, at, x, w, b=None, *, stride, padding, output_padding, dilation, groups):
        n, o, *position = at
        rank, channels, filters = len(position), x.shape[1] // groups, w.shape[1]
        stride, dilation = (v or (1,) * rank for v in (stride, dilation))
        begins = padding[:rank] or (0,) * rank
        group = 0 if groups == 1 else o // filters

        def distance(taps):
            """stride times the input position that tap reaches this output from."""
            return [
                i + p - u * d for i, p, u, d in zip(position, begins, taps, dilation, strict=True)
            ]

        def product(c, *taps):
            far = distance(taps)
            source = tuple(f // s for f, s in zip(far, stride, strict=True))
            c = group * channels + c
            return x[(n, c, *source)] * w[(c, o % filters, *taps)]

        def reaches(c, *taps):
            conditions = []
            for f, s, size in zip(distance(taps), stride, x.shape[2:], strict=True):
                conditions += [f >= 0, f < s * size]
                conditions += [m.equal(f % s, 0)] if s > 1 else []
            return m.all(*conditions)

        total = m.reduce("sum", (channels, *w.shape[2:]), product, reaches)
        return total if b is None else total + b[(o,)]

    def vjp(g, node, dy):
        x, w, b = (*node.operands, None)[:3]
        shape = WindowShape.of(node).cut(node.attrs["output_padding"])
        dx = cropped_conv(g, dy, w, shape)
        dw = g.add("conv_weight_grad", dy, x, kernel=w.type.shape[2:], **shape.attributes)
        return dx, dw, None if b is None else channel_sum(g, dy)

    @staticmethod
    def cost(node: Any) -> Cost:
        """A multiplication and an addition for each weight of each operand element."""
        moved, w = Op.cost(node), node.operands[1].type
        taps = math.prod(w.shape[1:])
        return moved.of_products(taps * node.operands[0].type.size)


def _transposed_sizes(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
    more: tuple[int, ...],
) -> tuple[int, ...]:
    rank = len(sizes)
    return tuple(
        (size - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1
        + more[a] - padding[a] - padding[rank + a]
        for a, size in enumerate(sizes)
    )  # fmt: skip


def _cropped(y: np.ndarray, begins: tuple[int, ...], out: tuple[int, ...]) -> np.ndarray:
    """`out` elements of each spatial axis from `begins` on, zeros where y has none."""
    front = [max(0, -b) for b in begins]
    back = [max(0, b + o - s) for b, o, s in zip(begins, out, y.shape[2:], strict=True)]
    if any(front) or any(back):
        y = np.pad(y, [(0, 0), (0, 0), *zip(front, back, strict=True)])
    starts = [b + f for b, f in zip(begins, front, strict=True)]
    return y[
        (slice(None), slice(None), *(slice(s, s + o) for s, o in zip(starts, out, strict=True)))
    ]
