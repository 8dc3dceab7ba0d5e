"""Tensors of ONNX models that contradict themselves, dense and sparse, and their messages."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import model, node, refused

from cnnir import errors


def _tensor(dims=(2, 3), kind=TensorProto.FLOAT, **fields):
    return TensorProto(name="w", dims=dims, data_type=kind, **fields)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (_tensor(raw_data=b"\0" * 28), ("raw_data", "28 bytes", "24")),
        (_tensor(raw_data=b"\0" * 23), ("23 bytes",)),
        (_tensor(), ("0 bytes", "24")),
        (_tensor(float_data=[0.0] * 7), ("float_data", "7 elements", "6")),
        (_tensor(float_data=[0.0] * 6, raw_data=b"\0" * 24), ("data in both",)),
        (_tensor(int32_data=[0] * 6), ("int32_data", "wanted float_data")),
        (_tensor(kind=0, raw_data=b"\0" * 24), ("element type 0 (undefined)",)),
        (_tensor(kind=77, raw_data=b"\0" * 24), ("element type 77",)),
        (_tensor((2**32, 2**32)), ()),
        (_tensor((-1, 3)), ("negative dimension",)),
        (_tensor((1,) * 100, float_data=[1.0]), ("rank 100",)),
        (_tensor(kind=TensorProto.UINT8, int32_data=[0, 1, 2, 3, 4, 300]), ("range of uint8",)),
        (_tensor(kind=TensorProto.FLOAT16, int32_data=[0, 1, 2, 3, 4, -1]), ("range of uint16",)),
        (_tensor(segment=TensorProto.Segment(begin=0, end=1)), ("segments",)),
    ],
)
def test_tensors(tensor, words):
    proto = model([node("Add", ["x", "w"])])
    proto.graph.initializer.append(tensor)
    error = errors.LimitError if tensor.dims[0] == 2**32 else errors.ModelError
    refused(proto, "initializer 'w'", *words, error=error)


@pytest.mark.parametrize(
    ("indices", "shape", "words"),
    [
        ([999, 1], [2, 3], ("out of range",)),
        ([-1, 1], [2, 3], ("out of range",)),
        ([1, 1], [2, 3], ("twice",)),
        ([[0, 3], [1, 1]], [2, 3], ("out of range",)),
        ([1, 2, 3], [2, 3], ("3", "2 values")),
        ([1, 2], [2**40], ("exceeds",)),
    ],
)
def test_sparse_tensors(indices, shape, words):
    data = numpy_helper.from_array(np.ones(2, np.float32), "w")
    places = numpy_helper.from_array(np.array(indices), "i")
    sparse = helper.make_sparse_tensor(data, places, shape)
    proto = model([node("Add", ["x", "w"])], sparse_initializer=[sparse])
    error = errors.LimitError if shape[0] > 2 else errors.ModelError
    refused(proto, "sparse initializer 'w'", *words, error=error)
