"""The loops that lowering lays around an element: axes, their pieces, and index arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnir.loops import expr as x
from cnnir.loops.expr import Expr, Var


@dataclass
class Axis:
    """A loop of the nest: `extent` steps; regions are (start, stop, lanes of the vector loop)."""

    name: str
    extent: int
    regions: list[tuple[int, int, int]]
    inside: tuple[int, int] = (0, 0)
    """Steps for which no condition on the axis can fail; none when start = stop."""
    chunk: int = 0
    """Steps that an item takes; 0 when it takes all."""
    start: Expr | None = None
    """The first step that the item takes, where it does not take all."""

    def pieces(self, split: bool) -> list[tuple[int, int, int, bool]]:
        """(start, stop, lanes, whether inside) of the loops that the axis is made of."""
        lo, hi = self.inside if split and self.inside[1] > self.inside[0] else (0, 0)
        cut = []
        for a, b, n in self.regions:
            parts = [(a, min(b, lo)), (max(a, lo), min(b, hi)), (max(a, hi), b)]
            cut += [(p, q, n, p >= lo and q <= hi) for p, q in parts if p < q]
        return cut


def whole(name: str, extent: int) -> Axis:
    """A loop without lanes."""
    return Axis(name, extent, [(0, extent, 0)])


def step(name: str, start: int, stop: int, var: Var | None = None) -> Expr:
    """A loop's variable; the constant where there is but one step."""
    if stop - start == 1:
        return x.index(start)
    return Var(name, stop - start, start) if var is None else var


def unflatten(flat: Expr, extents: Sequence[int]) -> list[Expr]:
    """Row-major coordinates of a flat index."""
    index: list[Expr] = []
    for extent in reversed(extents):
        index.insert(0, x.modulo(flat, extent))
        flat = x.floordiv(flat, extent)
    return index
