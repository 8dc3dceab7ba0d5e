"""Machine: what a program needs of whatever runs its kernels. `driver.py` has a GPU, `emulator.py`
the processor. Addresses are plain integers; work is done in the order in which it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.nvrtc import Resources
from cnnir.backends.cuda.target import CudaTarget


@dataclass(frozen=True)
class Binary:
    """Loaded code."""

    functions: Mapping[str, Any]
    resources: Mapping[str, Resources]
    nbytes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One launch with its arguments, all of which are addresses."""

    function: Any
    launch: Launch
    arguments: tuple[int, ...]
    call: int
    """Which call of the schedule it belongs to."""


class Machine(Protocol):
    """Memory, code and one queue of work."""

    memory: int
    """Bytes that it has."""

    def target(self, precision: str) -> CudaTarget:
        """What to compile for."""

    def load(self, texts: Mapping[str, str], launches: Mapping[str, Launch]) -> Binary:
        """Compile texts (without prelude) and load them; launches by function, for its limits."""

    def allocate(self, nbytes: int) -> int:
        """Memory of the machine, until `free`."""

    def free(self, address: int) -> None:
        """Give memory back."""

    def staging(self, nbytes: int) -> np.ndarray:
        """Bytes of this process that are copied to and from the machine quickly."""

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy to the machine; the array must stay as it is until `wait`."""

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the machine; the array is complete after `wait`."""

    def clear(self, address: int, nbytes: int) -> None:
        """Set bytes to 0."""

    def record(self, tasks: Sequence[Task]) -> Callable[[], None]:
        """The tasks in order as one thing to run, as often as wanted."""

    def seconds(self, tasks: Sequence[Task]) -> list[float]:
        """How long each task takes, run once after one another."""

    def wait(self) -> None:
        """Until all work is done; raises what went wrong in it."""

    def close(self) -> None:
        """Give everything back."""
