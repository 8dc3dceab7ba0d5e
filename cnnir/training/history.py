"""What happened in a training: a row an epoch, and the loss of every step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Row = dict[str, float]


@dataclass
class History:
    """Rows of numbers by name: epoch, loss, metrics, "validation ...", learning_rate, seconds."""

    rows: list[Row] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """The loss of every step, in order."""

    def series(self, name: str) -> list[float]:
        """One number of all epochs that have it."""
        return [row[name] for row in self.rows if name in row]

    @property
    def last(self) -> Row:
        """The row of the last epoch."""
        return self.rows[-1]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return "\n".join(map(row_text, self.rows))


def row_text(row: Row) -> str:
    """A row as a line."""
    parts = [f"epoch {row['epoch']:.0f}"]
    for name, number in row.items():
        if name == "seconds":
            parts.append(f"{number:.1f} s")
        elif name != "epoch":
            parts.append(f"{name} {number:.4g}")
    return "  ".join(parts)


class Mean:
    """Means of numbers by name over batches, weighted by their samples."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.samples = 0

    def add(self, numbers: Row, samples: int) -> None:
        """Count a batch in."""
        self.samples += samples
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + number * samples

    def row(self) -> Row:
        """The means so far."""
        return {name: total / max(1, self.samples) for name, total in self.sums.items()}
