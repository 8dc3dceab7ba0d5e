"""Provenance both ways, why, and watch: every source node and tensor of a compiled model."""

from __future__ import annotations

from pathlib import Path

import dsl_nets
import numpy as np
import onnx
import pytest
from cuda_harness import needs_compiler
from onnx import TensorProto, helper, numpy_helper
from test_real_models import LIGHT, with_random_weights

import cnnir
from cnnir.errors import InputError
from cnnir.evaluate import evaluate

rng = np.random.default_rng(11)


def two_readers() -> onnx.ModelProto:
    """bn(conv(x)) where another node reads the convolution too; a Constant, and a dead node."""
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 9, 9])
    arrays = {"w": rng.standard_normal((4, 4, 3, 3)), "axes": np.array([1, 4])}
    for name in ("scale", "shift", "mean", "variance"):
        arrays[name] = rng.uniform(0.5, 1.5, 4)
    low = numpy_helper.from_array(np.float32(-0.25), "low")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv_3", pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], "bn_3"
        ),
        helper.make_node("Constant", [], ["low"], "bound", value=low),
        helper.make_node("Clip", ["n", "low"], ["r"], "clip_3"),
        helper.make_node("Identity", ["r"], ["same"], "same"),
        helper.make_node("Add", ["same", "c"], ["y"], "add_7"),
        helper.make_node("Sigmoid", ["c"], ["unused"], "unused"),
        helper.make_node("Flatten", ["y"], ["z"], "flat"),
    ]
    weights = [
        numpy_helper.from_array(a if a.dtype.kind == "i" else a.astype(np.float32), n)
        for n, a in arrays.items()
    ]
    graph = helper.make_graph(nodes, "two", [x], [z], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


MODEL = two_readers()


@pytest.fixture(scope="module")
def exe() -> cnnir.Executable:
    return cnnir.compile(MODEL, threads=1)


FEEDS = {"x": rng.standard_normal((1, 4, 9, 9)).astype(np.float32)}


# ---------------------------------------------------------------- provenance


def test_every_source_leads_to_code_and_back(exe: cnnir.Executable) -> None:
    rows = exe.provenance(FEEDS)
    assert {r.source for r in rows} == {
        "conv_3", "bn_3", "bound", "clip_3", "same", "add_7", "flat",
    }  # fmt: skip
    texts = exe._first.program.texts()
    computed = [r for r in rows if r.step is not None]
    for row in computed:
        assert row.source in exe.source(row.step)
        assert row.source in exe.source(row.node)
        assert row.source in exe.source(row.symbol)
        assert row.kernel == exe.plan.steps[row.step].kernel
        assert row.symbol in texts[row.symbol].splitlines()[row.line - 1]
        assert row.seconds is not None and row.seconds >= 0
    assert {r.source for r in computed} >= {"conv_3", "bn_3", "clip_3", "add_7"}
    assert all(r.note for r in rows if r.step is None)
    assert {s for step in exe.plan.steps for s in step.sources} <= {r.source for r in rows}


@pytest.mark.parametrize("target", ["reference", "cuda-emu"])
def test_other_targets_have_provenance_too(target: str) -> None:
    if target == "cuda-emu":
        needs_compiler()
    with_target = cnnir.compile(MODEL, target)
    rows = with_target.provenance()
    assert {"conv_3", "bn_3", "add_7"} <= {r.source for r in rows if r.step is not None}
    assert all(r.line for r in rows if r.symbol)


def test_all_nodes_of_a_residual_net_are_found(tmp_path: Path) -> None:
    net = dsl_nets.resnet()
    cnnir.save_onnx(net.graph({"x": (1, 3, 20, 20)}), tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    _all_found(proto)


@pytest.mark.slow
def test_all_nodes_of_resnet50_are_found() -> None:
    _all_found(with_random_weights(onnx.load(LIGHT / "light_resnet50.onnx"), 3))


def _all_found(proto: onnx.ModelProto) -> None:
    exe = cnnir.compile(proto, threads=1)
    named = {node.name or f"{node.op_type}_{i}" for i, node in enumerate(proto.graph.node)}
    rows = exe.provenance()
    assert named == {row.source for row in rows}
    assert {row.source for row in rows if row.node} == named
    carried = {s for node in exe.graph.order() for s in node.sources}
    assert carried == named


# ---------------------------------------------------------------- why


def test_why_tells_rewrites_reasons_and_the_kernel(exe: cnnir.Executable) -> None:
    told = exe.why("conv_3", FEEDS)
    assert told.imported == ("conv(f32[1,4,9,9], f32[4,4,3,3])",)
    reasons = {declined.reason for _, declined in told.declined}
    assert not told.declined or reasons
    text = str(exe.why("bn_3"))
    assert "batch_norm: batch_norm_to_affine (reassociating)" in text
    assert "conv_3 has a second reader, add_7" in text
    (step, *_) = told.steps.values()
    assert step.reason in str(told) and step.kernel in str(told)


def test_why_takes_tensors_and_what_is_gone(exe: cnnir.Executable) -> None:
    assert exe.why("n").name == "bn_3" and exe.why("z").name == "flat"
    assert exe.why("same").name == "same" and exe.why("low").name == "bound"
    assert set(exe.why("same").steps) == set(exe.why("clip_3").steps)
    assert "nothing needs it" in str(exe.why("unused"))


def cnnir_sources(g: cnnir.Graph) -> set[str]:
    return {s for node in g.order() for s in node.sources}


def test_unknown_names_have_near_ones(exe: cnnir.Executable) -> None:
    with pytest.raises(InputError, match=r"no tensor 'conv_4'; near are 'conv_3'"):
        exe.why("conv_4")
    with pytest.raises(InputError, match="no tensor 'samx'; near are 'same'"):
        exe.watch("samx", FEEDS)
    with pytest.raises(InputError, match="there is no step 99"):
        exe.source(99)
    with pytest.raises(InputError, match="no value or function 'direct"):
        exe.source("direct")


# ---------------------------------------------------------------- watch


@pytest.mark.parametrize("name", ["c", "n", "r", "same", "y", "z", "low", "bn_3", "unused", "w"])
def test_any_source_tensor_can_be_watched(exe: cnnir.Executable, name: str) -> None:
    before = exe.graph.text()
    wanted = evaluate(cnnir.load(MODEL, outputs=[name]), FEEDS, "f64")[0]
    got = exe.watch(name, FEEDS)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert exe.graph.text() == before


def test_watching_follows_the_batch(tmp_path: Path) -> None:
    proto = onnx.ModelProto.FromString(MODEL.SerializeToString())
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    exe = cnnir.compile(proto, threads=1)
    x = rng.standard_normal((3, 4, 9, 9)).astype(np.float32)
    assert exe.watch("n", {"x": x}).shape == (3, 4, 9, 9)
    with pytest.raises(InputError, match="missing inputs"):
        exe.watch("n", {})


def test_graphs_and_nets_can_be_watched() -> None:
    net = dsl_nets.lenet()
    x = rng.standard_normal((2, 1, 28, 28)).astype(np.float32)
    exe = cnnir.compile(net, shapes={"x": x.shape})
    graph = cnnir.load(MODEL)
    other = cnnir.compile(graph)
    np.testing.assert_array_equal(
        other.watch("bn_3", FEEDS), cnnir.compile(MODEL).watch("n", FEEDS)
    )
    names = [n for n in cnnir_sources(exe.graph)]
    for name in names:
        assert np.isfinite(exe.watch(name, {exe.input_names[0]: x})).all()
