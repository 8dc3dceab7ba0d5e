"""Dual numbers: a `scalar` definition run on these gives the result and its partial derivatives.

They are written in an algebra themselves (`m` below: graph nodes, or numpy), so whatever is defined
by `scalar`, an op of a user too, has a derivative. Where a function has a kink the derivative is
the mean of both sides, but 0 on the line of a bound that is a plain number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cnnir.tensortype import is_float


class Dual:
    """A value and its partial derivatives; those that are 0 whatever happens are the number 0."""

    __slots__ = ("d", "slopes", "value")

    def __init__(self, d: DualAlgebra, value: Any, slopes: tuple[Any, ...]) -> None:
        self.d, self.value, self.slopes = d, value, slopes

    def __add__(self, other: Any) -> Dual:
        return self.d.combine(lambda x, y: x + y, lambda dx, dy: dx + dy, self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Dual:
        return self.d.combine(lambda x, y: x - y, lambda dx, dy: dx - dy, self, other)

    def __rsub__(self, other: Any) -> Dual:
        return self.d.combine(lambda x, y: y - x, lambda dx, dy: dy - dx, self, other)

    def __mul__(self, other: Any) -> Dual:
        x, y = self.value, self.d.value(other)
        return self.d.combine(lambda a, b: a * b, lambda dx, dy: dx * y + dy * x, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        return self.d.div(self, other)

    def __rtruediv__(self, other: Any) -> Dual:
        return self.d.div(other, self)

    def __neg__(self) -> Dual:
        return self.d.chain(-self.value, -1.0, self)

    def __lt__(self, other: Any) -> Any:
        return self.value < self.d.value(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= self.d.value(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > self.d.value(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= self.d.value(other)


class DualAlgebra:
    """The algebra on dual numbers with `count` derivatives, written in the algebra `m`."""

    def __init__(self, m: Any, count: int) -> None:
        self.m, self.count = m, count

    def variable(self, value: Any, position: int, one: Any = 1.0) -> Dual:
        """The operand that the derivative at `position` is taken by.

        In algebras whose `select` needs an element type, `one` has it.
        """
        return Dual(self, value, tuple(one if k == position else 0.0 for k in range(self.count)))

    def fixed(self, value: Any) -> Dual:
        """A value that no derivative is taken by."""
        return Dual(self, value, (0.0,) * self.count)

    @staticmethod
    def value(x: Any) -> Any:
        """A dual number without its derivatives."""
        return x.value if isinstance(x, Dual) else x

    def slopes(self, x: Any) -> tuple[Any, ...]:
        """The derivatives of a dual number, or of a constant."""
        return x.slopes if isinstance(x, Dual) else (0.0,) * self.count

    def combine(self, of: Callable, of_slopes: Callable, a: Any, b: Any) -> Dual:
        """A function of two, and of each pair of derivatives."""
        pairs = zip(self.slopes(a), self.slopes(b), strict=True)
        return Dual(self, of(self.value(a), self.value(b)), tuple(of_slopes(*p) for p in pairs))

    def chain(self, value: Any, slope: Any, x: Any) -> Dual:
        """A function of x with this value and this derivative."""
        return Dual(self, value, tuple(_times(dx, slope) for dx in self.slopes(x)))

    def constant(self, x: Any) -> bool:
        """Whether no derivative of x can be other than 0."""
        return all(isinstance(dx, float) and dx == 0.0 for dx in self.slopes(x))

    # ---- the functions of the algebra

    def div(self, a: Any, b: Any) -> Dual:
        """a / b."""
        x, y = self.value(a), self.value(b)
        if not is_float(self.dtype(a if isinstance(a, Dual) else b)):
            return self.fixed(self.m.div(x, y))
        q = x / y

        def slope(da: Any, db: Any) -> Any:
            change = da - _times(db, q)
            return change if isinstance(change, float) and change == 0.0 else change / y

        return self.combine(lambda *_: q, slope, a, b)

    def rem(self, a: Any, b: Any) -> Dual:
        """The remainder a - trunc(a / b) b."""
        x, y = self.value(a), self.value(b)
        turns = None if self.constant(b) else self.m.trunc(self.m.div(x, y))
        rest = self.m.rem(x, y)
        return self.combine(
            lambda *_: rest, lambda da, db: da if turns is None else da - _times(db, turns), a, b
        )

    def pow(self, a: Any, b: Any) -> Dual:
        """a to the power b."""
        x, y = self.value(a), self.value(b)
        result = self.fixed(self.m.pow(x, y))
        if not self.constant(a):
            result += self.chain(0.0, y * self.m.pow(x, y - 1.0), a)
        if not self.constant(b):
            result += self.chain(0.0, result.value * self.m.log(x), b)
        return result

    def max(self, a: Any, b: Any) -> Dual:
        """The larger."""
        return self._extremum(self.m.max, lambda x, y: x > y, a, b)

    def min(self, a: Any, b: Any) -> Dual:
        """The smaller."""
        return self._extremum(self.m.min, lambda x, y: x < y, a, b)

    def _extremum(self, of: Callable, ahead: Callable, a: Any, b: Any) -> Dual:
        x, y = self.value(a), self.value(b)

        def slope(da: Any, db: Any) -> Any:
            if self.constant(b):
                return self._choice(ahead(x, y), da, 0.0)
            other = 0.0 if self.constant(a) else 0.5 * (da + db)
            behind = self._choice(ahead(y, x), db, other)
            return behind if self.constant(a) else self._choice(ahead(x, y), da, behind)

        return self.combine(of, slope, a, b)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        """`a` where the condition holds, else `b`."""
        if not isinstance(a, Dual) and not isinstance(b, Dual):
            return self.m.select(condition, a, b)
        return self.combine(
            lambda x, y: self.m.select(condition, x, y),
            lambda dx, dy: self._choice(condition, dx, dy),
            a,
            b,
        )

    def _choice(self, condition: Any, a: Any, b: Any) -> Any:
        """A slope or the other; where both are 0 whatever happens nothing is chosen."""
        numbers = isinstance(a, float) and isinstance(b, float)
        return a if numbers and a == b == 0.0 else self.m.select(condition, a, b)

    def abs(self, x: Any) -> Dual:
        """The absolute value."""
        v = self.value(x)

        def slope(dx: Any) -> Any:
            return self._choice(v > 0, dx, self._choice(v < 0, -dx, 0.0))

        return Dual(self, self.m.abs(v), tuple(map(slope, self.slopes(x))))

    def sqrt(self, x: Any) -> Dual:
        """The square root."""
        root = self.m.sqrt(self.value(x))
        return self.chain(root, self.m.div(0.5, root), x)

    def exp(self, x: Any) -> Dual:
        """e to the x."""
        power = self.m.exp(self.value(x))
        return self.chain(power, power, x)

    def log(self, x: Any) -> Dual:
        """The natural logarithm."""
        return self.chain(self.m.log(self.value(x)), self.m.div(1.0, self.value(x)), x)

    def tanh(self, x: Any) -> Dual:
        """The hyperbolic tangent."""
        y = self.m.tanh(self.value(x))
        return self.chain(y, 1.0 - y * y, x)

    def sin(self, x: Any) -> Dual:
        """The sine."""
        return self.chain(self.m.sin(self.value(x)), self.m.cos(self.value(x)), x)

    def cos(self, x: Any) -> Dual:
        """The cosine."""
        return self.chain(self.m.cos(self.value(x)), -self.m.sin(self.value(x)), x)

    def erf(self, x: Any) -> Dual:
        """The error function."""
        v = self.value(x)
        bell = (2.0 / math.sqrt(math.pi)) * self.m.exp(-(v * v))
        return self.chain(self.m.erf(v), bell, x)

    def cast(self, x: Any, dtype: str) -> Any:
        """Conversion; nothing passes through an integer, which is no dual number any more."""
        value = self.m.cast(self.value(x), dtype)
        if not is_float(dtype):
            return value
        numbers = (isinstance(dx, float) for dx in self.slopes(x))
        slopes = zip(self.slopes(x), numbers, strict=True)
        return Dual(self, value, tuple(s if n else self.m.cast(s, dtype) for s, n in slopes))

    def dtype(self, x: Any) -> str:
        """The element type of a value."""
        return self.m.dtype(self.value(x))

    def const(self, value: float, dtype: str) -> Any:
        """A constant."""
        return self.m.const(value, dtype)

    def equal(self, a: Any, b: Any) -> Any:
        """a = b."""
        return self.m.equal(self.value(a), self.value(b))

    def not_equal(self, a: Any, b: Any) -> Any:
        """Not a = b."""
        return self.m.not_equal(self.value(a), self.value(b))

    def is_nan(self, x: Any) -> Any:
        """Whether x is NaN."""
        return self.m.is_nan(self.value(x))

    def is_inf(self, x: Any) -> Any:
        """Whether x is infinite."""
        return self.m.is_inf(self.value(x))


def _times(slope: Any, factor: Any) -> Any:
    """A product, without building one where the slope is plainly 0."""
    return 0.0 if isinstance(slope, float) and slope == 0.0 else slope * factor


def _flat(name: str) -> Callable[[DualAlgebra, Any], Dual]:
    def function(self: DualAlgebra, x: Any) -> Dual:
        return self.chain(getattr(self.m, name)(self.value(x)), 0.0, x)

    function.__doc__ = f"{name}, which is constant in pieces."
    return function


for _name in ("floor", "ceil", "rint", "trunc"):
    setattr(DualAlgebra, _name, _flat(_name))
