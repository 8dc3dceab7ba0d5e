"""Printed kernels compute what the ops mean: every sample, at every width, in both layouts."""

from __future__ import annotations

import re
from functools import cache
from math import erf, inf, nan

import numpy as np
import pytest
from loops_harness import compile_module, layouts_of, node_of, run_kernel, run_node, target_of
from samples import SAMPLES, Sample, assert_close, case_id, cases
from test_loops import fused, softmax

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.layout import Blocked, Padded, Plain
from cnnir.backends.llvm.printer import print_kernel
from cnnir.evaluate import evaluate, evaluate_node
from cnnir.loops import lower
from cnnir.ops import OPS
from cnnir.tensortype import TensorType, is_float

WIDTHS = (16, 8, 4)
TOLERANCE = {"f16": 2e-3, "bf16": 1.6e-2, "f32": 2e-5, "f64": 1e-11}
INTRINSICS = {
    *("fabs", "copysign", "fmuladd", "sqrt", "floor", "ceil", "trunc", "roundeven"),
    *("masked.load", "masked.store", "masked.gather", "masked.scatter"),
    *("fptosi.sat", "fptoui.sat", "vector.reduce.or", "maximum", "minimum"),
}
LIBM = {"exp", "log", "tanh", "erf", "sin", "cos", "pow", "atan2"}


def available(lanes: int) -> bool:
    return target_of(lanes) is not None


def printable(name: str) -> bool:
    op = OPS[name]
    return op.element is not None or op.procedure is not None


def numpy_quirk(name: str, sample: Sample) -> bool:
    """numpy takes a square root for the 0-d exponent 0.5, and so NaN for (-inf)^0.5."""
    return name == "pow" and getattr(sample.operands[1], "shape", None) == ()


def compare(name: str, sample: Sample, lanes: int, kind: str) -> None:
    node = node_of(name, *sample.types, **dict(sample.attrs))
    if kind == "blocked" and any(v.type.rank < 2 for v in node.results):
        return
    arrays = sample.arrays(np.random.default_rng(3))
    exact = None if any(_rounds(v.type.dtype) for v in node.operands if v) else "f64"
    wanted = evaluate_node(node, arrays, exact)
    for value, got, want in zip(
        node.results, run_node(node, arrays, lanes, kind), wanted, strict=True
    ):
        if is_float(value.type.dtype):
            with np.errstate(over="ignore"):
                want = np.asarray(want).astype(value.type.numpy)
            assert_close(got, want, TOLERANCE[value.type.dtype])
        else:
            np.testing.assert_array_equal(got, want)


def _rounds(dtype: str) -> bool:
    """Types for which the meaning includes a rounding that f64 would not show."""
    return dtype in ("f16", "bf16", "f32")


AT_MOST = 25
"""Samples of an op in the quick test."""


@pytest.mark.parametrize("name", sorted(name for name in SAMPLES if printable(name)))
def test_samples(name: str):
    """Some samples, each in one width and layout; the slow test below runs them all."""
    samples = SAMPLES[name]
    for k, sample in enumerate(samples[:: -(-len(samples) // AT_MOST)]):
        lanes, kind = WIDTHS[k % 3], ("plain", "blocked")[k // 3 % 2]
        if available(lanes) and not numpy_quirk(name, sample):
            compare(name, sample, lanes, kind)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("kind", ["plain", "blocked"])
@pytest.mark.parametrize(("name", "sample"), cases(), ids=case_id)
def test_every_sample(name: str, sample: Sample, kind: str, lanes: int):
    if printable(name) and available(lanes) and not numpy_quirk(name, sample):
        compare(name, sample, lanes, kind)


# ---- functions


@cache
def special_values() -> np.ndarray:
    rng = np.random.default_rng(1)
    spread = rng.standard_normal(4000) * np.exp(rng.uniform(-80, 80, 4000))
    near = rng.uniform(-20, 20, 4000)
    edges = [0.0, -0.0, inf, -inf, nan, 1.0, -1.0, 3e38, -3e38, 1e-38, -1e-38, 1e-45, 88.7, 89.0]
    edges += [-87.3, -103.9, -104.0, 0.625, 1e9, 2.0**28, 123456.0]
    return np.concatenate([spread, near, edges, np.arange(-30, 30) / 2]).astype(np.float32)


FUNCTIONS = {
    **{"exp": np.exp, "log": np.log, "tanh": np.tanh, "sin": np.sin, "cos": np.cos},
    "erf": np.vectorize(erf),
}


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_within_units_of_the_last_place(name: str, lanes: int):
    if not available(lanes):
        pytest.skip("not on this machine")
    x = special_values()
    with np.errstate(all="ignore"):
        want = FUNCTIONS[name](x.astype(np.float64))
    (got,) = run_node(node_of(name, TensorType.of(x)), [x], lanes)
    close_by_units(got, want, 4 if name == "erf" else 2)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_erf_ends_at_one(lanes: int):
    """Else GELU of a large negative number would be a large number."""
    if not available(lanes):
        pytest.skip("not on this machine")
    x = np.array([3.93, 4.0, 7.5, 100.0, 1e30, inf] * 2, np.float32) * np.repeat([1, -1], 6)
    x = x.astype(np.float32)
    (got,) = run_node(node_of("erf", TensorType.of(x)), [x], lanes)
    np.testing.assert_array_equal(got, np.sign(x))


def close_by_units(got: np.ndarray, want: np.ndarray, units: int = 2) -> None:
    with np.errstate(all="ignore"):
        single = want.astype(np.float32)
    special = ~np.isfinite(single)
    np.testing.assert_array_equal(got[special], single[special])
    g, w = got[~special].astype(np.float64), want[~special]
    unit = np.maximum(np.spacing(np.abs(single[~special])).astype(np.float64), 1e-38)
    worst = int(np.argmax(np.abs(g - w) / unit))
    assert (np.abs(g - w) <= units * unit).all(), (g[worst], w[worst])


@pytest.mark.parametrize("lanes", WIDTHS)
def test_powers(lanes: int):
    if not available(lanes):
        pytest.skip("not on this machine")
    edges = [0.0, -0.0, inf, -inf, nan, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 1e30, 1e-30]
    edges += [7.3, -7.3, 1.0000001, 0.99999994]
    rng = np.random.default_rng(2)
    a = np.concatenate([np.repeat(edges, len(edges)), rng.uniform(0, 9, 3000)]).astype(np.float32)
    b = np.concatenate([np.tile(edges, len(edges)), rng.uniform(-9, 9, 3000)]).astype(np.float32)
    with np.errstate(all="ignore"):
        want = np.power(a.astype(np.float64), b.astype(np.float64))
    node = node_of("pow", TensorType.of(a), TensorType.of(b))
    close_by_units(run_node(node, [a, b], lanes)[0], want)


def test_a_value_does_not_depend_on_its_lane_or_its_width():
    """The last elements are computed in a vector of another width, or alone."""
    for name in ("exp", "tanh", "erf", "log", "sin"):
        x = np.full(16 * 3 + 7, 0.7391, np.float32)
        results = [
            run_node(node_of(name, f"f32[{n}]"), [x[:n]], 16)[0] for n in (1, 2, 5, 16, 17, 55)
        ]
        assert len({v.tobytes() for r in results for v in r}) == 1


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("lanes", WIDTHS)
def test_all_16_bit_floats_convert_both_ways(dtype: str, lanes: int):
    if not available(lanes):
        pytest.skip("not on this machine")
    type_ = TensorType(dtype, (1 << 16,))
    h = np.arange(1 << 16, dtype=np.uint16).view(type_.numpy)
    (wide,) = run_node(node_of("cast", type_, dtype="f32"), [h], lanes)
    np.testing.assert_array_equal(wide, h.astype(np.float32))
    # halfway between neighbours, and a bit to either side
    bits = wide.view(np.uint32)
    step = np.uint32(1 << (12 if dtype == "f16" else 15))
    f = np.concatenate([bits + step, bits + step + 1, bits + step - 1]).view(np.float32)
    (narrow,) = run_node(node_of("cast", TensorType.of(f), dtype=dtype), [f], lanes)
    with np.errstate(all="ignore"):
        want = f.astype(type_.numpy)
    np.testing.assert_array_equal(narrow.astype(np.float32), want.astype(np.float32))


# ---- conditions, guards, conversions


def test_nan_goes_through_max_and_min():
    a = np.array([nan, 1.0, nan, 2.0] * 5, np.float32)
    b = np.array([1.0, nan, nan, 3.0] * 5, np.float32)
    for name, want in (("maximum", np.maximum(a, b)), ("minimum", np.minimum(a, b))):
        np.testing.assert_array_equal(
            run_node(node_of(name, "f32[20]", "f32[20]"), [a, b], 16)[0], want
        )
    np.testing.assert_array_equal(
        run_node(node_of("relu", "f32[20]"), [a], 16)[0], np.maximum(a, 0)
    )
    x = np.random.default_rng(0).standard_normal((1, 20, 9, 9)).astype(np.float32)
    x[0, 3, 4, 4] = x[0, 17, 0, 8] = nan
    node = node_of("max_pool", "f32[1,20,9,9]", kernel=(3, 3), padding=(1, 1, 1, 1))
    for kind in ("plain", "blocked"):
        (got,) = run_node(node, [x], 16, kind)
        np.testing.assert_array_equal(got, evaluate_node(node, [x])[0])
        assert np.isnan(got).sum() == 9 + 4


@pytest.mark.parametrize("kind", ["plain", "blocked"])
@pytest.mark.parametrize("bad", [4, -5, 1 << 40, -(1 << 62)])
def test_a_bad_index_sets_the_error_word_and_touches_nothing(bad: int, kind: str):
    node = node_of("gather", "f32[2,4,3]", "i64[3]", axis=1)
    data = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    index = np.array([0, bad, -4])
    kernel = lower(node, layouts_of(node, kind, 16), 16, first_code=11)
    target = target_of(16) or target_of(8) or target_of(4)
    results, code = run_kernel(kernel, target, [data, index])
    assert code == 11 and kernel.errors[code - kernel.first_code]
    np.testing.assert_array_equal(results[0][:, [0, 2]], data[:, [0, 0]])


def test_integer_division_never_traps():
    a = np.array([7, -7, 7, -7, 5, -(2**31), 2**31 - 1, 0] * 3, np.int32)
    b = np.array([2, 2, -2, -2, 0, -1, -1, 0] * 3, np.int32)
    want = np.array([3, -3, -3, 3, 0, -(2**31), -(2**31) + 1, 0] * 3, np.int32)
    np.testing.assert_array_equal(
        run_node(node_of("div", "i32[24]", "i32[24]"), [a, b], 16)[0], want
    )


def test_conversions_saturate():
    x = np.array([nan, inf, -inf, 1e30, -1e30, 300.7, -300.7, 2.9, -2.9] * 3, np.float32)
    for dtype in ("i8", "u8", "i16", "i32", "i64", "u64"):
        node = node_of("cast", "f32[27]", dtype=dtype)
        np.testing.assert_array_equal(run_node(node, [x], 16)[0], evaluate_node(node, [x])[0])


# ---- fused nodes and odd sizes


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("shape", [(1, 3, 5, 5), (2, 20, 7, 3), (1, 33, 1, 1), (3, 16, 4, 9)])
def test_a_fused_block_in_mixed_layouts(shape: tuple[int, ...], lanes: int):
    if not available(lanes):
        pytest.skip("not on this machine")
    n, c, h, w = shape

    def block(g, x, y, p):
        v = g.add("mul", g.add("add", x, y), g.add("reshape", p, shape=(c, 1, 1)))
        return g.add("maximum", g.add("sigmoid", v), g.add("tanh", x))

    node = fused(block, f"f32[{n},{c},{h},{w}]", f"f32[{n},{c},1,1]", f"f32[{c}]")
    rng = np.random.default_rng(5)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in node.operands]
    (want,) = evaluate(node.attrs["body"], arrays, "f64")
    target = target_of(lanes)
    assert target is not None
    blocked, plain = Blocked(lanes), Plain()
    for layouts in (
        [blocked, blocked, Padded(lanes), blocked],
        [blocked, plain, plain, blocked],
        [plain, blocked, plain, blocked],
        [blocked, plain, plain, plain],
        [plain, plain, plain, plain],
    ):
        (got,), _ = run_kernel(lower(node, layouts, lanes), target, arrays)
        assert_close(got, want, 1e-6)


@pytest.mark.parametrize("shape", [(3, 40), (1, 1000), (7, 5), (2, 1), (4, 129)])
def test_softmax_as_one_kernel(shape: tuple[int, int]):
    x = np.random.default_rng(0).uniform(-4, 4, shape).astype(np.float32)
    for lanes in filter(available, WIDTHS):
        node = fused(softmax, str(TensorType.of(x)))
        (got,) = run_node(node, [x], lanes)
        e = np.exp(x.astype(np.float64))
        assert_close(got, e / e.sum(1, keepdims=True), 2e-6)


def test_large_tensors_are_covered_by_their_items():
    for shape in [(1, 40, 61, 67), (163741,), (5, 4099, 3)]:
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for kind in ("plain", "blocked") if len(shape) > 1 else ("plain",):
            (got,) = run_node(node_of("relu", TensorType.of(x)), [x], 16, kind)
            np.testing.assert_array_equal(got, np.maximum(x, 0))


def test_printing_is_a_function_of_the_node():
    def text() -> str:
        module = ir.Module("m")
        node = node_of("avg_pool", "f32[1,20,9,9]", kernel=(3, 3), padding=(1, 1, 1, 1))
        target = target_of(16) or target_of(8) or target_of(4)
        print_kernel(module, lower(node, layouts_of(node, "blocked", 16), 16), target)
        return str(module)

    assert text() == text()


def test_only_known_functions_are_called():
    """Code for SSE2 too calls nothing but libm for f64 and intrinsics that become instructions."""
    target = target_of(4)
    if target is None:
        pytest.skip("not on this machine")
    for name in ("exp", "gelu", "round", "pow", "sin", "cast", "max_pool", "gather", "topk"):
        sample = next(s for n, s in cases() if n == name)
        node = node_of(name, *sample.types, **dict(sample.attrs))
        module = ir.Module(name)
        print_kernel(module, lower(node, layouts_of(node, "plain", 4), 4), target)
        compile_module(module, target)
        for called in re.findall(r"@\"?([\w.]+)\"?\(", str(module)):
            known = called == "kernel" or called in LIBM
            assert known or any(called.startswith(f"llvm.{i}.") for i in INTRINSICS), called
