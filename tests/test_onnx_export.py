"""Exports: ONNX's checker takes them, ONNX Runtime agrees, our importer gives the graph back."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from dsl_layers import CASES, Case
from dsl_nets import NETS
from samples import SAMPLES, assert_close
from test_dsl_layers import net_and_input, randomised

import cnnir
from cnnir import Graph, TensorType, nn
from cnnir.errors import LimitError, UnsupportedError
from cnnir.evaluate import evaluate
from cnnir.frontends import onnx_export
from cnnir.frontends.onnx_export import export
from cnnir.frontends.onnx_import import load
from cnnir.frontends.onnx_writer import WRITERS
from cnnir.ops import OPS
from cnnir.pipeline import optimise

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def runtime(model: str | bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def canonical(again: Graph, graph: Graph) -> str:
    """The text of what was read, with pads back in convolutions if `graph` has boundaries there,
    which ONNX says as a Pad."""
    if any(node.attrs.get("boundary") for node in graph.order()):
        optimise(again, "pad,dead")
    return again.text(hints=False)


def round_trip(graph: Graph, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The export of a graph, which everybody accepts and agrees with; text and weights return."""
    model = export(graph)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    wanted = evaluate(graph, feeds, dtype="f64")
    for got, exact in zip(runtime(data, feeds), wanted, strict=True):
        assert_close(got, exact, 1e-5)
    again = load(data)
    again.verify()
    assert canonical(again, graph) == graph.text(hints=False)
    assert [v.name for v in again.inputs] == [v.name for v in graph.inputs]
    assert again.output_names == graph.output_names
    kept = {name: array for name, array in again.params.items() if name in graph.params}
    assert sum(a.size for a in kept.values()) == sum(a.size for a in graph.params.values())
    for name, array in kept.items():
        np.testing.assert_array_equal(array, graph.params[name])
    return model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer(case: Case) -> None:
    net, x = net_and_input(case)
    round_trip(net.graph(), {"x": x})


@pytest.mark.parametrize("name", NETS)
def test_nets_before_and_after_passes(name: str) -> None:
    make, shape = NETS[name]
    net = randomised(make().build(shape))
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    graph = net.graph()
    feeds = {str(graph.inputs[0].name): x}
    round_trip(graph, feeds)
    wanted = evaluate(graph, [x], dtype="f64")[0]
    optimise(graph)
    assert any(node.name == "fused" for node in graph.order())
    model = export(graph)
    onnx.checker.check_model(model, full_check=True)
    assert_close(runtime(model.SerializeToString(), feeds)[0], wanted, 1e-5)
    again = load(model.SerializeToString())
    assert_close(evaluate(again, [x], dtype="f64")[0], wanted, 1e-6)


SLOW = ("bvlc_alexnet", "densenet121", "inception_v2", "resnet50", "vgg19", "zfnet512")
IMPORTED = ["squeezenet", "shufflenet", "inception_v1"]
IMPORTED += [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]


@pytest.mark.parametrize("name", IMPORTED)
def test_an_imported_net_comes_back(name: str) -> None:
    graph = cnnir.load(LIGHT / f"light_{name}.onnx")
    again = load(export(graph).SerializeToString())
    assert again.text(hints=False) == graph.text(hints=False)
    assert again.params.keys() == graph.params.keys()
    for key, array in graph.params.items():
        np.testing.assert_array_equal(again.params[key], array)


# ---------------------------------------------------------------- ops


UNSAYABLE = set(
    "banded barrier bce_with_logits conv_weight_grad grid_sample_grad grid_slopes huber"
    " kl_divergence max_pool_grad nll_grad roi_align_grad".split()
)
"""Losses and parts of derivatives: a graph that trains need not leave the house."""


def test_every_op_is_written_or_decomposed_or_known_not_to_be() -> None:
    """An op that is new shows here: give it a writer, or list it as one that ONNX has not."""
    sayable = {n for n, op in OPS.items() if n in WRITERS or op.decompose or n == "fused"}
    assert set(OPS) - sayable <= UNSAYABLE
    assert set(WRITERS) <= set(OPS) and not set(WRITERS) & UNSAYABLE


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_samples_of_every_op(name: str) -> None:
    """Two samples of each op in f32 (and integers): checked by ONNX, and meaning the same."""
    tried = 0
    for sample in SAMPLES[name]:
        floats = {t.dtype for t in sample.types if t is not None} - {"f32", "i64", "bool", "u32"}
        if floats or tried == 2:
            continue
        graph = sample.graph(name)
        try:
            model = export(graph)
        except UnsupportedError:
            continue
        onnx.checker.check_model(model)
        again = load(model.SerializeToString())
        arrays = [a for a in sample.arrays(np.random.default_rng(0)) if a is not None]
        for got, wanted in zip(evaluate(again, arrays), evaluate(graph, arrays), strict=True):
            assert_close(got, wanted, 1e-6)
        tried += 1
    assert tried or name in ("nms", "nonzero")


def detector() -> Graph:
    """Non-maximum suppression as a graph output, cut to its length."""
    graph = Graph("detector")
    boxes = graph.input(TensorType("f32", (1, 20, 4)), "boxes")
    scores = graph.input(TensorType("f32", (1, 2, 20)), "scores")
    found, count = graph.add(
        "nms", boxes, graph.add("sigmoid", scores), max_per_class=5, iou_threshold=0.5,
        score_threshold=0.25,
    )  # fmt: skip
    graph.output(found, "found", count)
    where, many = graph.add("nonzero", graph.add("relu", scores))
    graph.output(where, "where", many, 1)
    return graph


def test_results_as_long_as_the_data_says() -> None:
    graph, rng = detector(), np.random.default_rng(3)
    feeds = {"boxes": rng.random((1, 20, 4), np.float32),
             "scores": rng.standard_normal((1, 2, 20), np.float32)}  # fmt: skip
    model = export(graph)
    onnx.checker.check_model(model)
    again = load(model.SerializeToString())
    assert again.text(hints=False) == graph.text(hints=False) and again.trims == graph.trims
    exe = cnnir.compile(graph, "reference")
    for got, wanted in zip(
        runtime(model.SerializeToString(), feeds), exe.run(feeds).values(), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("zeros", [(0, 0), (7, 0), (0, 3), (131, 128)])
@pytest.mark.parametrize("bias", [False, True])
def test_quantised_convolutions(zeros: tuple[int, int], bias: bool) -> None:
    """What the importer writes out as 32-bit arithmetic goes back to 8-bit operands."""
    rng = np.random.default_rng(1)
    weight = rng.integers(0, 256, (4, 2, 3, 3)).astype(np.int32) - zeros[1]
    graph = Graph("quantised")
    x = graph.input(TensorType("u8", (1, 2, 6, 7)), "x")
    wide = graph.add("cast", x, dtype="i32")
    if zeros[0]:
        wide = graph.add("sub", wide, graph.param("zero", np.int32(zeros[0])))
    b = graph.param("b", rng.integers(-999, 999, 4).astype(np.int32)) if bias else None
    y = graph.add(
        "conv", wide, graph.param("w", weight), b, padding=(1, 1, 1, 1), stride=(1, 2),
        dilation=(1, 1),
    )  # fmt: skip
    graph.output(y, "y")
    feeds = {"x": rng.integers(0, 256, (1, 2, 6, 7)).astype(np.uint8)}
    model = export(graph)
    onnx.checker.check_model(model, full_check=True)
    assert {"ConvInteger", "Cast"} & {n.op_type for n in model.graph.node} == {"ConvInteger"}
    again, wanted = load(model.SerializeToString()), evaluate(graph, feeds)[0]
    np.testing.assert_array_equal(evaluate(again, feeds)[0], wanted)
    np.testing.assert_array_equal(runtime(model.SerializeToString(), feeds)[0], wanted)
    assert bias or again.text(hints=False) == graph.text(hints=False)


def test_outputs_that_are_inputs_params_or_given_twice() -> None:
    graph = Graph("plain")
    x = graph.input(TensorType("f32", (2, 3)), "x")
    w = graph.param("w", np.arange(3, dtype=np.float32))
    y = graph.add("add", x, w, name="y")
    for value, name in ((y, "y"), (y, "again"), (x, "x"), (x, "copy"), (w, "weight")):
        graph.output(value, name)
    round_trip(graph, {"x": np.ones((2, 3), np.float32)})


def test_a_training_form_exports_with_its_updates_and_its_seed() -> None:
    net = nn.Sequential(nn.Conv(4, 3), nn.BatchNorm(), nn.PReLU(), nn.Dropout(0.3))
    graph = randomised(net.build((3, 2, 6, 6))).graph(training=True)
    x = np.random.default_rng(2).standard_normal((3, 2, 6, 6)).astype(np.float32)
    round_trip(graph, {"x": x, "seed": np.array(5, np.uint32)})


def test_a_slice_that_cuts_nothing_is_no_node() -> None:
    """Backwards over a single element, for example: it must not come and go with round trips."""
    x, y = (onnx.helper.make_tensor_value_info(n, 1, [1, 3]) for n in "xy")
    numbers = {"start": [0], "end": [-9], "axis": [0], "step": [-1]}
    constants = [onnx.numpy_helper.from_array(np.array(v), k) for k, v in numbers.items()]
    cut = onnx.helper.make_node("Slice", ["x", *numbers], ["cut"])
    nodes = [cut, onnx.helper.make_node("Relu", ["cut"], ["y"])]
    graph = load(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [y], constants)))
    assert [n.name for n in graph.order() if n.op] == ["relu"]


def test_names_stay_and_never_clash() -> None:
    graph = Graph("clash")
    x = graph.input(TensorType("f32", (3,)), "w")
    w = graph.param("w", np.ones(3, np.float32))
    with graph.provenance("one"):
        y = graph.add("mul", graph.add("add", x, w, name="w"), w, name="out")
    with graph.provenance("two"):
        y = graph.add("relu", y, name="out")
    graph.output(y, "out")
    model = export(graph)
    assert load(model.SerializeToString()).text(hints=False) == graph.text(hints=False)
    assert (
        runtime(model.SerializeToString(), {"w": np.ones(3, np.float32)})[0].tolist() == [2.0] * 3
    )
    assert [n.name for n in model.graph.node] == ["one", "one/Mul", "two"]
    assert model.graph.output[0].name == "out" and model.graph.input[0].name == "w"


def test_the_opset_is_21_unless_an_op_is_newer() -> None:
    plain, newer = nn.Sequential(nn.ReLU()), nn.Sequential(nn.SiLU())
    assert export(plain.graph((1, 2))).opset_import[0].version == 21
    assert export(newer.graph((1, 2))).opset_import[0].version == 24


# ---------------------------------------------------------------- refusals


REFUSED = """\
the graph has what ONNX cannot say:
  - an output with the name of an input (1: 'x')
  - conv: i32 that is not widened from 8 bits, which is all ConvInteger takes (1: 'conv1')
  - shift_left: BitShift: input X has element type i32, wanted u16 or u32 or u64 or u8 (2: 'a', 'b')
  - nonzero: its result is read before it is cut at run time (1: unnamed)"""


def test_everything_that_onnx_cannot_say_is_listed() -> None:
    graph = Graph("hopeless")
    x = graph.input(TensorType("i32", (1, 2, 5, 5)), "x")
    s = graph.input(TensorType("i32", ()), "s")
    w = graph.param("w", np.ones((3, 2, 3, 3), np.int32))
    with graph.provenance("conv1"):
        y = graph.add("conv", x, w)
    for name in ("a", "b"):
        with graph.provenance(name):
            y = graph.add("shift_left", y, s)
    found, count = graph.add("nonzero", y)
    graph.output(found, "x")
    graph.output(count, "count")
    with pytest.raises(UnsupportedError) as caught:
        export(graph)
    assert str(caught.value) == REFUSED


# ---------------------------------------------------------------- files


def test_files_of_a_net_and_of_a_graph(tmp_path: Path) -> None:
    net = randomised(nn.Sequential(nn.Conv(4, 3), nn.BatchNorm(), nn.ReLU()).build((1, 2, 6, 6)))
    path = tmp_path / "net.onnx"
    cnnir.save_onnx(net, path)
    assert os.listdir(tmp_path) == ["net.onnx"]
    assert cnnir.load(path).text(hints=False) == net.graph().text(hints=False)
    before = path.read_bytes()
    with pytest.raises(UnsupportedError):
        bad = Graph("bad")
        bad.output(bad.add("neg", bad.input(TensorType("u8", (2,)), "x")), "y")
        cnnir.save_onnx(bad, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16", "i64", "bool"])
def test_external_weights(tmp_path: Path, dtype: str) -> None:
    graph = Graph("wide")
    x = graph.input(TensorType(dtype, (1, 700)), "x")
    rng, numpy = np.random.default_rng(0), TensorType(dtype, ()).numpy
    for name, rows in (("large", 3), ("small", 1), ("other", 7)):
        array = rng.integers(0, 2, (rows, 700 if rows > 1 else 1)).astype(numpy)
        x = graph.add("concat", x, graph.add("expand", graph.param(name, array), shape=(rows, 700)),
                      axis=0)  # fmt: skip
    graph.output(x, "y")
    path = tmp_path / "wide.onnx"
    cnnir.save_onnx(graph, path, external=True)
    assert sorted(os.listdir(tmp_path)) == ["wide.onnx", "wide.onnx.data"]
    model = onnx.load(path, load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer}
    size = 700 * numpy.itemsize
    assert places["small"] == {}
    assert places["other"]["length"] == str(7 * size) and int(places["other"]["offset"]) % 4096 == 0
    again = cnnir.load(path)
    for name in ("large", "other"):
        np.testing.assert_array_equal(again.params[name], graph.params[name])
    onnx.checker.check_model(path)


def test_weights_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST_MODEL", 5000)
    net = nn.Sequential(nn.Dense(64)).build((1, 64))
    cnnir.save_onnx(net, tmp_path / "net.onnx")
    assert os.path.getsize(tmp_path / "net.onnx.data") == 64 * 64 * 4
    x = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32)
    got = runtime(str(tmp_path / "net.onnx"), {"x": x})[0]
    assert_close(got, evaluate(net.graph(), [x], dtype="f64")[0], 1e-5)
    with pytest.raises(LimitError) as caught:
        cnnir.save_onnx(net, tmp_path / "other.onnx", external=False)
    assert (
        str(caught.value) == "16640 bytes of weights do not fit one ONNX file, wanted external=True"
    )
    assert sorted(os.listdir(tmp_path)) == ["net.onnx", "net.onnx.data"]


def test_weights_are_little_endian() -> None:
    graph = nn.Sequential(nn.Dense(1, bias=False)).build((1, 1)).graph()
    tensor = export(graph).graph.initializer[0]
    assert tensor.raw_data == struct.pack("<f", graph.params["dense1.weight"][0, 0])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    net = nn.Conv(1, 3).build((1, 1, 4, 4))
    with pytest.raises(cnnir.InputError, match=r"there is no folder '.*none' for 'net.onnx'"):
        cnnir.save_onnx(net, tmp_path / "none" / "net.onnx")


def test_something_that_is_no_model() -> None:
    with pytest.raises(cnnir.InputError, match="the model is of type int, wanted a path, bytes or"):
        cnnir.load(3)
