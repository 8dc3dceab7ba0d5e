"""Functions on the elements of tensors, for user-defined layers; activations are elsewhere."""

from __future__ import annotations

from typing import Any

from cnnir.errors import IRError
from cnnir.frontends.dsl.function_layer import single
from cnnir.frontends.dsl.tensor import Tensor, op


def exp(x: Tensor) -> Tensor:
    """e^x"""
    return op("exp", x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return op("log", x)


def sqrt(x: Tensor) -> Tensor:
    """The square root."""
    return op("sqrt", x)


def erf(x: Tensor) -> Tensor:
    """The error function."""
    return op("erf", x)


def sin(x: Tensor) -> Tensor:
    """The sine."""
    return op("sin", x)


def cos(x: Tensor) -> Tensor:
    """The cosine."""
    return op("cos", x)


def floor(x: Tensor) -> Tensor:
    """The largest whole number not above x."""
    return op("floor", x)


def ceil(x: Tensor) -> Tensor:
    """The smallest whole number not below x."""
    return op("ceil", x)


def round(x: Tensor) -> Tensor:
    """The nearest whole number, halves to the even one."""
    return op("round", x)


def sign(x: Tensor) -> Tensor:
    """1, 0 or -1."""
    return op("sign", x)


def maximum(x: Any, y: Any) -> Tensor:
    """The larger of two, element by element."""
    return op("maximum", x, y)


def minimum(x: Any, y: Any) -> Tensor:
    """The smaller of two, element by element."""
    return op("minimum", x, y)


def equal(x: Any, y: Any) -> Tensor:
    """Where two are equal (`==` compares the tensors as Python objects)."""
    return op("equal", x, y)


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """x held between two numbers; None is no bound."""
    lo, hi = (None if v is None else single(v, float(v)) for v in (low, high))
    return x if low is None and high is None else op("clip", x, lo=lo, hi=hi)


def where(condition: Tensor, x: Any, y: Any) -> Tensor:
    """x where the condition holds, else y; one of the two may be a number."""
    like = next((v for v in (x, y) if isinstance(v, Tensor)), None)
    if like is None:
        raise IRError("neither choice is a symbolic tensor, wanted at least one")
    given = (Tensor(like.trace, like.trace.lift(v, like)) for v in (x, y))
    return op("where", condition, *given)
