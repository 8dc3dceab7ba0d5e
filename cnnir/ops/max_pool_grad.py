"""The gradient of maximum pooling: each cotangent goes to where its window had its maximum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.conv import check_spatial, per_axis
from cnnir.ops.derivative import reshaped
from cnnir.ops.elementwise import common_dtype
from cnnir.ops.pool import Area, pooled_shape


class MaxPoolGrad(Op):
    """The cotangent [N,C,*sizes] of the operand of a max_pool, from that of its result.

    index is what max_pool_index gives for the same operand: dx[j] = sum of the dy[i] with
    index[i] = j, where j counts through the flattened dx. Only windows that cover j are looked at.
    """

    name = "max_pool_grad"

    def infer(dy, index, *, sizes, kernel, stride=(), padding=(), dilation=(), ceil_mode=False):
        common_dtype(("float",), dy)
        sizes = per_axis("sizes", sizes, check_spatial(dy), 0, 0)
        x = dy.with_shape((*dy.shape[:2], *sizes))
        if dy.shape != (out := pooled_shape(x, kernel, stride, padding, dilation, ceil_mode)):
            raise IRError(f"dy is {dy}, wanted the shape of a pooled {x}, {list(out)}")
        if index != dy.with_dtype("i64"):
            raise IRError(f"index is {index}, wanted {dy.with_dtype('i64')}")
        return x

    def evaluate(dy, index, *, sizes, kernel, stride, padding, dilation, ceil_mode):
        dx = np.zeros(math.prod((*dy.shape[:2], *sizes)), dy.dtype)
        np.add.at(dx, index.ravel(), dy.ravel())
        return dx.reshape(*dy.shape[:2], *sizes)

    def element(m, at, dy, index, *, sizes, kernel, stride, padding, dilation, ceil_mode):
        n, c, *position = at
        area = Area(sizes, kernel, stride, padding, dilation, ceil_mode)
        own = n * dy.shape[1] + c
        for i, extent in zip(position, sizes, strict=True):
            own = own * extent + i

        def distance(taps):
            """stride times the window that sees this element at these taps."""
            axes = zip(position, area.padding, taps, area.dilation, strict=False)
            return [i + p - u * d for i, p, u, d in axes]

        def part(*taps):
            window = tuple(f // s for f, s in zip(distance(taps), area.stride, strict=True))
            chosen = m.equal(index[(n, c, *window)], own)
            value = dy[(n, c, *window)]
            return m.select(chosen, value, m.const(0, m.dtype(value)))

        def covers(*taps):
            conditions = []
            for f, s, count in zip(distance(taps), area.stride, area.out, strict=True):
                conditions += [f >= 0, f < s * count]
                conditions += [m.equal(f % s, 0)] if s > 1 else []
            return m.all(*conditions)

        return m.reduce("sum", kernel, part, covers)

    def vjp(g, node, dx):
        index = node.operands[1]
        flat = reshaped(g, dx, (dx.type.size,))
        return g.add("gather", flat, index, axis=0), None

    @staticmethod
    def cost(node: Any) -> Cost:
        """A comparison and an addition for each tap of each result element."""
        moved = Op.cost(node)
        return Cost(2 * math.prod(node.attrs["kernel"]) * moved.flops, moved.read, moved.written)
