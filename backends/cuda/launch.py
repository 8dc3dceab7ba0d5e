"""Launch: how many threads a kernel runs on, and what shared memory a block of them has."""

from __future__ import annotations

from dataclasses import dataclass

Three = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Launch:
    """`grid` blocks of `block` threads each, both as (x, y, z)."""

    grid: Three
    block: Three
    shared_bytes: int = 0
    """Dynamic shared memory of a block."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        x, y, z = self.block
        return x * y * z

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        x, y, z = self.grid
        return x * y * z

    def __str__(self) -> str:
        shared = f", {self.shared_bytes}" if self.shared_bytes else ""
        return f"<<<{_shown(self.grid)}, {_shown(self.block)}{shared}>>>"


def _shown(sizes: Three) -> str:
    """Sizes without the ones at their end."""
    kept = list(sizes)
    while len(kept) > 1 and kept[-1] == 1:
        kept.pop()
    return str(kept[0]) if len(kept) == 1 else f"({', '.join(map(str, kept))})"
