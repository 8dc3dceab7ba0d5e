"""What is said of layers: published figures, and receptive fields as NaNs find them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable

import numpy as np
import published_nets as nets
import pytest
from test_cli import cnnir, cnnir_json, failure, model  # noqa: F401  (model is a fixture)

from cnnir import nn
from cnnir.analysis.layers import layers, total
from cnnir.analysis.receptive_field import receptive_fields
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.report.layers import layer_rows
from cnnir.tensortype import TensorType

# (net, image, multiply-adds, weights): of the papers, and to the last digit of torchvision's nets
# (Krizhevsky's two columns: of Caffe's bvlc_reference_caffenet without its swapped layers)
PUBLISHED: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "AlexNet": (nets.alexnet, 224, 714_188_480, 61_100_840),
    "AlexNet, two columns": (lambda: nets.alexnet(True), 227, 724_406_816, 60_965_224),
    "VGG-16": (nets.vgg16, 224, 15_470_264_320, 138_357_544),
    "ResNet-50": (nets.resnet50, 224, 4_089_184_256, 25_557_032),
    "MobileNetV2": (nets.mobilenetv2, 224, 300_774_272, 3_504_872),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures(name: str) -> None:
    net, image, connections, weights = PUBLISHED[name]
    everything = total(layers(net().graph((1, 3, image, image))))
    assert everything.connections == connections
    assert everything.weights == weights


def test_lenet_layer_by_layer() -> None:
    """Trainable parameters and connections of LeCun 1998, section II.B (and of C3 connected to all
    maps); his connections count the bias of every unit."""
    found = {row.name: row for row in layers(nets.lenet().graph((1, 1, 32, 32)))}
    assert found["C1"].weights == 156
    assert found["C1"].units == 28 * 28 * 6
    assert found["C1"].connections + found["C1"].units == 122_304
    assert found["C3"].weights == 16 * (6 * 25 + 1)
    assert (found["C5"].weights, found["C5"].connections + found["C5"].units) == (48_120, 48_120)
    assert found["F6"].weights == 10_164
    assert found["output"].weights == 850
    assert total(found.values()).weights == 61_706
    assert total(found.values()).connections == 416_520
    spans = {name: row.field[0] for name, row in found.items() if row.field}
    assert [spans[n].size for n in ("C1", "S2", "C3", "S4")] == [5, 6, 14, 16]
    assert [spans[n].stride for n in ("C1", "S2", "C3", "S4")] == [1, 2, 2, 4]


def test_windows_are_gathered_without_weights_or_connections() -> None:
    """Unshared weights: C1 of LeNet-5 without sharing, section II of LeCun 1998 by the formulas."""
    layer = nn.LocallyConnected(6, 5)
    (row,) = layers(layer.graph((1, 1, 32, 32)))
    assert row.weights == layer.params.count == 28 * 28 * 6 * (25 + 1)
    assert row.connections == 28 * 28 * 6 * 25
    assert row.flops > 2 * row.connections  # what is computed is another matter

    conv = nn.Conv(2, 2, bias=False).build((1, 1, 4, 4))
    for weight, connections in (([0, 1, 0, 0], 0), ([0, 2, 0, 0], 72), ([0, 1, 1, 0], 72)):
        conv.params["weight"] = np.tile(np.float32(weight).reshape(1, 1, 2, 2), (2, 1, 1, 1))
        assert total(layers(conv.graph())).connections == connections


def test_shared_weights_count_once_and_work_each_time() -> None:
    g = Graph()
    w = g.param("w", np.ones((4, 4, 3, 3), np.float32))
    y = g.input(TensorType("f32", (1, 4, 8, 8)), "x")
    for name in ("a", "b"):
        with g.provenance(name):
            y = g.add("conv", y, w, padding=(1, 1, 1, 1))
    g.output(y)
    a, b = layers(g)
    assert (a.weights, b.weights) == (144, 0)
    assert a.connections == b.connections == 144 * 64
    assert a.flops == 2 * a.connections
    assert a.bytes == 4 * (256 + 144 + 256)


def test_shares_are_of_the_total() -> None:
    rows, whole = layer_rows(nets.lenet().graph((1, 1, 32, 32)))
    for key in ("units", "weights", "connections", "flops", "bytes"):
        assert sum(row[key] for row in rows) == whole[key]
        assert sum(row[f"{key}_share"] for row in rows) == pytest.approx(1)


def _seen(graph: Graph, extent: int) -> list[list[set[int]]]:
    """By output, for each index of its last axis, the input columns that it depends on: where a
    column of NaN shows up."""
    image = graph.inputs[0].type
    found: list[list[set[int]]] = []
    for column in range(extent):
        x = np.random.default_rng(column).standard_normal(image.shape)
        x[..., column] = np.nan
        outputs = evaluate(graph, [x], dtype="f64")
        found = found or [[set() for _ in range(y.shape[-1])] for y in outputs]
        for sets, y in zip(found, outputs, strict=True):
            for place in np.flatnonzero(np.isnan(y).any(tuple(range(y.ndim - 1)))):
                sets[place].add(column)
    return found


FIELDS: dict[str, list[nn.Module]] = {
    "conv": [nn.Conv(2, 3, 2, 1), nn.ReLU(), nn.Conv(3, (2, 5), (1, 3), 2)],
    "dilated": [nn.Conv(2, 3, dilation=3), nn.BatchNorm(), nn.Conv(2, (1, 3), 2, dilation=2)],
    "pools": [nn.Conv(2, 3), nn.MaxPool(2), nn.Conv(2, 3, padding=1), nn.AvgPool(3, 2, 1)],
    "branches": [
        nn.Branches(nn.Conv(2, 1), nn.Conv(2, 5, padding=2), nn.MaxPool(3, 1, 1)),
        nn.Residual(nn.Conv(6, 3, padding=1), nn.Tanh()),
        nn.Conv(2, 2, 2),
    ],
    "global": [nn.Conv(4, 3), nn.GlobalAvgPool(), nn.Dense(3)],
    "flatten": [nn.Conv(4, 3, 2), nn.Flatten(), nn.Dense(7)],
    "up": [nn.Conv(2, 3, 2, 1), nn.ConvTranspose(3, 2, 2), nn.Conv(1, 3, padding=1)],
    "up linear": [nn.Conv(2, 3, 2), nn.Upsample(2, "linear"), nn.Conv(2, 3)],
    "up nearest": [nn.Conv(2, 3, 2), nn.Upsample(3), nn.Conv(2, 3)],
    "up wide": [nn.Conv(2, 3, 2, 1), nn.ConvTranspose(3, 4, 2, 1)],
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_are_what_nans_reach(name: str) -> None:
    """No element depends on a column outside of its field. Where fields are exact (no upsampling,
    whose fields are bounds), inner ones see both ends of it."""
    extent = 29
    graph = nn.Sequential(*FIELDS[name]).graph((1, 2, 9, extent))
    fields = receptive_fields(graph)
    for value, sets in zip(graph.outputs, _seen(graph, extent), strict=True):
        span = fields[value][-1]
        for place, columns in enumerate(sets):
            begin = span.offset + place * span.stride
            bounds = set(range(math.ceil(begin), math.floor(begin + span.size - 1) + 1))
            assert columns and columns <= bounds, (place, sorted(columns), span)
            inside = begin >= 0 and begin + span.size <= extent
            if inside and "up" not in name and span.at is not None:
                assert min(columns) == begin and max(columns) == begin + span.size - 1


def test_fields_follow_transposes_and_are_unknown_behind_unknown_ops() -> None:
    g = Graph()
    x = g.input(TensorType("f32", (1, 2, 6, 8)), "x")
    y = g.add("conv", x, g.param("w", np.ones((2, 2, 1, 3), np.float32)), stride=(1, 2))
    t = g.add("transpose", y, perm=(0, 3, 1, 2))
    rows = g.add("reshape", t, shape=(1, 3, 12))
    unknown = g.add("trilu", y)
    for value in (t, rows, unknown):
        g.output(value, f"o{len(g.outputs)}")
    fields = receptive_fields(g)
    assert [(s.size, s.stride, s.at) for s in fields[t]] == [(1, 1, 3), (3, 2, 1)]
    assert [(s.size, s.stride, s.at) for s in fields[rows]] == [(6, 0, None), (3, 2, 1)]
    assert unknown not in fields


def test_analyze_prints_text_csv_and_json(model: str) -> None:  # noqa: F811
    text = cnnir("analyze", model)
    assert "conv" in text and "norm" in text and "total" in text and "f32[1,5,8,8]" in text
    found = cnnir_json("analyze", model)
    rows = list(csv.DictReader(io.StringIO(cnnir("analyze", model, "--csv"))))
    assert [row["layer"] for row in rows] == [*(r["layer"] for r in found["layers"]), "total"]
    assert int(rows[0]["connections"]) == found["layers"][0]["connections"] == 5 * 64 * 27
    assert found["total"]["weights"] == 5 * 27 + 10
    assert found["layers"][0]["field"] == [3, 3]
    assert rows[0]["field"] == "3" and rows[0]["offset"] == "-1"
    assert "wanted one of them" in failure("analyze", model, "--csv", "--json")
