"""The words between the stages: slots, calls and the schedule that planning ends in."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import llvmlite.ir as ir
import numpy as np

from cnnir.backends.base import Step
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout


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
        return self.layout.size(type.shape) * type.numpy.itemsize


@dataclass(frozen=True)
class PackedParam:
    """A param in the order of one kernel; equal keys of one value share their bytes."""

    value: Value
    key: Hashable
    pack: Callable[[np.ndarray], np.ndarray] = field(compare=False)


Pointer = Slot | PackedParam


@dataclass(frozen=True)
class Code:
    """What emitting a kernel tells."""

    name: str
    items: int
    scratch_bytes: int
    summary: str


class Kernel(Protocol):
    """Code for one exact shape. Calls with equal keys share one function."""

    @property
    def node(self) -> Node:
        """What it computes."""

    @property
    def kind(self) -> str:
        """direct_conv, matmul, loops ..."""

    @property
    def key(self) -> Hashable:
        """All that the code depends on, with the same `repr` in every process."""

    def emit(self, module: ir.Module, name: str, target: CpuTarget) -> Code:
        """Write the LLVM function."""

    def error(self, code: int) -> str:
        """What was out of range when the function stored `code`."""


@dataclass
class Call:
    """One kernel call: pointers are `reads` then `writes`."""

    kernel: Kernel
    reads: list[Pointer]
    writes: list[Slot]
    step: Step


@dataclass
class Schedule:
    """The plan in the backend's own terms, as the later stages take it."""

    graph: Graph
    target: CpuTarget
    calls: list[Call] = field(default_factory=list)
    aliases: dict[Slot, tuple[Slot, int]] = field(default_factory=dict)
    """A slot that lives inside another one, at an offset in bytes."""
    outputs: list[Slot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kernel: Kernel, reads: list[Any], writes: list[Slot], step: Step) -> None:
        """Append a call."""
        self.calls.append(Call(kernel, reads, writes, step))
