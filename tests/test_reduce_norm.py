"""Reductions, matmul and normalisations against plain Python, einsum and torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from samples import RELATIVE, SAMPLES, Sample, assert_close, case_id, cases, compute, run

CASES = cases()


def wrapped(value: float, dtype: np.dtype) -> Any:
    """A Python integer as the type holds it, modulo 2^bits; infinities saturate."""
    info = np.iinfo(dtype)
    if isinstance(value, float):
        return int(min(max(value, info.min), info.max))
    return (value - info.min) % (1 << info.bits) + info.min


def truncated(x: int, y: int) -> int:
    """Integer division towards 0; by 0 it is 0."""
    return 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


# ---------------------------------------------------------------- reductions


def lines_of(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """x as [results, reduced elements], and the shape with the reduced axes gone."""
    moved = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
    kept = moved.shape[: x.ndim - len(axes)]
    return moved.reshape(math.prod(kept), math.prod(x.shape[a] for a in axes)), kept


def reduced(name: str, line: list[Any], dtype: np.dtype) -> Any:
    """One reduction in Python: exact integers, or correctly rounded float sums."""
    whole = dtype.kind in "iu"
    if name in ("reduce_max", "reduce_min"):
        empty = {"i": lambda: wrapped(-math.inf, dtype), "f": lambda: -math.inf}
        if name == "reduce_min":
            empty = {"i": lambda: wrapped(math.inf, dtype), "f": lambda: math.inf}
        if dtype.kind == "b":
            return any(line) if name == "reduce_max" else all(line)
        if not line:
            return empty["i" if whole else "f"]()
        if any(v != v for v in line):
            return math.nan
        return max(line) if name == "reduce_max" else min(line)
    if name == "reduce_prod":
        return wrapped(math.prod(line), dtype) if whole else math.prod(line)
    special = any(not math.isfinite(v) for v in line)
    total = sum(line) if whole or special else math.fsum(line)
    if name == "reduce_mean":
        if whole:
            return truncated(wrapped(total, np.dtype("u8" if dtype == "u8" else "i8")), len(line))
        return total / len(line) if line else math.nan
    return wrapped(total, dtype) if whole else total


REDUCE_CASES = [case for case in CASES if case[0].startswith("reduce_")]


@pytest.mark.parametrize(("name", "sample"), REDUCE_CASES, ids=case_id)
def test_reduce_against_python(name: str, sample: Sample) -> None:
    (x,) = sample.arrays(np.random.default_rng(7))
    got = run(name, sample, 7)[0]
    wide = x if x.dtype.kind in "iub" else x.astype(np.float64)
    lines, kept = lines_of(wide, sample.attrs["axes"])
    kind = x.dtype if x.dtype.kind in "iub" else np.dtype("f8")
    wanted = np.array([reduced(name, line, kind) for line in lines.tolist()], kind).reshape(kept)
    if sample.attrs.get("keepdims", True):
        wanted = np.expand_dims(wanted, sample.attrs["axes"])
    if kind == "f8":
        tolerance = RELATIVE[sample.types[0].dtype]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        scale = np.abs(wide[np.isfinite(wide)]).max(initial=1)
        np.testing.assert_allclose(got.astype("f8"), wanted, rtol=tolerance, atol=tolerance * scale)
    else:
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_arg_reductions_against_python(name: str) -> None:
    for sample in SAMPLES[name]:
        (x,) = sample.arrays(np.random.default_rng(8))
        got = run(name, sample, 8)[0]
        lines, kept = lines_of(x.astype(np.float64), (sample.attrs["axis"],))
        wanted = []
        for line in lines.tolist():
            best = (
                math.nan if any(v != v for v in line) else (max if name == "argmax" else min)(line)
            )
            hits = [i for i, v in enumerate(line) if v == best or (v != v and best != best)]
            wanted.append(hits[-1 if sample.attrs.get("select_last") else 0])
        assert got.ravel().tolist() == wanted
        assert got.size == math.prod(kept)


def test_cumsum_by_hand() -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    assert compute("cumsum", x, axis=1).tolist() == [[1, 3, 6], [4, 9, 15]]
    assert compute("cumsum", x, axis=1, exclusive=True).tolist() == [[0, 1, 3], [0, 4, 9]]
    assert compute("cumsum", x, axis=1, reverse=True).tolist() == [[6, 5, 3], [15, 11, 6]]
    both = compute("cumsum", x, axis=1, exclusive=True, reverse=True)
    assert both.tolist() == [[5, 3, 0], [11, 6, 0]]
    assert compute("cumsum", x, axis=0).tolist() == [[1, 2, 3], [5, 7, 9]]
    assert compute("cumsum", np.array([100, 100], np.int8), axis=0).tolist() == [100, -56]


# ---------------------------------------------------------------- matmul and normalisation


@pytest.mark.parametrize("sample", SAMPLES["matmul"], ids=case_id)
def test_matmul_against_einsum(sample: Sample) -> None:
    x, y = sample.arrays(np.random.default_rng(9))
    got = run("matmul", sample, 9)[0]
    if x.dtype.kind in "iu":
        product = (x.astype(object)[..., :, :, None] * y.astype(object)[..., None, :, :]).sum(-2)
        wanted = [wrapped(v, x.dtype) for v in np.asarray(product).ravel()]
        assert got.ravel().tolist() == wanted
    else:
        wanted = np.einsum("...ik,...kj->...ij", x.astype(np.float64), y.astype(np.float64))
        assert_close(got, wanted, RELATIVE[sample.types[0].dtype])


def windowed_lrn(x: np.ndarray, size: int, alpha: float, beta: float, bias: float) -> np.ndarray:
    """The sum over channels as a product with a banded matrix."""
    c = np.arange(x.shape[1])
    offset = c[None, :] - c[:, None]
    band = (offset >= -((size - 1) // 2)) & (offset <= math.ceil((size - 1) / 2))
    total = np.einsum("cd,nd...->nc...", band.astype(np.float64), x * x)
    return x * np.exp(-beta * np.log(bias + alpha / size * total))


@pytest.mark.parametrize("sample", SAMPLES["lrn"], ids=case_id)
def test_lrn_against_banded_matrix(sample: Sample) -> None:
    (x,) = sample.arrays(np.random.default_rng(10))
    attrs = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **sample.attrs}
    wanted = windowed_lrn(x.astype(np.float64), **attrs)
    assert_close(run("lrn", sample, 10)[0], wanted, RELATIVE[sample.types[0].dtype])


TORCH_NORMS: dict[str, Callable[..., Any]] = {
    "softmax": lambda F, x, axis: F.softmax(x, axis),
    "log_softmax": lambda F, x, axis: F.log_softmax(x, axis),
    "batch_norm": lambda F, x, scale, bias, mean, var, epsilon=1e-5: F.batch_norm(
        x, mean, var, scale, bias, eps=epsilon
    ),
    "group_norm": lambda F, x, scale, bias, groups, epsilon: F.group_norm(
        x, groups, scale, bias, eps=epsilon
    ),
}
TORCH_CASES = [
    (name, sample)
    for name, sample in CASES
    if name in TORCH_NORMS and all(t.size for t in sample.types if t)
]


@pytest.mark.parametrize(("name", "sample"), TORCH_CASES, ids=case_id)
def test_norms_against_torch(name: str, sample: Sample) -> None:
    torch = pytest.importorskip("torch")
    arrays = sample.arrays(np.random.default_rng(11))
    tensors = [torch.from_numpy(a.astype(np.float64)) for a in arrays if a is not None]
    attrs = {"epsilon": 1e-5} | dict(sample.attrs) if name == "group_norm" else sample.attrs
    try:
        wanted = TORCH_NORMS[name](torch.nn.functional, *tensors, **attrs)
    except ValueError as refused:  # torch refuses to normalise single elements
        assert "more than 1 value per channel" in str(refused)
        wanted = torch.broadcast_to(
            tensors[2].reshape(-1, *[1] * (tensors[0].ndim - 2)), arrays[0].shape
        )
    assert_close(run(name, sample, 11)[0], wanted.numpy(), 4 * RELATIVE[sample.types[0].dtype])


@pytest.mark.parametrize("sample", SAMPLES["layer_norm"], ids=case_id)
def test_layer_norm_against_var(sample: Sample) -> None:
    x, scale, bias = (*sample.arrays(np.random.default_rng(12)), None, None)[:3]
    y, mean, inv_std = run("layer_norm", sample, 12)
    wide = x.astype(np.float64)
    axes = tuple(range(sample.attrs["axis"], x.ndim))
    wanted_mean = wide.mean(axes, keepdims=True)
    spread = np.sqrt(wide.var(axes, keepdims=True) + sample.attrs.get("epsilon", 1e-5))
    factor, shift = (1 if scale is None else scale), (0 if bias is None else bias)
    wanted = (wide - wanted_mean) / spread * factor + np.asarray(shift, np.float64)
    tolerance = 4 * RELATIVE[sample.types[0].dtype]
    far = float(np.abs(wide).max(initial=1) / spread.min(initial=1))  # x - mean cancels
    assert_close(y, wanted, tolerance * max(far, 1))
    assert_close(mean, wanted_mean, tolerance)
    assert_close(inv_std, 1 / spread, tolerance * max(far, 1))


def test_softmax_far_from_zero() -> None:
    x = np.array([[1e4, -1e4, 0], [-np.inf] * 3, [-np.inf, 0, -np.inf], [np.inf, 0, 1]], np.float32)
    y = compute("softmax", x, axis=1)
    np.testing.assert_array_equal(y[0], [1, 0, 0])
    np.testing.assert_array_equal(y[2], [0, 1, 0])
    assert np.isnan(y[1]).all() and np.isnan(y[3]).any()
    np.testing.assert_array_equal(compute("log_softmax", x, axis=1)[0], [0, -2e4, -1e4])
