"""Kernels that compute the same, timed against each other under the conditions of a run.

Sits beside `load`: takes kernels with their pointers, gives seconds. All of them are steps of one
native program, on as many threads as the model will have, so that the start and the end of a step
count as they do there. Before each, its activations are brought into the caches, where the step
before would have left them; and where a run of the model reads more params than stay in the last
cache, each use of the weights is another copy, so that they come from memory. Values are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import perf_counter

import numpy as np

import cnnir.backends.llvm.ir as ir
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
"""Work items a thread of the step that touches activations."""

LEAST, MOST, SECONDS = 5, 40, 0.1
"""Runs, at least and at most; and about how long they take in between."""


@dataclass(frozen=True)
class Candidate:
    """A kernel that could be a step, and what it would be called with."""

    kernel: TemplateKernel
    pointers: tuple[Pointer, ...]


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
    known, arena = Texts(cache, target), _Arena()
    weights = _Weights(candidates, graph, 2 * target.l3 if cold else 0)
    modules, steps = [], []
    for number, candidate in enumerate(candidates):
        code, text = written(candidate.kernel, known, target)
        pointers = tuple(
            ("const", weights.offset(number))
            if isinstance(pointer, PackedParam)
            else ("arena", arena.offset(pointer))
            for pointer in candidate.pointers
        )
        steps.append(Call(code.name, code.items, code.scratch_bytes, pointers))
        modules.append(text)
    touch, before = _touch(target, SHARE * threads, arena.end)
    run = emit_run([call for step in steps for call in (before, step)], target)
    engine = build([*dict.fromkeys(modules), touch, run.text], run.exports, target, cache)
    context = Context(run, threads, arena.end + SLACK, 0)
    for block in (context.arena, weights.block):
        _fill(block)
    best = _least(engine.address("run_profiled"), context, weights)
    pool().quiesce()
    engine.close()
    return best[1::2]


@dataclass
class _Arena:
    """Activations and small params, one after another."""

    offsets: dict[Slot, int] = field(default_factory=dict)
    end: int = 0

    def offset(self, slot: Slot) -> int:
        """Where a slot lies; where it is met first, it is given a place."""
        if slot not in self.offsets:
            self.offsets[slot] = self.end
            self.end += slot.nbytes + SLACK + -slot.nbytes % SLACK
        return self.offsets[slot]


class _Weights:
    """Room for packed weights, so often that `spread` bytes are read before any are read again.

    Their values do not matter for the time, so that all candidates may have the same.
    """

    def __init__(self, candidates: Sequence[Candidate], graph: Graph, spread: int) -> None:
        sizes = [0]
        for candidate in candidates:
            for pointer in candidate.pointers:
                if isinstance(pointer, PackedParam):
                    array = graph.array(pointer.value)
                    assert array is not None
                    sizes.append(pointer.pack(array).nbytes)
        self.stride = max(sizes) + SLACK + -max(sizes) % SLACK
        wanted = -(-spread // self.stride) or 1
        self.turn = min(wanted, len(candidates))
        """Copies that a run reads."""
        self.copies = wanted + -wanted % self.turn
        self.block = aligned(self.copies * self.stride)

    def offset(self, number: int) -> int:
        """Where the weights of a candidate lie, from where those of the run begin."""
        return number % self.turn * self.stride

    def start(self, run: int) -> int:
        """The address where the weights of a run begin."""
        first = run * self.turn % self.copies
        return int(self.block.ctypes.data) + first * self.stride


def _least(function: int, context: Context, weights: _Weights) -> list[float]:
    """The least time of each step over some runs."""
    best, end = [inf], inf
    for turn in range(MOST + 1):
        context.set_constants(weights.start(turn))
        pool().run(function, context.address, context.threads)
        if turn == 0:  # the first run meets pages and code for the first time
            best, end = [inf] * len(context.step_seconds()), perf_counter() + SECONDS
            continue
        best = [min(pair) for pair in zip(best, context.step_seconds(), strict=True)]
        if turn >= LEAST and perf_counter() > end:
            break
    return best


def _fill(block: np.ndarray) -> None:
    """Numbers of usual size, neither all alike nor so small that arithmetic is slow."""
    numbers = np.random.default_rng(0).standard_normal(4096, dtype=np.float32)
    floats = block[: block.nbytes // 4 * 4].view(np.float32)
    floats[:] = np.resize(numbers, floats.size)


def _touch(target: CpuTarget, items: int, nbytes: int) -> tuple[ir.Module, Call]:
    """A step that reads and writes so many bytes of the arena, in equal parts."""
    module, vectors = ir.Module("touch"), -(-nbytes // (4 * target.lanes * items))
    b = Builder(module, "touch", pointers=1, lanes=target.lanes)
    last = max(0, nbytes // (4 * target.lanes) - vectors)
    part = b.at(b.pointers[0], b.mul(b.min(b.mul(b.item, vectors), last), target.lanes))
    with b.loop(min(vectors, nbytes // (4 * target.lanes))) as loop:
        at = b.mul(loop.index, target.lanes)
        # what is stored must not be what was there, or nothing would be
        b.vstore(b.ir.fneg(b.vload(part, at)), part, at)
    b.finish()
    return module, Call("touch", items, 0, (("arena", 0),))
