"""Checkpointing: forward values that the backward pass computes again instead of keeping them.

Part of `gradient`, which knows what is forward, what is backward, and the cotangents. Chosen nodes
that use each other are a segment. Its copy is computed from the values around it, behind a
`barrier` on the first cotangent to reach the segment: without it the copy would be computed, or
merged with the original, on the way forward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from cnnir.ir import Graph, Node, Value

Choice = Callable[[Node], bool]


def recompute(
    g: Graph,
    forward: Sequence[Node],
    targets: Collection[Value],
    cotangents: Mapping[Value, Value],
    choice: Choice,
) -> None:
    """Let what is not in `forward` use copies of the nodes of it that are chosen.

    forward: in order, operands first. The targets of differentiation are never copied, and a
    segment that no cotangent reaches stays as it is.
    """
    ends = {value.node for value in targets}
    chosen = {n for n in forward if n.op is not None and n not in ends and choice(n)}
    known = set(forward)
    backward = [node for node in g.nx if node not in known]
    for segment, users in _segments(forward, chosen):
        # the last use is the first on the way back: what its cotangent needs comes behind it in
        # the order, and so uses nothing of the segment
        results = (value for user in reversed(users) for value in user.results)
        after = next((cotangents[v] for v in results if v in cotangents), None)
        if after is None:
            continue
        copy = _Copy(g, segment, after)
        for node in backward:
            if any(v is not None and v.node in segment for v in node.operands):
                g.set_operands(node, tuple(v and copy.of(v) for v in node.operands))


def _segments(forward: Sequence[Node], chosen: set[Node]) -> list[tuple[set[Node], list[Node]]]:
    """Chosen nodes that use each other, and the other forward nodes that use them, in order."""
    home: dict[Node, set[Node]] = {}
    for node in forward:
        if node in chosen:
            own = {node}
            for v in node.operands:
                if v is not None and v.node in home:
                    own |= home[v.node]
            home.update(dict.fromkeys(own, own))
    users: dict[int, list[Node]] = {id(segment): [] for segment in home.values()}
    for node in forward:
        if node not in chosen:
            used = {id(home[v.node]) for v in node.operands if v is not None and v.node in home}
            for segment in used:
                users[segment].append(node)
    return [(segment, users[id(segment)]) for segment in {id(s): s for s in home.values()}.values()]


class _Copy:
    """The values of a segment, computed again when they are asked for."""

    def __init__(self, g: Graph, segment: set[Node], after: Value) -> None:
        self.g, self.segment, self.after = g, segment, after
        self._known: dict[Value, Value] = {}

    def of(self, value: Value) -> Value:
        """The copy of a value of the segment; any other value is itself."""
        if value.node not in self.segment:
            return value
        stack = [value.node]
        while stack:  # operands first, without recursion
            node = stack[-1]
            missing = [
                v.node
                for v in node.operands
                if v is not None and v.node in self.segment and v not in self._known
            ]
            stack += missing
            if not missing:
                stack.pop()
                self._build(node)
        return self._known[value]

    def _build(self, node: Node) -> None:
        if node.results[0] in self._known:
            return
        assert node.op is not None
        with self.g.provenance(*node.sources):
            operands = [v and self._operand(v) for v in node.operands]
            made = self.g.add(node.op, *operands, **node.attrs)
        made = made if isinstance(made, tuple) else (made,)
        self._known.update(zip(node.results, made, strict=True))

    def _operand(self, value: Value) -> Value:
        """An operand of the copy; what comes from outside is behind a barrier."""
        if value not in self._known and value.node.kind != "param":
            self._known[value] = self.g.add("barrier", value, self.after)
        return self._known.get(value, value)
