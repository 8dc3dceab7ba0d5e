"""Printed CUDA C means what the ops mean: run as host code against evaluate, compiled by NVRTC."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cuda_harness import PLAIN, Emulated, emulated, lowered, nvrtc_compile, run_kernel
from loops_harness import node_of
from samples import SAMPLES, Sample, assert_close
from test_llvm_printer import TOLERANCE, numpy_quirk, printable

from cnnir.backends.cuda.layout import ChannelsLast
from cnnir.backends.cuda.operations import constant
from cnnir.backends.cuda.printer import launch_of, print_kernel
from cnnir.errors import BackendError
from cnnir.evaluate import evaluate_node
from cnnir.ir import Graph, Node
from cnnir.loops import Buffer, Kernel, lower
from cnnir.loops import expr as x
from cnnir.loops.expr import Var
from cnnir.loops.statements import Store
from cnnir.pipeline import optimise
from cnnir.tensortype import TensorType, is_float

GOLDEN = Path(__file__).parent / "golden" / "cuda"
AT_MOST = 6
"""Samples of an op in the quick tests."""


class Printed:
    """Kernels of samples, equal ones once."""

    def __init__(self, cases: Iterable[tuple[str, Sample]]) -> None:
        self.kernels: dict[str, Kernel] = {}
        self.cases: list[tuple[str, str, Sample, Node, Kernel]] = []
        names: dict[str, str] = {}
        for op, sample in cases:
            node = node_of(op, *sample.types, **dict(sample.attrs))
            kernel = lowered(node)
            name = names.setdefault(print_kernel(kernel, "_"), f"{op}_{len(names):04}")
            self.kernels.setdefault(name, kernel)
            self.cases.append((name, op, sample, node, kernel))

    def texts(self) -> list[str]:
        """The text of every kernel."""
        return [print_kernel(kernel, name) for name, kernel in self.kernels.items()]

    def check(self) -> None:
        """Run all as host code and compare with evaluate."""
        code = emulated(self.kernels)
        for name, op, sample, node, kernel in self.cases:
            if not numpy_quirk(op, sample):
                compare(code, name, sample, node, kernel)


def compare(code: Emulated, name: str, sample: Sample, node: Node, kernel: Kernel) -> None:
    arrays = sample.arrays(np.random.default_rng(3))
    short = any(v.type.dtype in ("f16", "bf16", "f32") for v in node.operands if v)
    wanted = evaluate_node(node, arrays, None if short else "f64")
    results, error = run_kernel(code, name, kernel, [a for a in arrays if a is not None])
    assert not error, f"{name} {sample}: {kernel.errors}"
    for value, got, want in zip(node.results, results, wanted, strict=True):
        if is_float(value.type.dtype):
            with np.errstate(over="ignore"):
                want = np.asarray(want).astype(value.type.numpy)
            assert_close(got, want, TOLERANCE[value.type.dtype])
        else:
            np.testing.assert_array_equal(got, want, f"{name} {sample}")


@cache
def some() -> Printed:
    """A few samples of every op that has a kernel."""
    return Printed(
        (op, sample)
        for op, samples in sorted(SAMPLES.items())
        for sample in samples[:: -(-len(samples) // AT_MOST)]
        if printable(op)
    )


def everything() -> Printed:
    return Printed((op, s) for op, samples in SAMPLES.items() for s in samples if printable(op))


# ---- every op


def test_samples_as_host_code():
    some().check()


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_samples_compile(arch: str):
    assert nvrtc_compile(some().texts(), arch)


@pytest.mark.slow
def test_every_sample_as_host_code():
    everything().check()


@pytest.mark.slow
def test_every_sample_compiles():
    assert nvrtc_compile(everything().texts(), "sm_90")


# ---- the text

KERNELS = {
    "relu": lambda: node_of("relu", "f32[2,50]"),
    "conv": lambda: node_of("conv", "f16[1,3,8,8]", "f16[4,3,3,3]", padding=(1, 1, 1, 1)),
    "softmax": lambda: softmax(),
    "gather": lambda: node_of("gather", "bool[9,40]", "i64[3]", axis=0),
    "row_sums": lambda: node_of("reduce_sum", "f32[6,200]", axes=(1,), keepdims=False),
    "scatter": lambda: node_of("scatter_nd", "f32[4,5]", "i64[3,1]", "f32[3,5]", reduction="max"),
}


def softmax() -> Node:
    g = Graph()
    g.output(g.add("softmax", g.input(TensorType("f32", (6, 40)), "x"), axis=1))
    optimise(g)
    return g.outputs[0].node


@pytest.mark.parametrize("name", KERNELS)
def test_golden_text(name: str, request: pytest.FixtureRequest):
    text = print_kernel(lowered(KERNELS[name]()), name)
    file = GOLDEN / f"{name}.cu"
    if request.config.getoption("--update-golden"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (0.1, "f32", "0.1f"),
        (0.1, "f64", "0.1"),
        (-1.0, "f32", "(-1.0f)"),
        (-0.0, "f32", "(-0.0f)"),
        (1e300, "f32", "(float)CN_INF"),
        (1e-45, "f32", "1e-45f"),
        (float("-inf"), "f64", "(-(double)CN_INF)"),
        (float("nan"), "f32", "(float)CN_NAN"),
        (-(1 << 63), "i64", "(-9223372036854775807LL - 1)"),
        ((1 << 64) - 1, "u64", "18446744073709551615ULL"),
        (-128, "i8", "(-128)"),
        (True, "bool", "true"),
    ],
)
def test_numbers(value: float, dtype: str, text: str):
    assert constant(value, dtype) == text


def test_pointers_that_may_overlap_are_not_promised_apart():
    kernel = lowered(node_of("add", "f32[50]", "f32[50]"))
    text = print_kernel(kernel, shared=(0, 2))
    assert "const float* p0" in text and "const float* __restrict__ p1" in text
    assert "float* p2" in text


def test_launches_cover_all_items():
    kernel = lowered(node_of("relu", "f32[3,70,5,5]"))
    launch = launch_of(kernel)
    lanes, items, _ = launch.block
    assert lanes == 32 and launch.threads == 128
    assert (launch.grid[0] - 1) * items < kernel.items <= launch.grid[0] * items


def test_kernels_for_fewer_items_than_steps_print_too():
    """Kernels as processors have them: an item loops over many vectors."""
    node = node_of("softplus", "f32[7,9,41]")
    kernel = lower(node, [PLAIN] * 2, 16)
    values = np.random.default_rng(0).standard_normal((7, 9, 41)).astype(np.float32)
    code = emulated({"softplus": kernel})
    (got,), _ = run_kernel(code, "softplus", kernel, [values])
    assert_close(got, evaluate_node(node, [values])[0], 2e-6)


def test_the_threads_of_a_warp_share_long_reductions():
    for op, length in (("reduce_sum", 1000), ("reduce_max", 97), ("reduce_min", 64)):
        node = node_of(op, f"f32[5,{length}]", axes=(1,), keepdims=False)
        kernel = lowered(node)
        assert "cn_warp_" in print_kernel(kernel) and launch_of(kernel).block == (32, 4, 1)
        values = np.random.default_rng(1).standard_normal((5, length)).astype(np.float32)
        code = emulated({"k": kernel})
        (got,), _ = run_kernel(code, "k", kernel, [values])
        assert_close(got, evaluate_node(node, [values], "f64")[0].astype(np.float32), 2e-6)


def test_more_lanes_than_a_block_holds():
    node = node_of("relu", "f32[2,601,3,5]")
    last = ChannelsLast(601)
    kernel = lower(node, [last, last], 32, finest=True)
    launch = launch_of(kernel)
    assert launch.grid == (30, 3, 1) and launch.block[0] * 3 >= 601
    values = np.random.default_rng(0).standard_normal((2, 601, 3, 5)).astype(np.float32)
    (got,), _ = run_kernel(emulated({"k": kernel}), "k", kernel, [values])
    np.testing.assert_array_equal(got, np.maximum(values, 0))


# ---- values that no sample has


def emulate(node: Node, *arrays: np.ndarray) -> tuple[list[np.ndarray], int]:
    kernel = lowered(node)
    return run_kernel(emulated({"k": kernel}), "k", kernel, arrays)


def test_wrong_indices_store_their_code():
    data = np.arange(12, dtype=np.float32).reshape(4, 3)
    node = node_of("gather", "f32[4,3]", "i64[3]", axis=0)
    (got,), error = emulate(node, data, np.array([1, 4, -4]))
    assert error == 1
    np.testing.assert_array_equal(got, data[[1, 0, 0]])


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_all_16_bit_floats_convert_both_ways(dtype: str):
    type_ = TensorType(dtype, (1 << 16,))
    h = np.arange(1 << 16, dtype=np.uint16).view(type_.numpy)
    (wide,), _ = emulate(node_of("cast", type_, dtype="f32"), h)
    np.testing.assert_array_equal(wide, h.astype(np.float32))
    # halfway between neighbours, and a bit to either side
    bits = wide.view(np.uint32)
    step = np.uint32(1 << (12 if dtype == "f16" else 15))
    f = np.concatenate([bits + step, bits + step + 1, bits + step - 1]).view(np.float32)
    (narrow,), _ = emulate(node_of("cast", TensorType.of(f), dtype=dtype), f)
    with np.errstate(all="ignore"):
        want = f.astype(type_.numpy)
    np.testing.assert_array_equal(narrow.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
def test_conversion_to_integers_saturates(dtype: str):
    edges = [0.0, -0.4, 0.9, -0.9, 1e30, -1e30, np.inf, -np.inf, np.nan, 127.5, -128.5, 255.9]
    edges += [2.0**e * s for e in (7, 8, 15, 16, 31, 32, 63, 64) for s in (1, -1)]
    for source in (np.float32, np.float64):
        x = np.array(edges, source)
        node = node_of("cast", TensorType.of(x), dtype=dtype)
        np.testing.assert_array_equal(emulate(node, x)[0][0], evaluate_node(node, [x])[0])


@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "mod"])
def test_integers_wrap_and_never_trap(op: str, dtype: str):
    limits = np.iinfo(TensorType(dtype, ()).numpy)
    some = np.array([limits.min, limits.max, 0, 1, 2, limits.max - 1, limits.min + 1], limits.dtype)
    some = np.concatenate([some, np.array([-1, -2, 7]).astype(limits.dtype)])
    a, b = (v.ravel() for v in np.meshgrid(some, some))
    attrs = {"fmod": False} if op == "mod" else {}
    node = node_of(op, TensorType.of(a), TensorType.of(b), **attrs)
    with np.errstate(all="ignore"):
        (want,) = evaluate_node(node, [a, b])
    np.testing.assert_array_equal(emulate(node, a, b)[0][0], want)


def test_nan_goes_through_max_and_min():
    a = np.array([np.nan, 1.0, np.nan, 2.0] * 10, np.float32)
    b = np.array([1.0, np.nan, np.nan, 3.0] * 10, np.float32)
    for op, want in (("maximum", np.maximum(a, b)), ("minimum", np.minimum(a, b))):
        np.testing.assert_array_equal(emulate(node_of(op, "f32[40]", "f32[40]"), a, b)[0][0], want)


def test_index_division_rounds_down():
    numbers = TensorType("i64", (40,))
    given, found = Buffer("x0", numbers, PLAIN), Buffer("y0", numbers, PLAIN, "result")
    item = Var("item", 40)
    for divide, want in ((x.floordiv, np.floor_divide), (x.modulo, np.mod)):
        body = [Store(found, item, divide(x.load(given, item), 7))]
        kernel = Kernel("k", [given, found], [], item, 40, body, 1)
        code = emulated({"k": kernel})
        array = np.arange(-20, 20)
        np.testing.assert_array_equal(run_kernel(code, "k", kernel, [array])[0][0], want(array, 7))


def test_lanes_that_read_what_others_write_are_refused():
    kernel = lowered(node_of("relu", "f32[40]"))
    scatter = node_of("scatter_nd", "f32[4,5]", "i64[3,1]", "f32[3,5]", reduction="add")
    kernel.body += lowered(scatter).body
    with pytest.raises(BackendError, match="other lanes"):
        print_kernel(kernel)
