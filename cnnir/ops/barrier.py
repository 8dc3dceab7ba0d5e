"""An op that orders: what it gives is computed behind something else, though it needs it not."""

from __future__ import annotations

from typing import Any

from cnnir.ops.base import Cost, Op


class Barrier(Op):
    """y = x, not before `after` is known; of `after` nothing is read.

    What is computed from it is no common subexpression with what is computed from x, so a value
    can be computed twice instead of being kept in between.
    """

    name = "barrier"

    def infer(x, after):
        return x

    def evaluate(x, after):
        return x

    def element(m, at, x, after):
        return x[at]

    def vjp(g, node, dy):
        return dy, None

    @staticmethod
    def cost(node: Any) -> Cost:
        """No operations; x is copied."""
        return Cost(0, node.operands[0].type.nbytes, node.results[0].type.nbytes)
