"""Arithmetic on single elements: abs, add, div, pow, rounding, maximum and so on.

Also `Typed`, which gives elementwise ops their `infer` from two declarations; `activations.py`
and `logic.py` use it too. Fusing, vectorising and evaluating come from `scalar` alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

from cnnir.errors import IRError
from cnnir.ops.base import Elementwise, broadcast_shapes
from cnnir.tensortype import TensorType, is_float, is_int, is_signed


def kind(dtype: str) -> str:
    """ "float", "int" or "bool": the word that `accepts` uses for an element type."""
    return "float" if is_float(dtype) else "int" if is_int(dtype) else "bool"


class Typed(Elementwise, abstract=True):
    """An elementwise op whose operands share an element type of the accepted kinds.

    Attributes are the keyword-only parameters of `scalar`.
    """

    accepts: ClassVar[tuple[str, ...]] = ("float",)
    gives: ClassVar[str | None] = None
    """The result's element type; None means that of the operands."""

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if not abstract and "infer" not in cls.__dict__:
            cls.infer = _typed_infer(cls.__dict__["scalar"], cls.accepts, cls.gives)
        super().__init_subclass__(abstract=abstract)


def _typed_infer(
    scalar: Callable[..., Any], accepts: tuple[str, ...], gives: str | None
) -> Callable[..., TensorType]:
    parameters = list(inspect.signature(scalar).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def infer(*xs: TensorType, **attributes: Any) -> TensorType:
        for name, value in attributes.items():
            check_number(name, value, defaults[name])
        dtype = common_dtype(accepts, *xs)
        return TensorType(gives or dtype, broadcast_shapes(*(x.shape for x in xs)))

    infer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return infer


def check_number(name: str, value: Any, default: Any) -> None:
    """IRError when an attribute that is a flag or a number by default holds something else."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise IRError(f"attribute {name} is {value!r}, wanted True or False")
    elif isinstance(default, (int, float)) and not is_number(value):
        raise IRError(f"attribute {name} is {value!r}, wanted a number")


def is_number(value: Any) -> bool:
    """Whether an attribute is an int or a float (a bool is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def common_dtype(accepts: tuple[str, ...], *xs: TensorType) -> str:
    """The one element type of all operands; IRError when they differ or it is not accepted."""
    if len({x.dtype for x in xs}) > 1:
        raise IRError(f"element types {', '.join(x.dtype for x in xs)} differ, wanted one")
    if kind(xs[0].dtype) not in accepts:
        raise IRError(f"element type is {xs[0].dtype}, wanted {' or '.join(accepts)}")
    return xs[0].dtype


class Abs(Typed):
    """The absolute value: y = |x|. The lowest signed integer wraps to itself."""

    name = "abs"
    accepts = ("float", "int")

    def scalar(m, x):
        return m.abs(x)


class Neg(Typed):
    """The negative: y = -x. Integers wrap."""

    name = "neg"
    accepts = ("float", "int")

    def scalar(m, x):
        return -x


class Sign(Typed):
    """The sign: y = 1 where x > 0, -1 where x < 0, else x (so 0, -0 and NaN stay)."""

    name = "sign"
    accepts = ("float", "int")

    def scalar(m, x):
        if is_float(m.dtype(x)):
            return m.select(x > 0, 1.0, m.select(x < 0, -1.0, x))
        return m.max(m.min(x, 1), -1) if is_signed(m.dtype(x)) else m.min(x, 1)

    def derivative(m, y, x):
        return 0.0


class Exp(Typed):
    """The exponential: y = e^x."""

    name = "exp"

    def scalar(m, x):
        return m.exp(x)

    def derivative(m, y, x):
        return y


class Log(Typed):
    """The natural logarithm: y = ln x; -inf at 0, NaN below."""

    name = "log"

    def scalar(m, x):
        return m.log(x)


class Sqrt(Typed):
    """The square root: y = x^(1/2); NaN below 0."""

    name = "sqrt"

    def scalar(m, x):
        return m.sqrt(x)

    def derivative(m, y, x):
        return 0.5 / y


class Reciprocal(Typed):
    """The reciprocal: y = 1 / x; infinite at 0."""

    name = "reciprocal"

    def scalar(m, x):
        return 1.0 / x

    def derivative(m, y, x):
        return -(y * y)


class Erf(Typed):
    """The error function: y = 2 / sqrt(pi) * integral from 0 to x of e^(-t^2) dt."""

    name = "erf"

    def scalar(m, x):
        return m.erf(x)


class Sin(Typed):
    """The sine of x in radians: y = sin x; NaN where x is infinite."""

    name = "sin"

    def scalar(m, x):
        return m.sin(x)


class Cos(Typed):
    """The cosine of x in radians: y = cos x; NaN where x is infinite."""

    name = "cos"

    def scalar(m, x):
        return m.cos(x)


class Floor(Typed):
    """The largest whole number not above x."""

    name = "floor"

    def scalar(m, x):
        return m.floor(x)


class Ceil(Typed):
    """The smallest whole number not below x."""

    name = "ceil"

    def scalar(m, x):
        return m.ceil(x)


class Round(Typed):
    """The nearest whole number; halves go to the even one: 0.5 -> 0, 1.5 -> 2, -2.5 -> -2."""

    name = "round"

    def scalar(m, x):
        return m.rint(x)


class Clip(Typed):
    """x limited to [lo, hi]: y = min(max(x, lo), hi).

    A bound that is None is no bound; where lo > hi the result is hi. NaN stays NaN. Bounds of
    integer tensors are whole numbers (or infinite) and saturate to the range of the type.
    """

    name = "clip"
    accepts = ("float", "int")

    def infer(x, *, lo=None, hi=None):
        dtype = common_dtype(("float", "int"), x)
        for name, bound in (("lo", lo), ("hi", hi)):
            if bound is None:
                continue
            if not is_number(bound) or math.isnan(bound):
                raise IRError(f"attribute {name} is {bound!r}, wanted a number or None")
            if is_int(dtype) and not math.isinf(bound) and bound != int(bound):
                raise IRError(f"attribute {name} is {bound!r}, wanted a whole number for {dtype}")
        return x

    def scalar(m, x, *, lo=None, hi=None):
        if lo is not None:
            x = m.max(x, m.const(_saturated(lo, m.dtype(x)), m.dtype(x)))
        if hi is not None:
            x = m.min(x, m.const(_saturated(hi, m.dtype(x)), m.dtype(x)))
        return x

    def derivative(m, y, x, *, lo=None, hi=None):
        inside = [] if lo is None else [x >= lo]
        inside += [] if hi is None else [x <= hi]
        slope = 1.0
        for condition in inside:  # the bounds count as inside
            slope = m.select(condition, slope, 0.0)
        return slope


def _saturated(bound: float, dtype: str) -> float:
    """A bound as a number that the element type can hold."""
    if is_float(dtype):
        return float(bound)
    bits = int(dtype[1:])
    lowest = -(1 << (bits - 1)) if is_signed(dtype) else 0
    highest = lowest + (1 << bits) - 1
    if math.isinf(bound):
        return lowest if bound < 0 else highest
    return min(max(int(bound), lowest), highest)


class Add(Typed):
    """The sum: z = x + y. Integers wrap."""

    name = "add"
    accepts = ("float", "int")

    def scalar(m, x, y):
        return x + y


class Sub(Typed):
    """The difference: z = x - y. Integers wrap."""

    name = "sub"
    accepts = ("float", "int")

    def scalar(m, x, y):
        return x - y


class Mul(Typed):
    """The product: z = x * y. Integers wrap."""

    name = "mul"
    accepts = ("float", "int")

    def scalar(m, x, y):
        return x * y


class Div(Typed):
    """The quotient: z = x / y.

    Integers truncate towards 0; an integer divided by 0 is 0, the lowest divided by -1 wraps.
    """

    name = "div"
    accepts = ("float", "int")

    def scalar(m, x, y):
        return m.div(x, y)


class Mod(Typed):
    """The remainder of x / y.

    fmod=False (integers only): z = x - y * floor(x / y), with the sign of y.
    fmod=True: z = x - y * trunc(x / y), with the sign of x.
    An integer remainder by 0 is 0.
    """

    name = "mod"

    def infer(x, y, *, fmod=False):
        check_number("fmod", fmod, False)
        dtype = common_dtype(("float", "int"), x, y)
        if not fmod and not is_int(dtype):
            raise IRError(f"element type is {dtype}, wanted int unless fmod=True")
        return TensorType(dtype, broadcast_shapes(x.shape, y.shape))

    def scalar(m, x, y, *, fmod=False):
        r = m.rem(x, y)
        if fmod or not is_signed(m.dtype(x)):
            return r
        return m.select(m.not_equal(r, 0) & ((r < 0) ^ (y < 0)), r + y, r)


class Pow(Typed):
    """The power: z = x^y, of the element type of x; y may have another one.

    Integer powers of integers wrap; with a negative exponent they are the true power truncated
    towards 0 (1 for 1, 1 or -1 for -1, else 0), and 0^-n is 0. An integer to a float power is
    computed in f64, truncated and saturated.
    """

    name = "pow"

    def infer(x, y):
        for operand in (x, y):
            common_dtype(("float", "int"), operand)
        return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape))

    def scalar(m, x, y):
        base, exponent = m.dtype(x), m.dtype(y)
        if is_float(base):
            return m.pow(x, m.cast(y, base))
        if is_float(exponent):
            return m.cast(m.pow(m.cast(x, "f64"), m.cast(y, "f64")), base)
        if base == exponent:
            return _integer_power(m, x, y)
        # powers wrap modulo 2^64 as they do modulo less, so i64 serves every narrower base
        return m.cast(_integer_power(m, m.cast(x, "i64"), m.cast(y, "i64")), base)

    def derivative(m, y, x, exponent):
        n = m.cast(exponent, m.dtype(x))
        by_x = m.select(m.equal(n, 0.0), 0.0, n * m.pow(x, n - 1.0))
        return by_x, m.select(m.equal(x, 0.0) & (n >= 0.0), 0.0, y * m.log(x))


def _integer_power(m: Any, x: Any, y: Any) -> Any:
    """x^y for integers of one type; `m.pow` itself is asked for exponents >= 0 only."""
    if not is_signed(m.dtype(x)):
        return m.pow(x, y)
    sign = 1 - 2 * (y & 1)
    inverse = m.select(m.equal(x, 1), 1, m.select(m.equal(x, -1), sign, m.const(0, m.dtype(x))))
    return m.select(y < 0, inverse, m.pow(x, m.max(y, 0)))


class Maximum(Typed):
    """The larger: z = max(x, y); NaN when either is NaN."""

    name = "maximum"
    accepts = ("float", "int")

    def scalar(m, x, y):
        return m.max(x, y)


class Minimum(Typed):
    """The smaller: z = min(x, y); NaN when either is NaN."""

    name = "minimum"
    accepts = ("float", "int")

    def scalar(m, x, y):
        return m.min(x, y)
