"""Training steps by the CUDA backend, emulated: the losses and weights of target cpu."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_harness import needs_compiler

from cnnir import nn
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
