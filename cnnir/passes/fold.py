"""Constant folding: what depends on params alone is evaluated once, now.

Evaluation is that of `evaluate.py`, in the types of the graph, so a run would give the same. A node
that cannot be evaluated (an index out of range) stays, and fails when the model runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cnnir.evaluate import evaluate_node
from cnnir.ir import Graph, Node
from cnnir.passes.base import Pass
from cnnir.rewrite import Outcome, decline, replace_values, unite


@dataclass(frozen=True)
class Fold(Pass):
    """op(params) => param  [not larger by more than `max_growth`, and it can be evaluated]"""

    name = "fold"
    max_growth: int = 1 << 29
    """Bytes that the results of a node may take beyond what its operands take.

    Models exist whose weights are one number expanded, so this is no small number.
    """

    def run(self, g: Graph) -> Outcome:
        """Fold in one walk: operands come before their users."""
        outcome = Outcome()
        for node in g.order():
            if node.op is None or any(v and v.node.kind != "param" for v in node.operands):
                continue
            reason = self._fold(g, node, outcome)
            if reason:
                outcome.declined.append(replace(decline(node, reason), rule=self.name))
        g.sweep()
        return outcome

    def _fold(self, g: Graph, node: Node, outcome: Outcome) -> str:
        """Put params in the place of the results; a reason when that cannot be."""
        held = {v: v.type.nbytes for v in node.operands if v is not None}
        grown = sum(v.type.nbytes for v in node.results) - sum(held.values())
        if grown > self.max_growth:
            return f"the result takes {grown} bytes more than the operands"
        try:
            arrays = evaluate_node(node, [g.array(v) for v in node.operands])
        except Exception as error:  # whatever it is, it is for the run to raise
            return f"it cannot be evaluated: {error}"
        with g.provenance(*unite([node, *(v.node for v in held)])):
            names = [value.name or node.name for value in node.results]
            params = [g.param(name, array) for name, array in zip(names, arrays, strict=True)]
        rewrite = outcome.record(self.name, [node], [value.node for value in params])
        replace_values(g, rewrite, node.results, params)
        return ""
