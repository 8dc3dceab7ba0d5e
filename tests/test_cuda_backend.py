"""Whole graphs on target cuda-emu, compile-only targets, and what is said where things are not."""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import onnx
import pytest
from cuda_harness import needs_compiler, needs_nvrtc, nvrtc_compile
from fake_driver import fake_driver
from samples import assert_close
from test_cuda_gemm import residual_net
from test_llvm_printer import TOLERANCE
from test_real_models import LIGHT, with_random_weights

from cnnir import compile, load
from cnnir.backends.cuda import build, build_on, nvrtc, print_graph
from cnnir.backends.cuda.driver import Gpu
from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.plan import plan
from cnnir.backends.cuda.target import CudaTarget
from cnnir.errors import BackendError, IRError, LimitError, RuntimeError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.pipeline import optimise
from cnnir.tensortype import TensorType, is_float


def small_net(dtype: str = "f32") -> Graph:
    """Convolutions, a branch, a view, a reduction, scratch memory and outputs of every kind."""
    rng = np.random.default_rng(5)
    g = Graph("net\n*/ #error")

    def param(name: str, *shape: int):
        array = rng.standard_normal(shape) / max(1.0, np.prod(shape[1:])) ** 0.5
        return g.param(name, array.astype(TensorType(dtype, ()).numpy))

    x = g.input(TensorType(dtype, (2, 3, 11, 9)), 'x"\\')
    with g.provenance("first\n#error"):
        y = g.add("conv", x, param("w0", 8, 3, 3, 3), param("b0", 8), padding=(1, 1, 1, 1))
    y = g.add("relu", y)
    z = g.add("conv", y, param("w1", 8, 1, 3, 3), padding=(1, 1, 1, 1), groups=8)
    y = g.add("relu", g.add("add", y, z))
    y = g.add("max_pool", y, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    flat = g.add("reshape", y, shape=(2, y.type.size // 2))
    scores = g.add("matmul", flat, param("w2", y.type.size // 2, 40))
    g.output(g.add("softmax", scores, axis=1), "probabilities")
    best = g.add("topk", scores, k=5, axis=1)
    for value, name in zip(best, ("best", "where"), strict=True):
        g.output(value, name)
    g.output(flat, "flat")
    g.output(x, "same")
    g.output(param("weights", 3, 2), "weights")
    return g


@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
def test_a_small_net(dtype: str):
    needs_compiler()
    g = small_net(dtype)
    rng = np.random.default_rng(1)
    executable = compile(g, "cuda-emu", cache=False)
    for _ in range(2):  # what one run leaves behind is nothing to the next
        x = rng.standard_normal((2, 3, 11, 9)).astype(g.inputs[0].type.numpy)
        got = executable(x)
        for mine, want in zip(got, evaluate(g, [x]), strict=True):
            if is_float(TensorType.of(want).dtype):
                assert_close(mine, want, TOLERANCE[dtype])
            else:
                np.testing.assert_array_equal(mine, want)
    spans = executable.profile({g.inputs[0].name: x})
    assert len(spans) == len(executable.plan.steps) and min(spans) > 0
    executable.close()
    with pytest.raises(BackendError, match="closed"):
        executable(x)


@pytest.mark.parametrize(
    "arch",
    ["sm_80", *(pytest.param(arch, marks=pytest.mark.slow) for arch in ("sm_90", "sm_90a"))],
)
def test_a_small_net_compiles_for_devices_that_are_not_here(arch: str):
    needs_nvrtc()
    executable = compile(small_net(), f"cuda:{arch}", cache=False)
    assert executable.plan.target == f"cuda:{arch}" and executable.plan.code_bytes > 0
    assert all("registers" in step.summary for step in executable.plan.steps)
    assert not any("spills" in note for note in executable.plan.notes)
    with pytest.raises(BackendError, match="compiled for cuda:sm_"):
        executable(np.zeros((2, 3, 11, 9), np.float32))


NETS = ("squeezenet", "resnet50", "shufflenet")
GRID = list(product(NETS, ("exact", "tf32", "f16"), ("sm_80", "sm_90", "sm_90a")))
QUICK = [("squeezenet", "exact", "sm_80"), ("squeezenet", "f16", "sm_90a")]
"""What NVRTC has done in seconds; all of the grid takes minutes."""


@pytest.mark.parametrize(
    ("name", "precision", "arch"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in GRID],
)
def test_architectures_compile_without_spills(name: str, precision: str, arch: str):
    needs_nvrtc()
    # with the weights of the file, which are all equal, a convolution has one filter
    graph = load(with_random_weights(onnx.load(LIGHT / f"light_{name}.onnx"), seed=3))
    optimise(graph)
    program = build(graph.clone, arch=arch, precision=precision, cache=False)
    assert not any("spills" in note for note in program.plan.notes)
    for function, launch in program.launches.items():
        used = program.built.resources[function]
        assert used.registers * launch.threads <= 65536, function


def test_names_of_the_model_stay_in_comments():
    g = small_net()
    optimise(g)
    text = print_graph(g)
    for line in text.splitlines():
        assert "#error" not in line or line.startswith("//")
        assert not line.endswith("\\") or line.startswith("#define") or line.startswith("  ")
    needs_nvrtc()
    assert nvrtc.cubin(text, "sm_90")[0]


def test_equal_kernels_are_shared_and_memory_is_used_again():
    needs_compiler()
    g = Graph()
    y = g.input(TensorType("f32", (1, 4, 6, 6)), "x")
    for _ in range(3):
        y = g.add("softplus", g.add("max_pool", y, kernel=(3, 3), padding=(1, 1, 1, 1)))
    g.output(y)
    executable = compile(g, "cuda-emu", cache=False)
    emitted = executable._first.program.emitted
    assert len(emitted.codes) == 3 and len(emitted.texts) == 1
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    assert_close(executable(x), evaluate(g, [x])[0], 2e-6)
    # 576 bytes each and slack, in steps of 256: two that take turns; words for errors before them,
    # slack behind
    assert executable.plan.arena_bytes == 256 + 2 * 768 + 64


def test_a_wrong_index_is_reported_as_on_the_cpu():
    needs_compiler()
    g = Graph()
    table = g.param("table", np.arange(12, dtype=np.float32).reshape(4, 3))
    with g.provenance("lookup"):
        rows = g.add("gather", table, g.input(TensorType("i64", (2,)), "i"), axis=0)
    g.output(rows)
    words = []
    for target in ("cpu", "cuda-emu"):
        executable = compile(g, target, cache=False)
        np.testing.assert_array_equal(executable(np.array([3, -1])), [[9, 10, 11]] * 2)
        with pytest.raises(RuntimeError, match="lookup") as caught:
            executable(np.array([0, 4]))
        words.append(str(caught.value))
        np.testing.assert_array_equal(executable(np.array([0, 1]))[0], [0, 1, 2])
    assert words[0] == words[1]


def test_what_has_no_kernel():
    needs_compiler()
    g = Graph()
    x = g.input(TensorType("f32", (0, 4)), "x")
    g.output(g.add("reshape", g.add("relu", x), shape=(4, 0)))
    assert compile(g, "cuda-emu", cache=False)(np.zeros((0, 4), np.float32)).shape == (4, 0)
    g = Graph()
    g.output(g.add("softmax", g.input(TensorType("f32", (2, 4)), "x"), axis=1))
    with pytest.raises(IRError, match="decompose"):
        print_graph(g)


def test_memory_that_the_machine_does_not_have():
    g = Graph()
    g.output(g.add("relu", g.input(TensorType("f32", (1 << 20,)), "x")))
    machine = Emulator()
    machine.memory = 1 << 20
    with pytest.raises(LimitError, match=r"the device has 1048576.*f32\[1048576\]"):
        build_on(g, machine)


# ---- what is said


@pytest.mark.parametrize("target", ["cuda:sm_10", "cuda:", "cuda:90", "cuda:sm_90x"])
def test_architectures_that_are_none(target: str):
    with pytest.raises(BackendError, match=r"no CUDA architecture .* sm_90a"):
        compile(small_net(), target)


def test_targets_that_are_none():
    for target in ("cpu:sm_90", "cuda-emu:sm_90", "gpu"):
        with pytest.raises(BackendError, match="there is no target"):
            compile(small_net(), target)
    with pytest.raises(BackendError, match="wanted one of default, exact, tf32"):
        CudaTarget("sm_90", precision="half")


def test_precision_by_default_is_what_the_hardware_does_best():
    kinds = {}
    emulated = Emulator().target("default")
    for target in (CudaTarget("sm_80"), CudaTarget("sm_90a", "exact"), emulated):
        calls = plan(residual_net(), target).calls
        kinds[target.name] = {call.kernel.kind for call in calls} - {"loops", "depthwise"}
    assert kinds == {
        "cuda:sm_80": {"gemm_tf32"}, "cuda:sm_90a": {"gemm_fma"}, "cuda-emu": {"gemm_fma"},
    }  # fmt: skip


@pytest.mark.parametrize("missing", ["cuda", "cuda.bindings", "cuda.bindings.driver"])
def test_without_the_package(missing: str, monkeypatch: pytest.MonkeyPatch):
    for name in [m for m in sys.modules if m == missing or m.startswith(missing + ".")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendError, match=r"missing: pip install 'cnnir\[cuda\]'"):
        compile(small_net(), "cuda")


def test_without_nvrtc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
    nvrtc._library.cache_clear()
    with pytest.raises(BackendError, match=r"CUDA C needs.*missing: pip install 'cnnir\[cuda\]'"):
        compile(small_net(), "cuda:sm_90")
    nvrtc._library.cache_clear()


def test_without_a_driver():
    driver = pytest.importorskip("cuda.bindings.driver", reason="cnnir[cuda] is not installed")
    try:
        working = int(driver.cuInit(0)[0]) == 0
    except Exception:
        working = False
    if working:
        pytest.skip("there is a driver here")
    with pytest.raises(BackendError, match="driver"):
        Gpu()


def test_a_run_by_way_of_a_driver(monkeypatch: pytest.MonkeyPatch):
    """Everything but the GPU: the calls that a driver gets, answered by the emulator."""
    needs_compiler()
    fake = fake_driver(monkeypatch)
    g = residual_net()
    rng = np.random.default_rng(4)
    for precision, tolerance in (("exact", 2e-6), ("tf32", 2e-3)):
        executable = compile(g, "cuda", cache=False, precision=precision)
        assert executable.plan.target == "cuda:sm_90a"
        assert "of 32 registers" in executable.plan.steps[0].summary
        for _ in range(2):
            x = rng.standard_normal((2, 3, 12, 10)).astype(np.float32)
            want = evaluate(g, [x], "f64")[0]
            assert np.abs(executable(x) - want).max() <= tolerance * np.abs(want).max()
        spans = executable.profile({"x": x})
        assert len(spans) == len(executable.plan.steps) and min(spans) >= 1e-3
        program = executable._first.program
        before = fake.launched
        assert program.resident_seconds(3) > 0 and fake.launched > before
        executable.close()
    assert not fake.memory


def test_functions_are_found_in_their_own_modules(monkeypatch: pytest.MonkeyPatch):
    """Whatever the names: one begins as another does, and they are no names of their texts."""
    needs_compiler()
    fake_driver(monkeypatch)
    head = 'extern "C" __global__ void {}(\n    int* error) {{}}'
    texts = {"k": head.format("k_1"), "k_1": head.format("k") + head.format("k_12")}
    one = Launch((1, 1, 1), (1, 1, 1))
    loaded = Gpu().load(texts, {"k": one, "k_1": one, "k_12": one})
    assert sorted(loaded.functions) == ["k", "k_1", "k_12"]


def test_a_wrong_index_by_way_of_a_driver(monkeypatch: pytest.MonkeyPatch):
    needs_compiler()
    fake_driver(monkeypatch)
    g = Graph()
    table = g.param("table", np.arange(12, dtype=np.float32).reshape(4, 3))
    with g.provenance("lookup"):
        g.output(g.add("gather", table, g.input(TensorType("i64", (2,)), "i"), axis=0))
    executable = compile(g, "cuda", cache=False)
    with pytest.raises(RuntimeError, match="lookup"):
        executable(np.array([0, 4]))
    np.testing.assert_array_equal(executable(np.array([3, -1])), [[9, 10, 11]] * 2)


def test_what_the_driver_says_is_passed_on(monkeypatch: pytest.MonkeyPatch):
    fake = fake_driver(monkeypatch)
    fake.ok = fake.real.CUresult.CUDA_ERROR_NO_DEVICE
    with pytest.raises(BackendError, match=r"no device that works.*CUDA_ERROR_NO_DEVICE"):
        Gpu()


def test_a_kernel_that_does_not_compile_is_shown():
    needs_nvrtc()
    with pytest.raises(BackendError, match=r"NVRTC does not compile for sm_90.*undefined"):
        nvrtc_compile(['extern "C" __global__ void k() { wrong(); }'], "sm_90")
