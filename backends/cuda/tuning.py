"""Choices by measuring: the best few tiles of a product are timed once, the winner is remembered.

Between `plan`, which asks, and a Machine, which measures. A problem is a kernel without its tile;
what was measured for it is kept on disk, under the problem, the device's name and the target. A
record whose winner is no longer among the candidates counts for nothing. Sums are added in the
order of tiles and splits, so that what is tuned may differ from what is not in its last bits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import groupby

import numpy as np

from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Machine, Task
from cnnir.backends.cuda.schedule import Code, PackedParam, Pointer
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.templates import TemplateKernel
from cnnir.backends.schedule import EXPRESSIONS
from cnnir.ir import Graph

MOST = 4
"""Candidates of a problem."""
RUNS = 6
"""Of each candidate, of which the quickest counts: never the first, which meets new code."""
ALIGN = 256
_PIECE = 1 << 22  # bytes of random values that are uploaded at once


@dataclass(frozen=True)
class Time:
    """What a candidate took: its tile as text, seconds; and what was predicted."""

    tile: str
    seconds: float
    predicted: float


@dataclass
class Tuning:
    """What is known of a model's products on a machine, and what is still to be measured."""

    graph: Graph
    machine: Machine
    target: CudaTarget
    cache: DiskCache | None
    known: dict[str, list[Time]] = field(default_factory=dict)
    """Problem -> its candidates' times, the least first."""
    open: dict[str, tuple[list[TemplateKernel], list[Pointer]]] = field(default_factory=dict)
    """Problems of which nothing is known, with what their kernels are called with."""

    def best(self, kernel: TemplateKernel, pointers: list[Pointer]) -> tuple[TemplateKernel, str]:
        """The winner and why; the kernel itself where it has no rivals, or none is measured."""
        offers = kernel.offer.variants(self.target, MOST)
        if len(offers) < 2:
            return kernel, kernel.offer.why
        rivals = {repr(offer.tile): replace(kernel, offer=offer) for offer in offers}
        problem = repr((kernel.problem, self.target.name, self.target.precision))
        times = self.known.get(problem) or self._stored(problem)
        if not times or times[0].tile not in rivals:
            self.open[problem] = list(rivals.values()), pointers
            return kernel, "to be measured"
        self.known[problem] = times
        first, *others = times
        following = f", next {others[0].seconds * 1e6:.1f} us" if others else ""
        return rivals[first.tile], f"tuned: {first.seconds * 1e6:.1f} us{following}"

    def measure(self) -> int:
        """Measure what is open; the number of candidates that were."""
        done = 0
        machine = self.machine.another()
        for problem, (rivals, pointers) in self.open.items():
            spent = measured(machine, self.graph, rivals, pointers, self.target)
            times = [
                Time(repr(kernel.offer.tile), seconds, kernel.offer.seconds)
                for kernel, seconds in zip(rivals, spent, strict=True)
            ]
            times.sort(key=lambda time: time.seconds)
            self.known[problem] = times
            if self.cache is not None:
                rows = [[time.tile, time.seconds, time.predicted] for time in times]
                self.cache.put(self._key(problem), json.dumps(rows).encode())
            done += len(times)
        machine.close()
        self.open = {}
        return done

    def _key(self, problem: str) -> str:
        return DiskCache.key_of("cuda tuning", version("cnnir"), self.machine.name, problem)

    def _stored(self, problem: str) -> list[Time]:
        """Times as `measure` writes them; none for anything else."""
        found = None if self.cache is None else self.cache.get(self._key(problem))
        try:
            rows = [] if found is None else json.loads(found)
            return [Time(str(tile), float(spent), float(told)) for tile, spent, told in rows]
        except (ValueError, TypeError):
            return []


def measured(
    machine: Machine,
    graph: Graph,
    rivals: Sequence[TemplateKernel],
    pointers: Sequence[Pointer],
    target: CudaTarget,
) -> list[float]:
    """The least seconds of each kernel over some runs in turn, on random values.

    pointers: what each is called with. graph: whose params they read.
    """
    codes: list[Code] = []
    with EXPRESSIONS:
        for number, kernel in enumerate(rivals):
            codes.append(kernel.emit(f"rival{number}_", target))
    texts = {f"rival{number}_": code.text for number, code in enumerate(codes)}
    launches: dict[str, Launch] = dict(pair for code in codes for pair in code.launches)
    functions = machine.load(texts, launches).functions
    sizes = [_bytes(graph, pointer) for pointer in pointers]
    offsets = np.cumsum([0, ALIGN, *(n + ALIGN + -n % ALIGN for n in sizes)])  # an error word first
    scratch = max(code.scratch_bytes for code in codes)
    block = machine.allocate(int(offsets[-1]) + scratch + ALIGN)
    _fill(machine, block.address, block.nbytes)
    addresses = [block.address + int(at) for at in offsets]
    arguments = (addresses[0], addresses[-1], *addresses[1:-1])
    tasks = [
        Task(functions[name], launch, arguments, number)
        for number, code in enumerate(codes)
        for name, launch in code.launches
    ]
    best = [float("inf")] * len(codes)
    for _ in range(RUNS):
        spans = zip(tasks, machine.seconds(tasks), strict=True)
        for number, group in groupby(spans, key=lambda pair: pair[0].call):
            best[number] = min(best[number], sum(seconds for _, seconds in group))
    return best


def _bytes(graph: Graph, pointer: Pointer) -> int:
    if not isinstance(pointer, PackedParam):
        return pointer.nbytes
    array = graph.array(pointer.value)
    assert array is not None
    return int(pointer.pack(array).nbytes)


def _fill(machine: Machine, address: int, nbytes: int) -> None:
    """Numbers of usual size, as zeros would let a device run at a higher clock."""
    numbers = np.random.default_rng(0).standard_normal(_PIECE // 4, np.float32).view(np.uint8)
    for at in range(0, nbytes, _PIECE):
        machine.upload(address + at, numbers[: min(_PIECE, nbytes - at)])
    machine.wait()
