"""Elementwise ops against formulas in numpy f64, and against Python's integers of any size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from samples import RELATIVE, SAMPLES, Sample, case_id, cases, compute, run

from cnnir.tensortype import TensorType, is_float

CASES = cases()

# ---------------------------------------------------------------- elementwise against formulas


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-x)), np.exp(x) / (1 + np.exp(x)))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def vector_erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


FORMULAS: dict[str, Callable[..., Any]] = {
    "relu": lambda x: np.where(x < 0, 0, x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "reciprocal": lambda x: x**-1.0,
    "erf": vector_erf,
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "sign": np.sign,
    "abs": np.fabs,
    "neg": np.negative,
    "softplus": softplus,
    "hard_sigmoid": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "elu": lambda x, alpha=1.0: np.where(x < 0, alpha * np.expm1(x), x),
    "selu": lambda x, alpha=1.6732631921768188, gamma=1.0507010221481323: (
        gamma * np.where(x > 0, x, alpha * np.expm1(x))
    ),
    "leaky_relu": lambda x, alpha=0.01: np.where(x < 0, alpha * x, x),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "swish": lambda x, alpha=1.0: x * sigmoid(alpha * x),
    "gelu": lambda x, approximate="none": (
        x
        * (
            0.5 * (1 + vector_erf(x / np.sqrt(2)))
            if approximate == "none"
            else sigmoid(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * np.power(x, 3)))
        )
    ),
    "clip": lambda x, lo=None, hi=None: np.minimum(
        np.maximum(x, -np.inf if lo is None else lo), np.inf if hi is None else hi
    ),
    "identity": lambda x: x,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "mod": lambda x, y, fmod: np.fmod(x, y),
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "equal": np.equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "is_nan": lambda x: x != x,
    "is_inf": lambda x, positive=True, negative=True: (
        ((x == np.inf) & positive) | ((x == -np.inf) & negative)
    ),
    "where": np.where,
}
FLOAT_CASES = [
    (name, sample)
    for name, sample in CASES
    if name in FORMULAS and all(is_float(t.dtype) or t.dtype == "bool" for t in sample.types if t)
]


@pytest.mark.parametrize(("name", "sample"), FLOAT_CASES, ids=case_id)
def test_against_formula(name: str, sample: Sample) -> None:
    arrays = sample.arrays(np.random.default_rng(3))
    with np.errstate(all="ignore"):
        wide = [a if a.dtype == bool else a.astype(np.float64) for a in arrays]
        wanted = np.asarray(FORMULAS[name](*wide, **sample.attrs))
        got = run(name, sample, 3)[0]
        wanted = wanted.astype(got.dtype).astype(np.float64)  # what overflows the type is infinite
    tolerance = RELATIVE.get(TensorType.of(got).dtype, 0.0)
    got = got.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    # ln(1 + e) and e^x - 1 are exact to a rounding of 1, not of themselves
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=max(tolerance, 1e-44))


def test_stable_far_from_zero() -> None:
    x = np.array([-1e4, -200.0, -50.0, 50.0, 200.0, 1e4], np.float32)
    for name in ("sigmoid", "softplus", "mish", "gelu", "swish", "elu", "selu", "tanh"):
        got = compute(name, x)
        assert np.isfinite(got).all(), name
        if name not in ("elu", "selu", "tanh"):
            np.testing.assert_allclose(got[:2], 0, atol=1e-30)
    np.testing.assert_array_equal(compute("softplus", x)[3:], x[3:])
    np.testing.assert_array_equal(compute("mish", x)[3:], x[3:])


def test_nan_propagates() -> None:
    x = np.array([np.nan, 1.0], np.float32)
    for name in (
        "relu",
        "sigmoid",
        "softplus",
        "mish",
        "gelu",
        "elu",
        "selu",
        "leaky_relu",
        "sign",
    ):
        assert np.isnan(compute(name, x)[0]), name
    for lo, hi in ((0.0, None), (None, 1.0), (0.0, 1.0)):
        assert np.isnan(compute("clip", x, lo=lo, hi=hi)[0])
    for name in ("maximum", "minimum"):
        assert np.isnan(compute(name, x, np.float32(0))[0])
        assert np.isnan(compute(name, np.float32(0), x)[0])
    for name in ("reduce_max", "reduce_min", "reduce_sum"):
        assert np.isnan(compute(name, x, axes=(0,))[0])


# ---------------------------------------------------------------- integers against Python's


def truncated(x: int, y: int) -> int:
    return 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def integer_power(x: int, y: int) -> int:
    if y < 0:
        return {1: 1, -1: 1 - 2 * (y % 2)}.get(x, 0)
    return pow(x, y, 1 << 64)


def integer_mod(x: int, y: int, fmod: bool) -> int:
    if y == 0:
        return 0
    return x - y * truncated(x, y) if fmod else x % y


INTEGERS: dict[str, Callable[..., int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": truncated,
    "mod": integer_mod,
    "pow": integer_power,
    "maximum": max,
    "minimum": min,
    "abs": abs,
    "neg": lambda x: -x,
    "sign": lambda x: (x > 0) - (x < 0),
    "relu": lambda x: max(x, 0),
    "clip": lambda x, lo=None, hi=None: min(
        max(x, -math.inf if lo is None else lo), math.inf if hi is None else hi
    ),
    "prelu": lambda x, slope: slope * x if x < 0 else x,
    "equal": lambda x, y: x == y,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "where": lambda c, x, y: x if c else y,
    "bitwise_not": lambda x: ~x,
    "bitwise_and": lambda x, y: x & y,
    "bitwise_or": lambda x, y: x | y,
    "bitwise_xor": lambda x, y: x ^ y,
    "logical_not": lambda x: not x,
    "logical_and": lambda x, y: x and y,
    "logical_or": lambda x, y: x or y,
    "logical_xor": lambda x, y: x != y,
}
INTEGER_CASES = [
    (name, sample)
    for name, sample in CASES
    if name in INTEGERS and not any(is_float(t.dtype) for t in sample.types if t)
]


def wrapped(value: float, dtype: np.dtype) -> Any:
    """A Python integer as the type holds it: modulo 2^bits; the bounds of a clip saturate."""
    if dtype.kind == "b":
        return bool(value)
    info = np.iinfo(dtype)
    if isinstance(value, float):
        return int(min(max(value, info.min), info.max))
    return (int(value) - info.min) % (1 << info.bits) + info.min


@pytest.mark.parametrize(("name", "sample"), INTEGER_CASES, ids=case_id)
def test_integers_against_python(name: str, sample: Sample) -> None:
    arrays = np.broadcast_arrays(*sample.arrays(np.random.default_rng(4)))
    got = run(name, sample, 4)[0]
    rows = zip(*(a.ravel().tolist() for a in arrays), strict=True)
    wanted = [wrapped(INTEGERS[name](*row, **sample.attrs), got.dtype) for row in rows]
    if name == "clip":  # bounds outside of the type saturate, they don't wrap
        info = np.iinfo(got.dtype)
        lo, hi = (sample.attrs.get(k) for k in ("lo", "hi"))
        lo = info.min if lo is None else min(max(lo, info.min), info.max)
        hi = info.max if hi is None else min(max(hi, info.min), info.max)
        wanted = [int(min(max(x, lo), hi)) for x in arrays[0].ravel().tolist()]
    assert got.ravel().tolist() == wanted


@pytest.mark.parametrize("sample", SAMPLES["shift_left"], ids=case_id)
def test_shift_left(sample: Sample) -> None:
    x, y = np.broadcast_arrays(*sample.arrays(np.random.default_rng(5)))
    bits = x.dtype.itemsize * 8
    got = run("shift_left", sample, 5)[0]
    rows = zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
    wanted = [wrapped(a << b, x.dtype) if 0 <= b < bits else 0 for a, b in rows]
    assert got.ravel().tolist() == wanted


@pytest.mark.parametrize("sample", SAMPLES["shift_right"], ids=case_id)
def test_shift_right(sample: Sample) -> None:
    x, y = np.broadcast_arrays(*sample.arrays(np.random.default_rng(5)))
    got = run("shift_right", sample, 5)[0]
    rows = zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)
    assert got.ravel().tolist() == [a >> (b if b >= 0 else 200) for a, b in rows]


def python_cast(value: float, target: np.dtype, from_float: bool) -> Any:
    """A number as `cast` defines it, with Python's integers of any size."""
    if target.kind == "b":
        return value != 0
    if target.kind not in "iu":
        return value
    if not from_float:
        return wrapped(int(value), target)
    if math.isnan(value):
        return 0
    info = np.iinfo(target)
    if math.isinf(value):
        return info.max if value > 0 else info.min
    return min(max(int(value), info.min), info.max)


@pytest.mark.parametrize("sample", SAMPLES["cast"], ids=case_id)
def test_cast_against_python(sample: Sample) -> None:
    (x,) = sample.arrays(np.random.default_rng(6))
    from_float = is_float(sample.types[0].dtype)
    got = run("cast", sample, 6)[0]
    flat = (x.astype(np.float64) if from_float else x).ravel().tolist()
    with np.errstate(all="ignore"):
        wanted = [python_cast(v, got.dtype, from_float) for v in flat]
        if is_float(sample.attrs["dtype"]):
            middle = np.float32 if sample.attrs["dtype"] in ("f16", "bf16") else got.dtype
            wanted = np.array(wanted, x.dtype if not from_float else np.float64)
            wanted = wanted.astype(middle).astype(got.dtype)
    wanted = np.array(wanted, got.dtype)
    if is_float(sample.attrs["dtype"]):  # numpy takes a bf16 NaN for a number, so compare in f64
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    np.testing.assert_array_equal(got.ravel(), wanted)
