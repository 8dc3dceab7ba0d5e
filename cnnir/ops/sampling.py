"""Reading between elements at positions that are data: grid_sample, roi_align.

Positions may be anything, NaN and infinities too: indices are clamped before they are used.
Resizing, whose positions are known when compiling, is in `resize.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.elementwise import check_number, common_dtype
from cnnir.ops.gather import check_indices, valid_indices
from cnnir.ops.interpolation import (
    check_choice,
    check_numbers,
    cubic_weights,
    linear_weights,
)
from cnnir.tensortype import compute_dtype

Fetch = Callable[[tuple, Any], Any]
FAR = float(1 << 30)
"""Positions are limited to this distance before they are reflected."""


# ---------------------------------------------------------------- grid_sample


def _position(m: Any, g: Any, extent: int, mode: str, padding_mode: str, align: bool) -> Any:
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


def _taps(
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


def _weighed(taps: Sequence[list[tuple[Any, Any, Any]]], fetch: Fetch) -> Any:
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
            at = _position(NUMPY, g, extent, mode, padding_mode, align_corners)
            taps.append(_taps(NUMPY, at, extent, mode, padding_mode, align_corners))

        def fetch(index, inside):
            found = last[(member, *index, np.arange(channels))]
            return np.where(inside, found, x.dtype.type(0))

        return np.ascontiguousarray(np.moveaxis(_weighed(taps, fetch), -1, 1))

    def element(m, at, x, grid, *, mode, padding_mode, align_corners):
        sizes = x.shape[2:]
        taps = []
        for axis, extent in enumerate(sizes):
            g = grid[(at[0], *at[2:], len(sizes) - 1 - axis)]
            position = _position(m, g, extent, mode, padding_mode, align_corners)
            taps.append(_taps(m, position, extent, mode, padding_mode, align_corners))
        return _weighed(taps, lambda index, inside: x.get((*at[:2], *index), inside, 0))

    @staticmethod
    def cost(node: Any) -> Cost:
        """A product and a sum for each element that is read."""
        moved, result = Op.cost(node), node.results[0].type
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[node.attrs["mode"]]
        return Cost(2 * taps ** (result.rank - 2) * result.size, moved.read, moved.written)


# ---------------------------------------------------------------- roi_align


def _bins(
    m: Any, low: Any, high: Any, extent: int, count: int, ratio: int, scale: float, half: bool
) -> tuple[Any, Any, Any, int]:
    """Of an axis of a region: where it starts, the size of a bin, and the samples in a bin, as
    they are and at most."""
    shift = 0.5 if half else 0.0
    start = low * scale - shift
    length = (high * scale - shift) - start
    if not half:
        length = m.max(length, 1.0)
    size = length / float(count)
    if ratio:
        return start, size, ratio, ratio
    most = -(-4 * (extent + 1) // count)
    return start, size, m.max(m.min(m.cast(m.ceil(size), "i64"), most), 0), most


def _sample(
    m: Any, start: Any, size: Any, samples: Any, out: Any, i: Any, extent: int
) -> tuple[Any, Any, Any, Any]:
    """Index and weight of the two elements around sample i of bin `out`."""
    dtype = m.dtype(size)

    def number(value: Any) -> Any:
        return m.const(value, dtype) if isinstance(value, int) else m.cast(value, dtype)

    at = start + number(out) * size + (number(i) + 0.5) * size / number(samples)
    outside = (at < -1.0) | (at > float(extent))
    at = m.max(at, 0.0)
    first = m.max(m.min(m.cast(at, "i64"), extent - 1), 0)
    above = m.select(first >= extent - 1, m.const(0, dtype), at - number(first))
    zero = m.const(0, dtype)
    weights = [m.select(outside, zero, w) for w in linear_weights(above)]
    return first, weights[0], m.min(first + 1, extent - 1), weights[1]


def _region(m: Any, corners: list[Any], shape: tuple, given: tuple) -> tuple[tuple, tuple]:
    """`_bins` of the rows and of the columns of a region x1, y1, x2, y2."""
    output_size, ratio, scale, coordinates = given
    half = coordinates == "half_pixel"
    rows, columns = (
        _bins(m, corners[k], corners[k + 2], shape[3 - k], output_size[1 - k], ratio, scale, half)
        for k in (1, 0)
    )
    return rows, columns


def _corners(m: Any, rows: tuple, columns: tuple, fetch: Fetch) -> list[Any]:
    """The four elements around a sample, each by its weight."""
    return [
        fetch((rows[2 * j], columns[2 * i]), True) * (rows[2 * j + 1] * columns[2 * i + 1])
        for j in (0, 1)
        for i in (0, 1)
    ]


class RoiAlign(Op):
    """Regions of x[N,C,H,W], each resampled to output_size: y[R,C,*output_size].

    rois[R,4] holds x1, y1, x2, y2 of the regions, batch_indices[R] which member of the batch they
    lie in. Coordinates are multiplied by spatial_scale, less 1/2 with coordinates half_pixel;
    with output_half_pixel regions are at least 1 wide and high.
    A region is cut into output_size bins with sampling_ratio samples in each direction, evenly
    spaced; 0 means ceil(bin size), but no more than suits a region four times as long as x.
    A sample weighs the four elements around it; from 1 outside of x on it is 0. mode avg is the
    mean of the samples in a bin, max the largest weighed element (not the largest sample: so does
    ONNX); a bin without samples is 0.
    """

    name = "roi_align"

    def infer(
        x,
        rois,
        batch_indices,
        *,
        mode="avg",
        output_size=(1, 1),
        sampling_ratio=0,
        spatial_scale=1.0,
        coordinates="half_pixel",
    ):
        check_choice("mode", mode, ("avg", "max"))
        check_choice("coordinates", coordinates, ("half_pixel", "output_half_pixel"))
        check_numbers("spatial_scale", (spatial_scale,), 1)
        common_dtype(("float",), x, rois)
        check_indices(batch_indices)
        if x.rank != 4:
            raise IRError(f"x has rank {x.rank}, wanted 4: [N,C,H,W]")
        if rois.rank != 2 or rois.shape[1] != 4:
            raise IRError(f"rois is {rois}, wanted {x.dtype}[R,4]")
        if batch_indices.shape != rois.shape[:1]:
            raise IRError(f"batch_indices is {batch_indices}, wanted shape [{rois.shape[0]}]")
        if type(sampling_ratio) is not int or sampling_ratio < 0:
            raise IRError(f"attribute sampling_ratio is {sampling_ratio!r}, wanted an int >= 0")
        sizes = output_size if isinstance(output_size, tuple) else ()
        if len(sizes) != 2 or any(type(s) is not int or s < 1 for s in sizes):
            raise IRError(f"attribute output_size is {output_size!r}, wanted two integers >= 1")
        result = x.with_shape((rois.shape[0], x.shape[1], *sizes))
        if result.size and 0 in x.shape:
            raise IRError("x has no elements, wanted at least one on each axis to sample")
        return result

    def evaluate(
        x, rois, batch_indices, *, mode, output_size, sampling_ratio, spatial_scale, coordinates
    ):
        members = valid_indices(batch_indices, x.shape[0], "batch_indices")
        y = np.zeros((len(rois), x.shape[1], *output_size), x.dtype)
        given = (output_size, sampling_ratio, spatial_scale, coordinates)
        for r, member in enumerate(members if y.size else ()):
            axes = []
            bins = _region(NUMPY, [rois[r, k] for k in range(4)], x.shape, given)
            for (start, size, samples, _), count, extent in zip(
                bins, output_size, x.shape[2:], strict=True
            ):
                out, i = np.divmod(np.arange(count * int(samples)), max(int(samples), 1))
                found = _sample(NUMPY, start, size, np.asarray(samples), out, i, extent)
                axes.append((int(samples), found))
            (high, rows), (wide, columns) = axes
            if high and wide:
                y[r] = _pooled(x[member], rows, columns, (high, wide), output_size, mode)
        return y

    def element(
        m,
        at,
        x,
        rois,
        batch_indices,
        *,
        mode,
        output_size,
        sampling_ratio,
        spatial_scale,
        coordinates,
    ):
        r, c, *out = at
        member = m.checked(m.cast(batch_indices[(r,)], "i64"), x.shape[0], "batch_indices")
        given = (output_size, sampling_ratio, spatial_scale, coordinates)
        bins = _region(m, [rois[(r, k)] for k in range(4)], x.shape, given)

        def body(*index):
            rows, columns = (
                _sample(m, start, size, samples, o, i, extent)
                for (start, size, samples, _), o, i, extent in zip(
                    bins, out, index, x.shape[2:], strict=True
                )
            )
            parts = _corners(m, rows, columns, lambda where, _: x[(member, c, *where)])
            return functools.reduce((lambda a, b: a + b) if mode == "avg" else m.max, parts)

        most = tuple(b[3] for b in bins)
        if sampling_ratio:
            total = m.reduce("sum" if mode == "avg" else "max", most, body)
            return total if mode == "max" else total / float(sampling_ratio**2)
        high, wide = (b[2] for b in bins)
        dtype = compute_dtype(x.dtype)
        total = m.reduce(
            "sum" if mode == "avg" else "max", most, body, lambda j, i: (j < high) & (i < wide)
        )
        if mode == "max":
            return m.select((high > 0) & (wide > 0), total, m.const(0, dtype))
        return total / m.cast(m.max(high * wide, 1), dtype)

    @staticmethod
    def cost(node: Any) -> Cost:
        """Eight operations a sample; adaptive ones count as four samples a bin."""
        moved, samples = Op.cost(node), node.attrs["sampling_ratio"] or 2
        return Cost(8 * samples**2 * node.results[0].type.size, moved.read, moved.written)


def _pooled(
    x: np.ndarray, rows: tuple, columns: tuple, samples: tuple, bins: tuple, mode: str
) -> np.ndarray:
    """The bins of one region of x[C,H,W] from the samples on its rows and columns."""
    rows = tuple(v[:, None] for v in rows)
    parts = _corners(NUMPY, rows, columns, lambda where, _: x[(slice(None), *where)])
    shape = (len(x), bins[0], samples[0], bins[1], samples[1])
    if mode == "max":
        return functools.reduce(np.maximum, parts).reshape(shape).max((2, 4))
    total = functools.reduce(np.add, parts).reshape(shape).sum((2, 4))
    return total / x.dtype.type(math.prod(samples))
