"""Convolution over any number of spatial axes; its transpose is in `conv_transpose.py`.

Also the arithmetic of sliding windows that pooling shares: sizes, paddings, strided views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.boundary import (
    MODES,
    ZERO,
    bordered,
    check_boundary,
    folded,
    pads,
    reads,
    zeros_left,
)
from cnnir.ops.conv_gradient import WindowShape, channel_sum, input_gradient
from cnnir.ops.elementwise import common_dtype
from cnnir.tensortype import TensorType

COPIED_BYTES = 1 << 26
"""How much of its windows a convolution copies at a time when it is evaluated."""


def per_axis(name: str, value: Any, count: int, default: int, least: int) -> tuple[int, ...]:
    """A tuple attribute of `count` integers >= least; an empty one means the default everywhere."""
    if value == ():
        return (default,) * count
    wanted = f"wanted {count} integers >= {least}"
    if not isinstance(value, tuple) or len(value) != count:
        raise IRError(f"attribute {name} is {value!r}, {wanted}")
    if any(type(v) is not int or v < least for v in value):
        raise IRError(f"attribute {name} is {value!r}, {wanted}")
    return value


def check_spatial(x: TensorType) -> int:
    """The number of spatial axes of x [N,C,*sizes]; IRError when there is none."""
    if x.rank < 3:
        raise IRError(f"x has rank {x.rank}, wanted at least 3: [N, C, sizes]")
    return x.rank - 2


def window_sizes(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """How many windows fit on each axis; IRError where none does.

    With ceil_mode the last window may run over the end, but must start before the end padding.
    """
    rank, result = len(sizes), []
    for axis, (size, taps, step, spread) in enumerate(
        zip(sizes, kernel, stride, dilation, strict=True)
    ):
        begin, end = padding[axis], padding[rank + axis]
        room = size + begin + end - spread * (taps - 1) - 1
        if room < 0:
            raise IRError(
                f"a kernel of {taps} with dilation {spread} spans {spread * (taps - 1) + 1}, more "
                f"than the padded size {size + begin + end} of spatial axis {axis}"
            )
        count = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (count - 1) * step >= size + begin:
            count -= 1
        result.append(count)
    return tuple(result)


def windows(
    x: np.ndarray,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    out: tuple[int, ...],
) -> np.ndarray:
    """A view [N,C,*out,*kernel] of the windows of an already padded x."""
    rank = len(kernel)
    steps = x.strides[2:]
    outer = tuple(s * t for s, t in zip(steps, stride, strict=True))
    inner = tuple(s * d for s, d in zip(steps, dilation, strict=True))
    shape = (*x.shape[:2], *out, *kernel)
    assert len(shape) == 2 + 2 * rank
    return np.lib.stride_tricks.as_strided(
        x, shape, (*x.strides[:2], *outer, *inner), writeable=False
    )


def padded(
    x: np.ndarray, padding: tuple[int, ...], value: float, extra: tuple[int, ...] = ()
) -> np.ndarray:
    """x with its spatial axes padded by begins and ends, and by `extra` more at the ends."""
    rank = x.ndim - 2
    extra = extra or (0,) * rank
    amounts = [(padding[a], padding[rank + a] + extra[a]) for a in range(rank)]
    if not any(map(any, amounts)):
        return x
    return np.pad(x, [(0, 0), (0, 0), *amounts], constant_values=value)


class Conv(Op):
    """Cross-correlation of x [N,C,*sizes] with w [O,C/groups,*kernel], plus b [O].

    y[n,o,i...] = b[o] + sum over c,u... of w[o,c,u...] * x[n, g*C/groups + c, i*stride +
    u*dilation - begin ...] where g = o // (O/groups). padding is begins, then ends. boundary is a
    word an axis, for what x is in the padding: "zero", "circular" (it continues from the other
    end), "reflect" (mirrored, the outermost element once) or "replicate" (that element again).
    Empty stride and dilation mean 1 on every axis, empty padding 0, empty boundary zeros.
    """

    name = "conv"

    def infer(x, w, b=None, *, stride=(), padding=(), dilation=(), groups=1, boundary=()):
        common_dtype(("float", "int"), *(v for v in (x, w, b) if v is not None))
        rank = check_spatial(x)
        if w.rank != x.rank:
            raise IRError(f"w has rank {w.rank}, wanted {x.rank} as x has")
        if type(groups) is not int or groups < 1:
            raise IRError(f"attribute groups is {groups!r}, wanted an integer >= 1")
        if x.shape[1] != w.shape[1] * groups:
            raise IRError(f"x has {x.shape[1]} channels, w wants {w.shape[1]} x {groups} groups")
        if w.shape[0] % groups:
            raise IRError(f"w has {w.shape[0]} filters, wanted a multiple of {groups} groups")
        if b is not None and b.shape != (w.shape[0],):
            raise IRError(f"b is {b}, wanted [{w.shape[0]}]")
        stride = per_axis("stride", stride, rank, 1, 1)
        dilation = per_axis("dilation", dilation, rank, 1, 1)
        padding = per_axis("padding", padding, 2 * rank, 0, 0)
        if min(w.shape[2:]) < 1:
            raise IRError(f"the kernel is {list(w.shape[2:])}, wanted at least 1 on every axis")
        check_boundary(boundary, padding, x.shape[2:])
        out = window_sizes(x.shape[2:], w.shape[2:], stride, dilation, padding)
        return x.with_shape((x.shape[0], w.shape[0], *out))

    def evaluate(x, w, b=None, *, stride, padding, dilation, groups, boundary):
        rank = x.ndim - 2
        stride, dilation = (v or (1,) * rank for v in (stride, dilation))
        padding = padding or (0,) * (2 * rank)
        out = window_sizes(x.shape[2:], w.shape[2:], stride, dilation, padding)
        source = padded(bordered(x, padding, boundary), zeros_left(padding, boundary), 0)
        channels, filters = w.shape[1], w.shape[0] // groups
        y = np.empty((x.shape[0], w.shape[0], *out), x.dtype)
        taps = math.prod(w.shape[1:])
        # [C,*out,*kernel] -> [C,*kernel,*out], so that the product is one matmul; as many
        # positions of the first spatial axis at a time as the memory for the copy allows
        order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
        slab = max(1, COPIED_BYTES // max(1, taps * math.prod(out[1:]) * x.itemsize))
        for image, g in np.ndindex(x.shape[0], groups):
            part = source[image : image + 1, g * channels : (g + 1) * channels]
            view = windows(part, w.shape[2:], stride, dilation, out)[0].transpose(order)
            chosen = slice(g * filters, (g + 1) * filters)
            rows = w[chosen].reshape(filters, taps)
            for start in range(0, out[0], slab):
                some = view[(slice(None),) * (1 + rank) + (slice(start, start + slab),)]
                shape = some.shape[1 + rank :]
                product = rows @ some.reshape(taps, math.prod(shape))
                y[image, chosen, start : start + slab] = product.reshape(filters, *shape)
        return y if b is None else y + b.reshape(-1, *(1,) * rank)

    def element(m, at, x, w, b=None, *, stride, padding, dilation, groups, boundary):
        n, o, *position = at
        rank, channels, sizes = len(position), w.shape[1], x.shape[2:]
        stride, dilation = (v or (1,) * rank for v in (stride, dilation))
        padding = padding or (0,) * (2 * rank)
        words = reads(boundary, padding)
        # one group, or one filter a group, needs no division of the filter's index
        group = 0 if groups == 1 else o // (w.shape[0] // groups)

        def source(taps):
            axes = zip(position, stride, taps, dilation, padding, strict=False)
            index = [i * s + u * d - p for i, s, u, d, p in axes]
            return [
                i if word == ZERO else folded(m, MODES[word], i, size)
                for i, word, size in zip(index, words, sizes, strict=True)
            ]

        def product(c, *taps):
            return x[(n, group * channels + c, *source(taps))] * w[(o, c, *taps)]

        def inside(c, *taps):
            of_zeros = [a for a in range(rank) if words[a] == ZERO]
            index = source(taps)
            return m.all(*within([index[a] for a in of_zeros], [sizes[a] for a in of_zeros]))

        where = inside if any(zeros_left(padding, boundary)) else None
        total = m.reduce("sum", w.shape[1:], product, where)
        return total if b is None else total + b[(o,)]

    def vjp(g, node, dy):
        x, w, b = (*node.operands, None)[:3]
        shape = WindowShape.of(node)
        # around a padded copy, which the weights' gradient reads, there are zeros alone
        copies = [x]
        for attrs in pads(shape.padding, shape.boundary):
            copies.append(g.add("pad", copies[-1], **attrs))
        plain = shape.with_zeros()
        dw = g.add("conv_weight_grad", copies[-1], dy, kernel=w.type.shape[2:], **plain.attributes)
        db = None if b is None else channel_sum(g, dy)
        if shape.turns_round(x.type.shape[2:], dy.type.shape[2:], w.type.shape[2:]):
            return input_gradient(g, dy, w, x.type.shape[2:], shape), dw, db
        dx = input_gradient(g, dy, w, copies[-1].type.shape[2:], plain)
        for copy in reversed(copies[1:]):
            (dx,) = copy.node.op.vjp(g, copy.node, dx)
        return dx, dw, db

    @staticmethod
    def cost(node: Any) -> Cost:
        """A multiplication and an addition for each weight of each result element."""
        moved, w = Op.cost(node), node.operands[1].type
        taps = math.prod(w.shape[1:])
        return moved.of_products(taps * node.results[0].type.size)


def within(index: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """The conditions under which an index lies inside."""
    conditions = []
    for i, size in zip(index, sizes, strict=True):
        conditions += [i >= 0, i < size]
    return conditions
