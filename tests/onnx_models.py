"""Small ONNX models for the tests of the importer, and the checks they share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnnir import errors
from cnnir.evaluate import evaluate
from cnnir.frontends.onnx_import import load
from cnnir.ir import Graph

F32 = TensorProto.FLOAT
RNG = np.random.default_rng(7)


def node(op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> Any:
    """A node; its name is the operator's in lower case unless given."""
    attributes.setdefault("name", op.lower())
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def info(name: str, shape: Sequence[Any] | None = (2, 3), kind: int = F32) -> Any:
    """A declared value."""
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    opset: int = 21,
    constants: dict[str, Any] | None = None,
    **graph: Any,
) -> onnx.ModelProto:
    """A model with x f32[2,3] in and y out, unless said otherwise."""
    proto = helper.make_graph(
        list(nodes),
        "test",
        [info("x")] if inputs is None else list(inputs),
        [helper.make_empty_tensor_value_info("y")] if outputs is None else list(outputs),
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
        **graph,
    )
    return helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(10, onnx.IR_VERSION)
    )


def imported(proto: onnx.ModelProto, **arguments: Any) -> Graph:
    """The verified graph of a model, taken through its bytes as a file would be."""
    graph = load(proto.SerializeToString(), **arguments)
    graph.verify()
    return graph


def values(proto: onnx.ModelProto, *inputs: Any, **arguments: Any) -> list[np.ndarray]:
    """What an imported model computes; shapes are those of the inputs."""
    named = {i.name for i in proto.graph.input} - {t.name for t in proto.graph.initializer}
    names = [i.name for i in proto.graph.input if i.name in named]
    shapes = {n: np.shape(x) for n, x in zip(names, inputs, strict=True)}
    return evaluate(imported(proto, shapes=shapes, **arguments), [np.asarray(x) for x in inputs])


def refused(
    proto: onnx.ModelProto | bytes,
    *words: str,
    error: type[errors.Error] = errors.ModelError,
    **arguments: Any,
) -> str:
    """The message that a model is refused with: of this class, holding these words in order."""
    with pytest.raises(errors.Error) as caught:
        load(proto if isinstance(proto, bytes) else proto.SerializeToString(), **arguments)
    message = str(caught.value)
    assert type(caught.value) is error, (type(caught.value), message)
    assert re.search(".*".join(re.escape(w) for w in words), message, re.S), message
    return message


def ops(graph: Graph) -> list[str]:
    """The names of the op nodes, in order."""
    return [n.name for n in graph.order() if n.kind == "op"]


def random(*shape: int) -> np.ndarray:
    """Normally distributed f32."""
    return RNG.standard_normal(shape).astype(np.float32)


def single(
    op: str, arrays: Any, attributes: dict[str, Any], opset: int, constant: set[int], outputs: int
) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """A model of one node; operands at the positions in `constant` are initializers."""
    names = ["" if a is None else f"v{i}" for i, a in enumerate(arrays)]
    given = [(n, a) for n, a in zip(names, arrays, strict=True) if n]
    inputs = [
        info(n, a.shape, helper.np_dtype_to_tensor_dtype(a.dtype))
        for i, (n, a) in enumerate(given)
        if i not in constant
    ]
    results = [f"y{i}" for i in range(outputs)]
    proto = model(
        [node(op, names, results, **attributes)],
        inputs,
        [helper.make_empty_tensor_value_info(r) for r in results],
        opset,
        {n: a for i, (n, a) in enumerate(given) if i in constant},
    )
    return proto, [a for i, (_, a) in enumerate(given) if i not in constant]


def against_runtime(
    op: str, arrays: Any, attributes: dict[str, Any], opset: int, outputs: int = 1
) -> None:
    """A node of this operator computes what ONNX Runtime computes; all operands but x constant."""
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    count = sum(a is not None for a in arrays)
    proto, feeds = single(op, arrays, attributes, opset, set(range(1, count)), outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = session.run(
        None, dict(zip((i.name for i in session.get_inputs()), feeds, strict=True))
    )
    for got, wanted in zip(values(proto, *feeds), expected, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)
