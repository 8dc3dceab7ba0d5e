"""Depthwise convolution by symmetric kernels: against sums in f64, and when the plan takes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import LANES, TOLERANCE, conv_error, sampled, spatial

import cnnir
from cnnir import Graph, TensorType, evaluate
from cnnir.backends.llvm.kernels import symmetric
from cnnir.backends.llvm.kernels.symmetric import SymmetricSpec

WORDS = ("zero", "zero", "circular", "reflect", "replicate")


def folded(w: np.ndarray, mirrored: tuple[bool, bool]) -> np.ndarray:
    """Weights added to what they are from the other end, so that they are symmetric."""
    for axis, wanted in zip((-2, -1), mirrored, strict=True):
        if wanted and w.ndim + axis > 1:
            w = w + np.flip(w, axis)
    return w


def sample(pick):
    channels, rank = pick((1, 3, 16, 17, 33)), pick((1, 2, 2, 2))
    sizes, kernel, stride, dilation, padding = spatial(pick, rank)
    words = tuple(pick(WORDS) for _ in sizes)
    most = [n - 1 if word == "reflect" else 9 for n, word in zip(sizes, words, strict=True)]
    padding = tuple(map(min, padding, most * 2))
    shape = (sizes, kernel, stride, dilation, padding, channels)
    more = {"bias": pick((False, True)), "lanes": pick(LANES), "boundary": words}
    kinds = (
        ((False, True),)
        if rank == 1
        else ((True, True), (True, True), (True, False), (False, True))
    )
    spec = SymmetricSpec(pick((1, 2)), channels, channels, *shape, **more, mirrored=pick(kinds))
    return spec, symmetric.reject(spec)


@pytest.mark.parametrize("seed", range(8))
def test_symmetric_kernels_agree_over_random_shapes(seed):
    for spec in sampled(6, seed, sample):

        def weights(w, which=spec.mirrored):
            return folded(w, which)

        assert conv_error(symmetric, spec, weights=weights) < TOLERANCE, spec


@pytest.mark.parametrize("pixels", [2, 5, 14, 31])
def test_every_width_of_a_tile_computes_the_same(pixels):
    shape = ((17, 31), (7, 7), (1, 1), (1, 1), (3, 2, 3, 4), 20)
    spec = SymmetricSpec(2, 20, 20, *shape, bias=True, lanes=8)
    tiling = symmetric.Tiling(pixels)
    assert (
        conv_error(symmetric, spec, tiling, weights=lambda w: folded(w, (True, True))) < TOLERANCE
    )


def test_fewer_operations():
    """16 products of 49, and what is shared of the additions."""
    shape = ((56, 56), (7, 7), (1, 1), (1, 1), (3, 3, 3, 3), 64)
    spec = SymmetricSpec(1, 64, 64, *shape)
    assert symmetric.operations(spec, symmetric.Tiling(14)) == (16, 12 + 3 * 20 / 14)
    rows = replace(spec, mirrored=(True, False))
    assert symmetric.operations(rows, symmetric.Tiling(14)) == (28, 3 * 20 / 14)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filters": 32}, "32 filters of 1 channels, not depthwise"),
        ({"mirrored": (False, False)}, "not symmetric"),
        ({"sizes": (1, 1)}, "an empty result"),
    ],
)
def test_symmetric_says_what_it_does_not_take(changes, words):
    shape = ((9, 9), (5, 5), (1, 1), (1, 1), (0, 0, 0, 0), 16)
    spec = SymmetricSpec(1, 16, 16, *shape)
    assert symmetric.reject(spec) is None
    assert words in symmetric.reject(replace(spec, **changes))


# ---------------------------------------------------------------- what the plan takes


def graph_of(w: np.ndarray, size: int = 24) -> Graph:
    """Between two layers that mix channels, as nets have them."""
    g, channels = Graph(), len(w)
    mix = np.random.default_rng(5).standard_normal((2, channels, channels, 1, 1)) / channels**0.5
    first, last = mix.astype(np.float32)
    x = g.input(TensorType("f32", (1, channels, size, size)), "x")
    y = g.add("relu", g.add("conv", x, g.param("first", first)))
    padding = (w.shape[-2] // 2, w.shape[-1] // 2) * 2
    y = g.add("relu", g.add("conv", y, g.param("w", w), groups=channels, padding=padding))
    g.output(g.add("conv", y, g.param("last", last)))
    return g


def step_of(g: Graph, **options):
    """That of the depthwise convolution."""
    steps = cnnir.compile(g, threads=1, **options).plan.steps
    (step,) = (s for s in steps if s.summary.startswith("depthwise"))
    return step


def kernels(mirrored=(True, True), size: int = 7) -> np.ndarray:
    w = np.random.default_rng(3).standard_normal((32, 1, size, size)).astype(np.float32)
    return folded(w, mirrored)


@pytest.mark.parametrize("mirrored", [(True, True), (True, False), (False, True)])
def test_the_plan_finds_symmetric_kernels_in_the_weights(mirrored):
    w = kernels(mirrored)
    step = step_of(graph_of(w))
    assert step.kernel == "symmetric" and "by" in step.summary
    assert any(reason.startswith("depthwise") for reason in step.rejected)
    g, x = graph_of(w), np.random.default_rng(4).standard_normal((1, 32, 24, 24), np.float32)
    (wanted,) = evaluate(g, [x], "f64")
    for threads in (1, 2):
        found = cnnir.compile(g, threads=threads)(x)
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE * np.abs(wanted).max())


def test_weights_that_are_nearly_symmetric_are_not():
    w = kernels()
    w[31, 0, 6, 0] = np.nextafter(w[31, 0, 6, 0], np.float32(9))
    step = step_of(graph_of(w))
    assert step.kernel == "depthwise"
    assert "symmetric: the kernels are not symmetric" in step.rejected


def test_exact_precision_adds_in_the_order_of_the_definition():
    step = step_of(graph_of(kernels()), precision="exact")
    assert step.kernel == "depthwise"
    assert "symmetric: it rounds differently, and precision is exact" in step.rejected


def test_small_kernels_wait_for_memory_anyway():
    w = np.ascontiguousarray(kernels(size=3)[:, :, :1])
    step = step_of(graph_of(w, 56))
    assert step.kernel == "depthwise" and any(r.startswith("symmetric: ") for r in step.rejected)


def test_weights_of_run_time_are_not_looked_at():
    g, w = Graph(), TensorType("f32", (32, 1, 7, 7))
    x = g.input(TensorType("f32", (1, 32, 24, 24)), "x")
    g.output(g.add("conv", x, g.input(w, "w"), groups=32))
    step = step_of(g)
    assert step.kernel == "depthwise" and "symmetric: run-time weights" in step.rejected
