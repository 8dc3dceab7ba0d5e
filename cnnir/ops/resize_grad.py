"""The gradient of resize: its linear map transposed, axis by axis.

`banded` is a linear map along one axis whose rows are short, which is what that becomes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import filled, transposed
from cnnir.ops.elementwise import common_dtype
from cnnir.ops.reduce import check_axis
from cnnir.ops.resize import Resize, evaluate_axis, setup
from cnnir.tensortype import TensorType

SETUP = (
    *("sizes", "scales", "coordinates", "roi", "antialias"),
    *("mode", "cubic_coeff", "exclude_outside"),
)
"""The attributes that say how elements are weighed."""


class ResizeGrad(Op):
    """The cotangent of the operand of a resize, which has this shape, from that of its result.

    The other attributes are those of resize. dx[j] = sum of dy[i] times the weight of x[j] in
    element i of the result.
    """

    name = "resize_grad"

    def infer(
        dy,
        *,
        shape,
        sizes,
        scales,
        mode="nearest",
        coordinates="half_pixel",
        nearest="round_prefer_floor",
        cubic_coeff=-0.75,
        exclude_outside=False,
        extrapolation=0.0,
        roi=(),
        antialias=False,
    ):
        common_dtype(("float",), dy)
        x = dy.with_shape(shape)
        given = dict(sizes=sizes, scales=scales, mode=mode, coordinates=coordinates)
        given |= dict(nearest=nearest, cubic_coeff=cubic_coeff, exclude_outside=exclude_outside)
        given |= dict(extrapolation=extrapolation, roi=roi, antialias=antialias)
        if (y := Resize.infer(x, **given)) != dy:
            raise IRError(f"dy is {dy}, wanted the result of a resize, {y}")
        return x

    def evaluate(dy, *, shape, **attrs):
        if dy.size == 0:
            return np.zeros(shape, dy.dtype)
        dx = dy
        for axis, matrix in _matrices(shape, attrs):
            moved = np.tensordot(matrix.T.astype(dy.dtype), dx, (1, axis))
            dx = np.moveaxis(moved, 0, axis)
        return np.ascontiguousarray(dx)

    def decompose(g, dy, *, shape, **attrs):
        if dy.type.size == 0:
            return filled(g, dy.type.with_shape(shape))
        dx = dy
        for axis, matrix in _matrices(shape, attrs):
            starts, weights = banded_rows(matrix.T)
            band = g.constant(starts, "i64"), g.constant(weights, dy.type.dtype)
            dx = g.add("banded", dx, *band, axis=axis)
        return dx

    def vjp(g, node, dx):
        attrs = {k: v for k, v in node.attrs.items() if k != "shape"}
        return (g.add("resize", dx, **{**attrs, "extrapolation": 0.0}),)


def _matrices(shape: tuple[int, ...], attrs: dict[str, Any]) -> list[tuple[int, np.ndarray]]:
    """For each axis that is resized, the matrix [size, extent] that does it, in f64."""
    lines, kernel = setup(shape, **{name: attrs[name] for name in SETUP})
    found = []
    for axis, p in enumerate(lines):
        if p.identity and p.size == p.extent:
            continue
        one, i = np.eye(p.extent), np.arange(p.size)
        if p.identity:
            matrix = one[i]
        elif attrs["mode"] == "nearest":
            matrix = one[p.nearest(NUMPY, i, attrs["nearest"])]
        else:
            with np.errstate(all="ignore"):  # where nothing is weighed and all is cropped
                matrix = evaluate_axis(one, 0, p, kernel)
        if attrs["coordinates"] == "tf_crop_and_resize":
            matrix = np.where(p.inside(i)[:, None], matrix, 0)
        found.append((axis, matrix))
    return found


def banded_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the elements of each row begin that are not 0, and those, filled up with zeros."""
    used = matrix != 0
    some = used.any(1)
    starts = np.where(some, used.argmax(1), 0) if matrix.size else np.zeros(len(matrix), np.int64)
    ends = np.where(some, matrix.shape[1] - used[:, ::-1].argmax(1), 0) if matrix.size else starts
    width = int((ends - starts).max(initial=0))
    wide = np.pad(matrix, [(0, 0), (0, width)])
    return starts, np.take_along_axis(wide, starts[:, None] + np.arange(width), 1)


class Banded(Op):
    """A linear map along `axis`: y[a.., j, b..] = sum_t weights[j,t] * x[a.., starts[j] + t, b..].

    starts is [size], weights [size, width]; what would be read outside of x is 0.
    """

    name = "banded"

    def infer(x, starts, weights, *, axis):
        common_dtype(("float",), x, weights)
        check_axis(axis, x.rank)
        if weights.rank != 2 or starts != TensorType("i64", weights.shape[:1]):
            raise IRError(f"starts are {starts}, weights {weights}: wanted i64[n] and [n, width]")
        return x.with_shape((*x.shape[:axis], weights.shape[0], *x.shape[axis + 1 :]))

    def evaluate(x, starts, weights, *, axis):
        rows = np.moveaxis(x, axis, 0)
        index = starts[:, None] + np.arange(weights.shape[1])
        inside = (index >= 0) & (index < len(rows))
        matrix = np.zeros((len(starts), len(rows)), x.dtype)
        row, tap = np.nonzero(inside)
        np.add.at(matrix, (row, index[row, tap]), weights[row, tap])
        return np.ascontiguousarray(np.moveaxis(np.tensordot(matrix, rows, (1, 0)), 0, axis))

    def element(m, at, x, starts, weights, *, axis):
        j, first = at[axis], m.cast(starts[(at[axis],)], "i64")

        def body(t):
            i = first + t
            inside = m.all(i >= 0, i < x.shape[axis])
            value = x.get((*at[:axis], i, *at[axis + 1 :]), inside=inside, other=0)
            return value * weights[(j, t)]

        return m.reduce("sum", (weights.shape[1],), body)

    def vjp(g, node, dy):
        (x, starts, weights), axis = node.operands, node.attrs["axis"]
        (size, width), rank = weights.type.shape, x.type.rank
        front = (axis, *range(axis), *range(axis + 1, rank))
        extent, *rest = (x.type.shape[a] for a in front)
        rows, inside = _band(g, starts, width, extent)
        kept = g.add("where", inside, weights, g.constant(0, weights.type.dtype))
        # [size, width, ...] of what each element of y and each weight read
        column = (size, width) + (1,) * len(rest)
        dys = g.add("reshape", transposed(g, dy, front), shape=(size, 1, *rest))
        kept = g.add("reshape", kept, shape=column)
        index = g.add("reshape", rows, shape=(size, width, 1))
        zeros = filled(g, x.type.with_shape((extent, *rest)))
        dx = g.add("scatter_nd", zeros, index, g.add("mul", dys, kept), reduction="add")
        seen = g.add("gather", transposed(g, x, front), rows, axis=0)
        slopes = g.add("reduce_sum", g.add("mul", dys, seen), axes=tuple(range(2, rank + 1)))
        dw = g.add("reshape", slopes, shape=(size, width))
        dw = g.add("where", inside, dw, g.constant(0, dw.type.dtype))
        return transposed(g, dx, tuple(front.index(a) for a in range(rank))), None, dw

    @staticmethod
    def cost(node: Any) -> Cost:
        """A product and a sum for each weight of each result element."""
        moved, width = Op.cost(node), node.operands[2].type.shape[1]
        return moved.of_products(width * moved.flops)


def _band(g: Any, starts: Any, width: int, extent: int) -> tuple[Any, Any]:
    """The index [size, width] that each weight reads, kept inside, and whether it was inside."""
    column = g.add("reshape", starts, shape=(starts.type.shape[0], 1))
    rows = g.add("add", column, g.constant(np.arange(width), "i64"))
    below = g.add("less", rows, g.constant(extent, "i64"))
    inside = g.add("logical_and", g.add("less_equal", g.constant(0, "i64"), rows), below)
    return g.add("clip", rows, lo=0, hi=max(extent - 1, 0)), inside
