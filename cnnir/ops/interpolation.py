"""Which elements around a position are read, and their weights; for resizing and sampling.

The positions here are those known when compiling: linear functions of a result index with
rational coefficients, kept as exact integers. This file defines no op.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.elementwise import is_number

HALF = Fraction(1, 2)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """IRError unless an attribute is one of these words."""
    if value not in choices:
        raise IRError(f"attribute {name} is {value!r}, wanted one of {', '.join(choices)}")


def check_numbers(name: str, value: Any, count: int) -> None:
    """IRError unless an attribute is a tuple of `count` finite numbers."""
    good = isinstance(value, tuple) and len(value) == count
    if not good or any(not is_number(v) or not math.isfinite(v) for v in value):
        raise IRError(f"attribute {name} is {value!r}, wanted {count} finite numbers")


def linear_weights(f: Any) -> list[Any]:
    """Weights of the elements 0 and 1 behind the floor of a position: 1 - f and f."""
    return [1.0 - f, f]


def cubic_weights(f: Any, a: float) -> list[Any]:
    """Weights of the elements -1, 0, 1 and 2 behind the floor of a position (Keys' kernel)."""
    return [cubic_far(f + 1.0, a), cubic_near(f, a), cubic_near(1.0 - f, a), cubic_far(2.0 - f, a)]


def cubic_near(d: Any, a: float) -> Any:
    """Keys' kernel up to the distance 1: (a + 2) d^3 - (a + 3) d^2 + 1."""
    return ((a + 2) * d - (a + 3)) * d * d + 1.0


def cubic_far(d: Any, a: float) -> Any:
    """Keys' kernel from 1 to 2: a d^3 - 5 a d^2 + 8 a d - 4 a."""
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


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
    if s == 1 and size == extent and coordinates != "tf_crop_and_resize":
        # an axis that is not resized stays, where tf_half_pixel_for_nn would shift it
        return Positions(extent, size, 1, 0, 1, Fraction(1))
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
    """How the elements around a position are weighed by their distance d: linear with
    max(0, 1 - d), cubic with Keys' kernel of parameter a.
    """

    mode: str
    a: float
    exclude_outside: bool

    def taps(self, p: Positions) -> range:
        """The elements that may have weight, counted from the floor of the position."""
        reach = math.ceil(p.stretch * (2 if self.mode == "cubic" else 1))
        return range(1 - reach, reach + 1)

    def plain(self, m: Any, p: Positions, i: Any, dtype: str) -> list[Any]:
        """The weights of all taps; without stretch they add up to 1."""
        f = p.fraction(m, i, dtype)
        weights = linear_weights(f) if self.mode == "linear" else cubic_weights(f, self.a)
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
            far = m.select(d < 2.0, cubic_far(d, self.a), zero)
            weight = m.select(d <= 1.0, cubic_near(d, self.a), far)
        return self._kept(m, p, i, tap, weight) if self.exclude_outside else weight

    def _kept(self, m: Any, p: Positions, i: Any, tap: Any, weight: Any) -> Any:
        j = p.floor(i) + tap
        return m.select((j >= 0) & (j < p.extent), weight, m.const(0, m.dtype(weight)))
