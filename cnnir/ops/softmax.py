"""Softmax and its logarithm, which decompose into reductions and arithmetic.

`decompose` and `vjp` compute 16-bit floats in f32 by casts at both ends, as `evaluate` does.
"""

from __future__ import annotations

import numpy as np

from cnnir.ops.elementwise import common_dtype
from cnnir.ops.norm import Normalisation
from cnnir.ops.reduce import check_axis
from cnnir.ops.tracing import converted, widened


class Softmax(Normalisation):
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
        wide = widened(g, x)
        e = g.add("exp", g.add("sub", wide, g.add("reduce_max", wide, axes=(axis,))))
        y = g.add("div", e, g.add("reduce_sum", e, axes=(axis,)))
        return converted(g, y, x.type.dtype)

    def vjp(g, node, dy):
        y, dy = widened(g, node.results[0]), widened(g, dy)
        weighed = g.add("reduce_sum", g.add("mul", dy, y), axes=(node.attrs["axis"],))
        dx = g.add("mul", y, g.add("sub", dy, weighed))
        return (converted(g, dx, node.operands[0].type.dtype),)


class LogSoftmax(Normalisation):
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
        wide = widened(g, x)
        shifted = g.add("sub", wide, g.add("reduce_max", wide, axes=(axis,)))
        total = g.add("reduce_sum", g.add("exp", shifted), axes=(axis,))
        return converted(g, g.add("sub", shifted, g.add("log", total)), x.type.dtype)

    def vjp(g, node, dy):
        y, dy = widened(g, node.results[0]), widened(g, dy)
        together = g.add("reduce_sum", dy, axes=(node.attrs["axis"],))
        dx = g.add("sub", dy, g.add("mul", g.add("exp", y), together))
        return (converted(g, dx, node.operands[0].type.dtype),)
