"""The words between the stages of a backend: slots, calls and the schedule that planning ends in.

Every backend has kernels of its own kind; what calls them, and with what, is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnir.backends.base import Step
from cnnir.ir import Graph, Value
from cnnir.loops import Layout
from cnnir.loops.statements import storage_of
from cnnir.tensortype import TensorType

EXPRESSIONS = threading.Lock()
"""The kernel language keeps one table of expressions: one model at a time writes code with it."""


@dataclass(frozen=True)
class Slot:
    """A value in a layout: what one pointer of a kernel call refers to."""

    value: Value
    layout: Layout
    copy: int = 0
    """Not 0 for a further copy of the same value in the same layout, which an output may need."""

    @property
    def nbytes(self) -> int:
        """Bytes of storage."""
        type = self.value.type
        stored = TensorType(storage_of(self.layout, type), ())
        return self.layout.size(type.shape) * stored.numpy.itemsize


@dataclass(frozen=True)
class PackedParam:
    """A param in the order of one kernel; equal keys of one value share their bytes."""

    value: Value
    key: Hashable
    pack: Callable[..., np.ndarray] = field(compare=False)
    """pack(array) makes the packed array; pack(array, out) writes it where it is to stay."""
    nbytes: int = field(default=0, compare=False)
    """Bytes when packed, for a backend that needs them before."""


Pointer = Slot | PackedParam


@dataclass
class Call:
    """One kernel call: pointers are `reads` then `writes`."""

    kernel: Any
    """A kernel of the backend's own kind."""
    reads: list[Pointer]
    writes: list[Slot]
    step: Step


@dataclass
class Schedule:
    """The plan in the backend's own terms, as the later stages take it."""

    graph: Graph
    target: Any
    calls: list[Call] = field(default_factory=list)
    aliases: dict[Slot, tuple[Slot, int]] = field(default_factory=dict)
    """A slot that lives inside another one, at an offset in bytes."""
    outputs: list[Slot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kernel: Any, reads: list[Any], writes: list[Slot], step: Step) -> None:
        """Append a call."""
        self.calls.append(Call(kernel, reads, writes, step))

    def slots(self) -> list[Slot]:
        """All slots, each once, in order of appearance."""
        found = dict.fromkeys(
            pointer
            for call in self.calls
            for pointer in (*call.reads, *call.writes)
            if isinstance(pointer, Slot)
        )
        for inner, (outer, _) in self.aliases.items():
            found |= {inner: None, outer: None}
        return list(found | dict.fromkeys(self.outputs))

    def root(self, slot: Slot) -> tuple[Slot, int]:
        """The slot that really has a buffer, and where `slot` lies in it."""
        shift = 0
        while slot in self.aliases:
            slot, step = self.aliases[slot]
            shift += step
        return slot, shift
