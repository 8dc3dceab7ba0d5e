"""Local response normalisation, across channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import scaled
from cnnir.ops.elementwise import is_number
from cnnir.ops.norm import check_channels


class Lrn(Op):
    """Local response normalisation across the channels of x [N,C,...].

    y[n,c,...] = x[n,c,...] / (bias + alpha / size * sum_i x[n,i,...]^2)^beta over the channels i
    from c - floor((size - 1) / 2) to c + ceil((size - 1) / 2) that there are.
    """

    name = "lrn"

    def infer(x, *, size, alpha=1e-4, beta=0.75, bias=1.0):
        check_channels(x)
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

    def vjp(g, node, dy):
        # with s the sum in the brackets: dy s^-beta - 2 alpha beta / size x sum(dy y / s)
        (x,), (y,), attrs = node.operands, node.results, node.attrs
        size, beta, slope = attrs["size"], attrs["beta"], attrs["alpha"] / attrs["size"]
        dtype, before = y.type.dtype, (attrs["size"] - 1) // 2
        around = (before, size - 1 - before)
        squares = scaled(g, _window_sum(g, g.add("mul", x, x), around), slope)
        s = g.add("add", squares, g.constant(attrs["bias"], dtype))
        own = g.add("mul", dy, g.add("pow", s, g.constant(-beta, dtype)))
        others = _window_sum(g, g.add("div", g.add("mul", dy, y), s), around[::-1])
        others = g.add("mul", x, scaled(g, others, 2 * slope * beta))
        return (g.add("sub", own, others),)

    @staticmethod
    def cost(node: Any) -> Cost:
        """Two operations for each channel of the window, and a power and a division."""
        moved = Op.cost(node)
        flops = (2 * node.attrs["size"] + 4) * node.results[0].type.size
        return Cost(flops, moved.read, moved.written)


def _window_sum(g: Any, x: Any, around: tuple[int, int]) -> Any:
    """The sum of x [N,C,...] over so many channels before, and behind each: a convolution."""
    n, channels, *rest = x.type.shape
    image = g.add("reshape", x, shape=(n, 1, channels, math.prod(rest)))
    ones = g.constant(np.ones((1, 1, sum(around) + 1, 1)), x.type.dtype)
    total = g.add("conv", image, ones, padding=(around[0], 0, around[1], 0))
    return g.add("reshape", total, shape=x.type.shape)


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
