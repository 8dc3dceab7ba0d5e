"""What needs a GPU: nets on target cuda against the f64 reference. Skips without a device."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import on_device
from gemm_harness import conv
from samples import assert_close
from test_cuda_backend import small_net
from test_cuda_gemm import SHAPES, residual_net
from test_cuda_transposed import SHAPES as TRANSPOSED
from test_cuda_transposed import WAYS, checked, transposed
from test_llvm_printer import TOLERANCE

from cnnir import compile
from cnnir.errors import RuntimeError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.tensortype import TensorType, is_float

pytestmark = pytest.mark.cuda

PRECISIONS = [("exact", 3e-6), ("tf32", 2e-3), ("f16", 2e-3), ("bf16", 2e-2)]


@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
def test_a_small_net(dtype: str):
    on_device()
    g = small_net(dtype)
    x = np.random.default_rng(1).standard_normal((2, 3, 11, 9)).astype(g.inputs[0].type.numpy)
    executable = compile(g, "cuda", cache=False, precision="exact")
    for mine, want in zip(executable(x), evaluate(g, [x]), strict=True):
        if is_float(TensorType.of(want).dtype):
            assert_close(mine, want, TOLERANCE[dtype])
        else:
            np.testing.assert_array_equal(mine, want)
    executable.close()


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
def test_a_net_with_a_residual(precision: str, tolerance: float):
    on_device()
    g = residual_net()
    rng = np.random.default_rng(0)
    executable = compile(g, "cuda", cache=False, precision=precision)
    first = rng.standard_normal((2, 3, 12, 10)).astype(np.float32)
    once = executable(first)
    for _ in range(20):
        x = rng.standard_normal((2, 3, 12, 10)).astype(np.float32)
        want = evaluate(g, [x], "f64")[0]
        assert np.abs(executable(x) - want).max() <= tolerance * np.abs(want).max()
    np.testing.assert_array_equal(executable(first), once)
    executable.close()


@pytest.mark.parametrize(("precision", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", [*SHAPES, "split"])
def test_convolutions(name: str, precision: str, tolerance: float):
    on_device()
    split = conv(1, 512, (7, 7), 130, (3, 3), padding=(1, 1, 1, 1))
    node = SHAPES.get(name, split).node
    g = Graph()
    x, w, b = node.operands
    rng = np.random.default_rng(3)
    made = [rng.standard_normal(v.type.shape).astype(np.float32) for v in (w, b)]
    given = g.input(x.type, "x")
    y = g.add("conv", given, *(g.constant(a) for a in made), **node.attrs)
    g.output(g.add("relu", y))
    array = rng.standard_normal(x.type.shape).astype(np.float32)
    executable = compile(g, "cuda", cache=False, precision=precision)
    want = evaluate(g, [array], "f64")[0]
    assert np.abs(executable(array) - want).max() <= tolerance * np.abs(want).max()
    executable.close()


@pytest.mark.parametrize("weights", WAYS)
@pytest.mark.parametrize("precision", [precision for precision, _ in PRECISIONS])
@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(name: str, precision: str, weights: str):
    on_device()
    (kernel,) = checked(transposed(*TRANSPOSED[name], weights), precision, "cuda")
    assert kernel.startswith("phased_")


def test_a_wrong_index():
    on_device()
    g = Graph()
    table = g.param("table", np.arange(12, dtype=np.float32).reshape(4, 3))
    with g.provenance("lookup"):
        g.output(g.add("gather", table, g.input(TensorType("i64", (2,)), "i"), axis=0))
    executable = compile(g, "cuda", cache=False)
    with pytest.raises(RuntimeError, match="lookup"):
        executable(np.array([0, 4]))
    np.testing.assert_array_equal(executable(np.array([3, -1])), [[9, 10, 11]] * 2)
    executable.close()
