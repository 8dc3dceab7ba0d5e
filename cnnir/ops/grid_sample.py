"""Reading between elements at positions that are data: grid_sample.

Positions may be anything, NaN and infinities too: indices are clamped before they are used.
Resizing, whose positions are known when compiling, is in `resize.py`; regions in `roi_align.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.elementwise import check_number, common_dtype
from cnnir.ops.interpolation import check_choice, cubic_weights, linear_weights

Fetch = Callable[[tuple, Any], Any]
FAR = float(1 << 30)
"""Positions are limited to this distance before they are reflected."""


def sample_position(m: Any, g: Any, extent: int, mode: str, padding_mode: str, align: bool) -> Any:
    """The finite position on an axis that a grid value from -1 to 1 stands for."""
    g = m.select(m.is_nan(g), -1.0, g)
    at = (g + 1.0) / 2.0 * float(extent - 1) if align else ((g + 1.0) * float(extent) - 1.0) / 2.0
    if mode == "nearest":
        at = m.rint(at)
    if padding_mode == "reflection":
        return _reflected(m, m.min(m.max(at, -FAR), FAR), extent, align)
    # farther out all that could be read is outside, or an end element
    return m.min(m.max(at, -4.0), extent + 4.0)


def _reflected(m: Any, at: Any, extent: int, align: bool) -> Any:
    """The position mirrored at the ends of the axis until it is between them."""
    low, high = (0.0, extent - 1.0) if align else (-0.5, extent - 0.5)
    length = high - low
    if length == 0:
        return at * 0.0
    distance = m.abs(at - low)
    turns = m.floor(distance / length)
    rest = distance - turns * length
    even = m.equal(turns, m.floor(turns / 2.0) * 2.0)
    # far from the axis the rest is rounded, and might be outside
    return m.min(m.max(m.select(even, low + rest, high - rest), low), high)


def _mirrored(m: Any, j: Any, extent: int, align: bool) -> Any:
    """An index of the axis mirrored at its ends until it is one of its elements."""
    if align and extent == 1:
        return j * 0
    period = 2 * (extent - 1) if align else 2 * extent
    k = j % period
    return m.select(k < extent, k, (period if align else period - 1) - k)


def position_taps(
    m: Any, at: Any, extent: int, mode: str, padding_mode: str, align: bool
) -> list[tuple[Any, Any, Any]]:
    """(index, whether it is inside, weight) of the elements to read on an axis."""
    start = m.floor(at)
    base = m.cast(start, "i64")
    if mode == "nearest":
        offsets, weights = [0], [None]
    elif mode == "linear":
        offsets, weights = [0, 1], linear_weights(at - start)
    else:
        offsets, weights = [-1, 0, 1, 2], cubic_weights(at - start, -0.75)
    taps = []
    for offset, weight in zip(offsets, weights, strict=True):
        j, inside = base + offset, True
        if padding_mode == "zeros":
            inside = (j >= 0) & (j < extent)
        elif padding_mode == "reflection" and mode == "cubic":
            j = _mirrored(m, j, extent, align)
        taps.append((m.max(m.min(j, extent - 1), 0), inside, weight))
    return taps


def weighed(taps: Sequence[list[tuple[Any, Any, Any]]], fetch: Fetch) -> Any:
    """The sum of the elements that the axes' taps meet in, by the product of their weights."""

    def along(axis: int, index: tuple, inside: Any) -> Any:
        if axis == len(taps):
            return fetch(index, inside)
        terms = []
        for j, here, weight in taps[axis]:
            both = here if inside is True else inside if here is True else inside & here
            value = along(axis + 1, (*index, j), both)
            terms.append(value if weight is None else value * weight)
        return functools.reduce(lambda a, b: a + b, terms)

    return along(0, (), True)


class GridSample(Op):
    """x[N,C,*sizes] sampled at the positions in grid[N,*results,axes].

    A grid row holds one number an axis, the last axis first; -1 and 1 are the centres
    (align_corners) or the outer edges of the first and last element: the position is
    (g + 1) / 2 (d - 1) or ((g + 1) d - 1) / 2. NaN counts as -1.
    mode nearest rounds half to even; linear and cubic (a = -0.75) weigh the 2 or 4 elements
    around on each axis. Elements outside of x are 0 (zeros), those at the end (border) or those
    mirrored at the end (reflection).
    """

    name = "grid_sample"

    def infer(x, grid, *, mode="linear", padding_mode="zeros", align_corners=False):
        check_choice("mode", mode, ("nearest", "linear", "cubic"))
        check_choice("padding_mode", padding_mode, ("zeros", "border", "reflection"))
        check_number("align_corners", align_corners, False)
        common_dtype(("float",), x, grid)
        if x.rank not in (4, 5):
            raise IRError(f"x has rank {x.rank}, wanted 4 or 5: [N,C,*sizes]")
        if grid.rank != x.rank or grid.shape[0] != x.shape[0] or grid.shape[-1] != x.rank - 2:
            inner = ",".join("?" * (x.rank - 2))
            raise IRError(f"grid is {grid}, wanted {x.dtype}[{x.shape[0]},{inner},{x.rank - 2}]")
        result = x.with_shape((*x.shape[:2], *grid.shape[1:-1]))
        if result.size and 0 in x.shape[2:]:
            raise IRError("x has no elements, wanted at least one on each axis to sample")
        return result

    def evaluate(x, grid, *, mode, padding_mode, align_corners):
        n, channels, *sizes = x.shape
        if 0 in (*grid.shape, channels):
            return np.zeros((n, channels, *grid.shape[1:-1]), x.dtype)
        # channels last, so that indices of shape [N,*results,1] pick all of them
        last = np.moveaxis(x, 1, -1)
        member = np.arange(n).reshape(-1, *[1] * (grid.ndim - 1))
        taps = []
        for axis, extent in enumerate(sizes):
            g = grid[..., len(sizes) - 1 - axis, None]
            at = sample_position(NUMPY, g, extent, mode, padding_mode, align_corners)
            taps.append(position_taps(NUMPY, at, extent, mode, padding_mode, align_corners))

        def fetch(index, inside):
            found = last[(member, *index, np.arange(channels))]
            return np.where(inside, found, x.dtype.type(0))

        return np.ascontiguousarray(np.moveaxis(weighed(taps, fetch), -1, 1))

    def element(m, at, x, grid, *, mode, padding_mode, align_corners):
        sizes = x.shape[2:]
        taps = []
        for axis, extent in enumerate(sizes):
            g = grid[(at[0], *at[2:], len(sizes) - 1 - axis)]
            position = sample_position(m, g, extent, mode, padding_mode, align_corners)
            taps.append(position_taps(m, position, extent, mode, padding_mode, align_corners))
        return weighed(taps, lambda index, inside: x.get((*at[:2], *index), inside, 0))

    def vjp(g, node, dy):
        (x, grid), attrs = node.operands, node.attrs
        dx = g.add("grid_sample_grad", dy, grid, sizes=x.type.shape[2:], **attrs)
        return dx, position_cotangent(g, x, grid, dy, attrs)

    @staticmethod
    def cost(node: Any) -> Cost:
        """A product and a sum for each element that is read."""
        moved, result = Op.cost(node), node.results[0].type
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[node.attrs["mode"]]
        return Cost(2 * taps ** (result.rank - 2) * result.size, moved.read, moved.written)


def position_cotangent(g: Any, x: Any, grid: Any, dy: Any, attrs: dict[str, Any]) -> Any:
    """The cotangent of the grid: what each channel's sample adds by its slopes."""
    slopes = g.add("grid_slopes", x, grid, **attrs)
    parts = g.add("mul", slopes, g.add("reshape", dy, shape=(*dy.type.shape, 1)))
    return g.add("reduce_sum", parts, axes=(1,), keepdims=False)
