"""compile and Executable: calling, inputs, batches, threads. Models are made with onnx.helper."""

import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnnir

TARGETS = ["cpu", "reference"]


def small_model(batch: int | str = "N") -> onnx.ModelProto:
    """Conv 3->5, Relu, global average: x[N,3,9,7] -> y[N,5,1,1]."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((5, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], "act"),
            helper.make_node("GlobalAveragePool", ["r"], ["y"], "pool"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 9, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5, 1, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def batch_of(size: int) -> np.ndarray:
    return np.random.default_rng(size).standard_normal((size, 3, 9, 7)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    graph = cnnir.load(small_model(), shapes={"x": x.shape})
    return cnnir.evaluate(graph, [x], dtype="f64")[0]


@pytest.mark.parametrize("target", TARGETS)
def test_calls_by_position_name_and_dict(target: str) -> None:
    exe = cnnir.compile(small_model(), target=target)
    x = batch_of(1)
    y = exe(x)
    np.testing.assert_allclose(y, expected(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(exe(x=x), y)
    assert list(exe.run({"x": x})) == ["y"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_new_batch_is_specialised_once(target: str) -> None:
    exe = cnnir.compile(small_model(), target=target)
    for size in (1, 4, 4, 1):
        x = batch_of(size)
        np.testing.assert_allclose(exe(x), expected(x), rtol=1e-5, atol=1e-6)
    assert len(exe._known) == 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :, ::-1][:, :, ::-1],
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: np.frombuffer(b"z" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
    ],
    ids=["strided", "fortran", "big-endian", "misaligned"],
)
def test_any_memory_layout_of_inputs(target: str, change) -> None:
    exe = cnnir.compile(small_model(), target=target)
    x = batch_of(1)
    given = change(x)
    given.flags.writeable = False
    np.testing.assert_array_equal(exe(given), exe(x))


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_are_fresh_and_inputs_untouched(target: str) -> None:
    exe = cnnir.compile(small_model(), target=target)
    x = batch_of(1)
    before = x.copy()
    first = exe(x)
    kept = first.copy()
    exe(batch_of(1) * 3)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "missing inputs"),
        ({"x": batch_of(1), "z": batch_of(1)}, "unknown inputs"),
        ({"x": batch_of(1).astype(np.float64)}, "dtype float64, wanted float32"),
        ({"x": batch_of(1)[0]}, r"shape \(3, 9, 7\), wanted"),
    ],
)
def test_wrong_inputs_are_named(target: str, feeds, words: str) -> None:
    exe = cnnir.compile(small_model(), target=target)
    with pytest.raises(cnnir.InputError, match=words):
        exe.run(feeds)


def test_a_static_model_refuses_another_batch() -> None:
    exe = cnnir.compile(small_model(batch=1))
    with pytest.raises(cnnir.Error, match="x"):
        exe(batch_of(2))


def test_unknown_targets_and_threads() -> None:
    with pytest.raises(cnnir.BackendError, match="there is no target 'tpu'"):
        cnnir.compile(small_model(), target="tpu")
    with pytest.raises(cnnir.BackendError, match="threads must be at least 1"):
        cnnir.compile(small_model(), threads=0)


def test_callers_in_several_threads_get_their_own_results() -> None:
    exe = cnnir.compile(small_model(), threads=2)
    inputs = [batch_of(1) * k for k in range(1, 9)]
    wanted = [exe(x) for x in inputs]
    got: list[list[np.ndarray]] = [[] for _ in inputs]

    def call(k: int) -> None:
        got[k] = [exe(inputs[k]) for _ in range(20)]

    workers = [threading.Thread(target=call, args=(k,)) for k in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for results, want in zip(got, wanted, strict=True):
        assert len(results) == 20 and all(np.array_equal(r, want) for r in results)


def test_a_graph_compiles_without_being_changed() -> None:
    graph = cnnir.load(small_model())
    before = str(graph)
    exe = cnnir.compile(graph, target="cpu")
    assert str(graph) == before and str(exe.graph) != before
    x = batch_of(1)
    np.testing.assert_allclose(exe(x), expected(x), rtol=1e-5, atol=1e-6)
