"""Layouts of activations: row-major, and channels last, which is how tuned kernels read images.

A layout also says what an element is stored as. Values of f32 may lie in memory in 16 bits (their
`storage`): kernels compute in f32 all the same, and memory sees half the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cnnir.loops.axes import unflatten
from cnnir.loops.statements import RowMajor
from cnnir.tensortype import TensorType


@dataclass(frozen=True)
class Plain(RowMajor):
    """Row-major."""

    storage: str = ""
    """The type in memory, where it is not the value's own: f16 or bf16."""

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array, as one axis."""
        return np.ascontiguousarray(stored(array, self.storage)).reshape(-1)

    def columns(self, shape: tuple[int, ...]) -> int:
        """Elements of a row of the matrix that a tuned kernel writes."""
        return shape[-1]

    def element(self, shape: tuple[int, ...], row: Any, column: Any) -> tuple[Any, ...]:
        """The index of an element of that matrix."""
        return (*unflatten(row, shape[:-1]), column)

    def __str__(self) -> str:
        return f"plain {self.storage}".rstrip()


@dataclass(frozen=True)
class ChannelsLast:
    """[N, *spatial, C] for a tensor of shape [N, C, *spatial] with `lanes` channels, rank >= 3.

    To the kernel language this is a single block of all channels, so that neighbouring threads take
    neighbouring channels.
    """

    lanes: int
    storage: str = ""
    """The type in memory, where it is not the value's own: f16 or bf16."""

    def offset(self, shape: tuple[int, ...], index: Sequence[Any]) -> Any:
        """The position of an element."""
        flat = index[0]
        for i, extent in zip(index[2:], shape[2:], strict=True):
            flat = flat * extent + i
        return flat * self.lanes + index[1]

    def size(self, shape: tuple[int, ...]) -> int:
        """Elements of storage."""
        return prod(shape)

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array, as one axis."""
        last = np.moveaxis(stored(array, self.storage), 1, -1)
        return np.ascontiguousarray(last).reshape(-1)

    def unpack(self, storage: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array that a storage holds."""
        n, channels, *sizes = shape
        images = storage[: prod(shape)].reshape(n, *sizes, channels)
        return np.ascontiguousarray(np.moveaxis(images, -1, 1))

    def columns(self, shape: tuple[int, ...]) -> int:
        """Elements of a row of the matrix that a tuned kernel writes."""
        return shape[1]

    def element(self, shape: tuple[int, ...], row: Any, column: Any) -> tuple[Any, ...]:
        """The index of an element of that matrix."""
        image, *position = unflatten(row, (shape[0], *shape[2:]))
        return (image, column, *position)

    def __str__(self) -> str:
        return f"channels last {self.storage}".rstrip()


@dataclass(frozen=True)
class FiltersLast(RowMajor):
    """[C, *kernel, F] for weights of shape [F, C, *kernel]: how a product makes their gradient."""

    storage: str = ""

    def offset(self, shape: tuple[int, ...], index: Sequence[Any]) -> Any:
        """The position of an element."""
        return super().offset((*shape[1:], shape[0]), (*index[1:], index[0]))

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array, as one axis."""
        return np.ascontiguousarray(np.moveaxis(stored(array, self.storage), 0, -1)).reshape(-1)

    def unpack(self, storage: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array that a storage holds."""
        return np.moveaxis(storage[: prod(shape)].reshape(*shape[1:], shape[0]), -1, 0)

    def columns(self, shape: tuple[int, ...]) -> int:
        """Elements of a row of the matrix that a tuned kernel writes."""
        return shape[0]

    def element(self, shape: tuple[int, ...], row: Any, column: Any) -> tuple[Any, ...]:
        """The index of an element of that matrix."""
        return (column, *unflatten(row, shape[1:]))

    def __str__(self) -> str:
        return f"filters last {self.storage}".rstrip()


Order = Plain | ChannelsLast | FiltersLast
"""Layouts of values that are computed."""


def stored(array: np.ndarray, storage: str) -> np.ndarray:
    """An array as it is stored."""
    return array.astype(TensorType(storage, ()).numpy) if storage else array
