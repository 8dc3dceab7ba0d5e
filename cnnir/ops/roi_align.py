"""Regions of images, resampled to one size: roi_align.

Regions may be anything, NaN and infinities too: indices are clamped before they are used.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import Undefined
from cnnir.ops.elementwise import common_dtype
from cnnir.ops.gather import check_indices, valid_indices
from cnnir.ops.grid_sample import Fetch
from cnnir.ops.interpolation import check_choice, check_numbers, linear_weights
from cnnir.tensortype import compute_dtype


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


def bin_sample(
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


def roi_bins(m: Any, corners: list[Any], shape: tuple, given: tuple) -> tuple[tuple, tuple]:
    """`_bins` of the rows and of the columns of a region x1, y1, x2, y2."""
    output_size, ratio, scale, coordinates = given
    half = coordinates == "half_pixel"
    rows, columns = (
        _bins(m, corners[k], corners[k + 2], shape[3 - k], output_size[1 - k], ratio, scale, half)
        for k in (1, 0)
    )
    return rows, columns


def sample_corners(m: Any, rows: tuple, columns: tuple, fetch: Fetch) -> list[Any]:
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
            bins = roi_bins(NUMPY, [rois[r, k] for k in range(4)], x.shape, given)
            for (start, size, samples, _), count, extent in zip(
                bins, output_size, x.shape[2:], strict=True
            ):
                out, i = np.divmod(np.arange(count * int(samples)), max(int(samples), 1))
                found = bin_sample(NUMPY, start, size, np.asarray(samples), out, i, extent)
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
        bins = roi_bins(m, [rois[(r, k)] for k in range(4)], x.shape, given)

        def body(*index):
            rows, columns = (
                bin_sample(m, start, size, samples, o, i, extent)
                for (start, size, samples, _), o, i, extent in zip(
                    bins, out, index, x.shape[2:], strict=True
                )
            )
            parts = sample_corners(m, rows, columns, lambda where, _: x[(member, c, *where)])
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

    def vjp(g, node, dy):
        (x, rois, members), attrs = node.operands, dict(node.attrs)
        if attrs.pop("mode") == "max":
            reason = "roi_align has a derivative with mode='avg' only"
            return Undefined(reason), Undefined(reason), None
        dx = g.add("roi_align_grad", dy, rois, members, shape=x.type.shape, **attrs)
        return dx, Undefined("roi_align has no derivative by the regions"), None

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
    parts = sample_corners(NUMPY, rows, columns, lambda where, _: x[(slice(None), *where)])
    shape = (len(x), bins[0], samples[0], bins[1], samples[1])
    if mode == "max":
        return functools.reduce(np.maximum, parts).reshape(shape).max((2, 4))
    total = functools.reduce(np.add, parts).reshape(shape).sum((2, 4))
    return total / x.dtype.type(math.prod(samples))
