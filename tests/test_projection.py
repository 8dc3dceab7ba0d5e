"""Features brought back to the image: the derivative, and the two rules that bend it."""

from __future__ import annotations

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.mathematics import project

RNG = np.random.default_rng(1)


def net() -> nn.Module:
    """Two convolutions with a pool between them, and a head."""
    return nn.Sequential(
        nn.Conv(4, 3, padding=1, bias_init=nn.normal(0.2)), nn.ReLU(), nn.MaxPool(2),
        nn.Conv(3, 3, bias_init=nn.normal(0.2)), nn.ReLU(), nn.Flatten(), nn.Dense(2),
    ).build((1, 2, 10, 9))  # fmt: skip


def test_the_rule_gradient_is_the_derivative_of_the_element() -> None:
    made, image = net(), RNG.standard_normal((1, 2, 10, 9))
    graph = made[:4].graph((1, 2, 10, 9))
    backward = cnnir.gradient(graph, "output", "x", cotangents=True, outputs=False)
    for channel, at in ((0, (0, 0)), (2, (2, 1))):
        unit = np.zeros(graph.outputs[0].type.shape)
        unit[(0, channel, *at)] = 1
        (wanted,) = cnnir.evaluate(backward, [image, unit], "f64")
        found = project(made, image, "conv2", channel, at, "gradient")
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        assert np.abs(found).max() > 0.01


def test_deconvolution_lets_back_what_is_positive_and_guided_only_where_it_was_on() -> None:
    layer = nn.Sequential(nn.Conv(3, 1), nn.ReLU(), nn.Conv(1, 1)).build((1, 1, 4, 4))
    first, second = np.array([1.0, -2.0, 3.0]), np.array([0.5, -1.0, 2.0])
    layer.params["conv1.weight"] = first.reshape(3, 1, 1, 1)
    layer.params["conv2.weight"] = second.reshape(1, 3, 1, 1)
    image = RNG.standard_normal((1, 1, 4, 4))
    for at in ((0, 1), (3, 2), (1, 1)):
        on = first * image[(0, 0, *at)] > 0
        wanted = {
            "gradient": first @ (second * on),
            "deconvolution": first @ np.maximum(second, 0),
            "guided": first @ (np.maximum(second, 0) * on),
        }
        for rule, number in wanted.items():
            found = project(layer, image, "conv2", 0, at, rule)
            assert found[(0, 0, *at)] == pytest.approx(number)
            assert np.count_nonzero(found) <= 1


def test_it_begins_where_the_channel_is_largest_and_stays_in_its_field() -> None:
    made, image = net(), RNG.standard_normal((1, 2, 10, 9))
    (maps,) = cnnir.evaluate(made[:5].graph((1, 2, 10, 9)), [image], "f64")
    row, column = np.unravel_index(maps[0, 1].argmax(), maps.shape[2:])
    by_itself = project(made, image, "relu2", 1)
    np.testing.assert_array_equal(by_itself, project(made, image, "relu2", 1, (row, column)))
    outside = by_itself.copy()
    outside[:, :, max(0, 2 * row - 1) : 2 * row + 7, max(0, 2 * column - 1) : 2 * column + 7] = 0
    assert not outside.any() and by_itself.any()


def test_layers_elements_and_rules_that_there_are_not() -> None:
    made, image = net(), np.zeros((1, 2, 10, 9))
    with pytest.raises(
        cnnir.InputError, match="no layer 'conv7' in the net; there are conv1, relu"
    ):
        project(made, image, "conv7")
    with pytest.raises(cnnir.InputError, match=r"'conv2' gives \[1, 3, 3, 2\]"):
        project(made, image, "conv2", 3)
    with pytest.raises(cnnir.InputError, match="wanted one of deconvolution, guided, gradient"):
        project(made, image, "conv2", rule="magic")
