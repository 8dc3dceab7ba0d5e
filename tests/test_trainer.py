"""Trainer: epochs, data of all kinds, validation, stopping, checkpoints, the same bits again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.training import SGD, Adam, Cosine, EarlyStopping, OneCycle, Steps, WarmUp

rng = np.random.default_rng(5)
X = rng.standard_normal((70, 2, 6, 6)).astype("f4")
Y = (X.mean((1, 2, 3)) > 0).astype("i8") + (X[:, 0].mean((1, 2)) > 0)


def net(seed: int = 0) -> nn.Module:
    """With batch statistics and dropout, so that a step has all there can be."""
    return nn.Sequential(
        nn.Conv(6, 3, padding=1), nn.BatchNorm(), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
        nn.Dense(3),
    ).build((1, 2, 6, 6), seed=seed)  # fmt: skip


def trainer(model: nn.Module | None = None, **options: Any) -> cnnir.Trainer:
    options = {"metrics": "accuracy", "seed": 3, "threads": 1} | options
    optimizer = options.pop("optimizer", Adam(3e-3))
    return cnnir.Trainer(model or net(), "cross_entropy", optimizer, **options)


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights are the same bits."""
    return all(a.tobytes() == other.params[name].tobytes() for name, a in one.params.items())


# ---------------------------------------------------------------- what a training does


def test_a_net_learns_and_the_history_tells() -> None:
    t = trainer()
    before = t.evaluate(X, Y)
    history = t.fit(X, Y, epochs=6, batch_size=16, validation=(X, Y), show="none")
    after = t.evaluate(X, Y, batch_size=70)
    assert after["loss"] < 0.7 * before["loss"] and after["accuracy"] > before["accuracy"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    assert len(history.losses) == 6 * 5  # 70 = 4 * 16 + 6
    assert history.last["validation loss"] == pytest.approx(after["loss"], rel=1e-5)
    assert history.series("loss")[-1] < history.series("loss")[0]


def test_means_count_samples_not_batches() -> None:
    t = trainer()
    whole = t.evaluate(X, Y, batch_size=70)
    cut = t.evaluate(X, Y, batch_size=16)
    assert cut == pytest.approx(whole, rel=1e-5)


def test_evaluation_and_prediction_are_the_compiled_net() -> None:
    """In inference form, with the weights of now."""
    t = trainer()
    t.fit(X, Y, batch_size=16, show="none")
    scores = t.predict(X, batch_size=32)
    np.testing.assert_allclose(scores, cnnir.compile(t.net)(X), rtol=1e-4, atol=1e-5)
    assert t.evaluate(X, Y)["accuracy"] == pytest.approx((scores.argmax(1) == Y).mean())


def test_weights_are_read_and_replaced_at_any_time() -> None:
    t = trainer(optimizer=SGD(0.1))
    t.fit(X, Y, batch_size=35, show="none")
    graph, kept = t.net.graph(), t.net.params["dense1.weight"]
    frozen = kept.copy()
    t.net.params["dense1.bias"] = np.array([5.0, 0.0, 0.0])
    t.fit(X, Y, batch_size=35, show="none")
    assert t.net.params["dense1.bias"][0] == pytest.approx(5, abs=0.5)
    np.testing.assert_array_equal(kept, frozen)  # an array once read stays as it was
    np.testing.assert_array_equal(graph.params["dense1.weight"], frozen)
    assert not np.array_equal(t.net.params["dense1.weight"], frozen)


def test_evaluation_sees_what_was_assigned() -> None:
    """Before the first step, after it, and where a part is frozen."""
    t = trainer()
    t.net["conv1"].freeze()
    seen = [t.evaluate(X, Y)["loss"]]
    for name in ("dense1.weight", "conv1.weight"):
        t.net.params[name] = 2 * t.net.params[name]
        seen.append(t.evaluate(X, Y)["loss"])
        t.step([X[:16]], [Y[:16]])
        seen.append(t.evaluate(X, Y)["loss"])
    assert len(set(seen)) == 5
    exe = cnnir.compile(t.net)
    np.testing.assert_allclose(t.predict(X[:8]), exe(X[:8]), rtol=1e-4, atol=1e-5)


def test_two_trainers_of_one_net_take_turns() -> None:
    model = net()
    first, second = trainer(model, optimizer=SGD(0.1)), trainer(model, optimizer=SGD(0.05, 0.9))
    for t in (first, second, first):
        before = model.params["dense1.weight"]
        t.fit(X[:16], Y[:16], batch_size=16, show="none")
        change = np.abs(model.params["dense1.weight"] - before).max()
        assert 0 < change < 0.5
    alone = net()
    t = trainer(alone, optimizer=SGD(0.1))
    t.fit(X[:16], Y[:16], batch_size=16, show="none")
    assert not same(model, alone)


def test_running_statistics_move() -> None:
    model = net()
    trainer(model).fit(X, Y, batch_size=70, shuffle=False, show="none")
    w, b = (net().params[f"conv1.{n}"] for n in ("weight", "bias"))
    g = cnnir.Graph()
    y = g.add("conv", g.constant(X), g.constant(w), g.constant(b), padding=(1, 1, 1, 1))
    g.output(y)
    made = cnnir.evaluate(g, dtype="f64")[0]
    wanted = 0.1 * made.mean((0, 2, 3)), 0.9 + 0.1 * made.var((0, 2, 3), ddof=1)
    for name, array in zip(("running_mean", "running_var"), wanted, strict=True):
        np.testing.assert_allclose(model.params[f"batch_norm1.{name}"], array, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- data


def test_batches_from_a_list_a_function_and_arrays_are_the_same() -> None:
    pairs = [(X[k : k + 16], Y[k : k + 16]) for k in range(0, 70, 16)]

    def generator() -> Iterator[Any]:
        yield from pairs

    nets = [net() for _ in range(3)]
    trainer(nets[0]).fit(X, Y, epochs=2, batch_size=16, shuffle=False, show="none")
    trainer(nets[1]).fit(pairs, epochs=2, validation=pairs, show="none")
    trainer(nets[2]).fit(generator, epochs=2, validation=(X, Y), show="none")
    assert same(nets[0], nets[1])
    for name, array in nets[2].params.items():  # rates by the position in an epoch do not differ
        np.testing.assert_array_equal(array, nets[0].params[name])


def test_a_last_batch_that_is_smaller_may_be_left_out() -> None:
    kept, dropped = trainer(), trainer()
    kept.fit(X, Y, batch_size=32, show="none")
    dropped.fit(X, Y, batch_size=32, partial="drop", show="none")
    assert len(kept.history.losses) == 3 and len(dropped.history.losses) == 2


def test_a_share_is_held_back() -> None:
    t = trainer()
    t.fit(X, Y, batch_size=8, validation=0.2, show="none")
    assert len(t.history.losses) == 7 and "validation accuracy" in t.history.last


def test_nets_of_two_inputs_and_targets() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            self.left, self.right = nn.Dense(4), nn.Dense(4)

        def forward(self, a: nn.Tensor, b: nn.Tensor) -> dict[str, nn.Tensor]:
            return {"sum": self.left(a) + self.right(b), "square": self.left(a) ** 2.0}

    def loss(given: Any, one: nn.Tensor, two: nn.Tensor) -> nn.Tensor:
        return nn.squared_error(given["sum"], one) + nn.huber(given["square"], two)

    a, b = X.reshape(70, -1)[:, :5].copy(), X.reshape(70, -1)[:, 5:12].copy()
    targets = np.tanh(a[:, :4]), np.abs(a[:, :4])
    t = cnnir.Trainer(Two(), loss, SGD(0.1), threads=1)
    history = t.fit((a, b), targets, epochs=8, batch_size=35, show="none")
    assert history.losses[-1] < 0.8 * history.losses[0]
    assert sorted(t.predict((a, b))) == ["square", "sum"]


# ---------------------------------------------------------------- the same bits


def test_a_seed_means_the_same_bits_for_any_number_of_threads() -> None:
    nets = [net() for _ in range(3)]
    for model, threads in zip(nets, (1, 2, 3), strict=True):
        trainer(model, threads=threads).fit(X, Y, epochs=2, batch_size=16, show="none")
    assert same(nets[0], nets[1]) and same(nets[0], nets[2])
    other = net()
    trainer(other, seed=4).fit(X, Y, epochs=2, batch_size=16, show="none")
    assert not same(nets[0], other)


class Killed(Exception):
    """Stands for a process that ends in the middle of an epoch."""


def cut_off_after(steps: int) -> Any:
    """Batches in a list that end a training; as many each epoch as arrays would give."""

    class Ending(list):
        seen = 0

        def __iter__(self) -> Iterator[Any]:
            for batch in list.__iter__(self):
                if Ending.seen == steps:
                    raise Killed
                Ending.seen += 1
                yield batch

    return Ending((X[k : k + 16], Y[k : k + 16]) for k in range(0, 70, 16))


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_a_training_that_was_cut_off_resumes_with_the_same_bits(steps: int, tmp_path: Path) -> None:
    """Within an epoch, at the end of one, with a schedule, momentum, dropout and early stopping."""
    how = {"epochs": 4, "validation": (X, Y), "stopping": EarlyStopping(2), "show": "none"}
    rate = {"optimizer": SGD(Cosine(0.1, 4), 0.9)}
    pairs = [(X[k : k + 16], Y[k : k + 16]) for k in range(0, 70, 16)]
    whole, path = trainer(**rate), tmp_path / "run.npz"
    whole.fit(pairs, **how)
    begun = trainer(**rate)
    with pytest.raises(Killed):
        begun.fit(cut_off_after(steps), checkpoint=path, every=2, **how)
    resumed = trainer(net(seed=9), **rate)
    resumed.fit(pairs, checkpoint=path, resume=True, **how)
    assert same(whole.net, resumed.net)
    assert whole.history.losses == resumed.history.losses
    drop = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert drop == [{k: v for k, v in row.items() if k != "seconds"} for row in resumed.history]
    assert os.listdir(tmp_path) == ["run.npz"]


def test_shuffled_arrays_resume_too(tmp_path: Path) -> None:
    whole, path = trainer(), tmp_path / "run.npz"
    whole.fit(X, Y, epochs=4, batch_size=16, show="none")
    trainer().fit(
        X, Y, epochs=4, batch_size=16, checkpoint=path, show="none",
        after_epoch=lambda _, row: row["epoch"] == 2,
    )  # fmt: skip
    resumed = trainer(net(seed=9))
    resumed.fit(X, Y, epochs=4, batch_size=16, checkpoint=path, resume=True, show="none")
    assert same(whole.net, resumed.net) and resumed.epoch == 4


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    trainer().fit(X, Y, checkpoint=path, show="none")
    with pytest.raises(cnnir.ModelError, match=r"dense1.weight~momentum is missing"):
        trainer(optimizer=SGD(0.1, 0.9)).fit(X, Y, checkpoint=path, resume=True, show="none")
    with pytest.raises(cnnir.InputError, match="written with seed 3, this is 4"):
        trainer(seed=4).fit(X, Y, checkpoint=path, resume=True, show="none")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(cnnir.ModelError, match="is no checkpoint"):
        trainer().fit(X, Y, checkpoint=path, resume=True, show="none")


# ---------------------------------------------------------------- ends, rates, freezing


def test_early_stopping_keeps_the_best_weights() -> None:
    """A rate that grows without bounds makes every epoch but the first ones worse."""
    t = trainer(optimizer=SGD(lambda epoch: 0.05 * 8**epoch))
    kept: list[dict[str, np.ndarray]] = []
    history = t.fit(
        X, Y, epochs=30, batch_size=35, validation=(X, Y), stopping=EarlyStopping(3),
        after_epoch=lambda t, _: kept.append(dict(t.net.params)), show="none",
    )  # fmt: skip
    losses = history.series("validation loss")
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 3
    for name, array in kept[best].items():
        np.testing.assert_array_equal(t.net.params[name], array)


def test_frozen_parts_stay_and_have_no_gradient() -> None:
    model = net()
    model["conv1"].freeze()
    model["batch_norm1"].freeze()
    before = dict(model.params)
    t = trainer(model)
    t.fit(X, Y, batch_size=35, show="none")
    for name, array in model.params.items():
        assert np.array_equal(array, before[name]) == (not name.startswith("dense1"))
    (compiled,) = t.step._known.values()
    names = {node.name for node in compiled.made.graph.order()}
    assert not names & {"conv_weight_grad", "max_pool_grad", "batch_norm"}
    model["conv1"].freeze(False)
    t.fit(X, Y, batch_size=35, show="none")
    assert not np.array_equal(model.params["conv1.weight"], before["conv1.weight"])
    model.params["batch_norm1.running_mean"] = np.full(6, 50.0)  # frozen, but assigned
    assert t.fit(X, Y, batch_size=35, show="none").losses[-2] > 0


def test_a_frozen_weight_that_is_assigned_counts() -> None:
    model = net()
    model["conv1"].freeze()
    t = trainer(model, optimizer=SGD(0.0))
    first = t.fit(X, Y, batch_size=70, shuffle=False, show="none").losses[-1]
    model.params["conv1.weight"] = 3 * model.params["conv1.weight"][:, :, ::-1]
    second = t.fit(X, Y, batch_size=70, shuffle=False, show="none").losses[-1]
    assert first != second


def test_schedules() -> None:
    steps, cosine = Steps(1.0, (2, 4), 0.1), Cosine(2.0, 10, 1.0)
    assert [steps(e) for e in (0, 1.9, 2, 4.5)] == pytest.approx([1, 1, 0.1, 0.01])
    assert [cosine(e) for e in (0, 5, 10, 20)] == pytest.approx([2, 1.5, 1, 1])
    warm = WarmUp(2, cosine)
    assert [warm(0), warm(1), warm(5)] == pytest.approx([0, cosine(2) / 2, 1.5])
    assert WarmUp(4, 0.1)(3) == pytest.approx(0.075)
    cycle = OneCycle(1.0, 10)
    assert [cycle(e) for e in (0, 3, 10)] == pytest.approx([0.04, 1, 4e-6])
    assert cycle(1.5) == pytest.approx((0.04 + 1) / 2)
    history = trainer(optimizer=SGD(steps)).fit(X, Y, epochs=3, batch_size=35, show="none")
    assert history.series("learning_rate") == pytest.approx([1, 0.1, 0.1])


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    trainer().fit(X, Y, epochs=2, batch_size=35)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1", "epoch 2"]
    trainer().fit(X, Y, batch_size=35, show="bar")
    assert "epoch 1" in capsys.readouterr().out
    history = trainer().fit(X, Y, batch_size=35, show="none")
    assert not capsys.readouterr().out and str(history).startswith("epoch 1  loss")
