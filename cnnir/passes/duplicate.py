"""Cheap elementwise work is done again by everybody who needs it, rather than stored.

What a few additions and multiplications make of a value that is in memory anyway, and of numbers a
channel, costs a pass over memory to store and another to read, and next to nothing to compute
again: x - mean in batch norm, which its variance, its result and its gradient all want. Such a
chain is copied for each of its users, where all of them can take it into their own loops (`fuse`
then does that).
"""

from __future__ import annotations

from dataclasses import dataclass

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes.base import Pass
from cnnir.passes.fuse import REDUCTIONS
from cnnir.rewrite import Outcome

CHEAP = ("add", "sub", "mul", "neg", "relu", "clip", "maximum", "minimum", "abs")


@dataclass(frozen=True)
class Duplicate(Pass):
    """f(x, c), used by g and h => g(f(x, c)), h(f(x, c))  [f cheap; x in memory, c a channel]"""

    name = "duplicate"
    longest: int = 4
    """Nodes of a chain that is copied."""
    least: int = 1 << 12
    """Elements of a result that is worth it."""

    def run(self, g: Graph) -> Outcome:
        """One walk, operands first: what is copied once may be part of a longer chain."""
        outcome = Outcome()
        for node in g.order():
            chain = self._chain(g, node)
            if not chain:
                continue
            users = list(dict.fromkeys(user for user, _ in g.users(node.results[0])))
            for user in users[1:]:
                made = _copy(g, chain)
                _point(g, user, node.results[0], made[-1].results[0])
                outcome.record("duplicate", chain[::-1], made)
        return outcome

    def _chain(self, g: Graph, node: Node) -> list[Node]:
        """What is to be copied, last first; nothing where storing the result is right."""
        users = {user for user, _ in g.users(node.results[0])} if node.op else set()
        if len(users) < 2 or g.is_output(node.results[0]) or not all(map(_takes, users)):
            return []
        chain: list[Node] = []
        while len(chain) < self.longest:
            large = _large_operand(node) if _cheap(node) else None
            if large is None or large.type.size < self.least:
                return []
            chain.append(node)
            others = set(g.nx.succ[large.node]) - {node}
            if large.node.op is None or others or g.is_output(large):
                return chain if _stored(g, large, set(chain)) else []
            node = large.node
        return []


def _takes(user: Node) -> bool:
    """Whether a node can compute its operand itself."""
    return user.op is not None and (issubclass(user.op, Elementwise) or user.name in REDUCTIONS)


def _cheap(node: Node) -> bool:
    return node.name in CHEAP and len(node.results) == 1


def _large_operand(node: Node) -> Value | None:
    """The one operand that has the result's shape; others are much smaller."""
    shape = node.results[0].type.shape
    large = [v for v in node.operands if v is not None and v.type.shape == shape]
    small = [v for v in node.operands if v is not None and v.type.shape != shape]
    if len(set(large)) != 1 or any(16 * v.type.size > large[0].type.size for v in small):
        return None
    return large[0]


def _stored(g: Graph, value: Value, chain: set[Node]) -> bool:
    """Whether a value is in memory whatever becomes of the chain."""
    if value.node.op is None or g.is_output(value):
        return True
    return any(user not in chain for user, _ in g.users(value))


def _copy(g: Graph, chain: list[Node]) -> list[Node]:
    """The chain again, on the same operands; last node last."""
    twins: dict[Value, Value] = {}
    made: list[Node] = []
    for node in reversed(chain):
        operands = (v and twins.get(v, v) for v in node.operands)
        with g.provenance(*node.sources):
            result = g.add(node.op or node.name, *operands, **node.attrs)
        twins[node.results[0]] = result
        made.append(result.node)
    return made


def _point(g: Graph, user: Node, old: Value, new: Value) -> None:
    g.set_operands(user, tuple(new if v is old else v for v in user.operands))
