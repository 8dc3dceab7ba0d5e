"""The algebra that `scalar` definitions are written in, interpreted by numpy.

`cnnir.loops` has the other interpretation, which builds expressions for the code generators.
Arithmetic uses Python's operators; the functions here are those that have none, or whose numpy
spelling differs from the meaning we fix (NaN propagates through max and min; integer division
truncates and never traps; float-to-int conversion truncates and saturates, NaN becomes 0).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.tensortype import DTYPES, short_dtype

# Abramowitz and Stegun have no formula good enough for f64; numpy has no erf. `math.erf` is
# exact to an ulp and the reference need not be fast.
_ERF = np.frompyfunc(math.erf, 1, 1)


class NumpyAlgebra:
    """Functions on numpy arrays. The result keeps the operands' dtype unless said otherwise."""

    equal = staticmethod(np.equal)
    not_equal = staticmethod(np.not_equal)
    max = staticmethod(np.maximum)
    min = staticmethod(np.minimum)
    abs = staticmethod(np.abs)
    sqrt = staticmethod(np.sqrt)
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    tanh = staticmethod(np.tanh)
    sin = staticmethod(np.sin)
    cos = staticmethod(np.cos)
    floor = staticmethod(np.floor)
    ceil = staticmethod(np.ceil)
    rint = staticmethod(np.rint)
    trunc = staticmethod(np.trunc)
    is_nan = staticmethod(np.isnan)
    is_inf = staticmethod(np.isinf)

    @staticmethod
    def dtype(x: Any) -> str:
        """The element type of a value."""
        return short_dtype(np.asarray(x).dtype)

    @staticmethod
    def const(value: float, dtype: str) -> np.ndarray:
        """A constant of the given element type."""
        return np.asarray(value, DTYPES[dtype])

    @staticmethod
    def select(condition: Any, a: Any, b: Any) -> np.ndarray:
        """`a` where the condition holds, else `b`; a Python number takes the other's dtype."""
        if not isinstance(a, (np.ndarray, np.generic)):
            a = np.asarray(a, np.asarray(b).dtype)
        elif not isinstance(b, (np.ndarray, np.generic)):
            b = np.asarray(b, np.asarray(a).dtype)
        return np.where(condition, a, b)

    @staticmethod
    def erf(x: np.ndarray) -> np.ndarray:
        """The error function, computed in f64."""
        return np.asarray(_ERF(np.asarray(x, np.float64)), np.float64).astype(x.dtype)

    @staticmethod
    def pow(a: Any, b: Any) -> np.ndarray:
        """`a` to the `b`; integer bases with negative exponents go through f64."""
        a = np.asarray(a)
        b = np.asarray(b)
        if a.dtype.kind in "iu" and b.dtype.kind in "iu" and np.any(b < 0):
            return NumpyAlgebra.cast(np.power(a.astype(np.float64), b), short_dtype(a.dtype))
        return np.power(a, b).astype(a.dtype, copy=False)

    @staticmethod
    def div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Float division, or integer division that truncates; x / 0 is 0, overflow wraps."""
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind == "f" or a.dtype.kind == "V":
            return a / b
        safe = np.where(b == 0, 1, b).astype(b.dtype)
        quotient = a // safe
        # numpy's // floors; one more where the signs differ and something was left over
        away = (a % safe != 0) & ((a < 0) != (safe < 0))
        return np.where(b == 0, 0, quotient + away).astype(a.dtype)

    @staticmethod
    def rem(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The remainder with the sign of `a`, as C has it; integer x rem 0 is 0."""
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.kind == "f":
            return np.fmod(a, b)
        safe = np.where(b == 0, 1, b).astype(b.dtype)
        return np.where(b == 0, 0, np.fmod(a, safe)).astype(a.dtype)

    @staticmethod
    def cast(x: np.ndarray, dtype: str) -> np.ndarray:
        """Convert: float to int truncates and saturates (NaN is 0), int to int wraps."""
        x, target = np.asarray(x), DTYPES[dtype]
        if target.kind in "iu" and short_dtype(x.dtype) in ("f16", "bf16", "f32", "f64"):
            wide = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)
            info = np.iinfo(target)
            low, high = wide <= info.min, wide >= info.max
            inside = np.where(low | high, 0, wide).astype(target)
            return np.where(low, info.min, np.where(high, info.max, inside)).astype(target)
        if dtype == "bool":
            return x != 0
        return x.astype(target)


NUMPY = NumpyAlgebra()
