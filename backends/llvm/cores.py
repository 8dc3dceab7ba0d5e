"""Which cores workers run on, and how soon: wishes to the scheduler, where it takes any (Linux).

Two threads of one run on one core are slower than one thread. If another program keeps the second
core busy, the scheduler sees no difference between a worker beside that program and one beside its
own caller, so it is told. And a worker that wakes on a busy core should run there at once, not
after the other's time slice, which is as long as a whole inference; it pays by having shorter
slices itself. Its share of the core stays the same. Where a wish is refused, only speed suffers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Iterable

import numpy as np

SLICE_NANOSECONDS = 100_000
"""The shortest slice that Linux grants; before version 6.12 it takes no notice of this wish."""

_MASK_BYTES = 128  # of the bit mask of 1024 cores
_NUMBERS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, ...


def run_soon(thread: int) -> None:
    """Ask for short time slices for a thread of the normal policy, given its native number."""
    if sys.platform != "linux" or platform.machine() not in _NUMBERS:
        return
    set_attributes, get_attributes = _NUMBERS[platform.machine()]
    call, size = ctypes.CDLL(None).syscall, _ATTRIBUTES.size
    memory = ctypes.create_string_buffer(size)
    if call(get_attributes, thread, memory, size, 0) != 0:
        return
    _, policy, flags, nice, priority, _, deadline, period = _ATTRIBUTES.unpack(memory.raw)
    if policy == os.SCHED_OTHER:
        wish = (size, policy, flags, nice, priority, SLICE_NANOSECONDS, deadline, period)
        call(set_attributes, thread, _ATTRIBUTES.pack(*wish), 0)


def step_back() -> None:
    """Let the calling thread have what others leave of the cores, more or less."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def keep_away(threads: Iterable[int], core: int) -> np.ndarray:
    """Let threads run on any core that the caller may use but this one, if there are others.

    Returns the set of cores that they may use then, as the 128 bytes of a bit mask.
    """
    if sys.platform != "linux":
        return np.zeros(_MASK_BYTES, np.uint8)
    mine = os.sched_getaffinity(0)
    others = mine - {core} or mine
    for thread in threads:
        try:
            os.sched_setaffinity(thread, others)
        except OSError:
            break  # the cores have just been taken from this process
    bits = np.zeros(8 * _MASK_BYTES, bool)
    bits[[c for c in others if c < bits.size]] = True
    return np.packbits(bits, bitorder="little")
