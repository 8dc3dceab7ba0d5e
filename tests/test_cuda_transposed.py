"""Transposed convolutions on the CUDA backend, phase by phase: on the emulator, against f64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_harness import needs_compiler, needs_nvrtc

from cnnir import compile
from cnnir.backends.cuda import build, build_on
from cnnir.backends.cuda.emulator import Emulator
from cnnir.evaluate import evaluate
from cnnir.gradient import gradient
from cnnir.ir import Graph
from cnnir.pipeline import optimise
from cnnir.tensortype import TensorType

TOLERANCES = {"exact": 2e-6, "tf32": 2e-3, "f16": 2e-3, "bf16": 2e-2}
"""Of the largest result."""

SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "3x3 by 2": ("2,16,5,7", "16,24,3,3", {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
    "even sizes": (
        "1,8,6,5", "8,9,3,3",
        {"stride": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 1)},
    ),
    "side by side": ("2,8,4,3", "8,20,2,2", {"stride": (2, 2)}),
    "1x1 by 2": ("2,16,5,4", "16,12,1,1", {"stride": (2, 2), "output_padding": (1, 0)}),
    "7x7 by 2": ("1,16,6,7", "16,3,7,7", {"stride": (2, 2), "padding": (3, 3, 3, 3)}),
    "other strides": ("2,12,4,5", "12,10,5,4", {"stride": (3, 1), "padding": (2, 1, 0, 3)}),
    "dilated": ("1,16,5,6", "16,8,3,3", {"stride": (2, 2), "dilation": (3, 2)}),
    "dilated with a common divisor": (
        "1,8,4,5", "8,8,3,3", {"stride": (4, 2), "dilation": (2, 2), "padding": (1, 0, 2, 1)},
    ),
    "wider": ("1,8,4,4", "8,8,3,3", {"stride": (2, 2), "padding": (-1, -2, 0, -1)}),
    "no stride": ("2,8,5,6", "8,12,3,2", {"padding": (1, 0, 1, 1)}),
    "odd channels": ("2,5,5,6", "5,7,3,3", {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
    "deep": ("1,264,3,3", "264,16,3,3", {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
    "a signal": ("2,16,9", "16,12,4", {"stride": (3,), "padding": (1, 0)}),
}  # fmt: skip
GROUPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "groups": (
        "1,32,5,4", "32,12,3,3", {"stride": (2, 2), "padding": (1, 1, 1, 1), "groups": 2},
    ),
    "dilated groups": (
        "2,16,5,4", "16,8,2,3", {"stride": (2, 3), "dilation": (3, 1), "groups": 2},
    ),
}  # fmt: skip
CONSTANT = "constant"
PASSES = "inference,-transposed"  # which would say those of params as convolutions
RNG = np.random.default_rng


def transposed(x: str, w: str, attrs: dict[str, Any], weights: str = CONSTANT) -> Graph:
    """y = relu(conv_transpose(x, w, b) + r); w an input, or a constant."""
    g, shape = Graph(), tuple(map(int, w.split(",")))
    given = g.input(TensorType.parse(f"f32[{x}]"), "x")
    if weights == CONSTANT:
        kernel = g.param("w", RNG(3).standard_normal(shape).astype(np.float32))
    else:
        kernel = g.input(TensorType.parse(f"f32[{w}]"), "w")
    filters = shape[1] * attrs.get("groups", 1)
    bias = g.param("b", RNG(4).standard_normal(filters).astype(np.float32))
    y = g.add("conv_transpose", given, kernel, bias, **attrs)
    g.output(g.add("relu", g.add("add", y, g.input(y.type, "r"))))
    return g


def checked(g: Graph, precision: str, target: str = "cuda-emu") -> list[str]:
    """The kernels of the graph but for packing, after a comparison with f64 on random inputs."""
    rng = RNG(0)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in g.inputs]
    executable = compile(g, target, cache=False, precision=precision, passes=PASSES)
    wanted = evaluate(g, [a.astype(np.float64) for a in arrays], "f64")
    found = executable(*arrays)
    for got, want in zip(found if len(wanted) > 1 else [found], wanted, strict=True):
        assert np.abs(got - want).max() <= TOLERANCES[precision] * np.abs(want).max()
    kernels = [step.kernel for step in executable.plan.steps]
    return [kernel for kernel in kernels if kernel != "pack"]


def template(precision: str) -> str:
    return f"phased_gemm_{'fma' if precision == 'exact' else precision}"


WAYS = (CONSTANT, "of run time")
GRID = [
    pytest.param(name, precision, WAYS[way], marks=[pytest.mark.slow] * ((i + k + way) % 2))
    for i, name in enumerate(SHAPES)
    for k, precision in enumerate(TOLERANCES)
    for way in (0, 1)
]


@pytest.mark.parametrize(("name", "precision", "weights"), GRID)
def test_each_phase_is_a_product(name: str, precision: str, weights: str) -> None:
    needs_compiler()
    assert checked(transposed(*SHAPES[name], weights), precision) == [template(precision)]


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("name", GROUPS)
def test_groups_of_constant_weights(name: str, precision: str) -> None:
    needs_compiler()
    assert checked(transposed(*GROUPS[name]), precision) == [template(precision)]


@pytest.mark.parametrize(
    ("x", "w", "attrs"),
    [
        ("1,8,4,4", "8,1,3,3", {"stride": (2, 2), "groups": 8}),
        ("1,8,3,3", "8,8,5,5", {"stride": (5, 5)}),
        ("1,8,2,3,3", "8,8,2,2,2", {"stride": (2, 2, 2)}),
    ],
    ids=["depthwise", "25 phases", "in space"],
)
def test_what_is_printed(x: str, w: str, attrs: dict[str, Any]) -> None:
    needs_compiler()
    assert checked(transposed(x, w, attrs), "exact") == ["loops"]


def test_taps_that_are_no_whole_chunks_are_multiplied_in_f32() -> None:
    """x is not copied anyway, so its channels stay as many as they are."""
    needs_compiler()
    rng, g = RNG(5), Graph()
    x = g.input(TensorType("f32", (1, 6, 5, 5)), "x")
    w, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 6, 3, 3), (6, 8, 3, 3)))
    y = g.add("relu", g.add("conv", x, g.param("w", w)))
    g.output(g.add("conv_transpose", y, g.param("v", v), stride=(2, 2)))
    assert checked(g, "tf32") == ["gemm_tf32", "phased_gemm_fma"]


@pytest.mark.parametrize("precision", ["exact", "tf32"])
@pytest.mark.parametrize(("stride", "taps"), [(2, 3), (2, 1), (3, 2)])
def test_gradients_of_strided_convolutions(stride: int, taps: int, precision: str) -> None:
    """By the input: all of it by tuned kernels, what no window reaches included."""
    needs_compiler()
    g = Graph()
    x = g.input(TensorType("f32", (2, 8, 11, 10)), "x")
    w = g.input(TensorType("f32", (16, 8, taps, taps)), "w")
    y = g.add("conv", x, w, stride=(stride, stride), padding=(taps // 2,) * 4)
    g.output(g.add("reduce_sum", g.add("mul", y, y), axes=(0, 1, 2, 3)))
    kernels = checked(gradient(g, wrt=["x"]), precision)
    assert kernels.count(template(precision)) == 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_devices_hold_every_phase(precision: str, arch: str) -> None:
    needs_nvrtc()
    g = transposed("8,64,14,14", "64,96,3,3", SHAPES["even sizes"][2])
    optimise(g, PASSES)
    program = build(g.clone, arch=arch, precision=precision, cache=False)
    (kind,) = (step.kernel for step in program.plan.steps if step.kernel != "pack")
    assert kind.startswith("phased_")
    assert len([name for name in program.launches if name.startswith(kind)]) >= 4
    assert not any("spills" in note for note in program.plan.notes)


def test_phases_on_warpgroups() -> None:
    needs_compiler()
    g = transposed("1,64,16,16", "64,128,3,3", SHAPES["even sizes"][2])
    optimise(g, PASSES)
    program = build_on(g, Emulator(arch="sm_90a"), "f16")
    assert [step.kernel for step in program.plan.steps].count("phased_wgmma_f16") == 1
    arrays = [RNG(0).standard_normal(v.type.shape).astype(np.float32) for v in g.inputs]
    (want,) = evaluate(g, [a.astype(np.float64) for a in arrays], "f64")
    assert np.abs(program.run(arrays)[0] - want).max() <= 2e-3 * np.abs(want).max()
