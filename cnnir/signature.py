"""What goes into a program and what comes out: a graph seen from outside.

A program that is read from disk has no graph; what it takes and gives is all that running needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cnnir.tensortype import TensorType


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs in order.

    As in Graph, `trims` is output -> (the output that is its length, along which axis), and
    `carried` output -> the input that it is in the next run.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    trims: dict[int, tuple[int, int]]
    carried: dict[int, int] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the inputs."""
        return tuple(port.type.shape for port in self.inputs)

    def shown(self) -> list[tuple[int, Port]]:
        """Position and port of every output that is not just the length of another."""
        lengths = {length for length, _ in self.trims.values()}
        return [pair for pair in enumerate(self.outputs) if pair[0] not in lengths]

    def trimmed(self, results: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Raw outputs by name, cut to the lengths that come with them; those are left out."""
        named = {}
        for position, port in self.shown():
            array = results[position]
            if position in self.trims:
                length, axis = self.trims[position]
                kept = (slice(None),) * axis + (slice(int(results[length])),)
                array = np.array(array[kept], order="C")
            named[port.name] = array
        return named
