"""Kernels that compute the same, timed against each other under the conditions of a run.

Sits beside `load`: takes kernels with their pointers, gives seconds. All of them are steps of one
native program, on as many threads as the model will have, so that the start and the end of a step
count as they do there. Before each, its activations are brought into the caches, where the step
before would have left them; and where a run of the model reads more params than the last cache
holds, as much is read before, so that weights come from memory. Values are random; only packed
weights are the model's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import perf_counter

import llvmlite.ir as ir
import numpy as np

from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.calls import TemplateKernel
from cnnir.backends.llvm.emit import written
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.program import SLACK, Call, Context, emit_run
from cnnir.backends.llvm.schedule import PackedParam, Pointer, Slot
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.texts import Texts
from cnnir.backends.llvm.threads import aligned, pool
from cnnir.ir import Graph

SHARE = 4
"""Work items a thread of the steps that move data."""

LEAST, MOST, SECONDS = 5, 40, 0.1
"""Runs, at least and at most; and about how long they take in between."""


@dataclass(frozen=True)
class Candidate:
    """A kernel that could be a step, and what it would be called with."""

    kernel: TemplateKernel
    pointers: tuple[Pointer, ...]


@dataclass
class _Memory:
    """Where pointers lie: activations and small params one after another, weights all in one place,
    since it is of no importance for the time which weights they are."""

    offsets: dict[Slot, int] = field(default_factory=dict)
    end: int = 0

    def source(self, pointer: Pointer) -> tuple[str, int]:
        if isinstance(pointer, PackedParam):
            return "const", 0
        if pointer not in self.offsets:
            self.offsets[pointer] = self.end
            self.end += pointer.nbytes + SLACK + -pointer.nbytes % SLACK
        return "arena", self.offsets[pointer]


def measured(
    candidates: Sequence[Candidate],
    graph: Graph,
    target: CpuTarget,
    threads: int,
    cache: ObjectCache | None,
    cold: bool,
) -> list[float]:
    """The least seconds of each candidate, run in turn.

    graph: whose params they read. cold: whether weights shall come from memory.
    """
    known, memory = Texts(cache, target), _Memory()
    modules, calls = [], []
    for candidate in candidates:
        code, text = written(candidate.kernel, known, target)
        pointers = tuple(memory.source(pointer) for pointer in candidate.pointers)
        calls.append(Call(code.name, code.items, code.scratch_bytes, pointers))
        modules.append(text)
    weights = _weights(candidates, graph)
    swept = aligned(2 * target.l3 + SLACK) if cold else None
    movers, before = _movers(target, threads, memory.end, 0 if swept is None else 2 * target.l3)
    steps = [step for call in calls for step in (*before, call)]
    run = emit_run(steps, target)
    engine = build([*dict.fromkeys(modules), movers, run.text], run.exports, target, cache)
    context = Context(run, threads, memory.end + SLACK, weights.ctypes.data)
    for array in (context.arena, swept):
        if array is not None:
            _fill(array)
    context.inputs[:1] = 0 if swept is None else swept.ctypes.data
    best = _least(engine.address("run_profiled"), context)
    pool().quiesce()
    engine.close()
    return best[len(before) :: len(before) + 1]


def _least(function: int, context: Context) -> list[float]:
    """The least time of each step over some runs."""
    best, end = [inf], inf
    for turn in range(MOST + 1):
        pool().run(function, context.address, context.threads)
        if turn == 0:  # the first run meets pages and code for the first time
            best, end = [inf] * len(context.step_seconds()), perf_counter() + SECONDS
            continue
        best = [min(pair) for pair in zip(best, context.step_seconds(), strict=True)]
        if turn >= LEAST and perf_counter() > end:
            break
    return best


def _weights(candidates: Sequence[Candidate], graph: Graph) -> np.ndarray:
    """A block that holds the packed weights of any of the candidates."""
    pointers = (p for candidate in candidates for p in candidate.pointers)
    sizes = [pointer.nbytes for pointer in pointers if isinstance(pointer, PackedParam)]
    block = aligned(max(sizes, default=0) + SLACK)
    _fill(block)
    return block


def _fill(block: np.ndarray) -> None:
    """Numbers of usual size, neither all alike nor so small that arithmetic is slow."""
    numbers = np.random.default_rng(0).standard_normal(4096, dtype=np.float32)
    floats = block[: block.nbytes // 4 * 4].view(np.float32)
    floats[:] = np.resize(numbers, floats.size)


def _movers(
    target: CpuTarget, threads: int, touched: int, swept: int
) -> tuple[ir.Module, list[Call]]:
    """Code and calls of what comes before each candidate: `sweep` reads so many bytes of the first
    input, `touch` reads and writes so many of the arena."""
    module, calls, items = ir.Module("movers"), [], SHARE * threads
    for name, nbytes, source in (("sweep", swept, "input"), ("touch", touched, "arena")):
        vectors = nbytes // (4 * target.lanes * items)
        if vectors:
            _mover(module, name, target.lanes, vectors)
            calls.append(Call(name, items, 0, ((source, 0), ("arena", 0))))
    return module, calls


def _mover(module: ir.Module, name: str, lanes: int, vectors: int) -> None:
    """`name(error, scratch, item, data, arena)`: part `item` of the data, read, and written back
    where it is the arena's."""
    b = Builder(module, name, pointers=2, lanes=lanes)
    data = b.at(b.pointers[0], b.mul(b.item, vectors * lanes))
    with b.loop(vectors, carry=[b.splat(0.0)]) as loop:
        value = b.vload(data, b.mul(loop.index, lanes))
        if name == "touch":
            b.vstore(value, data, b.mul(loop.index, lanes))
        loop.state[0] = b.ir.fadd(loop.state[0], value)
    if name == "sweep":
        b.vstore(loop.result[0], b.pointers[1])  # so that reading is of use
    b.finish()
