"""Statements and buffers of the loop language. It knows nothing of LLVM or CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from cnnir.loops.expr import Expr, Symbol, Var
from cnnir.tensortype import TensorType, compute_dtype


class Layout(Protocol):
    """Where the elements of a tensor lie. `index` holds Python ints or index expressions."""

    @property
    def lanes(self) -> int:
        """Lanes of a block of channels, 0 for a layout without blocks."""

    def offset(self, shape: tuple[int, ...], index: Sequence[Any]) -> Any:
        """The position of an element, in elements."""

    def size(self, shape: tuple[int, ...]) -> int:
        """Elements of storage."""

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array, as one axis."""

    def unpack(self, storage: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array that a storage holds."""


class RowMajor:
    """The layout of arrays, and of scratch memory."""

    lanes = 0

    def offset(self, shape: tuple[int, ...], index: Sequence[Any]) -> Any:
        """The position of an element."""
        flat: Any = 0
        for i, extent in zip(index, shape, strict=True):
            flat = flat * extent + i
        return flat

    def size(self, shape: tuple[int, ...]) -> int:
        """Elements of storage."""
        return prod(shape)

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array, as one axis."""
        return np.ascontiguousarray(array).reshape(-1)

    def unpack(self, storage: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array that a storage holds."""
        return storage[: prod(shape)].reshape(shape)


def storage_of(layout: Layout, type: TensorType) -> str:
    """The type of elements in memory: the tensor's, unless the layout keeps them in another."""
    return getattr(layout, "storage", "") or type.dtype


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory that a kernel reads or writes: an operand, a result, or scratch of its own."""

    name: str
    type: TensorType
    layout: Layout
    space: str = "operand"
    """operand, result or scratch."""
    byte: int = 0
    """Where in the scratch it starts."""

    @property
    def dtype(self) -> str:
        """The type of its elements as values: f32 for 16-bit floats."""
        return compute_dtype(self.type.dtype)

    @property
    def storage(self) -> str:
        """The type of its elements in memory."""
        return storage_of(self.layout, self.type)

    @property
    def size(self) -> int:
        """Elements of storage."""
        return self.layout.size(self.type.shape)

    def offset(self, index: Sequence[Any]) -> Any:
        """The position of an element."""
        return self.layout.offset(self.type.shape, index)


@dataclass(eq=False, slots=True)
class For:
    """for var in range(start, stop); kind is serial or vector.

    A vector loop runs over the lanes of its variable: [0, extent) with all bounds constant.
    """

    var: Var
    start: Expr
    stop: Expr
    body: list[Any]

    @property
    def kind(self) -> str:
        """serial or vector."""
        return "vector" if self.var.lanes else "serial"


@dataclass(eq=False, slots=True)
class Let:
    """Evaluate `value` here; `name` stands for it from here to the end of the block.

    `name` may be a symbol, a variable, or any expression whose value this is.
    """

    name: Expr
    value: Expr


@dataclass(eq=False, slots=True)
class Variable:
    """A scalar that changes."""

    name: str
    dtype: str


@dataclass(eq=False, slots=True)
class Set:
    """Give a variable a value; the first Set of a variable declares it."""

    variable: Variable
    value: Expr


@dataclass(eq=False, slots=True)
class Get:
    """Bind a symbol to the present value of a variable or of an element of a written buffer."""

    symbol: Symbol
    variable: Variable | None = None
    buffer: Buffer | None = None
    offset: Expr | None = None


@dataclass(eq=False, slots=True)
class Store:
    """buffer[offset] = value, rounded to what the buffer holds."""

    buffer: Buffer
    offset: Expr
    value: Expr


@dataclass(eq=False, slots=True)
class If:
    """The body runs where the condition holds."""

    condition: Expr
    body: list[Any]


Statement = For | Let | Set | Get | Store | If
