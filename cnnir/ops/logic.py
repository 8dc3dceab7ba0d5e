"""Comparisons, logic, bits, selection and conversion, on single elements."""

from __future__ import annotations

from typing import Any

from cnnir.errors import IRError
from cnnir.ops.base import broadcast_shapes
from cnnir.ops.elementwise import Typed, common_dtype
from cnnir.tensortype import TensorType, compute_dtype, is_signed


class Equal(Typed):
    """z = (x == y); NaN equals nothing."""

    name = "equal"
    accepts = ("float", "int", "bool")
    gives = "bool"

    def scalar(m, x, y):
        return m.equal(x, y)


class Less(Typed):
    """z = (x < y); False where either is NaN."""

    name = "less"
    accepts = ("float", "int")
    gives = "bool"

    def scalar(m, x, y):
        return x < y


class LessEqual(Typed):
    """z = (x <= y); False where either is NaN."""

    name = "less_equal"
    accepts = ("float", "int")
    gives = "bool"

    def scalar(m, x, y):
        return x <= y


class IsNan(Typed):
    """Whether x is NaN."""

    name = "is_nan"
    gives = "bool"

    def scalar(m, x):
        return m.is_nan(x)


class IsInf(Typed):
    """Whether x is infinite, of a sign that is asked for."""

    name = "is_inf"
    gives = "bool"

    def scalar(m, x, *, positive=True, negative=True):
        if positive and negative:
            return m.is_inf(x)
        if positive or negative:
            return m.is_inf(x) & (x > 0.0 if positive else x < 0.0)
        return x < x  # neither sign is asked for: False everywhere


class LogicalNot(Typed):
    """y = not x."""

    name = "logical_not"
    accepts = ("bool",)

    def scalar(m, x):
        return ~x


class LogicalAnd(Typed):
    """z = x and y."""

    name = "logical_and"
    accepts = ("bool",)

    def scalar(m, x, y):
        return x & y


class LogicalOr(Typed):
    """z = x or y."""

    name = "logical_or"
    accepts = ("bool",)

    def scalar(m, x, y):
        return x | y


class LogicalXor(Typed):
    """z = x or y, but not both."""

    name = "logical_xor"
    accepts = ("bool",)

    def scalar(m, x, y):
        return x ^ y


class BitwiseNot(Typed):
    """Every bit of x inverted."""

    name = "bitwise_not"
    accepts = ("int",)

    def scalar(m, x):
        return ~x


class BitwiseAnd(Typed):
    """The bits set in both x and y."""

    name = "bitwise_and"
    accepts = ("int",)

    def scalar(m, x, y):
        return x & y


class BitwiseOr(Typed):
    """The bits set in x or y."""

    name = "bitwise_or"
    accepts = ("int",)

    def scalar(m, x, y):
        return x | y


class BitwiseXor(Typed):
    """The bits set in one of x and y."""

    name = "bitwise_xor"
    accepts = ("int",)

    def scalar(m, x, y):
        return x ^ y


class ShiftLeft(Typed):
    """z = x * 2^y, wrapped; 0 where y is negative or not less than the bits of the type."""

    name = "shift_left"
    accepts = ("int",)

    def scalar(m, x, y):
        inside = _fits(m, y)
        return m.select(inside, x << m.select(inside, y, 0), 0)


class ShiftRight(Typed):
    """z = floor(x / 2^y); a y that is negative or not less than the bits shifts all bits out.

    What is left then is 0, or -1 where x is negative.
    """

    name = "shift_right"
    accepts = ("int",)

    def scalar(m, x, y):
        inside = _fits(m, y)
        if is_signed(m.dtype(x)):
            return x >> m.select(inside, y, _bits(m, x) - 1)
        return m.select(inside, x >> m.select(inside, y, 0), 0)


def _bits(m: Any, x: Any) -> int:
    return int(m.dtype(x)[1:])


def _fits(m: Any, y: Any) -> Any:
    """Whether y is a shift that machines define."""
    below = y < _bits(m, y)
    return (y >= 0) & below if is_signed(m.dtype(y)) else below


class Where(Typed):
    """z = x where the condition c holds, else y."""

    name = "where"

    def infer(c, x, y):
        if c.dtype != "bool":
            raise IRError(f"condition is {c.dtype}, wanted bool")
        dtype = common_dtype(("float", "int", "bool"), x, y)
        return TensorType(dtype, broadcast_shapes(c.shape, x.shape, y.shape))

    def scalar(m, c, x, y):
        return m.select(c, x, y)


class Cast(Typed):
    """x converted to another element type.

    Float to int truncates towards 0 and saturates, NaN becomes 0; int to int wraps; anything to
    bool is x != 0 (so NaN is True); bool to number is 0 or 1. f64 and integers reach f16 and bf16
    through f32.
    """

    name = "cast"

    def infer(x, *, dtype):
        return x.with_dtype(dtype)

    def scalar(m, x, *, dtype):
        return m.cast(x, compute_dtype(dtype))


class Identity(Typed):
    """y = x."""

    name = "identity"
    accepts = ("float", "int", "bool")

    def scalar(m, x):
        return x
