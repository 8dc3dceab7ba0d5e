"""Newton-CG: its parts on functions of numpy, and as the optimiser of small nets."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.training import SGD, Adam, NewtonCG, NewtonStep, Optimizer, Step, clip_norm
from cnnir.training.newton import path, search

RNG = np.random.default_rng(0)


# ---------------------------------------------------------------- the two algorithms


def test_conjugate_gradients_solve_a_positive_system() -> None:
    a = RNG.standard_normal((8, 8))
    h, g = a @ a.T + np.eye(8), RNG.standard_normal(8)
    way = path(g, lambda v: h @ v, 1e9, 50, 1e-12)
    p, hp = way.within(1e9)
    np.testing.assert_allclose(p, np.linalg.solve(h, -g), rtol=1e-8)
    np.testing.assert_allclose(hp, -g, rtol=1e-8)
    assert not way.curved and len(way.points) <= 13
    (rough, _) = path(1e-8 * g, lambda v: h @ v, 1e9, 50, 0.5).within(1e9)
    size = np.linalg.norm(1e-8 * g)
    assert np.linalg.norm(h @ rough + 1e-8 * g) <= size**1.5  # superlinear near the end
    assert len(path(g, lambda v: h @ v, 1e9, 2, 1e-12).points) == 3


def test_the_path_within_a_radius_is_what_that_radius_gives() -> None:
    a = RNG.standard_normal((6, 6))
    h, g = a @ a.T, RNG.standard_normal(6)
    whole = path(g, lambda v: h @ v, 10.0, 50, 1e-9)
    before = 0.0
    for radius in (0.01, 0.1, 0.3, 1.0):
        p, hp = whole.within(radius)
        (wanted, _) = path(g, lambda v: h @ v, radius, 50, 1e-9).points[-1]
        np.testing.assert_allclose(p, wanted, atol=1e-10)
        np.testing.assert_allclose(hp, h @ p, atol=1e-10)
        assert np.linalg.norm(p) <= radius * (1 + 1e-12)
        model = float(g @ p + p @ h @ p / 2)
        assert model < before
        before = model


def test_negative_curvature_is_followed_to_the_radius() -> None:
    g = np.array([1.0, 2.0, 0.5])
    upside_down = path(g, lambda v: -v, 3.0, 10, 0.5)
    np.testing.assert_allclose(upside_down.within(3.0)[0], -3 * g / np.linalg.norm(g))
    assert upside_down.curved and len(upside_down.points) == 2
    h = np.diag([5.0, 4.0, -0.1])
    found = path(g, lambda v: h @ v, 50.0, 10, 1e-9)
    p, _ = found.within(50.0)
    assert found.curved and len(found.points) > 2
    assert np.linalg.norm(p) == pytest.approx(50) and g @ p < 0


def test_the_radius_shrinks_where_the_model_is_wrong_and_grows_where_it_is_right() -> None:
    g, h = np.array([1.0, 0.0]), np.eye(2) * 0.1
    way = path(g, lambda v: h @ v, 4.0, 10, 1e-9)

    def model(p: np.ndarray) -> float:
        return 7 + float(g @ p + p @ h @ p / 2)

    right = search(way, g, model, 7.0, 4.0, 0.0)
    assert right.radius == 8 and right.values == 1
    np.testing.assert_allclose(right.p, [-4, 0])
    wrong = search(way, g, lambda p: model(p) + 0.9 * float(p @ p), 7.0, 4.0, 0.0)
    assert wrong.values > 1 and 0 < np.linalg.norm(wrong.p) < 2 and wrong.radius <= 1
    for value in (lambda p: 8.0, lambda p: float("nan")):
        assert not search(way, g, value, 7.0, 4.0, 0.0).p.any()
    still = search(way, g, lambda p: 7.0, 7.0, 4.0, 1.0)  # nothing is seen for rounding
    assert still.values == 1 and still.p.any()


# ---------------------------------------------------------------- nets


def least_squares() -> tuple[np.ndarray, np.ndarray]:
    """Data of a linear law, the axes of very different sizes."""
    x = (RNG.standard_normal((60, 5)) * [10, 3, 1, 0.3, 0.1]).astype(np.float32)
    y = x @ RNG.standard_normal((5, 2)) + 0.1 * RNG.standard_normal((60, 2))
    return x, y.astype(np.float32)


def test_least_squares_is_one_step() -> None:
    x, y = least_squares()
    net = nn.Sequential(nn.Dense(2, bias=False)).build((60, 5))
    trainer = cnnir.Trainer(net, "squared_error", NewtonCG(1e3, tolerance=1e-6))
    trainer.fit(x, y, batch_size=60, show="none")
    exact = np.linalg.lstsq(x.astype(np.float64), y.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(net.params["dense1.weight"], exact, atol=2e-3)
    step = trainer.step
    assert isinstance(step, NewtonStep) and step.record is not None
    assert step.record.products <= 10 and step.record.values == 1
    trainer.fit(x, y, batch_size=60, show="none")
    assert step.record.gradient < 1e-4


def classified(*layers: nn.Module) -> tuple[np.ndarray, np.ndarray, nn.Module]:
    """Two classes, a tenth of them wrong, of pixels of very different sizes; and a net for them."""
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((120, 1, 6, 6)) * np.linspace(1 / 3, 3, 6)).astype(np.float32)
    y = (x[:, 0, :3].sum((1, 2)) + 0.5 * x[:, 0, 3:].sum((1, 2)) > 0).astype(np.int64)
    y[:12] = 1 - y[:12]
    parts = layers or (nn.Conv(3, 3), nn.Tanh())
    return x, y, nn.Sequential(*parts, nn.Flatten(), nn.Dense(2)).build((120, 1, 6, 6), seed=1)


def minimised(optimizer: Optimizer, steps: int, *layers: nn.Module) -> tuple[float, Step]:
    """The loss with its regulariser before the last step, and the step."""
    x, y, net = classified(*layers)
    make = NewtonStep if isinstance(optimizer, NewtonCG) else Step
    terms = {"*": lambda w: 1e-2 * nn.l2(w)}
    step = make(net, "cross_entropy", optimizer, regularisers=terms, threads=1)
    for _ in range(steps):
        sizes = sum(float((w.astype(np.float64) ** 2).sum()) for w in net.params.values())
        last = step([x], [y])["loss"] + 0.5e-2 * sizes
    return last, step


def test_a_handful_of_steps_where_gradient_descent_needs_hundreds() -> None:
    """A convex loss: at its minimum after 11 steps, while 300 of descent are far from it."""
    newton, step = minimised(NewtonCG(), 11, nn.Flatten())
    assert isinstance(step, NewtonStep) and step.record is not None
    assert step.record.gradient < 1e-4
    for rate in (0.1, 0.3):
        assert newton < minimised(SGD(rate), 300, nn.Flatten())[0] - 5e-4


def test_a_net_with_a_convolution() -> None:
    newton, _ = minimised(NewtonCG(), 18)
    assert newton < minimised(SGD(0.3), 300)[0]


def test_losses_never_rise_and_batch_statistics_and_dropout_are_kept() -> None:
    x, y, _ = classified()
    net = nn.Sequential(
        nn.Conv(3, 3), nn.BatchNorm(), nn.Tanh(), nn.Flatten(), nn.Dropout(0.2), nn.Dense(2)
    ).build((120, 1, 6, 6))  # fmt: skip
    before = net.params["batch_norm1.running_mean"].copy()
    step = NewtonStep(net, "cross_entropy", NewtonCG(iterations=4), metrics="accuracy", seed=3)
    numbers = step([x], [y])
    assert set(numbers) == {"loss", "accuracy"}
    assert not np.array_equal(net.params["batch_norm1.running_mean"], before)
    plain = nn.Sequential(nn.Conv(3, 3), nn.Tanh(), nn.Flatten(), nn.Dense(2)).build((80, 1, 6, 6))
    step = NewtonStep(plain, "cross_entropy", NewtonCG(iterations=4))
    losses = [step([x], [y])["loss"] for _ in range(5)]
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_frozen_or_has_none_stays(tmp_path: Path) -> None:
    x, y, net = classified()
    net["conv1"].freeze()
    before = {n: a.copy() for n, a in net.params.items()}
    step = NewtonStep(net, "cross_entropy", {"*.bias": None, "*": NewtonCG()})
    step([x], [y])
    for name, array in net.params.items():
        assert np.array_equal(array, before[name]) == (name != "dense1.weight")


def test_a_training_resumes_with_the_same_bits(tmp_path: Path) -> None:
    whole = None
    for epochs in ((3,), (2, 3)):
        x, y, net = classified()
        for last in epochs:
            trainer = cnnir.Trainer(net, "cross_entropy", NewtonCG(iterations=5))
            trainer.fit(
                x, y, last, 120, show="none", resume=last == 3 and len(epochs) > 1,
                checkpoint=tmp_path / f"{len(epochs)}.npz",
            )  # fmt: skip
        if whole is None:
            whole = net.params["conv1.weight"]
        np.testing.assert_array_equal(net.params["conv1.weight"], whole)


def test_what_does_not_go_with_it_is_refused() -> None:
    _, _, net = classified()
    mixed = {"conv1.*": Adam(0.1), "*": NewtonCG()}
    with pytest.raises(cnnir.InputError, match="works on all weights at once: wanted one"):
        cnnir.Trainer(net, "cross_entropy", mixed)
    with pytest.raises(cnnir.InputError, match="wanted no clip"):
        cnnir.Trainer(net, "cross_entropy", NewtonCG(), clip=clip_norm(1.0))
    with pytest.raises(cnnir.InputError, match="iterations is 0, wanted"):
        NewtonCG(iterations=0)
    x, y, net = classified()
    with pytest.raises(cnnir.InputError, match="wanted a NewtonStep, or a Trainer"):
        Step(net, "cross_entropy", NewtonCG())([x], [y])
