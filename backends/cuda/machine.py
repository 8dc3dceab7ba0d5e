"""Machine: what a program needs of whatever runs its kernels. `driver.py` has a GPU, `emulator.py`
the processor. Addresses are plain integers; work is done in the order in which it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
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


@dataclass(eq=False)
class Block:
    """Memory of a machine, which is given back when nobody holds this object."""

    address: int
    nbytes: int
    read: Callable[[np.ndarray], None]
    """Copies its beginning to an array of the host, at once."""


class Machine(Protocol):
    """Memory, code and one queue of work, given back when nobody holds it."""

    name: str
    """Of the device; equal devices have equal ones."""
    memory: int
    """Bytes that it has."""
    place: Hashable
    """Which memory it has; machines with equal ones can use each other's addresses."""
    device: tuple[int, int]
    """Kind and number of the device whose memory it is, as DLPack has them."""
    queue: int
    """Handle of the stream in which work is done, 0 where that has none."""

    def target(self, precision: str) -> CudaTarget:
        """What to compile for."""

    def another(self) -> Machine:
        """One with the same memory and a queue of its own."""

    def load(self, texts: Mapping[str, str], launches: Mapping[str, Launch]) -> Binary:
        """Compile texts (without prelude) and load them; launches by function, for its limits."""

    def allocate(self, nbytes: int) -> Block:
        """Memory of the machine."""

    def staging(self, nbytes: int) -> np.ndarray:
        """Bytes of this process that are copied to and from the machine quickly."""

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy to the machine; the array must stay as it is until `wait`."""

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the machine; the array is complete after `wait`."""

    def copy(self, to: int, source: int, nbytes: int) -> None:
        """Copy inside the machine."""

    def clear(self, address: int, nbytes: int) -> None:
        """Set bytes to 0."""

    def after(self, stream: int) -> None:
        """Do what is asked for from now on after the work that is in another stream now."""

    def record(self, tasks: Sequence[Task]) -> Callable[[], None]:
        """The tasks in order as one thing to run, as often as wanted."""

    def seconds(self, tasks: Sequence[Task]) -> list[float]:
        """How long each task takes, run once after one another."""

    def wait(self) -> None:
        """Until all work is done; raises what went wrong in it."""

    def close(self) -> None:
        """Give back code and queue."""
