"""The most floating-point work that one core does: what shares of peak are measured against.

A loop of independent fused multiply-adds on registers, compiled for the target and timed. Nothing
in the compiler depends on it (plans must not depend on measurements); reports and benchmarks do.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

import llvmlite.ir as ir

from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.target import CpuTarget

CHAINS = 12
"""Independent sums. Latency times ports is 8 to 10 on today's processors, and 16 registers hold 12
sums, two operands and two spares."""

UNROLLED = 4
SLICES = 10


def fma_peak(target: CpuTarget | None = None, seconds: float = 0.05) -> float:
    """GFLOP/s of one core in f32 at the target's vector width, in about `seconds` of measuring."""
    target = target or CpuTarget.host()
    engine = build([_loop(target)], ["peak"], target)
    kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    loop = ctypes.CFUNCTYPE(None, *kinds)(engine.address("peak"))
    result = (ctypes.c_float * (2 * target.lanes))()
    start = ctypes.addressof(result)
    turns = 1000
    while (spent := _timed(loop, turns, start)) < seconds / SLICES:
        turns = min(4 * turns, round(turns * 1.2 * seconds / SLICES / spent) + 1)
    best = min(_timed(loop, turns, start) for _ in range(SLICES))
    engine.close()
    return 2.0 * target.lanes * CHAINS * UNROLLED * turns / best / 1e9


def _timed(loop: Callable[..., None], turns: int, result: int) -> float:
    start = time.perf_counter()
    loop(None, None, turns, result)
    return time.perf_counter() - start


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
