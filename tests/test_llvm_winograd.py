"""Winograd convolution: its matrices, the kernel over grids of shapes, and when it is chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import LANES, TOLERANCE, Guarded, conv_error, run_kernel, sampled

import cnnir
import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels import winograd
from cnnir.backends.llvm.kernels.small_matrix import multiply
from cnnir.backends.llvm.kernels.spec import ConvSpec, KernelCode, Target
from cnnir.backends.llvm.kernels.winograd_tiling import Geometry
from cnnir.backends.llvm.kernels.winograd_transforms import POINTS, transforms
from cnnir.backends.llvm.offers import predicted


def winograd_sample(pick):
    lanes, kernel = pick(LANES), pick(((3, 3), (3, 3), (5, 5), (1, 3), (7, 1), (3, 5), (3,), (5,)))
    rank = len(kernel)
    sizes = tuple(pick((7, 8, 13, 17, 31)) for _ in range(rank))
    padding = tuple(pick((0, 1, 2, 3)) for _ in range(2 * rank))
    fields = (sizes, kernel, (1,) * rank, (1,) * rank, padding, 1, False, pick((False, True)))
    spec = ConvSpec(pick((1, 3)), pick((1, 5, 16, 33)), pick((1, 16, 33, 80)), *fields, lanes)
    return spec, winograd.reject(spec)


@pytest.mark.parametrize("products", sorted(POINTS))
def test_winograd_transforms_are_exact(products):
    rng = np.random.default_rng(products)
    for taps in range(1, products + 1):
        t = transforms(products - taps + 1, taps)
        x, w = rng.standard_normal(products), rng.standard_normal(taps)
        found = t.results @ ((t.taps @ w) * (t.inputs @ x))
        assert abs(found - np.correlate(x, w, "valid")).max() < 1e-13


@pytest.mark.parametrize("products", [4, 6, 8])
def test_a_small_matrix_is_multiplied_as_numpy_does(products):
    rng, t = np.random.default_rng(1), transforms(products - 2, 3)
    for matrix in (t.inputs, t.results, t.results[:1], rng.standard_normal((3, 4)), -np.eye(2)):
        b = Builder(ir.Module(), "kernel", 2, 8)
        x, y = b.pointers
        vectors = [b.vload(x, 8 * i) for i in range(matrix.shape[1])]
        for i, value in enumerate(multiply(b, matrix, vectors)):
            b.vstore(value, y, 8 * i)
        code = KernelCode("kernel", 1, 0, 0, 2, "", b.finish())
        x = rng.standard_normal((matrix.shape[1], 8)).astype(np.float32)
        y = Guarded((len(matrix), 8))
        run_kernel(code, [Guarded(x.shape, x)], y)
        np.testing.assert_allclose(y.array, matrix @ x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_winograd_agrees_over_random_shapes(seed):
    for spec in sampled(6, seed, winograd_sample):
        assert conv_error(winograd, spec) < TOLERANCE, spec


def wider_sample(pick):
    """Dilation, groups of whole blocks, a third axis that is not transformed."""
    lanes, rank = pick(LANES), pick((1, 2, 2, 3, 3))
    kernel = tuple(pick((3, 5)) for _ in range(rank))
    sizes = tuple(pick((5, 8, 13, 18)) for _ in range(rank))
    stride, dilation = [1] * rank, tuple(pick((1, 2, 3, 5)) for _ in range(rank))
    padding = tuple(pick((0, 1, 2, 4, 6)) for _ in range(2 * rank))
    groups, channels, filters = pick(((1, 5, 19), (1, 20, 16), (2, 2 * lanes, 4 * lanes)))
    if rank == 3:
        kernel, stride[0] = (pick((1, 2, 3)), *kernel[1:]), pick((1, 2))
    fields = (sizes, kernel, tuple(stride), dilation, padding, groups, False, pick((False, True)))
    spec = ConvSpec(pick((1, 2)), channels, filters, *fields, lanes)
    return spec, winograd.reject(spec)


@pytest.mark.parametrize("seed", range(10))
def test_winograd_agrees_over_dilations_groups_and_depth(seed):
    for spec in sampled(5, seed, wider_sample):
        assert conv_error(winograd, spec) < TOLERANCE, spec


@pytest.mark.parametrize("tile, error", [((2, 2), 2e-6), ((4, 4), 1e-5), ((6, 6), 5e-5)])
@pytest.mark.parametrize("count, chunk, blocks, pixels", [(5, 1, 1, 5), (9, 3, 2, 4), (3, 5, 3, 3)])
def test_every_winograd_tiling_computes_the_same(tile, error, count, chunk, blocks, pixels):
    shape = ((17, 19), (3, 3), (1, 1), (1, 1), (1, 0, 2, 1))
    spec = ConvSpec(2, 40, 112 if chunk == 1 else 120, *shape, bias=True, lanes=8)
    tiling = winograd.Tiling(tile, count, chunk, blocks, pixels)
    assert spec.out_blocks % chunk == 0
    assert conv_error(winograd, spec, tiling) < error


@pytest.mark.parametrize(
    "lanes, channels, spread", [(8, 130, True), (4, 96, True), (16, 130, False)]
)
def test_turns_share_in_asking_for_weights_from_beyond_l2(lanes, channels, spread):
    """Whole blocks of channels and a rest; the weights asked for are only read, so sums agree."""
    spec = ConvSpec(1, channels, 128, (9, 13), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), lanes=lanes)
    tiling = winograd.Tiling((4, 4), 12, 128 // lanes, 3, 4)
    small = replace(spec, channels=lanes)
    assert Geometry(spec, tiling).spread == spread and not Geometry(small, tiling).spread
    assert conv_error(winograd, spec, tiling) < 1e-5


def test_threads_do_not_decide_how_winograd_rounds():
    for size, channels in ((7, 512), (14, 256), (28, 128), (56, 64)):
        shape = ((size, size), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
        spec = ConvSpec(1, channels, channels, *shape)
        targets = [Target(threads=threads) for threads in (1, 2, 5, 16)]
        tilings = [winograd.choose(spec, target) for target in targets]
        assert len({tiling.tile for tiling in tilings}) == 1
        seconds = [predicted(winograd, spec, target) for target in targets]
        assert len(set(seconds)) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stride": (2, 1)}, "stride (2, 1)"),
        ({"groups": 2}, "2 groups that are not whole blocks"),
        ({"plain": True}, "not blocked"),
        ({"kernel": (1, 1)}, "one tap"),
        ({"kernel": (3, 9)}, "more than 7 taps"),
        ({"sizes": (1, 1)}, "an empty result"),
    ],
)
def test_winograd_says_what_it_does_not_take(changes, words):
    spec = ConvSpec(1, 16, 16, (9, 9), (3, 3), (1, 1), (1, 1), (0, 0, 0, 0))
    assert winograd.reject(spec) is None
    assert words in winograd.reject(replace(spec, **changes))


LAYER = """\
graph @g(%x: f32[1,64,28,28]) {
  param @w : f32[64,64,3,3]
  %y = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,64,28,28]
  return %y
}"""


def test_precision_decides_whether_winograd_serves() -> None:
    graph = cnnir.parse(LAYER, seed=5)
    x = np.random.default_rng(6).standard_normal((1, 64, 28, 28), dtype=np.float32)
    wanted = cnnir.evaluate(graph, {"x": x}, dtype="f64")[0]
    errors = {}
    for precision, kernel in (("default", "winograd"), ("exact", "direct_conv")):
        exe = cnnir.compile(graph, precision=precision)
        steps = {step.kernel: step for step in exe.plan.steps}
        assert kernel in steps
        errors[precision] = abs(exe(x) - wanted).max() / abs(wanted).max()
    assert any("precision is exact" in reason for reason in steps["direct_conv"].rejected)
    assert errors["exact"] < 2e-6 and errors["default"] < 1e-5


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(cnnir.BackendError, match="precision 'half'; there are default, exact"):
        cnnir.compile(cnnir.parse(LAYER, seed=5), precision="half")
