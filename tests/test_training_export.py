"""Trained nets leave as ONNX, and come back: onnxruntime, our importer, and a training further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from dsl_nets import inception_b, lenet, resnet

import cnnir
from cnnir import nn
from cnnir.training import SGD, Step

onnxruntime = pytest.importorskip("onnxruntime")

NETS = {
    "lenet": (lenet, (6, 1, 28, 28)),
    "resnet": (resnet, (6, 3, 16, 16)),
    "inception": (lambda: nn.Sequential(inception_b(), nn.GlobalAvgPool()), (4, 12, 9, 9)),
}


def trained(name: str, steps: int = 3) -> tuple[nn.Module, np.ndarray]:
    """A net after some steps on random data, so that no weight or statistic is what it began as."""
    make, shape = NETS[name]
    net = make().build(shape)
    step = Step(net, "cross_entropy", SGD(0.01, 0.9), threads=2)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x = rng.standard_normal(shape).astype("f4")
        step([x], [rng.integers(0, 10, shape[0])])
    return net, x


@pytest.mark.parametrize("name", NETS)
def test_a_trained_net_in_onnxruntime(name: str, tmp_path: Path) -> None:
    net, x = trained(name)
    path = tmp_path / "net.onnx"
    cnnir.save_onnx(net, path, batch="N")
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (x, x[:1]):
        (got,) = session.run(None, {"x": batch})
        wanted = cnnir.evaluate(net.graph(batch.shape), [batch], dtype="f64")[0]
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_an_export_imports_as_the_same_graph_and_trains_on(tmp_path: Path) -> None:
    """Two steps, a file, and one more step are three steps."""
    net, x = trained("lenet", 2)
    path = tmp_path / "net.onnx"
    cnnir.save_onnx(net, path)
    assert cnnir.load(path).text(hints=False) == net.graph().text(hints=False)
    again = nn.Sequential(body=nn.Imported(path)).build(x.shape)
    labels = np.arange(len(x)) % 10
    losses = []
    for model in (net, again):
        step = Step(model, "cross_entropy", SGD(0.05), threads=1)
        losses.append([step([x], [labels])["loss"] for _ in range(2)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_the_graph_of_a_step_is_text() -> None:
    """It prints, parses, and computes the same again; what is carried stays."""
    net = nn.Sequential(nn.Conv(2, 3), nn.BatchNorm(), nn.Flatten(), nn.Dense(3)).build(
        (2, 1, 5, 5)
    )
    step = Step(net, "cross_entropy", SGD(0.1, 0.9), target="reference")
    compiled = step.compiled([np.zeros((2, 1, 5, 5), "f4")], [np.zeros(2, "i8")])
    graph = compiled.made.graph
    again = cnnir.parse(graph.text(), graph.params)
    assert again.text() == graph.text() and again.carried == graph.carried
    rng = np.random.default_rng(2)
    feeds = [
        rng.integers(0, 3, v.type.shape) if v.type.dtype == "i64"
        else rng.random(v.type.shape, np.float32)
        for v in graph.inputs
    ]  # fmt: skip
    for a, b in zip(cnnir.evaluate(graph, feeds), cnnir.evaluate(again, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
