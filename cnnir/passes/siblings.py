"""Sibling convolutions: several that read one value in the same way become one.

The input is then read once, and filters too few to fill a tile of registers share one with others.
The parts of the result are slices of its channels, which begin at multiples of `block`, so that a
layout in blocks of channels has them for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.ops.boundary import reads
from cnnir.passes.base import Pass
from cnnir.rewrite import Declined, Outcome, decline, replace_values, unite


@dataclass(frozen=True)
class Siblings(Pass):
    """conv(x, w, b), conv(x, v, c) => slices of conv(x, [w; v], [b; c])

    [constant weights; equal kernel, stride, padding, boundary, dilation; one group; the same
    activations follow, which then follow the one convolution; reading x is a good part of the work]
    """

    name = "siblings"
    block: int = 16
    """Channels to a multiple of which each part but the last is filled up by filters of zeros: the
    widest block of any target, a multiple of all others."""
    most_waste: float = 0.25
    """The part of all filters that may be such zeros."""
    most_work: int = 128
    """Multiplications for each element of x in the smallest sibling. Where each has more, reading x
    is hidden behind its arithmetic, and nothing is gained."""

    def run(self, g: Graph) -> Outcome:
        """Join the siblings of every value, in order."""
        outcome = Outcome()
        families: dict[tuple[object, ...], list[Node]] = {}
        for node in g.order():
            if node.name == "conv" and node.attrs["groups"] == 1:
                families.setdefault(_likeness(node), []).append(node)
        for family in families.values():
            if len(family) < 2:
                continue
            willing = [node for node in family if self._asked(g, node, outcome)]
            for group in _by_activations(g, willing, outcome):
                if reason := self._obstacle(group):
                    outcome.declined.append(_declined(group[0], reason))
                else:
                    _join(g, group, self.block, outcome)
        g.sweep()
        return outcome

    def _asked(self, g: Graph, node: Node, outcome: Outcome) -> bool:
        """Whether the node may lose its own result; where not, the outcome says why."""
        reason = _attachment(g, node)
        if reason:
            outcome.declined.append(_declined(node, reason))
        return not reason

    def _obstacle(self, group: list[Node]) -> str:
        """Why joining would not pay."""
        counts = [node.results[0].type.shape[1] for node in group]
        least = min(counts) * prod(_weights(group[0]).type.shape[2:])
        if least > self.most_work:
            return f"each has {least} multiplications or more for an element it reads"
        zeros = sum(-count % self.block for count in counts[:-1])
        if zeros > self.most_waste * (sum(counts) + zeros):
            return f"{zeros} of {sum(counts) + zeros} filters would be zeros"
        return ""


def _declined(node: Node, reason: str) -> Declined:
    declined = decline(node, reason)
    return Declined(declined.node, declined.sources, reason, "join_convs")


def _weights(node: Node) -> Value:
    weights = node.operands[1]
    assert weights is not None
    return weights


def _likeness(node: Node) -> tuple[object, ...]:
    """What siblings have in common: the value read, and how."""
    rank = len(node.results[0].type.shape) - 2
    stride, dilation = (node.attrs[k] or (1,) * rank for k in ("stride", "dilation"))
    padding = node.attrs["padding"] or (0,) * 2 * rank
    words = reads(node.attrs["boundary"], padding)
    return node.operands[0], _weights(node).type.shape[1:], stride, dilation, padding, words


def _attachment(g: Graph, node: Node) -> str:
    """Why a convolution had better keep its result to itself; nothing where it need not."""
    if any(g.array(v) is None for v in node.operands[1:] if v is not None):
        return "its weights are not constant"
    result = _activations(g, node)[-1].results[0]
    for user, _ in g.users(result):
        if user.op is not None and issubclass(user.op, Elementwise):
            return f"the {user.name} behind it would lose its place in the convolution"
        if user.name == "fused":
            return "what follows has been fused without it"
        if user.name == "concat" and user.attrs["axis"] == 1:
            return "a concat takes its result, which it writes in place"
    return ""


def _activations(g: Graph, node: Node) -> list[Node]:
    """The node and the chain of functions of one operand that alone use it."""
    chain = [node]
    while g.sole_user(chain[-1].results[0]):
        ((user, _),) = g.users(chain[-1].results[0])
        unary = user.op is not None and issubclass(user.op, Elementwise) and len(user.operands) == 1
        if not unary or user.results[0].type != node.results[0].type:
            break
        chain.append(user)
    return chain


def _by_activations(g: Graph, family: list[Node], outcome: Outcome) -> list[list[Node]]:
    """The nodes in groups that the same functions follow; one that is alone is declined."""
    groups: dict[str, list[Node]] = {}
    for node in family:
        chain = [f"{n.name} {sorted(n.attrs.items())}" for n in _activations(g, node)[1:]]
        groups.setdefault(", ".join(chain), []).append(node)
    for node, *others in groups.values():
        if not others and len(groups) > 1:
            outcome.declined.append(_declined(node, "other activations follow its siblings"))
    return [group for group in groups.values() if len(group) > 1]


def _join(g: Graph, group: list[Node], block: int, outcome: Outcome) -> None:
    """One convolution in place of several."""
    chains = [_activations(g, node) for node in group]
    counts = [node.results[0].type.shape[1] for node in group]
    rooms = [count + -count % block for count in counts[:-1]] + [counts[-1]]
    with g.provenance(*unite([node for chain in chains for node in chain])):
        params = _params(g, group, rooms)
        joint: Value = g.add("conv", group[0].operands[0], *params, **group[0].attrs)
        made = [*(param.node for param in params), joint.node]
        for node in chains[0][1:]:
            joint = g.add(node.name, joint, **node.attrs)
            made.append(joint.node)
    images, _, *sizes = joint.type.shape
    parts: list[Value] = []
    start = 0
    for chain, count, room in zip(chains, counts, rooms, strict=True):
        begins = (0, start, *(0 for _ in sizes))
        steps = (1,) * joint.type.rank
        with g.provenance(*unite(chain)):
            attrs: dict[str, Any] = {
                "starts": begins,
                "sizes": (images, count, *sizes),
                "steps": steps,
            }
            parts.append(g.add("slice", joint, **attrs))
        start += room
    gone = [node for chain in chains for node in chain]
    rewrite = outcome.record("join_convs", gone, [*made, *(part.node for part in parts)])
    replace_values(g, rewrite, [chain[-1].results[0] for chain in chains], parts)


def _params(g: Graph, group: list[Node], rooms: list[int]) -> list[Value]:
    """The weights, and the biases where there are any, one behind the other."""
    params = [g.param(_weights(group[0]).name or "w", _stacked(g, group, 1, rooms))]
    if any(len(node.operands) > 2 and node.operands[2] is not None for node in group):
        params.append(g.param("b", _stacked(g, group, 2, rooms)))
    return params


def _stacked(g: Graph, group: list[Node], position: int, rooms: list[int]) -> np.ndarray:
    """The arrays of one operand along the first axis, each filled up with zeros to its room."""
    inner = _weights(group[0]).type.shape[1:] if position == 1 else ()
    stacked = np.zeros((sum(rooms), *inner), _weights(group[0]).type.numpy)
    start = 0
    for node, room in zip(group, rooms, strict=True):
        array = g.array(node.operands[position]) if len(node.operands) > position else None
        if array is not None:
            stacked[start : start + len(array)] = array
        start += room
    return stacked
