"""Pooling in the store of a convolution: only pooled results leave the registers.

For windows that lie side by side, so that a tile of whole windows needs nothing of its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder

LARGEST = 12  # results in a window: those of one fit in the registers of every target


@dataclass(frozen=True)
class Pooling:
    """Windows over the results of a convolution; those beyond the last whole one are left out."""

    kind: str  # "max" or "average"
    window: tuple[int, ...]

    @property
    def sides(self) -> tuple[int, int, int]:
        """Of a window along depth, height and width."""
        depth, height, width = (1,) * (3 - len(self.window)) + self.window
        return depth, height, width

    def problem(self, sizes: tuple[int, ...]) -> str | None:
        """Why results of such sizes cannot be pooled in the store, or None."""
        if prod(self.window) > LARGEST:
            return f"windows of {prod(self.window)} results, more than {LARGEST}"
        if self.sides[0] > 1:
            return "windows along three axes"
        if any(size < side for size, side in zip(sizes, self.window, strict=True)):
            return "no whole window"
        return None

    def of(self, b: Builder, results: list[list[ir.Value]], sides: tuple[int, int]) -> list:
        """Rows of pooled vectors, of rows of vectors that make whole windows of height x width."""
        height, width = sides
        return [
            [
                self._one(b, [v for line in rows for v in line[left : left + width]])
                for left in range(0, len(rows[0]), width)
            ]
            for rows in (results[top : top + height] for top in range(0, len(results), height))
        ]

    def _one(self, b: Builder, values: list[ir.Value]) -> ir.Value:
        if self.kind == "max":
            return reduce(b.fmax, values)
        return b.ir.fmul(reduce(b.ir.fadd, values), b.splat(1 / len(values)))
