"""Dead code: nodes and params that no output needs."""

from __future__ import annotations

from dataclasses import dataclass

from cnnir.ir import Graph
from cnnir.passes.base import Pass
from cnnir.rewrite import Outcome


@dataclass(frozen=True)
class Dead(Pass):
    """Remove what no output needs. Inputs stay, used or not."""

    name = "dead"

    def run(self, g: Graph) -> Outcome:
        """Sweep once."""
        outcome = Outcome()
        for node in g.prune(g.nx):
            if node.op is not None:
                outcome.record(self.name, [node])
        return outcome
