"""Typical mistakes: what is said, and that nothing has changed by then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.training import SGD, EarlyStopping

rng = np.random.default_rng(0)
X = rng.standard_normal((20, 3, 6, 6)).astype("f4")
Y = rng.integers(0, 4, 20)


def net(*layers: Any) -> nn.Module:
    layers = layers or (nn.Conv(4, 3), nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Dense(4))


def fit(model: Any = None, loss: Any = "cross_entropy", x: Any = X, y: Any = Y, **how: Any) -> None:
    optimizer = how.pop("optimizer", SGD(0.1))
    options = {k: how.pop(k) for k in ("metrics", "regularisers") if k in how}
    trainer = cnnir.Trainer(model or net(), loss, optimizer, threads=1, **options)
    trainer.fit(x, y, batch_size=8, show="none", **how)


MISTAKES: dict[str, tuple[Callable[[], None], type[cnnir.Error], str]] = {
    "wrong channels": (
        lambda: fit(net().build((1, 1, 6, 6))),
        cnnir.InputError,
        "input 'x': a batch is f32[8,3,6,6], the net was built for f32[1,1,6,6]: wanted [1, 6, 6] "
        "a sample, channels first",
    ),
    "channels last": (
        lambda: fit(net().build((1, 3, 6, 6)), x=np.moveaxis(X, 1, -1)),
        cnnir.InputError,
        "wanted [3, 6, 6] a sample, channels first",
    ),
    "missing loss": (
        lambda: fit(loss=None),
        cnnir.InputError,
        "there is no loss, wanted a function or one of cross_entropy, nll_loss",
    ),
    "misspelt loss": (
        lambda: fit(loss="crossentropy"),
        cnnir.InputError,
        "there is no loss 'crossentropy'; there is cross_entropy",
    ),
    "label out of range": (
        lambda: fit(y=np.where(np.arange(20) == 7, 4, Y)),
        cnnir.InputError,
        "is no class: the net gives 4 scores, wanted labels from 0 to 3",
    ),
    "negative label": (
        lambda: fit(y=Y - 1),
        cnnir.InputError,
        "label -1 of sample",
    ),
    "labels as floats": (
        lambda: fit(y=Y.astype("f4")),
        cnnir.IRError,
        "cross_entropy of output f32[8,4]: cross_entropy(f32[8,4], f32[8]): labels are f32, wanted "
        "i32 or i64",
    ),
    "one-hot labels": (
        lambda: fit(y=np.eye(4, dtype=np.int64)[Y]),
        cnnir.IRError,
        "labels are i64[8,4], x is f32[8,4]: wanted [N, ...] for [N, classes, ...]; of one-hot "
        "labels take argmax(1)",
    ),
    "shape mismatch in add": (
        lambda: fit(net(nn.Residual(nn.Conv(5, 3, padding=1)))),
        cnnir.IRError,
        "layer 'residual1' (Residual) on f32[8,3,6,6]: add(f32[8,5,6,6], f32[8,3,6,6])",
    ),
    "target of another shape": (
        lambda: fit(loss="squared_error", y=Y[:, None].astype("f4")),
        cnnir.IRError,
        "squared_error(f32[8,4], f32[8,1]): wanted a target of type f32[8,4]",
    ),
    "a loss that is no number": (
        lambda: fit(optimizer=SGD(1e30)),
        cnnir.TrainingError,
        "the weights have run away; wanted a smaller learning rate than 1e+30, warm-up",
    ),
    "data that is no number": (
        lambda: fit(x=np.where(np.arange(20)[:, None, None, None] == 3, np.float32(np.nan), X)),
        cnnir.TrainingError,
        "numbers of the input are not finite",
    ),
    "a loss for every sample": (
        lambda: fit(loss=lambda y, t: nn.op("cross_entropy", y, t, reduction="none")),
        cnnir.InputError,
        "<lambda> gave f32[8], wanted a single number, such as its mean()",
    ),
    "one sample for batch norm": (
        lambda: fit(nn.Sequential(nn.Flatten(), nn.Dense(4), nn.BatchNorm()), x=X[:17], y=Y[:17]),
        cnnir.IRError,
        "layer 'batch_norm1' (BatchNorm) on f32[1,4]: 1 value a channel has no variance, wanted a "
        "larger batch",
    ),
    "doubles": (
        lambda: fit(x=X.astype("f8")),
        cnnir.InputError,
        "x is float64, wanted float32: nothing is converted silently, use x.astype('float32')",
    ),
    "unknown name in a group": (
        lambda: fit(optimizer={"conv2.*": SGD(0.1), "*": SGD(0.01)}),
        cnnir.InputError,
        "no weight that trains is called 'conv2.*'; there is conv1.",
    ),
    "unknown name of a regulariser": (
        lambda: fit(regularisers={"head.weight": nn.l2}),
        cnnir.InputError,
        "no weight that trains is called 'head.weight'; there is",
    ),
    "all is frozen": (
        lambda: fit(net().freeze()),
        cnnir.InputError,
        "there is nothing to train: all weights are frozen, or in no group",
    ),
    "no optimiser": (
        lambda: fit(optimizer=0.1),
        cnnir.InputError,
        "optimizer is 0.1, wanted one such as SGD(0.1)",
    ),
    "unequal numbers of samples": (
        lambda: fit(y=Y[:-1]),
        cnnir.InputError,
        "x has 20 samples, y has 19: wanted as many",
    ),
    "no labels": (
        lambda: fit(y=None),
        cnnir.InputError,
        "x is an array float32[20, 3, 6, 6] and y is missing: wanted both",
    ),
    "a generator that is used up": (
        lambda: fit(x=iter([(X[:8], Y[:8])]), y=None, epochs=2),
        cnnir.InputError,
        "the data gave no batch in epoch 2: a generator can be gone through once",
    ),
    "a batch without labels": (
        lambda: fit(x=[X[:8]], y=None),
        cnnir.InputError,
        "the data gave ndarray as a batch, wanted (inputs, targets)",
    ),
    "a graph for a net": (
        lambda: fit(cnnir.Graph()),
        cnnir.InputError,
        "net is of type Graph, wanted a net of cnnir.nn; nn.Imported makes one of a graph",
    ),
    "stopping by what is not measured": (
        lambda: fit(stopping=EarlyStopping()),
        cnnir.InputError,
        "early stopping watches 'validation loss', an epoch has epoch, loss",
    ),
    "unknown metric": (
        lambda: fit(metrics=["acuracy"]),
        cnnir.InputError,
        "there is no metric 'acuracy'; there is accuracy",
    ),
    "batches of nothing": (
        lambda: fit(x=X[:4], y=Y[:4], partial="drop"),
        cnnir.InputError,
        "4 samples make no batch of 8: wanted more, or partial='keep'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(mistake: str) -> None:
    make, kind, said = MISTAKES[mistake]
    with pytest.raises(kind) as caught:
        make()
    assert said in str(caught.value), str(caught.value)


def test_the_last_batch_is_named() -> None:
    with pytest.raises(cnnir.IRError) as caught:
        MISTAKES["one sample for batch norm"][0]()
    last = str(caught.value).splitlines()[-1]
    assert last == ("  this is the last batch, with 1 of 17 samples; partial='drop' leaves it out")


def test_what_is_wrong_from_the_first_batch_is_not_blamed_on_the_last() -> None:
    with pytest.raises(cnnir.IRError) as caught:
        fit(x=X[:5], y=Y[:5].astype("f4"))  # fewer than a batch
    message = str(caught.value)
    assert "labels are f32" in message and "last batch" not in message
    assert "graph.py" not in message  # a line of ours helps nobody


def test_a_wrong_label_changes_nothing() -> None:
    """It is found before the step."""
    model = net().build((1, 3, 6, 6))
    before = dict(model.params)
    trainer = cnnir.Trainer(model, "cross_entropy", SGD(0.1), threads=1)
    with pytest.raises(cnnir.InputError, match=r"label 9 of sample 2 "):
        trainer.fit(X[:3], np.array([0, 1, 9]), shuffle=False, show="none")
    for name, array in model.params.items():
        np.testing.assert_array_equal(array, before[name])


def test_an_ignored_label_is_fine() -> None:
    def loss(scores: nn.Tensor, labels: nn.Tensor) -> nn.Tensor:
        return nn.cross_entropy(scores, labels, ignore_index=-100)

    fit(loss=loss, y=np.where(np.arange(20) % 3 == 0, -100, Y))
    with pytest.raises(cnnir.InputError, match="wanted labels from 0 to 3, or -100, which is igno"):
        fit(loss=loss, y=np.where(np.arange(20) % 3 == 0, -99, Y))


def test_smoothing_mixes_in_all_classes() -> None:
    """(1 - s) times the cross-entropy plus s times its mean over all labels."""
    logits = nn.symbol((5, 4))
    labels = nn.Tensor(logits.trace, logits.graph.input(cnnir.TensorType("i64", (5,)), "labels"))
    logits.graph.output(nn.cross_entropy(logits, labels, smoothing=0.3).value)
    x, y = rng.standard_normal((5, 4)).astype("f4"), np.array([0, 3, 1, 1, 2])
    likely = x - np.log(np.exp(x).sum(1, keepdims=True))
    wanted = -0.7 * likely[np.arange(5), y].mean() - 0.3 * likely.mean()
    assert cnnir.evaluate(logits.graph, [x, y])[0] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(cnnir.IRError, match="smoothing goes with neither"):
        nn.cross_entropy(logits, labels, ignore_index=0, smoothing=0.1)
