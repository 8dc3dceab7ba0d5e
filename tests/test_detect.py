"""Results as long as the data says: against onnxruntime and numpy, trimmed, refused inside."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnnir

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
