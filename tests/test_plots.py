"""Pictures hold what they should: looked at here through matplotlib's own objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.training import History

pytest.importorskip("matplotlib")

from cnnir import plots


def test_curves_have_losses_and_metrics(tmp_path: Path) -> None:
    rows = [
        {"epoch": k, "loss": 1 / k, "accuracy": 0.1 * k, "validation loss": 2 / k, "seconds": 1.0}
        for k in (1, 2, 3)
    ]
    history = History(rows, [1.0, 0.9, 0.5, 0.4, 0.3, 0.2])
    figure = plots.curves(history)
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == [
        "loss of a step", "loss", "validation loss"
    ]  # fmt: skip
    np.testing.assert_allclose(left.lines[1].get_ydata(), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(left.lines[0].get_xdata()[-1], 3)
    assert [line.get_label() for line in right.lines] == ["accuracy"]
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_images_are_grey_or_signed() -> None:
    rng = np.random.default_rng(0)
    grey, signed = rng.random((6, 9)), rng.standard_normal((6, 9))
    figure = plots.images([grey, signed, signed], "abc", columns=2, limits=[1.0, 2.0, None])
    axes = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in axes] == ["a", "b", "c"]
    ranges = [axis.images[0].get_clim() for axis in axes]
    assert ranges[:2] == [(0, 1), (-2, 2)]
    np.testing.assert_allclose(ranges[2][1], np.quantile(np.abs(signed), 0.995))
    np.testing.assert_array_equal(axes[1].images[0].get_array(), signed)


def test_filters_are_tiles_in_grey_or_in_colours() -> None:
    rng = np.random.default_rng(0)
    grey = plots.filters(rng.standard_normal((5, 2, 3, 3)))
    assert sum(bool(axis.images) for axis in grey.axes) == 10
    colour = plots.filters(rng.standard_normal((5, 3, 3, 3)))
    shown = [axis.images[0].get_array() for axis in colour.axes if axis.images]
    assert len(shown) == 5 and shown[0].shape == (3, 3, 3)
    assert 0 <= shown[0].min() and shown[0].max() <= 1
    with pytest.raises(cnnir.InputError, match=r"weight is \[5\], wanted filters"):
        plots.filters(np.zeros(5))


def test_feature_maps_are_what_the_layer_gives() -> None:
    net = nn.Sequential(nn.Conv(4, 3), nn.ReLU(), nn.GlobalAvgPool(), nn.Dense(2))
    net.build((1, 3, 8, 8))
    image = np.random.default_rng(0).standard_normal((3, 8, 8)).astype("f4")
    figure = plots.feature_maps(net, image, "relu1")
    wanted = cnnir.evaluate(net[:2].graph((1, 3, 8, 8)), [image[None]])[0][0]
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    np.testing.assert_allclose(np.array(shown), wanted)
    with pytest.raises(cnnir.InputError, match=r"the image is \[1, 3, 8, 8\], wanted one image"):
        plots.feature_maps(net, image[None], "relu1")
    with pytest.raises(cnnir.InputError, match=r"no layer 'relu9' in the net; there are conv1"):
        plots.feature_maps(net, image, "relu9")


def test_activations_are_drawn_with_their_slopes() -> None:
    figure = plots.activations(["tanh", nn.relu])
    tanh, relu = figure.axes[:2]
    x = tanh.lines[0].get_xdata()
    np.testing.assert_allclose(tanh.lines[0].get_ydata(), np.tanh(x), atol=1e-6)
    np.testing.assert_allclose(tanh.lines[1].get_ydata(), 1 - np.tanh(x) ** 2, atol=1e-5)
    np.testing.assert_allclose(relu.lines[1].get_ydata(), x > 0)


def test_receptive_fields_are_boxes_around_the_pixel() -> None:
    net = nn.Sequential(
        nn.Conv(4, 5, padding=2), nn.ReLU(), nn.MaxPool(2), nn.Conv(3, 3, padding=1), nn.Flatten()
    ).build((1, 3, 24, 20))
    image = np.random.default_rng(0).random((3, 24, 20)).astype("f4")
    figure = plots.receptive_field(net, image, ["conv1", "conv2"], (11, 6))
    picture, slopes = figure.axes
    boxes = [(box.get_xy(), box.get_width(), box.get_height()) for box in picture.patches]
    assert boxes == [((3.5, 8.5), 5, 5), ((1.5, 5.5), 10, 10)]
    moved = np.asarray(slopes.images[0].get_array())
    assert moved[6:16, 2:12].any() and np.count_nonzero(moved) == np.count_nonzero(
        moved[6:16, 2:12]
    )
    with pytest.raises(cnnir.InputError, match="'flatten1' gives f32"):
        plots.receptive_field(net, image, "flatten1")


def test_projections_stand_beside_what_they_see() -> None:
    net = nn.Sequential(nn.Conv(4, 3), nn.ReLU(), nn.Conv(3, 3)).build((1, 3, 9, 9))
    image = np.random.default_rng(0).random((3, 9, 9)).astype("f4")
    figure = plots.projections(net, image, "conv2")
    shown = [np.asarray(axis.images[0].get_array()) for axis in figure.axes if axis.images]
    assert [tile.shape for tile in shown] == [(5, 5, 3)] * 6
