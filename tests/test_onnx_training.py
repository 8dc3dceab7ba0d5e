"""ONNX losses and optimisers: what the onnx suite does not cover, errors and derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cnnir

TRAINING = "ai.onnx.preview.training"


def optimiser(name: str, tensors: int, results: int, **attrs: Any) -> onnx.ModelProto:
    """A model of one optimiser on vectors of three."""
    names = [f"v{k}" for k in range(tensors)]
    types = [TensorProto.FLOAT, TensorProto.INT64, *[TensorProto.FLOAT] * tensors]
    shapes = [[], [], *[[3]] * tensors]
    inputs = [
        helper.make_tensor_value_info(n, t, s)
        for n, t, s in zip(["R", "T", *names], types, shapes, strict=True)
    ]
    made = [f"y{k}" for k in range(results)]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in made]
    node = helper.make_node(name, ["R", "T", *names], made, "step", domain=TRAINING, **attrs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(TRAINING, 1)]
    graph = helper.make_graph([node], "optimiser", inputs, outputs)
    return helper.make_model(graph, opset_imports=opsets)


MOMENTUM = {"alpha": 0.9, "beta": 0.5, "norm_coefficient": 0.0}


def test_tensors_that_do_not_come_in_groups() -> None:
    with pytest.raises(cnnir.Error, match=r"'step'.*4 tensors, wanted a multiple of 3"):
        cnnir.load(optimiser("Momentum", 4, 2, mode="standard", **MOMENTUM))


def test_an_unknown_mode() -> None:
    with pytest.raises(cnnir.Error, match="mode is 'fast'"):
        cnnir.load(optimiser("Momentum", 3, 2, mode="fast", **MOMENTUM))


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_adam_against_its_formula(steps: int) -> None:
    attrs = {"alpha": 0.8, "beta": 0.95, "epsilon": 1e-3, "norm_coefficient_post": 0.1}
    graph = cnnir.load(optimiser("Adam", 4, 3, **attrs))
    rng = np.random.default_rng(steps)
    x, g, v, h = rng.uniform(0.1, 1, (4, 3)).astype(np.float32)
    rate, count = np.float32(0.3), np.int64(steps)
    got = cnnir.evaluate(graph, [rate, count, x, g, v, h], "f64")
    v, h = 0.8 * v + 0.2 * g, 0.95 * h + 0.05 * g**2
    r = 0.3 * np.sqrt(1 - 0.95**steps) / (1 - 0.8**steps) if steps else 0.3
    for ours, wanted in zip(got, ((x - r * v / (np.sqrt(h) + 1e-3)) * 0.9, v, h), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5)  # attributes are f32


def test_a_loss_of_an_imported_model_is_differentiated() -> None:
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5]),
        helper.make_tensor_value_info("t", TensorProto.INT64, [4]),
    ]
    node = helper.make_node("SoftmaxCrossEntropyLoss", ["x", "t"], ["loss", "likely"])
    outputs = [
        helper.make_tensor_value_info("loss", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("likely", TensorProto.FLOAT, [4, 5]),
    ]
    made = helper.make_graph([node], "g", infos, outputs)
    graph = cnnir.load(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]))
    x = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    labels = np.array([1, 0, 4, 4])
    _, likely, dx = cnnir.evaluate(cnnir.gradient(graph, "loss", "x"), [x, labels], "f64")
    np.testing.assert_allclose(dx, (np.exp(likely) - np.eye(5)[labels]) / 4, atol=1e-12)
