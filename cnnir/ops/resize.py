"""resize: x at another resolution, along any axes.

Where a result index reads is a linear function of it with rational coefficients, kept as exact
integers: at = (step * i + offset) / unit. Nearest neighbours of whole factors so become i // k,
and evaluators and kernels agree on every tie. What is not here: sampling at positions that are
data (`sampling.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.elementwise import check_number, common_dtype, is_number
from cnnir.tensortype import TensorType, compute_dtype, is_float

COORDINATES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners"),
    *("asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"),
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
MODES = ("nearest", "linear", "cubic")
HALF = Fraction(1, 2)


def rational(value: float) -> Fraction:
    """The number meant by a scale: the simple fraction that rounds to it in f32, if any."""
    simple = Fraction(value).limit_denominator(4096)
    if np.float32(simple) == np.float32(value):
        return simple
    return Fraction(value).limit_denominator(1 << 24)


@dataclass(frozen=True)
class Line:
    """Where the results along one axis read: at (step * i + offset) / unit of `extent`."""

    extent: int
    step: int
    offset: int
    unit: int
    reach: Fraction
    """Half the width of the kernel stretched for downsampling, over that of the plain one."""

    @property
    def identity(self) -> bool:
        """Whether every index reads itself."""
        return self.step == self.unit and self.offset == 0

    def floor(self, i: Any, more: Fraction = Fraction(0)) -> Any:
        """The largest whole number not above the position plus `more`."""
        unit = self.unit * more.denominator
        shift = self.offset * more.denominator + more.numerator * self.unit
        return (i * (self.step * more.denominator) + shift) // unit

    def fraction(self, m: Any, i: Any, dtype: str) -> Any:
        """What the position is above its floor."""
        left = (i * self.step + self.offset) % self.unit
        return m.cast(left, dtype) * m.const(1 / self.unit, dtype)

    def inside(self, m: Any, i: Any) -> Any:
        """Whether the position is from the first to the last element."""
        at = i * self.step + self.offset
        return m.all(at >= 0, at <= (self.extent - 1) * self.unit)


def line(
    extent: int, size: int, scale: float, coordinates: str, region: tuple[float, float],
    antialias: bool,
) -> Line:
    """Where an axis of `extent` elements, resized to `size`, is read."""
    s = rational(scale)
    length = s * extent
    first, step = _coordinates(extent, size, s, length, coordinates, region)
    unit = math.lcm(first.denominator, step.denominator)
    reach = max(Fraction(1), 1 / s) if antialias else Fraction(1)
    return Line(extent, int(step * unit), int(first * unit), unit, reach)


def _coordinates(
    extent: int, size: int, s: Fraction, length: Fraction, coordinates: str,
    region: tuple[float, float],
) -> tuple[Fraction, Fraction]:
    """The position that result 0 reads, and how far the next one is."""
    whole = Fraction(extent - 1)
    if coordinates == "align_corners":
        return Fraction(0), whole / (length - 1) if length != 1 else Fraction(0)
    if coordinates == "asymmetric":
        return Fraction(0), 1 / s
    if coordinates == "tf_half_pixel_for_nn":
        return HALF / s, 1 / s
    if coordinates == "tf_crop_and_resize":
        start, end = map(rational, region)
        if length == 1:
            return (start + end) * whole / 2, Fraction(0)
        return start * whole, (end - start) * whole / (length - 1)
    if coordinates == "pytorch_half_pixel" and size == 1:
        return Fraction(0), Fraction(0)
    first = HALF / s - HALF
    if coordinates == "half_pixel_symmetric":
        first += Fraction(extent, 2) * (1 - size / length)
    return first, 1 / s


# ---------------------------------------------------------------- weights


def taps(l: Line, mode: str) -> range:
    """The elements that may have weight, counted from the floor of the position."""
    reach = math.ceil(l.reach * (2 if mode == "cubic" else 1))
    return range(1 - reach, reach + 1)


def kernel(m: Any, d: Any, mode: str, a: float) -> Any:
    """The weight of an element at the distance d: a triangle, or Keys' cubic with parameter a.

    linear: max(0, 1 - d). cubic: (a + 2) d^3 - (a + 3) d^2 + 1 up to 1, then
    a d^3 - 5 a d^2 + 8 a d - 4 a up to 2, then 0.
    """
    if mode == "linear":
        return m.max(1.0 - d, m.const(0, m.dtype(d)))
    near = ((a + 2) * d - (a + 3)) * d * d + 1.0
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return m.select(d <= 1.0, near, m.select(d < 2.0, far, m.const(0, m.dtype(d))))


@dataclass(frozen=True)
class Weighing:
    """How the elements around a position are weighed."""

    mode: str
    cubic: float
    exclude_outside: bool

    def weight(self, m: Any, l: Line, i: Any, tap: Any, dtype: str) -> Any:
        """The weight of the element `tap` behind the floor of the position of i."""
        distance = m.cast(tap, dtype) - l.fraction(m, i, dtype)
        if l.reach != 1:
            distance = distance * m.const(float(1 / l.reach), dtype)
        value = kernel(m, m.abs(distance), self.mode, self.cubic)
        if not self.exclude_outside:
            return value
        j = l.floor(i) + tap
        return m.select(m.all(j >= 0, j < l.extent), value, m.const(0, dtype))

    def normalised(self, l: Line) -> bool:
        """Whether the weights add up to 1 as they are."""
        return l.reach == 1 and not self.exclude_outside


def clamped(m: Any, j: Any, extent: int) -> Any:
    """The nearest index that the axis has."""
    return m.max(m.min(j, extent - 1), 0)
