"""Kernels of this backend, as a schedule calls them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.schedule import Call, PackedParam, Pointer, Schedule, Slot

__all__ = ["Call", "Code", "Kernel", "PackedParam", "Pointer", "Schedule", "Slot"]


@dataclass(frozen=True)
class Code:
    """CUDA C of one call: functions that are launched one after another with the same arguments.

    Those are `int* error, unsigned char* scratch`, then the pointers of the call.
    """

    text: str
    launches: tuple[tuple[str, Launch], ...]
    """(function, how)."""
    scratch_bytes: int = 0
    """Of memory that `scratch` points to, during the call only."""
    errors: tuple[str, ...] = ()
    """What index was out of range when `*error` is 1, 2, ..."""
    summary: str = ""


class Kernel(Protocol):
    """Code for one exact shape. Calls with equal keys share it."""

    @property
    def kind(self) -> str:
        """implicit_gemm, loops ..."""

    @property
    def key(self) -> Hashable:
        """All that the code depends on, with the same `repr` in every process."""

    def emit(self, name: str, target: CudaTarget) -> Code:
        """Write the code; names of functions begin with `name`."""
