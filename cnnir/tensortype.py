"""TensorType: an element type and a static shape, written `f32[1,3,8,8]`.

Also the one table of element types and their numpy names. f16 and bf16 are storage types:
arithmetic on them is done in f32 and rounded once at the end of an op.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from cnnir.errors import IRError, LimitError

DTYPES: dict[str, np.dtype] = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
}
_SHORT = {dtype: name for name, dtype in DTYPES.items()}
MAX_RANK = 64
MAX_BYTES = 1 << 47
"""No tensor is larger: what machines can address, and index arithmetic in 64 bits cannot wrap."""


def is_float(dtype: str) -> bool:
    """Whether `dtype` is a floating-point type."""
    return dtype in ("f16", "bf16", "f32", "f64")


def is_int(dtype: str) -> bool:
    """Whether `dtype` is an integer type, signed or not (bool is neither float nor int)."""
    return dtype[0] in "iu"


def is_signed(dtype: str) -> bool:
    """Whether `dtype` is a signed integer type."""
    return dtype[0] == "i"


def compute_dtype(dtype: str) -> str:
    """The type arithmetic on `dtype` is done in: f32 for the 16-bit floats, else itself."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def short_dtype(dtype: np.dtype) -> str:
    """The cnnir name of a numpy dtype, whatever its byte order; IRError when there is none."""
    name = _SHORT.get(np.dtype(dtype).newbyteorder("="))
    if name is None:
        raise IRError(f"no element type for numpy dtype {dtype}; there are {', '.join(DTYPES)}")
    return name


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape. Dimensions are Python ints >= 0."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise IRError(f"unknown element type {self.dtype!r}; there are {', '.join(DTYPES)}")
        if len(self.shape) > MAX_RANK:
            raise IRError(f"rank {len(self.shape)} exceeds the limit of {MAX_RANK}")
        if any(type(d) is not int or d < 0 for d in self.shape):
            raise IRError(f"dimensions must be integers >= 0, got {self.shape}")
        # an empty tensor may still have axes whose product wraps: 0 counts as 1
        if math.prod(d or 1 for d in self.shape) * self.numpy.itemsize > MAX_BYTES:
            raise LimitError(f"{self} is too large: the limit is {MAX_BYTES} bytes a tensor")

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of an element."""
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the row-major array."""
        return self.size * self.numpy.itemsize

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        """The same element type with another shape."""
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: str) -> TensorType:
        """The same shape with another element type."""
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    @staticmethod
    def parse(text: str) -> TensorType:
        """Read `f32[1,3,8,8]`; IRError when it is not a type."""
        match = re.fullmatch(r"(\w+)\[([\d,]*)\]", text)
        if not match:
            raise IRError(f"{text!r} is not a type; wanted something like f32[1,3,8,8]")
        return TensorType(match[1], tuple(int(d) for d in match[2].split(",") if d))

    @staticmethod
    def of(array: np.ndarray) -> TensorType:
        """The type of a numpy array."""
        return TensorType(short_dtype(array.dtype), tuple(int(d) for d in array.shape))
