"""Optimisers, clipping and regularisers: ten steps of each beside torch, or numpy in f64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.training import SGD, Adam, AdamW, Optimizer, RMSProp, Step, clip_norm, clip_value

torch = pytest.importorskip("torch")

STEPS = 10
CASES: dict[str, tuple[Optimizer, str, dict[str, Any]]] = {
    "sgd": (SGD(0.1), "SGD", {"lr": 0.1}),
    "decay": (SGD(0.1, weight_decay=0.05), "SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (SGD(0.05, 0.9), "SGD", {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (
        SGD(0.05, 0.9, nesterov=True, weight_decay=0.01),
        "SGD",
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    ),
    "adam": (Adam(), "Adam", {}),
    "adam, options": (
        Adam(0.01, 0.8, 0.99, 1e-3, 0.1),
        "Adam",
        {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (AdamW(), "AdamW", {}),
    "adamw, options": (
        AdamW(0.02, weight_decay=0.3),
        "AdamW",
        {"lr": 0.02, "weight_decay": 0.3},
    ),
    "rmsprop": (RMSProp(), "RMSprop", {}),
    "rmsprop, options": (
        RMSProp(0.003, 0.9, 1e-4, 0.8, True, 0.02),
        "RMSprop",
        {"lr": 0.003, "alpha": 0.9, "eps": 1e-4, "momentum": 0.8, "centered": True,
         "weight_decay": 0.02},
    ),
}  # fmt: skip


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv(5, 3, padding=1), nn.Tanh(), nn.AvgPool(2), nn.Flatten(), nn.Dense(3)
    ).build((7, 2, 6, 6), seed=3)  # fmt: skip


def batches(count: int = STEPS) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((7, 2, 6, 6)).astype("f4"), rng.integers(0, 3, 7))
            for _ in range(count)]  # fmt: skip


class Peer:
    """The same net in torch, in f64."""

    def __init__(self, model: nn.Module) -> None:
        self.w = {
            name: torch.tensor(array, dtype=torch.float64, requires_grad=True)
            for name, array in model.params.items()
        }

    def loss(self, x: np.ndarray, labels: np.ndarray) -> Any:
        f, w = torch.nn.functional, self.w
        y = torch.tensor(x, dtype=torch.float64)
        y = f.conv2d(y, w["conv1.weight"], w["conv1.bias"], padding=1)
        y = f.avg_pool2d(torch.tanh(y), 2).flatten(1)
        return f.cross_entropy(y @ w["dense1.weight"] + w["dense1.bias"], torch.tensor(labels))


def compare(step: Step, peer: Peer, update: Any, tolerance: float = 2e-5) -> None:
    """Ten steps of both, by the same batches: losses and weights."""
    for x, labels in batches():
        got = step([x], [labels])["loss"]
        wanted = update(x, labels)
        assert got == pytest.approx(wanted, rel=tolerance)
    for name, array in step.net.params.items():
        wanted = peer.w[name].detach().numpy()
        np.testing.assert_allclose(array, wanted, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("case", CASES)
def test_optimisers_follow_torch(case: str) -> None:
    ours, name, options = CASES[case]
    model = net()
    peer = Peer(model)
    theirs = getattr(torch.optim, name)(peer.w.values(), **options)

    def update(x: np.ndarray, labels: np.ndarray) -> float:
        theirs.zero_grad()
        loss = peer.loss(x, labels)
        loss.backward()
        theirs.step()
        return loss.item()

    compare(Step(model, "cross_entropy", ours), peer, update)


@pytest.mark.parametrize("kind", ["value", "norm", "norm that is never reached"])
def test_clipping_follows_torch(kind: str) -> None:
    model = net()
    peer = Peer(model)
    theirs = torch.optim.SGD(peer.w.values(), lr=0.5)
    limit = 0.02 if kind == "value" else 0.05 if kind == "norm" else 100.0

    def update(x: np.ndarray, labels: np.ndarray) -> float:
        theirs.zero_grad()
        loss = peer.loss(x, labels)
        loss.backward()
        clip = (
            torch.nn.utils.clip_grad_value_ if kind == "value" else torch.nn.utils.clip_grad_norm_
        )
        clip(peer.w.values(), limit)
        theirs.step()
        return loss.item()

    clip = clip_value(limit) if kind == "value" else clip_norm(limit)
    compare(Step(model, "cross_entropy", SGD(0.5), clip=clip), peer, update)


def test_groups_have_optimisers_of_their_own() -> None:
    """And what is in none, or in one without an optimiser, stays as it is."""
    model = net()
    peer = Peer(model)
    theirs = torch.optim.SGD([
        {"params": [peer.w["conv1.weight"]], "lr": 0.1, "momentum": 0.9},
        {"params": [peer.w["dense1.weight"]], "lr": 0.3},
    ])  # fmt: skip

    def update(x: np.ndarray, labels: np.ndarray) -> float:
        theirs.zero_grad()
        loss = peer.loss(x, labels)
        loss.backward()
        theirs.step()
        return loss.item()

    groups = {"*.bias": None, "conv*": SGD(0.1, 0.9), "dense1.weight": SGD(0.3)}
    step = Step(model, "cross_entropy", groups)
    before = model.params["conv1.bias"].copy()
    compare(step, peer, update)
    np.testing.assert_array_equal(model.params["conv1.bias"], before)


def test_regularisers_are_terms_of_the_gradient() -> None:
    """l2 is weight decay; the gradient of roughness is the Laplacian applied twice."""
    model = net()
    peer = Peer(model)

    def update(x: np.ndarray, labels: np.ndarray) -> float:
        loss = peer.loss(x, labels)
        w = peer.w["conv1.weight"]
        laplace = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=torch.float64)
        bent = torch.nn.functional.conv2d(w.reshape(-1, 1, 3, 3), laplace[None, None], padding=1)
        total = loss + 0.1 * (bent**2).sum() / 2 + 0.2 * (peer.w["dense1.weight"] ** 2).sum() / 2
        total.backward()
        with torch.no_grad():
            for p in peer.w.values():
                p -= 0.1 * p.grad
                p.grad = None
        return loss.item()

    terms = {
        "conv*.weight": lambda w: nn.roughness(w) * 0.1,
        "dense1.weight": lambda w: 0.2 * nn.l2(w),
    }
    compare(Step(model, "cross_entropy", SGD(0.1), regularisers=terms), peer, update)


@pytest.mark.parametrize("target", ["reference", "cuda-emu"])
def test_steps_on_other_targets(target: str) -> None:
    one, other = net(), net()
    steps = (
        Step(one, "cross_entropy", Adam(0.01)),
        Step(other, "cross_entropy", Adam(0.01), target=target),
    )
    for x, labels in batches(3):
        losses = [step([x], [labels])["loss"] for step in steps]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, array in one.params.items():
        np.testing.assert_allclose(other.params[name], array, atol=1e-4)


def test_a_schedule_is_a_function_of_epochs() -> None:
    """The rate is an input: one program serves all."""
    model = net()
    step = Step(model, "cross_entropy", SGD(lambda epoch: 0.1 if epoch < 2 else 0.0))
    (x, labels), *_ = batches(1)
    step([x], [labels], epoch=1.5)
    moved = model.params["dense1.weight"]
    step([x], [labels], epoch=2.5)
    np.testing.assert_array_equal(model.params["dense1.weight"], moved)
    assert len(step._known) == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SGD(-1), "learning_rate is -1, wanted a number of at least 0"),
        (lambda: SGD(0.1, 1.5), "momentum is 1.5, wanted a number of at least 0 and below 1"),
        (lambda: SGD(0.1, nesterov=True), "nesterov needs a momentum"),
        (lambda: Adam(beta2=1.0), "beta2 is 1.0"),
        (lambda: AdamW(weight_decay="no"), "weight_decay is 'no'"),
        (lambda: clip_norm(0), "the limit of a gradient is 0"),
    ],
)
def test_options_that_make_no_sense(make: Any, said: str) -> None:
    with pytest.raises(cnnir.InputError, match=said):
        make()


def test_weights_of_convolutions_are_updated_in_place() -> None:
    """No step of the plan copies one; matmul's kernel may not write where it reads."""
    step = Step(net(), "cross_entropy", Adam())
    (x, labels), *_ = batches(1)
    plan = step.compiled([x], [labels]).made.program.plan
    copied = [s.result for s in plan.steps if s.op == "carry"]
    assert not any(type.rank == 4 for type in copied) and len(copied) < 3
    held = step.weights.state.arrays
    before = {name: array.copy() for name, array in held.items()}
    step([x], [labels])
    assert all(not np.array_equal(array, before[name]) for name, array in held.items())
