"""Loss scaling: it changes no weight where nothing is lost, and saves gradients where f16 would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_harness import needs_compiler

import cnnir
from cnnir import nn
from cnnir.training import SGD, Adam, LossScaling, NewtonCG, Step, clip_norm


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv(4, 3, padding=1), nn.BatchNorm(), nn.ReLU(), nn.MaxPool(2), nn.Flatten(),
        nn.Dense(3),
    ).build((6, 1, 8, 8), seed=1)  # fmt: skip


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((6, 1, 8, 8)).astype("f4"), rng.integers(0, 3, 6)


def trained(steps: int = 4, **options: Any) -> tuple[Step, list[float]]:
    """A step that was taken so often, and its losses."""
    step = Step(net(), "cross_entropy", **{"optimizer": SGD(0.1, 0.9), **options})
    data = [batch(k) for k in range(steps)]
    return step, [step([x], [y])["loss"] for x, y in data]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": Adam(1e-2), "clip": clip_norm(0.5)},
        {"regularisers": {"*.weight": lambda w: 0.01 * nn.l2(w)}},
    ],
    ids=["sgd", "adam, clipped", "regularised"],
)
def test_scales_that_are_powers_of_two_change_no_bit(options: dict[str, Any]) -> None:
    plain, losses = trained(precision="exact", **options)
    step, scaled = trained(precision="exact", scaling=LossScaling(2.0**10), **options)
    assert scaled == losses and step.loss_scale == 2.0**10 and plain.loss_scale is None
    for name, array in plain.net.params.items():
        np.testing.assert_array_equal(step.net.params[name], array)


def test_an_overflow_changes_the_scale_and_nothing_else() -> None:
    """2^32 times gradients of 1e30 is infinite in f32; so it is until the scale has come down."""
    loss = lambda y, labels: 1e32 * nn.cross_entropy(y, labels)  # noqa: E731
    step = Step(net(), loss, SGD(1e-34, 0.9), scaling=LossScaling(2.0**32, backoff=2.0**-4))
    before, scales = {n: a.copy() for n, a in step.net.params.items()}, []
    for k in range(6):
        x, y = batch(k)
        step([x], [y])
        scales.append(step.loss_scale)
        if scales[-1] < (scales[-2] if k else 2.0**32):
            for name, array in before.items():
                np.testing.assert_array_equal(step.net.params[name], array, err_msg=name)
    assert scales[:2] == [2.0**28, 2.0**24] and scales[-1] == scales[-2] >= 2.0**8
    assert any((step.net.params[n] != a).any() for n, a in before.items())


def test_scales_grow_after_an_interval() -> None:
    step, _ = trained(5, scaling=LossScaling(4.0, growth=8.0, interval=2))
    assert step.loss_scale == 4.0 * 8.0**2


def test_a_checkpoint_holds_the_scale(tmp_path: Path) -> None:
    x, y = batch()
    scales = []
    for epochs in (3, 6):
        trainer = cnnir.Trainer(
            net(), "cross_entropy", SGD(0.1), scaling=LossScaling(2.0, interval=2)
        )
        trainer.fit(
            x, y, epochs, batch_size=6, checkpoint=tmp_path / "run.npz", resume=True, show="none"
        )
        scales.append(trainer.step.loss_scale)
    assert scales == [4.0, 16.0]


def moved(**options: Any) -> tuple[np.ndarray, float | None]:
    """How far the first weights go in a step whose loss is 1e-6 times the usual, and the scale."""
    x, y = batch()
    layers = nn.Sequential(
        nn.Conv(8, 3, padding=1), nn.ReLU(), nn.Conv(8, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Dense(3),
    ).build(x.shape, seed=1)  # fmt: skip
    before = layers.params["conv1.weight"].copy()
    step = Step(layers, lambda z, labels: 1e-6 * nn.cross_entropy(z, labels), SGD(1e6), **options)
    step([x], [y])
    return layers.params["conv1.weight"] - before, step.loss_scale


def test_small_gradients_survive_f16_with_scaling_alone() -> None:
    """Steps of 6e-8 are the least of f16."""
    needs_compiler()
    wanted, none = moved(precision="exact")
    options = {"target": "cuda-emu", "precision": "f16", "cache": False}
    (bare, one), (scaled, scale) = moved(scaling=LossScaling(1.0), **options), moved(**options)
    assert (none, one, scale) == (None, 1.0, 2.0**16)
    assert np.linalg.norm(scaled - wanted) < 0.01 * np.linalg.norm(wanted)
    assert np.linalg.norm(bare - wanted) > 0.2 * np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"initial": 0}, "initial is 0"), ({"backoff": 2.0}, "backoff is 2.0, wanted a number from"),
     ({"growth": 0.5}, "growth is 0.5"), ({"interval": "x"}, "interval is 'x'")],
)  # fmt: skip
def test_what_is_no_scaling_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(cnnir.InputError, match=words):
        LossScaling(**options)


def test_newton_takes_none() -> None:
    with pytest.raises(cnnir.InputError, match="wanted no scaling"):
        cnnir.Trainer(net(), "cross_entropy", NewtonCG(), scaling=LossScaling())
