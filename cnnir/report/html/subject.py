"""What a report is about: everything that is known of one compiled model, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnnir.backends.base import Plan
from cnnir.ir import Graph
from cnnir.records import PassRecord
from cnnir.report.roofline import Roofline


@dataclass(frozen=True)
class Subject:
    """A compiled model. Steps of the plan name nodes of the last graph by their serials."""

    title: str
    imported: Graph
    records: Sequence[PassRecord]
    """Of all passes, with the graph after each."""
    plan: Plan
    threads: int = 1
    texts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """For the symbol of a step's kernel its texts: "LLVM IR", "assembly"."""
    nodes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """For the serial of a node its texts: "loops", "CUDA C"."""
    runs: Sequence[Sequence[float]] = ()
    """Seconds of each step, for each measured run."""
    machine: Roofline | None = None
    """What so many threads can do at most, where that was measured."""

    @property
    def graphs(self) -> list[Graph]:
        """As imported, then after each pass."""
        return [self.imported, *(r.graph for r in self.records if r.graph is not None)]
