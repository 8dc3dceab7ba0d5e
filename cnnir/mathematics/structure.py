"""What kind of matrix an operator is.

A convolution does the same everywhere, so its matrix does not change when input and output are
shifted together along an axis: with a wrap at the ends it is circulant there, without one Toeplitz.
For images this holds on two levels, for the blocks and within each block.

Source: R. Gray, Toeplitz and circulant matrices: a review, Foundations and Trends in Communications
and Information Theory 2, 2006.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]

_CLOSE = 1e-12
"""Entries that differ by less, relative to the largest one, are the same."""
_MOST_STRIDE = 8


@dataclass(frozen=True)
class Structure:
    """The structure of a matrix; printing it says all in words."""

    shape: Shape
    nonzero: int
    channels: Shape
    """Channels of the output and of the input: blocks of the matrix."""
    levels: tuple[str, ...]
    """For each axis of the image: "circulant", "Toeplitz", "Toeplitz with stride 2", "Toeplitz but
    for the border", "general"."""
    symmetry: str
    """"symmetric", "antisymmetric" or ""."""
    bandwidth: int
    """The greatest distance of an entry from the diagonal."""

    @property
    def name(self) -> str:
        """The kind, in one or a few words."""
        if self.nonzero == 0:
            return "zero"
        if self.bandwidth == 0 and self.shape[0] == self.shape[1]:
            return "diagonal"
        match self.levels:
            case ("circulant", "circulant"):
                return "block circulant with circulant blocks (BCCB)"
            case ("Toeplitz", "Toeplitz"):
                return "block Toeplitz with Toeplitz blocks (BTTB)"
            case (one,):
                return one
            case levels if "general" not in levels and len(set(levels)) == 1:
                return f"{levels[0]} on {'both' if len(levels) == 2 else 'all'} levels"
            case levels if "general" not in levels:
                return ", ".join(f"{kind} on level {k + 1}" for k, kind in enumerate(levels))
        return "general"

    def __str__(self) -> str:
        rows, columns = self.shape
        share = self.nonzero / max(rows * columns, 1)
        blocks = ""
        if self.channels != (1, 1):
            blocks = f"{self.channels[0]} x {self.channels[1]} channels, each block "
        parts = [f"{rows} x {columns}", f"{share:.1%} nonzero", blocks + self.name, self.symmetry]
        return ", ".join(filter(None, parts))


def structure_of(matrix: Any, input_shape: Shape, output_shape: Shape) -> Structure:
    """The structure of a sparse matrix between tensors [1, channels, *sizes] (or [1, units])."""
    into, out = _channels_and_sizes(input_shape), _channels_and_sizes(output_shape)
    coordinates = matrix.tocoo()
    rows, columns = coordinates.coords
    levels: tuple[str, ...] = ()
    if len(into) == len(out):
        axes = range(1, len(into))
        levels = tuple(_level(matrix, into, out, axis) for axis in axes)
    return Structure(
        matrix.shape, matrix.nnz, (out[0], into[0]), levels, _symmetry(matrix),
        int(np.abs(rows - columns).max(initial=0)),
    )  # fmt: skip


def _channels_and_sizes(shape: Shape) -> Shape:
    """[1, C, *sizes] as (C, *sizes); a vector is an image of one channel and one axis."""
    if len(shape) >= 3 and shape[0] == 1:
        return shape[1:]
    return (1, int(np.prod(shape)))


def _level(matrix: Any, into: Shape, out: Shape, axis: int) -> str:
    """How the matrix behaves when input and output are shifted together along an axis."""
    if min(into[axis], out[axis]) < 2:
        return "general"
    if into[axis] == out[axis]:
        moved = matrix[_rolled(out, axis)][:, _rolled(into, axis)]
        if _same(moved, matrix):
            return "circulant"
    for stride in range(1, _MOST_STRIDE + 1):
        if stride < into[axis] and _repeats(matrix, into, out, axis, stride):
            return "Toeplitz" if stride == 1 else f"Toeplitz with stride {stride}"
    for border in range(1, out[axis] // 2 - 1):
        if _repeats(matrix, into, out, axis, 1, border):
            return "Toeplitz but for the border"
    return "general"


def _repeats(matrix: Any, into: Shape, out: Shape, axis: int, stride: int, border: int = 0) -> bool:
    """Whether entry [t, s] is entry [t + 1, s + stride] along an axis, for results that lie at
    least `border` from the ends."""
    end = out[axis] - border
    before = matrix[_part(out, axis, border, end - 1)][:, _part(into, axis, 0, -stride)]
    after = matrix[_part(out, axis, border + 1, end)][:, _part(into, axis, stride, None)]
    return before.nnz > 0 and _same(before, after)


def _rolled(shape: Shape, axis: int) -> np.ndarray:
    return np.roll(np.arange(np.prod(shape)).reshape(shape), 1, axis).ravel()


def _part(shape: Shape, axis: int, begin: int, end: int | None) -> np.ndarray:
    chosen = (slice(None),) * axis + (slice(begin, end),)
    return np.arange(np.prod(shape)).reshape(shape)[chosen].ravel()


def _same(a: Any, b: Any) -> bool:
    scale = max(abs(a).max(), abs(b).max()) if a.nnz or b.nnz else 0.0
    return bool(abs(a - b).max() <= _CLOSE * scale)


def _symmetry(matrix: Any) -> str:
    if matrix.shape[0] != matrix.shape[1] or matrix.nnz == 0:
        return ""
    turned = matrix.T.tocsr()
    if _same(matrix, turned):
        return "symmetric"
    return "antisymmetric" if _same(matrix, -turned) else ""
