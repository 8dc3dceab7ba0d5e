"""What passes did, as data: a PassRecord a pass, which holds its rewrites and what was declined.

`pipeline.py` makes them, `exe.history` holds them, `report/` writes them as tables and pages. A
rewrite names nodes by their serials, which are those of the clones that records keep when snapshots
were asked for, so what went and what came can be found in the graphs before and after a pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cnnir.ir import Graph
from cnnir.ops import Cost
from cnnir.rewrite import Declined, Kind, Rewrite

KINDS: tuple[Kind, ...] = ("exact", "reassociating", "lossy")
"""What a rule may do to values, mildest first."""


@dataclass(frozen=True, slots=True)
class GraphSize:
    """A graph in figures."""

    nodes: int
    """Op nodes; inputs and params are not counted."""
    flops: int
    """Operations of a run."""
    bytes: int
    """Bytes that nodes read and write, each once a node."""
    params: int
    """Numbers in all params."""
    param_bytes: int

    @classmethod
    def of(cls, graph: Graph) -> GraphSize:
        """Count."""
        costs = [node.op.cost(node) for node in graph.nx if node.op is not None]
        total = sum(costs, Cost())
        arrays = graph.params.values()
        moved, numbers = total.read + total.written, sum(a.size for a in arrays)
        return cls(len(costs), total.flops, moved, numbers, sum(a.nbytes for a in arrays))


@dataclass(slots=True)
class PassRecord:
    """What one pass of a run did."""

    name: str
    options: str
    """The pass as pipeline text, with its options."""
    label: str
    """The name, or `fold#2` where a pass of that name ran before."""
    seconds: float
    """Time in the pass itself, without verifying, counting and checking."""
    before: GraphSize
    after: GraphSize
    rewrites: list[Rewrite] = field(default_factory=list)
    """Every firing of a rule, in order."""
    declined: list[Declined] = field(default_factory=list)
    """Candidates that were left alone, with the reason."""
    difference: float | None = None
    """Largest relative change of an output, where that was verified."""
    graph: Graph | None = None
    """The graph after the pass, where snapshots were asked for."""

    @property
    def fired(self) -> dict[str, int]:
        """How often each rule fired."""
        counts: dict[str, int] = {}
        for rewrite in self.rewrites:
            counts[rewrite.rule] = counts.get(rewrite.rule, 0) + 1
        return counts

    @property
    def kinds(self) -> dict[Kind, int]:
        """How many of the rewrites are exact, reassociating, lossy."""
        counts = {kind: sum(r.kind == kind for r in self.rewrites) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}

    @property
    def errors(self) -> dict[str, float]:
        """Each rule's largest measured change of a value, where that was verified."""
        worst: dict[str, float] = {}
        for rewrite in self.rewrites:
            if rewrite.difference is not None:
                worst[rewrite.rule] = max(worst.get(rewrite.rule, 0.0), rewrite.difference)
        return worst

    @property
    def text(self) -> str | None:
        """The graph after the pass as text, where snapshots were asked for."""
        return None if self.graph is None else self.graph.text()


def labelled(names: Sequence[str]) -> list[str]:
    """The names of passes; one that comes again is `fold#2`."""
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [f"{n}#{c}" if c > 1 else n for n, c in zip(names, counts, strict=True)]


def difference(before: str, after: str, names: tuple[str, str] = ("before", "after")) -> str:
    """The lines that differ between two texts, with two lines around them; empty for equal ones."""
    a, b = before.splitlines(), after.splitlines()
    return "\n".join(difflib.unified_diff(a, b, *names, lineterm="", n=2))
