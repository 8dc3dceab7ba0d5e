"""Kernels of this backend, as a schedule calls them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.schedule import Call, PackedParam, Pointer, Schedule, Slot
from cnnir.ir import Node

__all__ = ["Call", "Code", "Kernel", "PackedParam", "Pointer", "Schedule", "Slot"]


@dataclass(frozen=True)
class Code:
    """What emitting a kernel tells."""

    name: str
    items: int
    scratch_bytes: int
    summary: str
    errors: tuple[str, ...] = ()
    """What was out of range when the function stores 1, 2 ..."""


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
