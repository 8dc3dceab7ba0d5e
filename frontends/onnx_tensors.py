"""Reads TensorProto and SparseTensorProto into numpy arrays, trusting nothing they say.

Sizes are compared in Python integers before memory is allocated. Element types that cnnir does
not have are UnsupportedError; everything that contradicts itself is ModelError.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import SparseTensorProto, TensorProto

from cnnir.errors import LimitError, ModelError, UnsupportedError, quoted
from cnnir.frontends.onnx_external import read_external
from cnnir.frontends.onnx_wire import RawData
from cnnir.tensortype import DTYPES, MAX_RANK

ELEMENT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "f32",
    TensorProto.UINT8: "u8",
    TensorProto.INT8: "i8",
    TensorProto.UINT16: "u16",
    TensorProto.INT16: "i16",
    TensorProto.INT32: "i32",
    TensorProto.INT64: "i64",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT16: "f16",
    TensorProto.DOUBLE: "f64",
    TensorProto.UINT32: "u32",
    TensorProto.UINT64: "u64",
    TensorProto.BFLOAT16: "bf16",
}
_NAMES: dict[int, str] = {int(code): name.lower() for name, code in TensorProto.DataType.items()}
_STORAGE = {"f32": "float_data", "f64": "double_data", "i64": "int64_data"}
_STORAGE |= dict.fromkeys(("u32", "u64"), "uint64_data")
_FIELDS = ("float_data", "double_data", "int64_data", "uint64_data", "int32_data", "string_data")


class TensorReader:
    """Reads the tensors of one model: knows its folder (None when there is none) and the limit."""

    def __init__(self, folder: str | None, max_bytes: int, files: list[str] | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.files = [] if files is None else files
        """Names of the files with external data that were read."""

    def read(self, tensor: TensorProto, what: str, raw: RawData | None = None) -> np.ndarray:
        """The array of a dense tensor; `what` names it in messages.

        raw: where its raw data is, if that was taken out of the tensor.
        """
        if tensor.HasField("segment"):
            raise ModelError(f"{what}: a tensor in segments, wanted it in one piece")
        dtype = element_type(tensor.data_type, what)
        shape = self.shape(tensor.dims, dtype, what)
        filled = [field for field in _FIELDS if len(getattr(tensor, field))]
        data = b"" if raw else tensor.raw_data  # each time it is asked for, this is a copy
        size = raw.size if raw else len(data)
        if size:
            filled.append("raw_data")
        external = tensor.data_location == TensorProto.EXTERNAL
        if external and filled:
            raise ModelError(f"{what}: both external data and {filled[0]} are given")
        if len(filled) > 1:
            raise ModelError(f"{what}: data in both {' and '.join(filled)}, wanted one of them")
        nbytes = math.prod(shape) * DTYPES[dtype].itemsize
        if external:
            entries = [(entry.key, entry.value) for entry in tensor.external_data]
            found: Any = read_external(self.folder, entries, nbytes, what)
            self.files.append(dict(entries)["location"])
        elif filled and filled[0] != "raw_data":
            return _from_field(tensor, filled[0], dtype, shape, what)
        else:
            if size != nbytes:
                raise ModelError(
                    f"{what}: raw_data has a size of {size} bytes, wanted {nbytes} for"
                    f" {dtype}{list(shape)}"
                )
            found = raw.array() if raw else data
        return _from_bytes(found, dtype, shape)

    def read_sparse(self, sparse: SparseTensorProto, what: str) -> np.ndarray:
        """The dense array of a sparse tensor."""
        what = f"sparse {what}"
        dtype = element_type(sparse.values.data_type, what)
        shape = self.shape(sparse.dims, dtype, what)
        values = self.read(sparse.values, f"{what} values")
        indices = self.read(sparse.indices, f"{what} indices")
        count = values.size
        if values.ndim != 1 or indices.dtype != np.int64:
            raise ModelError(f"{what}: values must have rank 1 and indices type i64")
        if indices.shape == (count, len(shape)) and count:
            if ((indices < 0) | (indices >= np.array(shape))).any():
                raise ModelError(f"{what}: indices are out of range for the shape {list(shape)}")
            indices = np.ravel_multi_index(tuple(indices.T), shape)
        elif indices.shape != (count,) and count:
            raise ModelError(f"{what}: indices of shape {list(indices.shape)} for {count} values")
        indices = indices.reshape(-1)
        if count and (indices.min() < 0 or indices.max() >= math.prod(shape)):
            raise ModelError(f"{what}: indices are out of range for the shape {list(shape)}")
        if np.unique(indices).size != indices.size:
            raise ModelError(f"{what}: indices name an element twice")
        dense = np.zeros(shape, DTYPES[dtype])
        dense.reshape(-1)[indices] = values
        return dense

    def shape(self, dims: Sequence[int], dtype: str, what: str) -> tuple[int, ...]:
        """Dimensions as a shape, within the limits of rank, sign and bytes."""
        if len(dims) > MAX_RANK:
            raise ModelError(f"{what}: rank {len(dims)} exceeds the limit of {MAX_RANK} dimensions")
        shape = tuple(int(d) for d in dims)
        if any(d < 0 for d in shape):
            raise ModelError(f"{what}: negative dimension in the shape {list(shape)}")
        if math.prod(shape) * DTYPES[dtype].itemsize > self.max_bytes:
            raise LimitError(
                f"{what}: a tensor of shape {list(shape)} exceeds max_bytes={self.max_bytes}"
            )
        return shape


def element_type(code: int, what: str) -> str:
    """The cnnir element type for an ONNX data type."""
    if code in ELEMENT_TYPES:
        return ELEMENT_TYPES[code]
    if code == TensorProto.UNDEFINED or code not in _NAMES:
        name = " (undefined)" if code == TensorProto.UNDEFINED else ""
        raise ModelError(f"{what}: there is no element type {code}{name}")
    raise UnsupportedError(f"element type {_NAMES[code]} ({what})")


def _from_bytes(raw: Any, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype == "bool":  # any other byte than 0 would be undefined behaviour in native code
        return (np.frombuffer(raw, np.uint8) != 0).reshape(shape)
    array = np.frombuffer(raw, DTYPES[dtype])
    if sys.byteorder == "big":
        array = array.byteswap()
    return array.reshape(shape)


def _from_field(
    tensor: TensorProto, field: str, dtype: str, shape: tuple[int, ...], what: str
) -> np.ndarray:
    wanted = _STORAGE.get(dtype, "int32_data")
    if field != wanted:
        raise ModelError(f"{what}: a tensor of type {dtype} stored in {field}, wanted {wanted}")
    data = getattr(tensor, field)
    if len(data) != math.prod(shape):
        raise ModelError(
            f"{what}: {field} has {len(data)} elements, wanted {math.prod(shape)} for"
            f" the shape {list(shape)}"
        )
    if dtype in ("f16", "bf16"):  # the bits, one number each
        bits = np.array(data, np.int64)
        _in_range(bits, np.dtype(np.uint16), field, what)
        return bits.astype(np.uint16).view(DTYPES[dtype]).reshape(shape)
    if dtype in ("f32", "f64"):
        return np.array(data, DTYPES[dtype]).reshape(shape)
    numbers = np.array(data, np.uint64 if field == "uint64_data" else np.int64)
    if dtype == "bool":
        return (numbers != 0).reshape(shape)
    _in_range(numbers, DTYPES[dtype], field, what)
    return numbers.astype(DTYPES[dtype]).reshape(shape)


def _in_range(numbers: np.ndarray, dtype: np.dtype, field: str, what: str) -> None:
    info = np.iinfo(dtype)
    if numbers.size and (int(numbers.min()) < info.min or int(numbers.max()) > info.max):
        raise ModelError(f"{what}: {field} holds a number outside the range of {dtype}")


def described(kind: str, name: str) -> str:
    """How messages call a tensor: its kind and its name, made printable."""
    return f"{kind} {quoted(name)}"
