"""resize: x at another resolution, along any axes.

Positions are exact (see `interpolation.py`), so that nearest neighbours of whole factors become
i // k, and evaluators and kernels agree on every tie. What is not here: sampling at positions that
are data (`grid_sample.py`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.elementwise import check_number, common_dtype
from cnnir.ops.interpolation import Kernel, Positions, check_choice, check_numbers, positions
from cnnir.tensortype import TensorType, compute_dtype, is_float

CHOICES = {
    "mode": ("nearest", "linear", "cubic"),
    "coordinates": (
        *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners"),
        *("asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"),
    ),
    "nearest": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
}


def setup(
    shape: tuple[int, ...],
    sizes: tuple,
    scales: tuple,
    coordinates: str,
    roi: tuple,
    antialias: bool,
    mode: str,
    cubic_coeff: float,
    exclude_outside: bool,
) -> tuple[list[Positions], Kernel]:
    rank = len(shape)
    regions = [(roi[a], roi[a + rank]) if roi else (0.0, 1.0) for a in range(rank)]
    lines = [
        positions(e, n, s, coordinates, r, antialias)
        for e, n, s, r in zip(shape, sizes, scales, regions, strict=True)
    ]
    return lines, Kernel(mode, cubic_coeff, exclude_outside)


def along_axis(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape(-1, *[1] * (rank - axis - 1))


def evaluate_axis(x: np.ndarray, axis: int, p: Positions, k: Kernel) -> np.ndarray:
    """x resized along one axis."""
    i, dtype = np.arange(p.size), NUMPY.dtype(x)
    if p.stretch == 1:
        weights = k.plain(NUMPY, p, i, dtype)
    else:
        weights = [k.stretched(NUMPY, p, i, t, dtype) for t in k.taps(p)]
        total = functools.reduce(np.add, weights)
        weights = [w / total for w in weights]
    result: Any = 0
    for tap, weight in zip(k.taps(p), weights, strict=True):
        part = np.take(x, p.clamped(NUMPY, p.floor(i) + tap), axis)
        result = result + part * along_axis(weight, axis, x.ndim)
    return result


def _weighed(m: Any, x: Any, at: tuple, lines: list[Positions], k: Kernel, dtype: str) -> Any:
    """Products of the axes' weights, all taps written out."""

    def along(axis: int, index: tuple) -> Any:
        if axis == len(lines):
            return x[index]
        p, i = lines[axis], at[axis]
        if p.identity:
            return along(axis + 1, (*index, i))
        terms = [
            along(axis + 1, (*index, p.clamped(m, p.floor(i) + tap))) * weight
            for tap, weight in zip(k.taps(p), k.plain(m, p, i, dtype), strict=True)
        ]
        return functools.reduce(lambda a, b: a + b, terms)

    return along(0, ())


def _weighed_in_loops(
    m: Any, x: Any, at: tuple, lines: list[Positions], k: Kernel, dtype: str
) -> Any:
    """The same as loops over the taps, for wide kernels."""
    axes = [a for a, p in enumerate(lines) if not p.identity]
    taps = {a: k.taps(lines[a]) for a in axes}

    def weight(a: int, t: Any) -> Any:
        return k.stretched(m, lines[a], at[a], t + taps[a].start, dtype)

    def body(*ts: Any) -> Any:
        index = list(at)
        for a, t in zip(axes, ts, strict=True):
            p = lines[a]
            index[a] = p.clamped(m, p.floor(at[a]) + taps[a].start + t)
        value = x[tuple(index)]
        for a, t in zip(axes, ts, strict=True):
            value = value * weight(a, t)
        return value

    result = m.reduce("sum", tuple(len(taps[a]) for a in axes), body)
    for a in axes:
        result = result / m.reduce("sum", (len(taps[a]),), functools.partial(weight, a))
    return result


class Resize(Op):
    """x read at other positions along its axes; `sizes` is the shape of the result.

    coordinates say where result i of n reads an axis of d elements, with s its entry in `scales`
    (result length over d): half_pixel (i + 1/2) / s - 1/2; half_pixel_symmetric that, plus
    d / 2 (1 - n / (s d)); pytorch_half_pixel as half_pixel, but 0 where n = 1; align_corners
    i (d - 1) / (s d - 1); asymmetric i / s; tf_half_pixel_for_nn (i + 1/2) / s;
    tf_crop_and_resize from b (d - 1) to e (d - 1) for b and e of `roi` (begins, then ends, as
    parts of each axis), and `extrapolation` for positions outside of x.
    Except for the last, an axis with n = d and s = 1 reads i.
    mode nearest rounds them as `nearest` says; linear and cubic (with `cubic_coeff`) weigh the
    2 or 4 elements around on each axis. Beyond its ends x goes on with its end elements, or, with
    exclude_outside, only elements of x are weighed. antialias stretches the weights by 1 / s
    where s < 1.
    """

    name = "resize"

    def infer(
        x,
        *,
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
        given = {"mode": mode, "coordinates": coordinates, "nearest": nearest}
        for name, value in given.items():
            check_choice(name, value, CHOICES[name])
        for name, value, like in (
            ("cubic_coeff", cubic_coeff, 0.0),
            ("exclude_outside", exclude_outside, False),
            ("extrapolation", extrapolation, 0.0),
            ("antialias", antialias, False),
        ):
            check_number(name, value, like)
        if mode != "nearest":
            common_dtype(("float",), x)
        elif not is_float(x.dtype) and extrapolation != int(extrapolation):
            raise IRError(f"attribute extrapolation is {extrapolation}, wanted a whole number")
        check_numbers("scales", scales, x.rank)
        check_numbers("roi", roi, 2 * x.rank if coordinates == "tf_crop_and_resize" else 0)
        result = _resized(x, sizes)
        if any(s < 0 or (s == 0 and n) for s, n in zip(scales, sizes, strict=True)):
            raise IRError(f"attribute scales is {scales}, wanted numbers > 0")
        return result

    def evaluate(
        x,
        *,
        sizes,
        scales,
        mode,
        coordinates,
        nearest,
        cubic_coeff,
        exclude_outside,
        extrapolation,
        roi,
        antialias,
    ):
        if 0 in sizes:
            return np.zeros(sizes, x.dtype)
        lines, k = setup(
            x.shape, sizes, scales, coordinates, roi, antialias, mode, cubic_coeff, exclude_outside
        )
        y = x
        for axis, p in enumerate(lines):
            if p.identity:
                y = np.take(y, range(p.size), axis)
            elif mode == "nearest":
                y = np.take(y, p.nearest(NUMPY, np.arange(p.size), nearest), axis)
            else:
                y = evaluate_axis(y, axis, p, k)
        if coordinates != "tf_crop_and_resize":
            return y
        inside = [along_axis(p.inside(np.arange(p.size)), a, y.ndim) for a, p in enumerate(lines)]
        return np.where(
            functools.reduce(np.logical_and, inside, True), y, np.asarray(extrapolation, y.dtype)
        )

    def element(
        m,
        at,
        x,
        *,
        sizes,
        scales,
        mode,
        coordinates,
        nearest,
        cubic_coeff,
        exclude_outside,
        extrapolation,
        roi,
        antialias,
    ):
        lines, k = setup(
            x.shape, sizes, scales, coordinates, roi, antialias, mode, cubic_coeff, exclude_outside
        )
        wide = compute_dtype(x.dtype)
        if mode == "nearest":
            value = x[
                tuple(
                    i if p.identity else p.nearest(m, i, nearest)
                    for i, p in zip(at, lines, strict=True)
                )
            ]
        elif any(p.stretch != 1 for p in lines):
            value = _weighed_in_loops(m, x, at, lines, k, wide)
        else:
            value = _weighed(m, x, at, lines, k, wide)
        if coordinates != "tf_crop_and_resize":
            return value
        inside = m.all(*(p.inside(i) for i, p in zip(at, lines, strict=True)))
        return m.select(inside, value, m.const(extrapolation, wide))

    def vjp(g, node, dy):
        return (g.add("resize_grad", dy, shape=node.operands[0].type.shape, **node.attrs),)

    @staticmethod
    def cost(node: Any) -> Cost:
        """A product and a sum for each weighed element; nearest only moves elements."""
        moved, attrs, result = Op.cost(node), node.attrs, node.results[0].type
        if attrs["mode"] == "nearest" or not result.size:
            return Cost(0, moved.read, moved.written)
        chosen = {n: v for n, v in attrs.items() if n not in ("nearest", "extrapolation")}
        lines, k = setup(node.operands[0].type.shape, **chosen)
        taps = math.prod(len(k.taps(p)) for p in lines if not p.identity)
        return Cost(2 * taps * result.size, moved.read, moved.written)


def _resized(x: TensorType, sizes: Any) -> TensorType:
    if not isinstance(sizes, tuple) or len(sizes) != x.rank:
        raise IRError(f"attribute sizes is {sizes!r}, wanted {x.rank} integers")
    if any(type(n) is not int or n < 0 for n in sizes):
        raise IRError(f"attribute sizes is {sizes!r}, wanted integers >= 0")
    for axis, (d, n) in enumerate(zip(x.shape, sizes, strict=True)):
        if d == 0 and n:
            raise IRError(f"axis {axis} is empty, wanted at least one element to resize")
    return x.with_shape(sizes)
