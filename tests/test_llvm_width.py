"""How wide vectors are, and whether threads share a run: what is decided from a graph's size."""

from dataclasses import replace

import numpy as np
import pytest

import cnnir
from cnnir.backends.base import Step
from cnnir.backends.llvm import load, width
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import Pool
from cnnir.tensortype import TensorType

HOST = CpuTarget.host("")
WIDE = replace(HOST, cpu="znver4", lanes=16)


def convolution(channels: int) -> cnnir.Graph:
    return cnnir.parse(
        f"graph @c(%x: f32[1,4,13,9]) {{\n  param @w : f32[{channels},4,3,3]\n"
        f"  %y = conv(%x, @w) : f32[1,{channels},11,7]\n  return %y\n}}",
        seed=3,
    )


@pytest.fixture
def halving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width, "HALVING", ("znver4",))


@pytest.mark.parametrize(
    ("channels", "lanes"), [(1, 8), (6, 8), (8, 8), (24, 8), (9, 16), (16, 16), (56, 16), (96, 16)]
)
def test_few_channels_take_half_the_lanes(channels: int, lanes: int, halving: None) -> None:
    """24 channels are 3 blocks of 8 or 2 of 16; of 56, only an eighth would be saved."""
    assert width.fitted(convolution(channels), WIDE).lanes == lanes


def test_only_where_half_a_vector_takes_half_the_time(halving: None) -> None:
    for target in (replace(WIDE, cpu="sapphirerapids"), replace(WIDE, lanes=8)):
        assert width.fitted(convolution(6), target) == target


@pytest.mark.parametrize("channels", [1, 6, 24])
def test_half_the_lanes_give_the_same_values(
    channels: int, halving: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(width, "HALVING", (HOST.cpu,))
    graph = convolution(channels)
    x = np.random.default_rng(4).standard_normal((1, 4, 13, 9)).astype(np.float32)
    exe = cnnir.compile(graph)
    expected_lanes = HOST.lanes // 2 if HOST.lanes == 16 else HOST.lanes
    assert f"{expected_lanes} lanes" in exe.plan.target
    (want,) = cnnir.evaluate(graph, [x], dtype="f64")
    assert np.abs(exe(x) - want).max() <= 1e-5 * np.abs(want).max()


def test_named_features_fix_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    if HOST.lanes < 16:
        pytest.skip("needs AVX-512")
    monkeypatch.setattr(width, "HALVING", (HOST.cpu,))
    assert "16 lanes" in cnnir.compile(convolution(6), features="avx512").plan.target
    monkeypatch.setenv("CNNIR_CPU_FEATURES", "avx512")
    assert "16 lanes" in cnnir.compile(convolution(6)).plan.target


def steps(flops: int, items: int) -> list[Step]:
    type = TensorType("f32", (1,))
    return [Step("k", "op", (), type, "plain", "", items=items, flops=flops, bytes=0)] * 2


def test_what_sharing_saves() -> None:
    assert load.saved_by_sharing(steps(10**9, 8), 1) == 0
    assert load.saved_by_sharing(steps(10**9, 1), 4) == 0
    two, four = (load.saved_by_sharing(steps(10**9, 8), n) for n in (2, 4))
    assert 0 < two < four < 2e9 / load._FLOPS
    assert load.saved_by_sharing(steps(10**9, 2), 4) == two
    assert load.saved_by_sharing([], 2) == 0


def test_short_runs_keep_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is not asked for a run that is over before workers would have come."""
    asked, run = [], Pool.run
    monkeypatch.setattr(load, "SHARING_COST", 70e-6)
    monkeypatch.setattr(Pool, "run", lambda *args: asked.append(1) or run(*args))
    x = np.ones((1, 4, 13, 9), np.float32)
    cnnir.compile(convolution(16), threads=2)(x)
    assert not asked
    big = cnnir.parse(
        "graph @c(%x: f32[1,64,56,56]) {\n  param @w : f32[64,64,3,3]\n"
        "  %y = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,64,56,56]\n  return %y\n}"
    )
    cnnir.compile(big, threads=2)(np.ones((1, 64, 56, 56), np.float32))
    assert asked
