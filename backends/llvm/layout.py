"""Layouts: where the elements of a tensor lie in its buffer, and how constants are packed.

Offsets count elements and are built from whatever index expressions the caller has. The pad lanes
of a blocked buffer hold unspecified bits; `pack` fills them with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cnnir.loops.statements import RowMajor


@dataclass(frozen=True)
class Plain(RowMajor):
    """Row-major."""

    def __str__(self) -> str:
        return "plain"


@dataclass(frozen=True)
class Padded(Plain):
    """Row-major with the storage rounded up to whole vectors: per-channel params."""

    lanes: int = 16

    def size(self, shape: tuple[int, ...]) -> int:
        """Elements of storage."""
        return -(-prod(shape) // self.lanes) * self.lanes

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array; zeros behind its end."""
        flat = np.zeros(self.size(array.shape), array.dtype)
        flat[: array.size] = array.reshape(-1)
        return flat

    def __str__(self) -> str:
        return f"padded{self.lanes}"


@dataclass(frozen=True)
class Blocked:
    """Axis 1 in blocks of V lanes, outermost: [ceil(C/V), N, *spatial, V]; rank 2 at least.

    Some whole blocks are one range of bytes for any number of images, so channels are joined and
    cut without copying; and the pixels of all images of a block follow one another.
    """

    lanes: int

    def offset(self, shape: tuple[int, ...], index: Sequence[Any]) -> Any:
        """The position of an element."""
        flat = index[1] // self.lanes * shape[0] + index[0]
        for i, extent in zip(index[2:], shape[2:], strict=True):
            flat = flat * extent + i
        return flat * self.lanes + index[1] % self.lanes

    def size(self, shape: tuple[int, ...]) -> int:
        """Elements of storage."""
        return self._blocks(shape) * shape[0] * prod(shape[2:]) * self.lanes

    def pack(self, array: np.ndarray) -> np.ndarray:
        """The storage of an array, as one axis; zeros in pad lanes."""
        n, channels, *sizes = array.shape
        blocks = self._blocks(array.shape)
        padded = np.zeros((n, blocks * self.lanes, *sizes), array.dtype)
        padded[:, :channels] = array
        split = padded.reshape(n, blocks, self.lanes, *sizes)
        return np.moveaxis(split, (1, 2), (0, -1)).reshape(-1)

    def unpack(self, storage: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The array that a storage holds."""
        n, channels, *sizes = shape
        blocks = self._blocks(shape)
        split = storage[: self.size(shape)].reshape(blocks, n, *sizes, self.lanes)
        joined = np.moveaxis(split, (0, -1), (1, 2)).reshape(n, blocks * self.lanes, *sizes)
        return np.ascontiguousarray(joined[:, :channels])

    def _blocks(self, shape: tuple[int, ...]) -> int:
        return -(-shape[1] // self.lanes)

    def __str__(self) -> str:
        return f"blocked{self.lanes}"
