"""resize: x at another resolution, along any axes.

Where a result index reads is a linear function of it with rational coefficients, kept as exact
integers: at = (step * i + offset) / unit. Nearest neighbours of whole factors so become i // k,
and evaluators and kernels agree on every tie. What is not here: sampling at positions that are
data (`sampling.py`).
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.elementwise import check_number, common_dtype, is_number
from cnnir.tensortype import TensorType, compute_dtype, is_float

CHOICES = {
    "mode": ("nearest", "linear", "cubic"),
    "coordinates": (
        *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners"),
        *("asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"),
    ),
    "nearest": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
}
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Positions:
    """Where the results along one axis read: at (step * i + offset) / unit of `extent`."""

    extent: int
    size: int
    step: int
    offset: int
    unit: int
    stretch: Fraction
    """How much wider than the plain one the weighing kernel is; above 1 against aliasing."""

    @property
    def identity(self) -> bool:
        """Whether every index reads itself."""
        return self.step == self.unit and self.offset == 0 and self.size <= self.extent

    def floor(self, i: Any) -> Any:
        """The position rounded down."""
        return (i * self.step + self.offset) // self.unit

    def fraction(self, m: Any, i: Any, dtype: str) -> Any:
        """What the position is above its floor."""
        left = (i * self.step + self.offset) % self.unit
        return m.cast(left, dtype) * m.const(1 / self.unit, dtype)

    def nearest(self, m: Any, i: Any, rounding: str) -> Any:
        """The element that the position is rounded to, the end one for positions outside."""
        double, at = 2 * self.unit, i * (2 * self.step)
        more = {"round_prefer_floor": self.unit - 1, "round_prefer_ceil": self.unit,
                "floor": 0, "ceil": double - 1}[rounding]  # fmt: skip
        return self.clamped(m, (at + (2 * self.offset + more)) // double)

    def clamped(self, m: Any, j: Any) -> Any:
        """The index nearest to j that the axis has."""
        return m.max(m.min(j, self.extent - 1), 0)

    def inside(self, i: Any) -> Any:
        """Whether the position is from the first to the last element."""
        at = i * self.step + self.offset
        return (at >= 0) & (at <= (self.extent - 1) * self.unit)


def rational(value: float, *likely: Fraction) -> Fraction:
    """What is meant by a number: a likely or simple fraction that rounds to it in f32, if any."""
    for simple in (*likely, Fraction(value).limit_denominator(4096)):
        if np.float32(float(simple)) == np.float32(value):
            return simple
    return Fraction(value).limit_denominator(1 << 24)


@functools.lru_cache(maxsize=1024)
def positions(
    extent: int,
    size: int,
    scale: float,
    coordinates: str,
    region: tuple[float, float],
    antialias: bool,
) -> Positions:
    """Where an axis of `extent` elements, resized to `size`, is read."""
    s = rational(scale, Fraction(size, max(extent, 1)))
    parts = _coordinates(extent, size, s, coordinates, region)
    unit = math.lcm(*(p.denominator for p in parts))
    if unit > 1 << 40:  # far from overflow in i64, and still much finer than f32
        parts = [p.limit_denominator(1 << 20) for p in parts]
        unit = math.lcm(*(p.denominator for p in parts))
    first, step = (int(p * unit) for p in parts)
    stretch = max(Fraction(1), 1 / s) if antialias else Fraction(1)
    return Positions(extent, size, step, first, unit, stretch)


def _coordinates(
    extent: int, size: int, s: Fraction, coordinates: str, region: tuple[float, float]
) -> list[Fraction]:
    """The position that result 0 reads, and how far it is to the next one."""
    last, length = Fraction(extent - 1), s * extent
    if coordinates == "align_corners":
        return [Fraction(0), last / (length - 1) if length != 1 else Fraction(0)]
    if coordinates == "tf_crop_and_resize":
        start, end = map(rational, region)
        if length == 1:
            return [(start + end) * last / 2, Fraction(0)]
        return [start * last, (end - start) * last / (length - 1)]
    if coordinates == "pytorch_half_pixel" and size == 1:
        return [Fraction(0), Fraction(0)]
    first = {"asymmetric": Fraction(0), "tf_half_pixel_for_nn": HALF / s}
    if coordinates == "half_pixel_symmetric":
        return [HALF / s - HALF + Fraction(extent, 2) * (1 - size / length), 1 / s]
    return [first.get(coordinates, HALF / s - HALF), 1 / s]


@dataclass(frozen=True)
class Kernel:
    """How the elements around a position are weighed.

    Of the distance d, linear: max(0, 1 - d). cubic (Keys, with parameter a):
    (a + 2) d^3 - (a + 3) d^2 + 1 up to 1, then a d^3 - 5 a d^2 + 8 a d - 4 a up to 2, then 0.
    """

    mode: str
    a: float
    exclude_outside: bool

    def taps(self, p: Positions) -> range:
        """The elements that may have weight, counted from the floor of the position."""
        reach = math.ceil(p.stretch * (2 if self.mode == "cubic" else 1))
        return range(1 - reach, reach + 1)

    def near(self, d: Any) -> Any:
        """The cubic up to the distance 1."""
        return ((self.a + 2) * d - (self.a + 3)) * d * d + 1.0

    def far(self, d: Any) -> Any:
        """The cubic from 1 to 2."""
        a = self.a
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    def plain(self, m: Any, p: Positions, i: Any, dtype: str) -> list[Any]:
        """The weights of all taps; without stretch they add up to 1."""
        f = p.fraction(m, i, dtype)
        if self.mode == "linear":
            weights = [1.0 - f, f]
        else:
            weights = [self.far(f + 1.0), self.near(f), self.near(1.0 - f), self.far(2.0 - f)]
        if not self.exclude_outside:
            return weights
        taps = self.taps(p)
        kept = [self._kept(m, p, i, t, w) for t, w in zip(taps, weights, strict=True)]
        total = functools.reduce(lambda a, b: a + b, kept)
        return [w / total for w in kept]

    def stretched(self, m: Any, p: Positions, i: Any, tap: Any, dtype: str) -> Any:
        """The weight of one tap, not yet divided by the sum of all."""
        zero = m.const(0, dtype)
        offset = m.const(tap, dtype) if isinstance(tap, int) else m.cast(tap, dtype)
        d = m.abs(offset - p.fraction(m, i, dtype)) * m.const(float(1 / p.stretch), dtype)
        if self.mode == "linear":
            weight = m.max(1.0 - d, zero)
        else:
            weight = m.select(d <= 1.0, self.near(d), m.select(d < 2.0, self.far(d), zero))
        return self._kept(m, p, i, tap, weight) if self.exclude_outside else weight

    def _kept(self, m: Any, p: Positions, i: Any, tap: Any, weight: Any) -> Any:
        j = p.floor(i) + tap
        return m.select((j >= 0) & (j < p.extent), weight, m.const(0, m.dtype(weight)))


def _setup(
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


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return values.reshape(-1, *[1] * (rank - axis - 1))


def _evaluate_axis(x: np.ndarray, axis: int, p: Positions, k: Kernel) -> np.ndarray:
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
        result = result + part * _along(weight, axis, x.ndim)
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
            if value not in CHOICES[name]:
                wanted = ", ".join(CHOICES[name])
                raise IRError(f"attribute {name} is {value!r}, wanted one of {wanted}")
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
        if any(s <= 0 for s in scales):
            raise IRError(f"attribute scales is {scales}, wanted numbers > 0")
        check_numbers("roi", roi, 2 * x.rank if coordinates == "tf_crop_and_resize" else 0)
        return _resized(x, sizes)

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
        lines, k = _setup(
            x.shape, sizes, scales, coordinates, roi, antialias, mode, cubic_coeff, exclude_outside
        )
        y = x
        for axis, p in enumerate(lines):
            if p.identity:
                y = np.take(y, range(p.size), axis)
            elif mode == "nearest":
                y = np.take(y, p.nearest(NUMPY, np.arange(p.size), nearest), axis)
            else:
                y = _evaluate_axis(y, axis, p, k)
        if coordinates != "tf_crop_and_resize":
            return y
        inside = [_along(p.inside(np.arange(p.size)), a, y.ndim) for a, p in enumerate(lines)]
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
        lines, k = _setup(
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

    @staticmethod
    def cost(node: Any) -> Cost:
        """A product and a sum for each weighed element; nearest only moves elements."""
        moved, attrs, result = Op.cost(node), node.attrs, node.results[0].type
        if attrs["mode"] == "nearest" or not result.size:
            return Cost(0, moved.read, moved.written)
        chosen = {n: v for n, v in attrs.items() if n not in ("nearest", "extrapolation")}
        lines, k = _setup(node.operands[0].type.shape, **chosen)
        taps = math.prod(len(k.taps(p)) for p in lines if not p.identity)
        return Cost(2 * taps * result.size, moved.read, moved.written)


def check_numbers(name: str, value: Any, count: int) -> None:
    """IRError unless an attribute is a tuple of `count` finite numbers."""
    good = isinstance(value, tuple) and len(value) == count
    if not good or any(not is_number(v) or not math.isfinite(v) for v in value):
        raise IRError(f"attribute {name} is {value!r}, wanted {count} finite numbers")


def _resized(x: TensorType, sizes: Any) -> TensorType:
    if not isinstance(sizes, tuple) or len(sizes) != x.rank:
        raise IRError(f"attribute sizes is {sizes!r}, wanted {x.rank} integers")
    if any(type(n) is not int or n < 0 for n in sizes):
        raise IRError(f"attribute sizes is {sizes!r}, wanted integers >= 0")
    for axis, (d, n) in enumerate(zip(x.shape, sizes, strict=True)):
        if d == 0 and n:
            raise IRError(f"axis {axis} is empty, wanted at least one element to resize")
    return x.with_shape(sizes)
