"""Training steps by the CUDA backend, emulated: the losses and weights of target cpu."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import needs_compiler

from cnnir import compile, nn
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.tensortype import TensorType
from cnnir.training import SGD, Step


def lenet() -> nn.Module:
    """LeNet with relus."""
    return nn.Sequential(
        nn.Conv(6, 5, padding=2), nn.ReLU(), nn.MaxPool(2), nn.Conv(16, 5), nn.ReLU(),
        nn.MaxPool(2), nn.Flatten(), nn.Dense(120), nn.ReLU(), nn.Dense(84), nn.ReLU(),
        nn.Dense(10),
    )  # fmt: skip


def normalised() -> nn.Module:
    """Batch statistics, strides, groups and dropout."""
    return nn.Sequential(
        nn.Conv(8, 3, 2, bias=False), nn.BatchNorm(), nn.ReLU(), nn.DepthwiseConv(3, padding=1),
        nn.BatchNorm(), nn.Dropout(0.3), nn.GlobalAvgPool(), nn.Dense(10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "optimizer"),
    [(lenet, SGD(0.1, momentum=0.9)), (normalised, SGD(0.05, nesterov=True, momentum=0.5))],
    ids=["lenet", "normalised"],
)
def test_steps_follow_those_of_the_processor(make: object, optimizer: object) -> None:
    needs_compiler()
    rng = np.random.default_rng(0)
    batches = [(rng.random((4, 1, 28, 28), np.float32), rng.integers(0, 10, 4)) for _ in range(4)]
    found = {}
    for target in ("cpu", "cuda-emu"):
        net = make().build((4, 1, 28, 28), seed=1)  # type: ignore[operator]
        step = Step(net, "cross_entropy", optimizer, target=target)  # type: ignore[arg-type]
        losses = [step([x], [y])["loss"] for x, y in batches]
        found[target] = losses, {name: np.array(w) for name, w in net.params.items()}
    (wanted, weights), (losses, own) = found["cpu"], found["cuda-emu"]
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    assert len(set(losses)) == 4
    for name, array in weights.items():
        np.testing.assert_allclose(own[name], array, atol=1e-4 * max(1, np.abs(array).max()))


SUMS = {
    "strided": ("f32[4,3,9,8]", "f32[4,8,5,8]", {"padding": (1, 1, 1, 1), "stride": (2, 1)}),
    "large": ("f32[8,16,7,6]", "f32[8,24,7,6]", {"padding": (1, 1, 1, 1)}),
    "dilated": ("f32[3,5,7,6]", "f32[3,4,3,3]", {"dilation": (2, 3), "kernel": (3, 2)}),
    "one image": ("f32[1,5,7,6]", "f32[1,4,7,6]", {"kernel": (1, 1)}),
    "lopsided": ("f32[8,4,6,7]", "f32[8,6,7,5]", {"padding": (2, 0, 1, 0)}),
}


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("exact", 2e-6), ("tf32", 2e-3), ("f16", 2e-3)]
)
@pytest.mark.parametrize("name", SUMS)
def test_gradients_of_weights_are_products(name: str, precision: str, tolerance: float) -> None:
    """A tuned kernel makes them with filters last, in which the update reads them."""
    needs_compiler()
    x, dy, attrs = SUMS[name]
    g = Graph()
    a, b = (g.input(TensorType.parse(t), n) for t, n in ((x, "x"), (dy, "dy")))
    dw = g.add("conv_weight_grad", a, b, **({"kernel": (3, 3)} | attrs))
    w = g.input(dw.type, "w")
    g.output(g.add("sub", w, g.add("mul", dw, g.constant(np.float32(0.1)))))
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(v.type.shape).astype(np.float32) for v in g.inputs]
    executable = compile(g, "cuda-emu", precision=precision, cache=False)
    products = [s for s in executable.plan.steps if s.kernel.startswith("gemm_")]
    assert [step.layout for step in products] == ["filters last"]
    chunks = name in ("strided", "large", "lopsided")  # of images: four or eight
    short = precision != "exact" and chunks
    assert products[0].kernel == (f"gemm_{precision}" if short else "gemm_fma")
    want = evaluate(g, [a.astype(np.float64) for a in arrays], "f64")[0]
    assert np.abs(executable(*arrays) - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 3e-3), ("bf16", 3e-2)])
def test_steps_in_other_precisions(precision: str, tolerance: float) -> None:
    """Weights that a step carries stay f32; losses are near those of exact products."""
    needs_compiler()
    rng = np.random.default_rng(0)
    batches = [(rng.random((8, 1, 28, 28), np.float32), rng.integers(0, 10, 8)) for _ in range(3)]
    found = {}
    for kind in ("exact", precision):
        net = lenet().build((8, 1, 28, 28), seed=1)
        step = Step(net, "cross_entropy", SGD(0.1, momentum=0.9), target="cuda-emu", precision=kind)
        found[kind] = [step([x], [y])["loss"] for x, y in batches]
        assert {np.array(w).dtype for w in net.params.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found[precision], found["exact"], rtol=tolerance)
    assert found[precision] != found["exact"]
