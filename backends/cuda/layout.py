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

    def __str__(self) -> str:
        return f"channels last {self.storage}".rstrip()


def stored(array: np.ndarray, storage: str) -> np.ndarray:
    """An array as it is stored."""
    return array.astype(TensorType(storage, ()).numpy) if storage else array
