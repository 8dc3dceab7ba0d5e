"""How fast data are read, from each cache and from memory: what shares of bandwidth refer to.

The counterpart of `peak`, for work that moves more than it computes: a loop that adds up vectors of
an array which fits in the level in question, and not in the one before it, on as many threads as
run. Nothing in the compiler depends on it.
"""

from __future__ import annotations

import time

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.program import Call, Context, emit_run
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import aligned, pool

VECTORS = 16
"""Read in a turn of the loop, each added to a sum of its own."""

LEAST = 32 << 20
"""Bytes read in a timed run at least, so that the threads' start does not count."""

SLICES = 5


def read_rates(threads: int, target: CpuTarget | None = None) -> dict[str, tuple[float, float]]:
    """(bytes it holds, bytes a second that all threads read) of "L2", "L3" and "memory".

    A level that holds no more than those before it is left out. Takes about 0.1 s.
    """
    target = target or CpuTarget.host()
    rates: dict[str, tuple[float, float]] = {}
    held = float(threads * target.l1)
    for name, size in (("L2", float(threads * target.l2)), ("L3", float(target.l3))):
        if size >= 2 * held:
            rates[name] = size, _rate(int(size / 2), threads, target)
            held = size
    rates["memory"] = float("inf"), _rate(int(2 * held), threads, target)
    return rates


def _rate(nbytes: int, threads: int, target: CpuTarget) -> float:
    """Bytes a second of threads that each read their part of an array, several times."""
    turn = VECTORS * target.lanes * 4
    turns = max(1, nbytes // threads // turn)
    passes = max(1, -(-LEAST // (turns * turn * threads)))
    module = _loop(target, turns, passes)
    run = emit_run([Call("read", threads, 0, (("const", 0), ("arena", 0)))], target)
    engine = build([module, run.text], run.exports, target)
    data = aligned(turns * turn * threads)
    data.view(np.float32)[:] = 1.0  # touched, so that it has pages of its own
    context = Context(run, threads, 4 * target.lanes * threads, data.ctypes.data)
    times = []
    for _ in range(SLICES + 1):
        start = time.perf_counter()
        pool().run(engine.address("run"), context.address, threads)
        times.append(time.perf_counter() - start)
    pool().quiesce()
    engine.close()
    return data.nbytes * passes / min(times[1:])


def _loop(target: CpuTarget, turns: int, passes: int) -> ir.Module:
    """A module with `read(error, scratch, item, data, result)`: item is the part of the data."""
    module = ir.Module("read")
    b = Builder(module, "read", pointers=2, lanes=target.lanes)
    turn = VECTORS * b.lanes
    part = b.at(b.pointers[0], b.mul(b.item, turns * turn))
    with b.loop(passes, carry=[b.splat(0.0)] * VECTORS) as again:
        # opaque, so that the compiler cannot know that it reads the same again
        start = b.opaque(part)
        with b.loop(turns, carry=again.state) as loop:
            at = b.mul(loop.index, turn)
            loop.state[:] = [
                b.ir.fadd(total, b.vload(start, b.add(at, i * b.lanes)))
                for i, total in enumerate(loop.state)
            ]
        again.state[:] = loop.result
    total, *others = again.result
    for other in others:
        total = b.ir.fadd(total, other)
    b.vstore(total, b.pointers[1], b.mul(b.item, b.lanes))
    b.finish()
    return module
