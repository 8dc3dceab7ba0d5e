"""The least time that a step could take: by its arithmetic, or by the bytes that it must move.

The rule, which `cnnir bench` states too: a step does its operations at the FMA peak of all threads;
it reads every operand once and writes every result once. Activations come from the smallest cache
that holds all those of the step, since the step before has just written them. Params come from
memory, unless the whole program, params and activations, fits in a cache: a run reads each once,
and what else it reads has pushed them out when the next run comes. What takes longer binds.

Operations are those of the op's definition. Winograd convolution gets by with fewer, and may so
take less time than this says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnnir.backends.base import Plan, Step


@dataclass(frozen=True)
class Level:
    """A cache, or memory: how many bytes it holds, and how many a second all threads read."""

    name: str
    size: float
    rate: float


@dataclass(frozen=True)
class Bound:
    """The least seconds of a step, and what they are spent on: "FMA", or the name of a level."""

    seconds: float
    binds: str


@dataclass(frozen=True)
class Roofline:
    """What the machine can do with the threads that run."""

    peak: float
    """f32 operations a second."""
    levels: Sequence[Level] = ()
    """The caches from the smallest on, then memory; none where only arithmetic shall count."""

    def bound(self, step: Step, plan: Plan) -> Bound:
        """What a step of a plan takes at least."""
        computing = Bound(step.flops / self.peak, "FMA")
        if not self.levels:
            return computing
        activations = step.bytes - step.constant_bytes
        parts = []
        for moved, among in (
            (activations, activations),
            (step.constant_bytes, plan.arena_bytes + plan.constant_bytes),
        ):
            level = self._level(among)
            parts.append(Bound(moved / level.rate, level.name))
        slower = max(parts, key=lambda part: part.seconds)
        moving = Bound(sum(part.seconds for part in parts), slower.binds)
        return max(computing, moving, key=lambda bound: bound.seconds)

    def _level(self, nbytes: float) -> Level:
        """The smallest level that holds so many bytes; the last one holds everything."""
        return next((level for level in self.levels if nbytes <= level.size), self.levels[-1])


def machine_row(machine: Roofline) -> dict[str, Any]:
    """What was measured, for JSON: GFLOP/s and GB/s."""
    rates = {level.name: level.rate / 1e9 for level in machine.levels}
    return {"peak_gflops": machine.peak / 1e9, "read_gbytes": rates}


def machine_text(machine: Roofline) -> str:
    """The same for people."""
    rates = [f"{level.name} {level.rate / 1e9:.0f} GB/s" for level in machine.levels]
    return ", ".join([f"the peak is {machine.peak / 1e9:.0f} GFLOP/s", *rates])
