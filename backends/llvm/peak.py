"""The most that the machine does, in operations and in bytes: what shares are measured against.

A loop of independent fused multiply-adds on registers, compiled for the target and timed; and
copies between arrays that no cache holds. Nothing in the compiler depends on them (plans must not
depend on measurements); reports and benchmarks do.
"""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.target import CpuTarget

CHAINS = 12
"""Independent sums. Latency times ports is 8 to 10 on today's processors, and 16 registers hold 12
sums, two operands and two spares."""

UNROLLED = 4
SLICES = 10


class FmaLoop:
    """The loop, loaded; `rate` may be asked again and again, beside whatever is measured."""

    def __init__(self, target: CpuTarget | None = None, seconds: float = 0.005) -> None:
        self._target = target or CpuTarget.host()
        self._engine = build([_loop(self._target)], ["peak"], self._target)
        kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
        self._call = ctypes.CFUNCTYPE(None, *kinds)(self._engine.address("peak"))
        self._result = (ctypes.c_float * (2 * self._target.lanes))()
        self._turns = 1000
        while (spent := self._timed()) < seconds:
            self._turns = min(4 * self._turns, round(self._turns * 1.2 * seconds / spent) + 1)

    def rate(self) -> float:
        """GFLOP/s of one slice of `seconds`."""
        done = 2.0 * self._target.lanes * CHAINS * UNROLLED * self._turns
        return done / self._timed() / 1e9

    def close(self) -> None:
        """Unload the loop."""
        self._engine.close()

    def _timed(self) -> float:
        start = time.perf_counter()
        self._call(None, None, self._turns, ctypes.addressof(self._result))
        return time.perf_counter() - start


def fma_peak(target: CpuTarget | None = None, seconds: float = 0.05) -> float:
    """GFLOP/s of one core in f32 at the target's vector width, in about `seconds` of measuring."""
    loop = FmaLoop(target, seconds / SLICES)
    best = max(loop.rate() for _ in range(SLICES))
    loop.close()
    return best


def memory_rate(threads: int, nbytes: int = 1 << 27, rounds: int = 3) -> float:
    """Bytes a second that `threads` read and write together, copying `nbytes` from place to place.

    Long copies write past the caches, so two bytes move for each one copied.
    """
    part = nbytes // threads
    pairs = [(np.ones(part, np.uint8), np.zeros(part, np.uint8)) for _ in range(threads)]
    best = 0.0
    with ThreadPoolExecutor(threads) as workers:
        for _ in range(rounds + 1):  # the first round touches the pages
            start = time.perf_counter()
            list(workers.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = max(best, 2 * part * threads / (time.perf_counter() - start))
    return best


def _loop(target: CpuTarget) -> ir.Module:
    """A module with `peak(error, scratch, turns, result)`."""
    module = ir.Module("peak")
    b = Builder(module, "peak", pointers=1, lanes=target.lanes)
    sums = [b.splat(0.001 * i) for i in range(CHAINS)]
    # the factor and the term come from memory, so that nothing can be computed beforehand
    factor, term = (b.vload(b.pointers[0], i * target.lanes, align=4) for i in range(2))
    with b.loop(b.item, carry=sums) as loop:
        for _ in range(UNROLLED):
            loop.state[:] = [b.fma(x, factor, term) for x in loop.state]
    total = loop.result[0]
    for x in loop.result[1:]:
        total = b.ir.fadd(total, x)
    b.vstore(total, b.pointers[0], align=4)
    b.finish()
    return module
