"""Every layer of cnnir.nn computes what torch's layer with the same weights computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dsl_layers import CASES, Case
from samples import assert_close

import cnnir
from cnnir import nn
from cnnir.evaluate import evaluate


def randomised(net: nn.Module, seed: int = 5) -> nn.Module:
    """The net with random weights, so that none does nothing; variances are positive."""
    rng = np.random.default_rng(seed)
    for name, array in net.params.items():
        drawn = rng.standard_normal(array.shape)
        net.params[name] = np.abs(drawn) + 0.5 if name.endswith("running_var") else drawn
    return net


def net_and_input(case: Case) -> tuple[nn.Module, np.ndarray]:
    """The layer with random weights, and a random input."""
    net = randomised(case.make().build(case.shape))
    return net, np.random.default_rng(1).standard_normal(case.shape).astype(np.float32)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layer_against_torch(case: Case) -> None:
    torch = pytest.importorskip("torch")
    net, x = net_and_input(case)
    params = {k: torch.tensor(v, dtype=torch.float64) for k, v in net.params.items()}
    wanted = case.oracle(torch, params, torch.tensor(x, dtype=torch.float64)).numpy()
    graph = net.graph()
    graph.verify()
    assert_close(evaluate(graph, [x], dtype="f64")[0], wanted, 1e-6)


class WithBatchNorm(nn.Module):
    """A convolution, its normalisation, and one that is used twice."""

    def __init__(self) -> None:
        self.conv, self.norm, self.twice = nn.Conv(3, 3), nn.BatchNorm(momentum=0.3), nn.BatchNorm()

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.relu(self.norm(self.conv(x)))


def test_batch_norm_in_training_against_torch() -> None:
    torch = pytest.importorskip("torch")
    shape = (4, 2, 5, 6)
    net = randomised(WithBatchNorm().build(shape))
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    traced = net.trace(training=True)
    assert traced.graph.output_names == [
        "output", "norm.running_mean updated", "norm.running_var updated",
    ]  # fmt: skip
    assert set(traced.updates) == {"norm.running_mean", "norm.running_var"}
    assert traced.trainable == ["conv.weight", "conv.bias", "norm.weight", "norm.bias"]
    y, mean, var = evaluate(traced.graph, [x], dtype="f64")

    p = {k: torch.tensor(v, dtype=torch.float64) for k, v in net.params.items()}
    hidden = torch.nn.functional.conv2d(torch.tensor(x).double(), p["conv.weight"], p["conv.bias"])
    running = p["norm.running_mean"], p["norm.running_var"]
    wanted = torch.nn.functional.batch_norm(
        hidden, *running, p["norm.weight"], p["norm.bias"], training=True, momentum=0.3
    ).relu()
    assert_close(y, wanted.numpy(), 1e-6)
    for got, statistic in zip((mean, var), running, strict=True):  # which torch has changed
        assert_close(got, statistic.numpy(), 1e-6)


def test_batch_norm_used_twice_moves_twice() -> None:
    norm = nn.BatchNorm()
    net = nn.Sequential(norm, nn.Function(lambda x: x + 1.0), norm).build((2, 1, 4))
    x = np.random.default_rng(0).standard_normal((2, 1, 4))
    _, mean, var = evaluate(net.graph(training=True), [x], dtype="f64")
    # the second use sees mean 1 and (but for epsilon) variance 1, unbiased 8/7
    spread = x.var(ddof=1)
    np.testing.assert_allclose(mean, [0.09 * x.mean() + 0.1], rtol=1e-6)
    np.testing.assert_allclose(var, [0.9 * (0.9 + 0.1 * spread) + 0.1 * 8 / 7], rtol=1e-4)


def test_frozen_batch_norm_stays_in_its_inference_form() -> None:
    net = WithBatchNorm().build((4, 2, 5, 6))
    net.norm.freeze()
    traced = net.trace(training=True)
    assert traced.updates == {} and traced.trainable == ["conv.weight", "conv.bias"]
    assert traced.graph.text(hints=False) == net.graph().text(hints=False)
    net.norm.freeze(False)
    assert len(net.trace(training=True).updates) == 2


def dropped(net: nn.Module, x: np.ndarray, seed: int) -> np.ndarray:
    """What a training step with this seed makes of x."""
    graph = net.graph(training=True)
    assert [v.name for v in graph.inputs] == ["x", "seed"]
    return evaluate(graph, {"x": x, "seed": np.uint32(seed)})[0]


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = np.ones((64, 20, 8, 8), np.float32)
    y = dropped(nn.Dropout(0.3).build(x.shape), x, 7)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    # 81,920 elements: the share is within four deviations
    assert abs((y == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / y.size)
    rows = (y == 0).reshape(64, -1).astype(float)
    correlation = np.corrcoef(rows)[np.triu_indices(64, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(rows.shape[1])


def test_dropout_depends_on_the_seed_and_on_the_layer() -> None:
    x = np.ones((4, 8, 6, 6), np.float32)
    net = nn.Dropout(0.5).build(x.shape)
    first = dropped(net, x, 1)
    np.testing.assert_array_equal(first, dropped(net, x, 1))
    assert (first != dropped(net, x, 2)).mean() > 0.4
    twice = dropped(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).build(x.shape), x, 1)
    assert 0.68 < (twice == 0).mean() < 0.82
    shared = nn.Dropout(0.5)
    again = dropped(nn.Sequential(shared, shared).build(x.shape), x, 1)
    assert 0.68 < (again == 0).mean() < 0.82


def test_dropout_of_whole_channels_and_frozen() -> None:
    x = np.ones((6, 8, 5, 5), np.float32)
    net = nn.Dropout(0.5, whole_channels=True).build(x.shape)
    y = dropped(net, x, 3)
    assert ((y == 0).all((2, 3)) | (y == 2).all((2, 3))).all() and 0.2 < (y == 0).mean() < 0.8
    assert [v.name for v in net.freeze().graph(training=True).inputs] == ["x"]


def test_a_training_graph_compiles() -> None:

    net = nn.Sequential(nn.Conv(4, 3), nn.BatchNorm(), nn.ReLU(), nn.Dropout(0.4))
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 6)).astype(np.float32)
    graph = net.graph(x.shape, training=True)
    feeds = {"x": x, "seed": np.array(11, np.uint32)}
    exe = cnnir.compile(graph)
    for got, wanted in zip(exe.run(feeds).values(), evaluate(graph, feeds), strict=True):
        assert_close(got, wanted, 1e-5)
    exe.close()


INITIALISERS: dict[str, tuple[Any, float]] = {
    # for fans of 50 * 9 and 40 * 9
    "he_normal": (nn.he_normal, 2 / 450),
    "he_uniform": (nn.he_uniform, 2 / 450),
    "lecun_normal": (nn.lecun_normal, 1 / 450),
    "lecun_uniform": (nn.lecun_uniform, 1 / 450),
    "glorot_normal": (nn.glorot_normal, 2 / 810),
    "glorot_uniform": (nn.glorot_uniform, 2 / 810),
    "normal": (nn.normal(0.2), 0.04),
    "uniform": (nn.uniform(0.6), 0.12),
    "ones": (nn.ones, 0.0),
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialisers_have_their_variance(name: str) -> None:
    init, variance = INITIALISERS[name]
    net = nn.Conv(40, 3, init=init).build((1, 50, 4, 4))
    weight = net.params["weight"].astype(np.float64)
    assert weight.shape == (40, 50, 3, 3)
    assert weight.var() == pytest.approx(variance, rel=0.04)
    if name.endswith("uniform"):
        assert np.abs(weight).max() <= np.sqrt(3 * variance) * (1 + 1e-6)
    assert not net.params["bias"].any()


@pytest.mark.parametrize("filters", [5, 80])
def test_orthogonal_weights(filters: int) -> None:
    net = nn.Conv(filters, 3, init=nn.orthogonal).build((1, 4, 4, 4))
    w = net.params["weight"].reshape(filters, -1).astype(np.float64)
    product = w @ w.T if filters == 5 else w.T @ w
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)
