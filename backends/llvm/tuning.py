"""Choices by measuring: the best few candidates of a step are timed once, the winner is remembered.

Between `plan`, which asks, and `trial`, which measures. A problem is a node with the layouts of its
operands; what was measured for it is kept on disk, under the problem, the target, the number of
threads, and the version of all that writes code. A record whose winner is no longer among the
candidates counts for nothing.

The bits of a result depend on the algorithm. Runs of one executable agree for every number of
threads, but what was tuned for two threads may be another algorithm than for one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from cnnir.backends.fused import canonical
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.texts import source_digest
from cnnir.backends.llvm.trial import Candidate, measured
from cnnir.ir import Graph

HOT = 0.25
"""Of the L3: params that are so large come from memory in every run. Other programs use an L3 too,
and what was read a run ago is the first to go (MobileNetV2's 14 MB come at 22 GB/s, of 32 MiB)."""


@dataclass(frozen=True)
class Time:
    """What a candidate took: its kind, its tiling as text, seconds; and what was predicted."""

    kind: str
    tiling: str
    seconds: float
    predicted: float

    def __str__(self) -> str:
        return f"{self.kind} {self.seconds * 1e6:.0f} us"


@dataclass
class Tuning:
    """What is known of a model's problems, and what is still to be measured."""

    graph: Graph
    target: CpuTarget
    threads: int
    exact: bool
    cache: ObjectCache | None
    known: dict[str, list[Time]] = field(default_factory=dict)
    """Problem -> its candidates' times, the least first."""
    open: dict[str, list[Candidate]] = field(default_factory=dict)
    """Problems of which nothing is known."""

    def best(self, candidates: list[Candidate]) -> tuple[Candidate, list[Time]]:
        """The winner and all times; the first candidate and none where they are to be measured."""
        problem = _problem(candidates[0])
        times = self.known.get(problem) or self._stored(problem)
        by_name = {_name(candidate): candidate for candidate in candidates}
        if times and (times[0].kind, times[0].tiling) in by_name:
            self.known[problem] = times
            return by_name[times[0].kind, times[0].tiling], times
        self.open[problem] = candidates
        return candidates[0], []

    def measure(self) -> int:
        """Measure what is open; the number of candidates that were."""
        done = 0
        params = sum(array.nbytes for array in self.graph.params.values())
        cold = params > HOT * self.target.l3
        for problem, candidates in self.open.items():
            seconds = measured(candidates, self.graph, self.target, self.threads, self.cache, cold)
            pairs = zip(candidates, seconds, strict=True)
            times = [
                Time(*_name(candidate), spent, candidate.kernel.offer.seconds)
                for candidate, spent in pairs
            ]
            times.sort(key=lambda time: time.seconds)
            self.known[problem] = times
            self._store(problem, times)
            done += len(times)
        self.open = {}
        return done

    def _key(self, cache: ObjectCache, problem: str) -> str:
        options = ("tuning", source_digest(), self.target, self.threads, self.exact)
        return cache.key(problem, self.target, options)

    def _stored(self, problem: str) -> list[Time]:
        if self.cache is None or not source_digest():
            return []
        found = self.cache.get(self._key(self.cache, problem))
        return [] if found is None else _parsed(found)

    def _store(self, problem: str, times: Sequence[Time]) -> None:
        if self.cache is not None and source_digest():
            rows = [[time.kind, time.tiling, time.seconds, time.predicted] for time in times]
            self.cache.put(self._key(self.cache, problem), json.dumps(rows).encode())


def _parsed(text: bytes) -> list[Time]:
    """Times as `_store` writes them; none for anything else."""
    try:
        return [
            Time(str(kind), str(tiling), float(seconds), float(predicted))
            for kind, tiling, seconds, predicted in json.loads(text)
        ]
    except (ValueError, TypeError):
        return []


def _problem(candidate: Candidate) -> str:
    """A node and the layouts of what it is called with."""
    kernel = candidate.kernel
    layouts = [str(kernel.result), *(str(slot.layout) for slot in kernel.slots)]
    return repr((canonical(kernel.node), kernel.offer.operands, layouts))


def _name(candidate: Candidate) -> tuple[str, str]:
    offer = candidate.kernel.offer
    return offer.kind, repr(offer.tiling)
