"""Weights taken out of a file before it is parsed: the same models and errors, less memory."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnnir
from cnnir.frontends import onnx_model, onnx_wire
from cnnir.frontends.onnx_wire import LARGE, FileContent, GivenContent, Malformed, stripped


def model(*initializers: onnx.TensorProto) -> onnx.ModelProto:
    """Its outputs are y = relu(x), and every initializer."""
    port = helper.make_tensor_value_info
    ports = [port(name, TensorProto.FLOAT, [3]) for name in "xy"]
    ports += [port(t.name, t.data_type, t.dims) for t in initializers]
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tensors(seed: int = 0) -> list[onnx.TensorProto]:
    """Large and small ones, of several types, one of them not in raw data."""
    rng = np.random.default_rng(seed)
    arrays = [
        rng.standard_normal((70, 80)).astype(np.float32),
        rng.standard_normal((2, 3)).astype(np.float32),
        rng.integers(0, 2, (200, 100)).astype(bool),
        rng.integers(-9, 9, (90, 90)),
        rng.standard_normal((150, 60)).astype(np.float16),
    ]
    made = [numpy_helper.from_array(a, f"t{i}") for i, a in enumerate(arrays)]
    made.append(helper.make_tensor("t5", TensorProto.FLOAT, [5000], rng.standard_normal(5000)))
    return made


def same(got: cnnir.Graph, wanted: cnnir.Graph) -> None:
    assert str(got) == str(wanted) and got.params.keys() == wanted.params.keys()
    for name, array in got.params.items():
        assert array.dtype == wanted.params[name].dtype
        np.testing.assert_array_equal(array, wanted.params[name])


def test_a_model_is_the_same_from_a_file_from_bytes_and_parsed(tmp_path: Path) -> None:
    proto = model(*tensors())
    onnx.save(proto, tmp_path / "m.onnx")
    wanted = cnnir.load(proto)
    for source in (tmp_path / "m.onnx", proto.SerializeToString()):
        same(cnnir.load(source), wanted)
    got = cnnir.load(tmp_path / "m.onnx")
    for tensor in tensors():
        np.testing.assert_array_equal(got.params[tensor.name], numpy_helper.to_array(tensor))


def test_what_is_left_is_small_and_parses(tmp_path: Path) -> None:
    proto = model(*tensors())
    data = proto.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data)
    with open(tmp_path / "m.onnx", "rb") as file:
        for content in (GivenContent(data), FileContent(file.fileno())):
            rest, stored = stripped(content)
            sizes = [None if raw is None else raw.size for raw in stored]
            assert sizes == [70 * 80 * 4, None, 200 * 100, 90 * 90 * 8, 150 * 60 * 2, None]
            for raw, tensor in zip(stored, proto.graph.initializer, strict=True):
                assert raw is None or raw.array().tobytes() == tensor.raw_data
            parsed = onnx.load_model_from_string(rest)
            for tensor, raw in zip(proto.graph.initializer, stored, strict=True):
                if raw is not None:
                    tensor.ClearField("raw_data")
            assert parsed == proto
            proto = model(*tensors())


def test_arrays_of_a_file_are_read_only_and_their_own(tmp_path: Path) -> None:
    proto = model(*tensors())
    onnx.save(proto, tmp_path / "m.onnx")
    graph = cnnir.load(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"")  # a map of the file would be gone with it
    wanted = cnnir.load(proto)
    same(graph, wanted)
    with pytest.raises(ValueError, match="read-only"):
        graph.params["t0"][0, 0] = 1


def test_fields_given_twice_count_as_protobuf_says() -> None:
    """Of a scalar field the last one, and of a message both, one after the other."""
    first, second = tensors(1)[:2], tensors(2)[3:]
    data = model(*first).SerializeToString()
    more = onnx.ModelProto()
    more.graph.initializer.extend(second)
    doubled = data + more.SerializeToString()
    same(cnnir.load(doubled), cnnir.load(onnx.load_model_from_string(doubled)))
    _, stored = stripped(GivenContent(doubled))
    assert len(stored) == len(first) + len(second)

    tensor, other = tensors(3)[0], tensors(4)[0]
    again = tensor.SerializeToString()
    raw = onnx.TensorProto()
    raw.raw_data = other.raw_data
    merged = onnx.TensorProto.FromString(again + raw.SerializeToString())
    proto = model(merged)
    graph = proto.graph.SerializeToString()
    whole = again + raw.SerializeToString()
    replaced = graph.replace(field(5, merged.SerializeToString()), field(5, whole))
    assert replaced != graph
    rest = onnx.ModelProto()
    rest.CopyFrom(proto)
    rest.ClearField("graph")
    got = cnnir.load(rest.SerializeToString() + field(7, replaced))
    np.testing.assert_array_equal(got.params["t0"], numpy_helper.to_array(other))


def field(number: int, value: bytes) -> bytes:
    return onnx_wire._varint(number * 8 + 2) + onnx_wire._varint(len(value)) + value


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_mean_what_protobuf_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without weights taken out: the same graph or the same error."""
    rng = random.Random(seed)
    tensor = numpy_helper.from_array(np.zeros((LARGE // 4, 1), np.float32), "t0")
    data = model(tensor, tensors()[1]).SerializeToString()
    start = data.index(bytes(1000))
    places = [*range(start), *range(start + LARGE, len(data))]

    def outcome(bytes_: bytes) -> tuple[str, object]:
        try:
            graph = cnnir.load(bytes_)
            return "graph", (str(graph), {k: a.tobytes() for k, a in graph.params.items()})
        except cnnir.Error as error:
            return type(error).__name__, str(error)

    def refuse(content):
        raise Malformed

    kinds = set()
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2))):
            changed[rng.choice(places)] = rng.randrange(256)
        if rng.random() < 0.2:
            changed = changed[: rng.choice(places)]
        with monkeypatch.context() as patch:
            patch.setattr(onnx_model, "stripped", refuse)
            wanted = outcome(bytes(changed))
        assert outcome(bytes(changed)) == wanted
        kinds.add(wanted[0])
    assert {"graph", "ModelError"} <= kinds


@pytest.mark.parametrize(
    "data",
    [b"\x3a", b"\x3a\x80", b"\x3a\x05ab", b"\x80" * 11, b"\x3a\x02\x2a\x09", b"\x09"],
)
def test_what_is_not_the_wire_format_is_left_to_protobuf(data: bytes) -> None:
    with pytest.raises(Malformed):
        stripped(GivenContent(data))
    with pytest.raises(cnnir.ModelError, match="do not parse"):
        cnnir.load(data)


def test_a_file_that_shrinks_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(*tensors()), path)
    with open(path, "rb") as file:
        _, stored = stripped(FileContent(file.fileno()))
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(cnnir.ModelError, match="has become shorter"):
            stored[3].array()


def test_import_needs_no_copy_of_the_weights(tmp_path: Path) -> None:
    large = numpy_helper.from_array(np.ones((1 << 21,), np.float32), "t0")
    onnx.save(model(large), tmp_path / "m.onnx")
    cnnir.load(tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        graph = cnnir.load(tmp_path / "m.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert graph.params["t0"].nbytes == 8 << 20
    assert peak < 2 << 20  # the array is memory of the system's
