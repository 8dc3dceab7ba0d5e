"""Pooling over windows: maximum, its position, average and Lp norm. Global pooling is a reduction.

All take the attributes kernel, stride, dilation, padding (begins, then ends) and ceil_mode, which
rounds the number of windows up but drops those that would start in the end padding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.conv import check_spatial, padded, per_axis, window_sizes, windows
from cnnir.ops.conv_gradient import WindowShape, input_gradient
from cnnir.ops.elementwise import common_dtype, is_number
from cnnir.tensortype import TensorType, compute_dtype


def pooled_shape(
    x: TensorType, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any
) -> tuple[int, ...]:
    """The shape of a pooled x; IRError for attributes that do not fit."""
    rank = check_spatial(x)
    kernel = per_axis("kernel", kernel, rank, 0, 1)
    stride = per_axis("stride", stride, rank, 1, 1)
    dilation = per_axis("dilation", dilation, rank, 1, 1)
    padding = per_axis("padding", padding, 2 * rank, 0, 0)
    if not isinstance(ceil_mode, bool):
        raise IRError(f"attribute ceil_mode is {ceil_mode!r}, wanted True or False")
    for axis, (taps, spread) in enumerate(zip(kernel, dilation, strict=True)):
        if max(padding[axis], padding[rank + axis]) > spread * (taps - 1):
            raise IRError(
                f"padding {padding} would make windows of {list(kernel)} (dilation {dilation}) "
                "that see nothing of x, wanted less than the window"
            )
    out = window_sizes(x.shape[2:], kernel, stride, dilation, padding, ceil_mode)
    if min(out) < 1:
        raise IRError(f"the result would have sizes {list(out)}, wanted at least 1")
    return (*x.shape[:2], *out)


class Area:
    """The windows of one pooling, for evaluation and for element definitions."""

    def __init__(self, sizes, kernel, stride, padding, dilation, ceil_mode):
        self.sizes, self.kernel, rank = sizes, kernel, len(sizes)
        self.stride, self.dilation = stride or (1,) * rank, dilation or (1,) * rank
        self.padding = padding or (0,) * (2 * rank)
        self.out = window_sizes(sizes, kernel, self.stride, self.dilation, self.padding, ceil_mode)
        spans = (d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True))
        self.extra = tuple(
            max(0, (o - 1) * t + span - size - self.padding[a] - self.padding[rank + a])
            for a, (o, t, span, size) in enumerate(
                zip(self.out, self.stride, spans, sizes, strict=True)
            )
        )
        """How far the last window runs over the end padding."""

    def windows(self, x: np.ndarray, outside: float) -> np.ndarray:
        """[N,C,*out,taps], with `outside` for what is not in x."""
        source = padded(x, self.padding, outside, self.extra)
        view = windows(source, self.kernel, self.stride, self.dilation, self.out)
        return view.reshape(*view.shape[: x.ndim], math.prod(self.kernel))

    def source(self, position: tuple, taps: tuple) -> tuple:
        """Where a tap of the window at `position` reads."""
        axes = zip(position, self.stride, taps, self.dilation, self.padding, strict=False)
        return tuple(i * s + u * d - p for i, s, u, d, p in axes)

    def inside(self, m: Any, position: tuple) -> Callable[..., Any] | None:
        """The condition that a tap reads inside of x; None where all do."""
        if not any(self.padding) and not any(self.extra):
            return None
        return lambda *taps: m.all(
            *(i >= 0 for i in self.source(position, taps)),
            *(i < n for i, n in zip(self.source(position, taps), self.sizes, strict=True)),
        )

    def counted(self, include_padding: bool) -> list[np.ndarray]:
        """For each axis and position, how many taps an average divides by."""
        counts, rank = [], len(self.sizes)
        for a, (size, out) in enumerate(zip(self.sizes, self.out, strict=True)):
            begin, end = self.padding[a], self.padding[rank + a]
            low, high = (-begin, size + end) if include_padding else (0, size)
            taps = np.arange(out)[:, None] * self.stride[a] - begin
            taps = taps + np.arange(self.kernel[a]) * self.dilation[a]
            counts.append(((taps >= low) & (taps < high)).sum(1))
        return counts


def _cost(node: Any) -> Cost:
    """One operation for each tap of each result element."""
    moved = Op.cost(node)
    return Cost(math.prod(node.attrs["kernel"]) * moved.flops, moved.read, moved.written)


def _lowest(dtype: np.dtype) -> Any:
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


class MaxPool(Op):
    """The maximum over each window of x [N,C,*sizes]; padding counts as -inf, NaN propagates.

    y[n,c,i...] = max over u... of x[n, c, i*stride + u*dilation - begin ...]
    """

    name = "max_pool"
    cost = staticmethod(_cost)

    def infer(x, *, kernel, stride=(), padding=(), dilation=(), ceil_mode=False):
        common_dtype(("float", "int"), x)
        return x.with_shape(pooled_shape(x, kernel, stride, padding, dilation, ceil_mode))

    def evaluate(x, *, kernel, stride, padding, dilation, ceil_mode):
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
        return area.windows(x, _lowest(x.dtype)).max(-1)

    def element(m, at, x, *, kernel, stride, padding, dilation, ceil_mode):
        n, c, *position = at
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
        return m.reduce(
            "max",
            kernel,
            lambda *taps: x[(n, c, *area.source(position, taps))],
            area.inside(m, position),
        )

    def vjp(g, node, dy):
        (x,) = node.operands
        index = g.add("max_pool_index", x, **node.attrs)
        return (g.add("max_pool_grad", dy, index, sizes=x.type.shape[2:], **node.attrs),)


class MaxPoolIndex(Op):
    """Where in x the maximum of each window lies, as an index into the flattened x.

    Of equal ones the first, NaN first of all. storage_order 1 flattens the spatial axes with the
    first one fastest. The other attributes are those of max_pool.
    """

    name = "max_pool_index"
    cost = staticmethod(_cost)

    def infer(x, *, kernel, stride=(), padding=(), dilation=(), ceil_mode=False, storage_order=0):
        common_dtype(("float", "int"), x)
        if storage_order not in (0, 1):
            raise IRError(f"attribute storage_order is {storage_order!r}, wanted 0 or 1")
        shape = pooled_shape(x, kernel, stride, padding, dilation, ceil_mode)
        return TensorType("i64", shape)

    def evaluate(x, *, kernel, stride, padding, dilation, ceil_mode, storage_order):
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
        flat = np.arange(x.size).reshape(x.shape)
        if storage_order:
            # column-major positions inside each image of a channel
            inner = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:], order="F")
            flat = flat - flat[0, 0] + inner
        seen = area.windows(x, _lowest(x.dtype))
        real = area.windows(np.ones(x.shape, np.int8), 0) > 0
        # a tap outside never wins, not even against -inf
        order = np.where(real, seen, _lowest(x.dtype))
        best = np.where(real & (order == order.max(-1, keepdims=True)), 1, 0)
        if x.dtype.kind == "f":
            best = best + 2 * np.isnan(order)
        where = best.argmax(-1)[..., None]
        return np.take_along_axis(area.windows(flat, 0), where, -1)[..., 0]

    def element(m, at, x, *, kernel, stride, padding, dilation, ceil_mode, storage_order):
        n, c, *position = at
        sizes = x.shape[2:]
        area = Area(sizes, kernel, stride, padding, dilation, ceil_mode)
        inside = area.inside(m, tuple(position)) or (lambda *taps: True)
        dtype = compute_dtype(x.dtype)
        lowest = _lowest(TensorType(dtype, ()).numpy)

        def step(taps, state):
            best, where = state
            source = area.source(tuple(position), taps)
            real = inside(*taps)
            value = x.get((n, c, *source), inside=real, other=lowest)
            ahead = (value > best) | (where < 0)
            if dtype in ("f32", "f64"):
                ahead = ahead | (m.is_nan(value) & ~m.is_nan(best))
            ahead = m.all(real, ahead)
            flat, axes = 0, list(zip(source, sizes, strict=True))
            for i, extent in reversed(axes) if storage_order else axes:
                flat = flat * extent + i
            flat = (n * x.shape[1] + c) * math.prod(sizes) + flat
            return m.select(ahead, value, best), m.select(ahead, flat, where)

        start = (m.const(lowest, dtype), m.const(-1, "i64"))
        return m.fold(kernel, start, step)[1]


class AvgPool(Op):
    """The average over each window of x [N,C,*sizes].

    The sum over the taps inside of x is divided by how many those are, or, with
    count_include_pad, by how many lie inside of the padded x (not counting how far ceil_mode
    lets the last window run over).
    """

    name = "avg_pool"
    cost = staticmethod(_cost)

    def infer(
        x, *, kernel, stride=(), padding=(), dilation=(), ceil_mode=False, count_include_pad=False
    ):
        common_dtype(("float",), x)
        if not isinstance(count_include_pad, bool):
            raise IRError(f"attribute count_include_pad is {count_include_pad!r}, wanted a bool")
        return x.with_shape(pooled_shape(x, kernel, stride, padding, dilation, ceil_mode))

    def evaluate(x, *, kernel, stride, padding, dilation, ceil_mode, count_include_pad):
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
        total = area.windows(x, 0).sum(-1)
        for axis, count in enumerate(area.counted(count_include_pad)):
            shape = (-1, *(1,) * (x.ndim - 3 - axis))
            total = total / count.astype(x.dtype).reshape(shape)
        return total

    def element(m, at, x, *, kernel, stride, padding, dilation, ceil_mode, count_include_pad):
        n, c, *position = at
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
        inside = area.inside(m, tuple(position))
        total = m.reduce(
            "sum", kernel, lambda *taps: x[(n, c, *area.source(tuple(position), taps))], inside
        )
        wide, count = compute_dtype(x.dtype), None
        for axis, counts in enumerate(area.counted(count_include_pad)):
            if (counts == counts[0]).all():
                here = m.const(int(counts[0]), wide)
            else:
                here = m.reduce(
                    "sum",
                    (kernel[axis],),
                    lambda u: m.const(1, wide),
                    _counts(m, area, axis, position[axis], count_include_pad),
                )
            count = here if count is None else count * here
        return total / count

    def vjp(g, node, dy):
        area = _node_area(node)
        counts = area.counted(node.attrs["count_include_pad"])
        divisor = functools.reduce(np.multiply.outer, counts).astype(dy.type.numpy)
        # as one number where all windows count the same
        same = divisor.size and (divisor == divisor.flat[0]).all()
        divisor = g.constant(divisor.flat[0] if same else divisor)
        return (_spread(g, g.add("div", dy, divisor), node, area),)


def _counts(m: Any, area: Area, axis: int, i: Any, include_padding: bool) -> Callable[..., Any]:
    """The condition that a tap of one axis counts."""
    begin, end = area.padding[axis], area.padding[len(area.sizes) + axis]
    low = -begin if include_padding else 0
    high = area.sizes[axis] + (end if include_padding else 0)

    def counts(u: Any) -> Any:
        source = i * area.stride[axis] + u * area.dilation[axis] - begin
        return m.all(source >= low, source < high)

    return counts


class LpPool(Op):
    """The p-norm over each window of x [N,C,*sizes]: y = (sum |x|^p)^(1/p); padding is 0."""

    name = "lp_pool"
    cost = staticmethod(_cost)

    def infer(x, *, kernel, stride=(), padding=(), dilation=(), ceil_mode=False, p=2):
        common_dtype(("float",), x)
        if not is_number(p) or p < 1:
            raise IRError(f"attribute p is {p!r}, wanted a number >= 1")
        return x.with_shape(pooled_shape(x, kernel, stride, padding, dilation, ceil_mode))

    def evaluate(x, *, kernel, stride, padding, dilation, ceil_mode, p):
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)
        return (np.abs(area.windows(x, 0)) ** p).sum(-1) ** x.dtype.type(1 / p)

    def element(m, at, x, *, kernel, stride, padding, dilation, ceil_mode, p):
        n, c, *position = at
        area = Area(x.shape[2:], kernel, stride, padding, dilation, ceil_mode)

        def power(*taps):
            value = m.abs(x[(n, c, *area.source(tuple(position), taps))])
            return value * value if p == 2 else m.pow(value, m.const(p, m.dtype(value)))

        total = m.reduce("sum", kernel, power, area.inside(m, tuple(position)))
        return m.sqrt(total) if p == 2 else m.pow(total, m.const(1 / p, m.dtype(total)))

    def vjp(g, node, dy):
        (x,), (y,) = node.operands, node.results
        area, p = _node_area(node), node.attrs["p"]
        size = g.add("abs", x)
        if p == 1:
            return (g.add("mul", g.add("sign", x), _spread(g, dy, node, area)),)

        def power(value, exponent):
            return g.add("pow", value, g.constant(exponent, value.type.dtype))

        zero = g.constant(0, y.type.dtype)  # of a window of zeros the derivative is taken as 0
        part = g.add("div", dy, power(y, p - 1))
        part = g.add("where", g.add("equal", y, zero), zero, part)
        steep = g.add("mul", g.add("sign", x), power(size, p - 1))
        return (g.add("mul", x if p == 2 else steep, _spread(g, part, node, area)),)


def _node_area(node: Any) -> Area:
    names = ("kernel", "stride", "padding", "dilation", "ceil_mode")
    return Area(node.operands[0].type.shape[2:], *(node.attrs[n] for n in names))


def _spread(g: Any, dy: Any, node: Any, area: Area) -> Any:
    """Every element of dy added to all that its window covers: the transpose of a window sum."""
    channels = dy.type.shape[1]
    ones = np.ones((channels, 1, *area.kernel), dy.type.numpy)
    shape = WindowShape(area.stride, area.padding, area.dilation, channels)
    return input_gradient(g, dy, g.constant(ones), area.sizes, shape)
