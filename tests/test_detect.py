"""Results as long as the data says: against onnxruntime and numpy, trimmed, refused inside."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnnir
from cnnir.evaluate import trimmed

TARGETS = ["reference", "cpu"]
DTYPES = {np.float32: TensorProto.FLOAT, np.int64: TensorProto.INT64, np.bool_: TensorProto.BOOL}


def nms_model(center: int, *limits: float) -> onnx.ModelProto:
    names = ("most", "iou", "score")[: len(limits)]
    values = [np.array(v, np.int64 if k == 0 else np.float32) for k, v in enumerate(limits)]
    node = helper.make_node(
        "NonMaxSuppression", ["boxes", "scores", *names], ["rows"], "nms", center_point_box=center
    )
    return model(
        [node],
        {"boxes": ("N", None, 4), "scores": ("N", None, None)},
        {"rows": (TensorProto.INT64, (None, 3))},
        dict(zip(names, values, strict=True)),
    )


def model(nodes, inputs, outputs, constants=None, dtype=TensorProto.FLOAT) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, dtype, shape) for name, shape in inputs.items()],
        [info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def shapes_of(feeds: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in feeds.items()}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("limits", [(3, 0.3), (100, 0.5, 0.25), (7, 0.0, 0.9), (0, 0.5)])
def test_nms_selects_what_onnxruntime_selects(target: str, center: int, limits) -> None:
    proto = nms_model(center, *limits)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    rng = np.random.default_rng(len(limits))
    for images, classes, count in ((1, 1, 1), (2, 3, 31), (1, 2, 257)):
        corners = rng.uniform(0, 1, (images, count, 2, 2)) + rng.uniform(
            0, 4, (images, count, 1, 2)
        )
        feeds = {
            "boxes": corners.reshape(images, count, 4).astype(np.float32),
            "scores": rng.random((images, classes, count), np.float32),
        }
        exe = cnnir.compile(proto, target=target, shapes=shapes_of(feeds))
        assert exe.output_names == ["rows"]
        np.testing.assert_array_equal(exe.run(feeds)["rows"], session.run(None, feeds)[0])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("center", [0, 1])
def test_nms_with_ties_empty_boxes_and_no_limit(target: str, center: int) -> None:
    rng = np.random.default_rng(center)
    feeds = {  # on a coarse grid: equal scores and boxes, sides of 0, or below 0 by the centre
        "boxes": (rng.integers(-1, 5, (2, 60, 4)) / 4).astype(np.float32),
        "scores": (rng.integers(-3, 4, (2, 3, 60)) / 4).astype(np.float32),
    }
    for limits in ((2**63 - 1, 0.0), (2**63 - 1, 1.0), (9, 0.25, 0.25), (-1, 0.5)):
        proto = nms_model(center, *limits)
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        exe = cnnir.compile(proto, target=target, shapes=shapes_of(feeds))
        np.testing.assert_array_equal(exe.run(feeds)["rows"], session.run(None, feeds)[0])


def test_a_nan_score_is_never_selected() -> None:
    feeds = {
        "boxes": np.array([[[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]], np.float32),
        "scores": np.array([[[0.5, np.nan, 0.7]]], np.float32),
    }
    for target in TARGETS:
        exe = cnnir.compile(nms_model(0, 9, 0.5), target=target, shapes=shapes_of(feeds))
        np.testing.assert_array_equal(exe.run(feeds)["rows"], [[0, 0, 2], [0, 0, 0]])


@pytest.mark.parametrize("target", TARGETS)
def test_a_new_batch_has_its_own_length(target: str) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], "nz")
    proto = model([node], {"x": ("N", 5)}, {"y": (TensorProto.INT64, (2, None))})
    exe = cnnir.compile(proto, target=target)
    for batch in (1, 3, 1):
        x = np.random.default_rng(batch).integers(0, 2, (batch, 5)).astype(np.float32)
        np.testing.assert_array_equal(exe(x), np.array(np.nonzero(x)))
        graph = cnnir.load(proto, shapes={"x": x.shape})
        raw = cnnir.evaluate(graph, [x])
        assert raw[0].shape == (2, x.size) and graph.output_names == ["y", "y length"]
        np.testing.assert_array_equal(trimmed(graph, raw)["y"], exe(x))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (7,), (3, 1, 5), (2, 0)])
def test_nonzero_is_numpys(target: str, dtype, shape: tuple[int, ...]) -> None:
    node = helper.make_node("NonZero", ["x"], ["y"], "nz")
    outputs = {"y": (TensorProto.INT64, (None, None))}
    proto = model([node], {"x": shape}, outputs, dtype=DTYPES[dtype])
    x = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    got = cnnir.compile(proto, target=target)(x)
    np.testing.assert_array_equal(got, np.array(np.nonzero(np.atleast_1d(x))))
    assert got.flags.c_contiguous


def test_such_a_value_is_refused_inside_the_graph() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"], "nz"),
        helper.make_node("Transpose", ["at"], ["y"], "turn", perm=[1, 0]),
    ]
    proto = model(nodes, {"x": (7,)}, {"y": (TensorProto.INT64, (None, 1))})
    with pytest.raises(cnnir.UnsupportedError, match=r"only an output.*\n?.*turn"):
        cnnir.load(proto)


def branching(constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    def branch(operand: str) -> onnx.GraphProto:
        node = helper.make_node("NonZero", [operand], [f"of_{operand}"])
        info = helper.make_tensor_value_info(f"of_{operand}", TensorProto.INT64, None)
        return helper.make_graph([node], operand, [], [info])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("x"), else_branch=branch("z"))
    inputs = {name: shape for name, shape in {"x": (5,), "z": (5,), "c": ()}.items()
              if name not in constants}  # fmt: skip
    outputs = {"y": (TensorProto.INT64, None)}
    return model([node], inputs, outputs, constants, TensorProto.BOOL)


def test_a_branch_may_give_such_a_value_a_choice_of_two_may_not() -> None:
    x = np.array([False, True, False, True, False])
    exe = cnnir.compile(branching({"c": np.array(True)}))
    np.testing.assert_array_equal(exe(x=x, z=~x), [[1, 3]])
    with pytest.raises(cnnir.UnsupportedError, match="If: an operand is as long as"):
        cnnir.load(branching({}))


def test_a_loop_may_not_collect_such_values() -> None:
    info, kind = helper.make_tensor_value_info, TensorProto.INT64
    nodes = [
        helper.make_node("NonZero", ["x"], ["s"]),
        helper.make_node("Identity", ["going"], ["still"]),
    ]
    inputs = [info("step", kind, ()), info("going", TensorProto.BOOL, ())]
    body = helper.make_graph(
        nodes, "body", inputs, [info("still", TensorProto.BOOL, ()), info("s", kind, None)]
    )
    node = helper.make_node("Loop", ["trips", "go"], ["y"], body=body)
    constants = {"trips": np.array(2), "go": np.array(True)}
    with pytest.raises(cnnir.UnsupportedError, match="Loop: an operand is as long as"):
        cnnir.load(model([node], {"x": (5,)}, {"y": (kind, None)}, constants))


def test_names_of_lengths_make_way() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["y"]),
        helper.make_node("Relu", ["x"], ["y length"]),
    ]
    infos = {"y length": (TensorProto.FLOAT, (5,)), "y": (TensorProto.INT64, (1, None))}
    exe = cnnir.compile(model(nodes, {"x": (5,)}, infos))
    assert exe.output_names == ["y length", "y"]


@pytest.mark.parametrize("trim", ["5", "{0: (7, 1)}", "{0: (1, 2)}", "{1: (0, 0)}", "{'a': 3}"])
def test_trims_that_make_no_sense_are_refused(trim: str) -> None:
    written = "graph @g(%x: f32[5]) {\n  %n, %c = nonzero(%x) : i64[1,5], i64[]\n  return %n, %c"
    with pytest.raises(cnnir.ParseError):
        cnnir.parse(f"{written} trim {trim}\n}}")
    graph = cnnir.parse(f"{written} as ['a', 'b trim {{0: (1, 1)}}']\n}}")
    assert graph.trims == {} and cnnir.parse(str(graph)).output_names == graph.output_names
    graph.trims = {0: (1, 2)}
    with pytest.raises(cnnir.IRError, match="along axis 2 of"):
        graph.verify()


def test_trims_survive_text_and_clone() -> None:
    graph = cnnir.parse("graph @g(%x: f32[5]) {\n  %n, %c = nonzero(%x) : i64[1,5], i64[]\n"
                        "  return %n, %c as ['y', 'y.length'] trim {0: (1, 1)}\n}")  # fmt: skip
    assert cnnir.parse(str(graph)).trims == graph.clone().trims == {0: (1, 1)}
    exe = cnnir.compile(graph)
    np.testing.assert_array_equal(exe(np.array([0, 1, 0, 2, 0], np.float32)), [[1, 3]])


def test_a_length_is_an_i64_along_an_axis() -> None:
    graph = cnnir.Graph()
    x = graph.input(cnnir.TensorType("f32", (5,)), "x")
    with pytest.raises(cnnir.IRError, match=r"output 'y': length f32\[5\] along axis 0"):
        graph.output(x, "y", length=x)
