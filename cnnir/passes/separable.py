"""Convolutions whose weights have low rank become two that are less work.

Over space: k x k as k x 1 and 1 x k, through as many channels as the rank says (one for each of
a depthwise kernel: Gauss, Sobel, binomial). Over channels: depthwise and 1x1. In three dimensions
what is left is looked at again. `factor.py` has the mathematics. A padded convolution splits
exactly, whatever its boundary: each half pads the axes that it works on, and the first has no bias.

By default the rank is the numerical one, so that values change by rounding. `tolerance` asks for
more: the error that the weights of a layer may have, in the Frobenius norm and relative to them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.passes.base import RulePass
from cnnir.passes.constants import rounded
from cnnir.passes.factor import EXACT, Split, depthwise_first, depthwise_last, spatial_split
from cnnir.passes.linear import weights, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.passes.windows import Window
from cnnir.rewrite import Result, accept, decline, rule
from cnnir.tensortype import TensorType


@dataclass(frozen=True)
class _Way:
    """One way to split a layer: what the two would be, for an inner rank."""

    what: str
    first: Callable[[int], tuple[tuple[int, ...], Window]]
    """rank -> kernel shape and window of the layer applied first"""
    second: Callable[[int], tuple[tuple[int, ...], Window]]
    split: Callable[[np.ndarray, int, float], Split | None]

    def work(self, x: TensorType, bias: TensorType | None, rank: int) -> float:
        """The work of both layers."""
        (shape, window), (then, following) = self.first(rank), self.second(rank)
        cost, inner = prospect("conv", x, x.with_shape(shape), **window.attrs())
        more, _ = prospect("conv", inner, x.with_shape(then), bias, **following.attrs())
        return work([cost, more])

    def most(self, x: TensorType, bias: TensorType | None, limit: float, full: int) -> int:
        """The largest rank whose work is within a limit."""
        low, high = 0, full
        while low < high:
            middle = (low + high + 1) // 2
            if self.work(x, bias, middle) <= limit:
                low = middle
            else:
                high = middle - 1
        return low


def _ways(shape: tuple[int, ...], window: Window) -> Iterator[_Way]:
    """All ways to split a kernel [O, C/groups, *taps]."""
    wide = [a for a, k in enumerate(window.kernel) if k > 1]
    for count in range(1, len(wide)):
        for axes in itertools.combinations(wide, count):
            yield _over_space(shape, window, axes)
    if wide and shape[1] > 1:
        yield _depthwise_first(shape, window)
        yield _depthwise_last(shape, window)


def _over_space(shape: tuple[int, ...], window: Window, axes: tuple[int, ...]) -> _Way:
    (filters, channels), groups, rank = shape[:2], window.groups, window.rank
    # an axis of one tap may have a stride or padding: both are the first's
    rest = tuple(a for a in range(rank) if window.kernel[a] > 1 and a not in axes)
    own = tuple(a for a in range(rank) if a not in rest)
    first, second = _on_axes(window, own), _on_axes(window, rest)
    return _Way(
        f"{_taps(first)} and {_taps(second)}",
        lambda r: ((groups * r, channels, *first.kernel), first),
        lambda r: ((filters, r, *second.kernel), second),
        lambda w, most, tolerance: spatial_split(w, groups, own, most, tolerance),
    )


def _on_axes(window: Window, axes: tuple[int, ...], groups: int | None = None) -> Window:
    """The window on some axes, trivial on the others."""
    rank = window.rank
    kept = [a in axes for a in range(rank)]
    kernel, stride, dilation = (
        tuple(v if keep else 1 for v, keep in zip(values, kept, strict=True))
        for values in (window.kernel, window.stride, window.dilation)
    )
    padding = tuple(p if keep else 0 for p, keep in zip(window.padding, kept * 2, strict=True))
    return Window(kernel, stride, dilation, padding, groups or window.groups, window.boundary)


def _taps(window: Window) -> str:
    return "x".join(map(str, window.kernel))


def _depthwise_first(shape: tuple[int, ...], window: Window) -> _Way:
    (filters, channels), groups = shape[:2], window.groups
    everywhere = tuple(range(window.rank))
    depthwise = _on_axes(window, everywhere, groups * channels)
    pointwise = Window.of((1,) * window.rank, groups=groups)
    return _Way(
        f"depthwise {_taps(window)} and {_taps(pointwise)}",
        lambda r: ((groups * channels * r, 1, *window.kernel), depthwise),
        lambda r: ((filters, channels * r, *pointwise.kernel), pointwise),
        lambda w, most, tolerance: depthwise_first(w, groups, most, tolerance),
    )


def _depthwise_last(shape: tuple[int, ...], window: Window) -> _Way:
    (filters, channels), groups = shape[:2], window.groups
    pointwise = Window.of((1,) * window.rank, groups=groups)
    depthwise = _on_axes(window, tuple(range(window.rank)), filters)
    return _Way(
        f"{_taps(pointwise)} and depthwise {_taps(window)}",
        lambda r: ((filters * r, channels, *pointwise.kernel), pointwise),
        lambda r: ((filters, r, *window.kernel), depthwise),
        lambda w, most, tolerance: depthwise_last(w, most, tolerance),
    )


def _split(g: Graph, node: Node, options: Separable, tolerance: float) -> Result:
    """The best split of a convolution within a tolerance, or why there is none."""
    window, (x, w, *bias) = window_of(node), node.operands[:3]
    if window is None or x is None or w is None or max(window.kernel) == 1:
        return None
    array = weights(g, w)
    if array is None or not array.any():
        return decline(node, "the weights are not finite" if array is None else "all are zero")
    before = work(cost_of(node))
    # never more work than there is: two parts of equal work could be split for ever
    limit, full = min(options.max_cost, 0.99) * before, array[0].size * window.groups
    shift = bias[0].type if bias and bias[0] is not None else None
    best: tuple[float, _Way, Split] | None = None
    for way in _ways(w.type.shape, window):
        most = way.most(x.type, shift, limit if best is None else best[0], full)
        found = way.split(array, most, tolerance)
        if found is not None and way.work(x.type, shift, found.rank) <= limit:
            after = way.work(x.type, shift, found.rank)
            best = (after, way, found) if best is None or after < best[0] else best
    if best is None:
        return decline(node, "no rank of the weights is low enough to pay")
    after, way, found = best
    made = _build(g, node, way, found, x)
    if made is None:
        return decline(node, "the weights of the parts are not finite")
    told = f"{way.what} through {found.first.shape[0]} channels: {ratio(after, before)}"
    return accept(node, made, told, found.error)


def _build(g: Graph, node: Node, way: _Way, found: Split, x: Value) -> Value | None:
    """Both layers; the bias is the second's."""
    (_, window), (_, following) = way.first(found.rank), way.second(found.rank)
    arrays = [rounded(w, x.type) for w in (found.first, found.second)]
    if arrays[0] is None or arrays[1] is None:
        return None
    w = node.operands[1]
    name = (w.name if w else None) or "w"
    first, second = (g.param(name, np.ascontiguousarray(a)) for a in arrays if a is not None)
    inner = g.add("conv", x, first, **window.attrs())
    return g.add("conv", inner, second, *node.operands[2:], **following.attrs())


@rule("conv", kind="reassociating")
def split_separable(g: Graph, node: Node, options: Separable) -> Result:
    """conv(x, w, b) => conv(conv(x, v), h, b)  with w[o,c,i,j] = sum over r of h[o,r,j] v[r,c,i]

    or w[o,c,i,j] = sum over r of p[o,c r] d[c r,i,j], or w[o,c,i,j] = sum of d[o,r,i,j] p[o r,c]
    [w is constant, its numerical rank allows it, and the work is at most max_cost of before]
    """
    return None if options.tolerance else _split(g, node, options, EXACT[_dtype(node)])


@rule("conv", kind="lossy")
def split_nearly_separable(g: Graph, node: Node, options: Separable) -> Result:
    """conv(x, w, b) => conv(conv(x, v), h, b)  with w ~ h v, as split_separable has it

    [tolerance is given, |w - h v| <= tolerance |w| in the Frobenius norm, and it pays]
    """
    if not options.tolerance:
        return None
    return _split(g, node, options, max(options.tolerance, EXACT[_dtype(node)]))


def _dtype(node: Node) -> str:
    """The element type, or one for what is not split anyway."""
    dtype = node.results[0].type.dtype
    return dtype if dtype in EXACT else "f32"


@dataclass(frozen=True)
class Separable(RulePass):
    """Convolutions of low rank become two: vertical and horizontal, or depthwise and 1x1."""

    name = "separable"
    tolerance: float = 0.0
    """Error that the weights of a layer may have, relative to them; 0 means rounding alone."""
    max_cost: float = 0.6
    """Most work of the two parts, as a part of that of the layer; always less than that.

    There are quick algorithms for square kernels, so it takes more than a little less to be faster.
    """
    rules = (split_separable, split_nearly_separable)

    @property
    def lossy(self) -> bool:
        """Whether there is a tolerance."""
        return self.tolerance > 0
