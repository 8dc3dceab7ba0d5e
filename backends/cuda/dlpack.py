"""DLPack capsules: how arrays are handed from one library to another, in the layout of `dlpack.h`.

Source: https://dmlc.github.io/dlpack/latest/c_api.html and python_spec.html. Only the form before
version 1.0 is made and asked for, which everybody takes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from cnnir.tensortype import TensorType

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_BF16 = 4


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


_capsule_of = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p
)(("PyCapsule_New", ctypes.pythonapi))
_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
# for a capsule that is going, which must not be counted as used again
_still = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer_of_going = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_NAME = b"dltensor"


@dataclass(frozen=True)
class Described:
    """An array as a capsule has it. strides count elements; None for row-major."""

    address: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None


def read(capsule: Any) -> Described:
    """What a capsule describes, which must be kept for as long as that is used.

    Raises TypeError for element types that numpy and ml_dtypes do not have.
    """
    tensor = _Managed.from_address(_pointer_in(capsule, _NAME)).tensor
    shape = tuple(tensor.shape[: tensor.rank])
    strides = tuple(tensor.strides[: tensor.rank]) if tensor.strides else None
    dtype = _dtype(tensor.code, tensor.bits, tensor.lanes)
    return Described((tensor.data or 0) + tensor.offset, dtype, shape, strides)


def capsule(address: int, type: TensorType, device: tuple[int, int], owner: Any) -> Any:
    """A capsule for a row-major array; `owner` lives as long as whoever takes it has it.

    Raises BufferError for element types that DLPack does not have.
    """
    tensor = _Tensor(address, *device, type.rank, *_code(type.numpy), 1)
    sizes, shape = (ctypes.c_int64 * type.rank), type.shape
    strides = [int(np.prod(shape[k + 1 :])) for k in range(type.rank)]
    tensor.shape, tensor.strides = sizes(*shape), sizes(*strides)
    managed = _Managed(tensor, None, _give_back)
    at = ctypes.addressof(managed)
    _lent[at] = managed, owner
    return _capsule_of(at, _NAME, ctypes.cast(_drop, ctypes.c_void_p))


_lent: dict[int, tuple[_Managed, Any]] = {}
"""What others have: address of the structure -> it, and who owns the memory."""


@_Deleter
def _give_back(at: int) -> None:
    _lent.pop(at, None)


@ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
def _drop(going: int) -> None:
    """A capsule goes; if nobody took what is in it (they rename it), that goes too."""
    if _still(going, _NAME):
        _lent.pop(_pointer_of_going(going, _NAME), None)


def _code(dtype: np.dtype) -> tuple[int, int]:
    """(code, bits) of an element type."""
    if dtype == ml_dtypes.bfloat16:
        return _BF16, 16
    if dtype.kind not in _CODES or dtype.type.__module__ != "numpy":
        raise BufferError(f"DLPack has no element type {dtype}")
    return _CODES[dtype.kind], 8 * dtype.itemsize


def _dtype(code: int, bits: int, lanes: int) -> np.dtype:
    if (code, bits, lanes) == (_BF16, 16, 1):
        return np.dtype(ml_dtypes.bfloat16)
    kinds = {number: kind for kind, number in _CODES.items()}
    if code not in kinds or lanes != 1 or bits % 8:
        raise TypeError(f"element type {code} of {bits} bits and {lanes} lanes")
    return np.dtype(f"{kinds[code]}{bits // 8}")
