"""Names and their scopes: what a name means where, and the order in which nodes come.

Sub-graphs see the names around them, functions do not. Nothing here recurses on the length of a
graph; how deep sub-graphs may nest is limited.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

from cnnir.errors import InputError, LimitError, ModelError, near, quoted

DEEPEST = 48

ABSENT = None
"""What an optional input of a function stands for when the call leaves it out."""


class Unknown:
    """A value that could not be imported: what needs it is skipped."""


UNKNOWN = Unknown()


@dataclass
class Scope:
    """The names of one graph or function body."""

    opsets: Mapping[str, int]
    parent: Scope | None = None
    bound: Mapping[str, AttributeProto] | None = None
    """The attributes of the call, inside of a function."""

    prefix: str = ""
    depth: int = 0
    names: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, ValueInfoProto] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return True
            scope = scope.parent
        return False

    def find(self, name: str) -> Any:
        """What a name means: a Value, ABSENT or UNKNOWN."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        raise ModelError(f"{quoted(name)} is not defined")

    def tensor(self, nodes: Sequence[NodeProto], name: str) -> Any:
        """What is called so: a tensor, or else the first result of a node."""
        if name in self:
            return self.find(name)
        made = {node_name(node, i): list(filter(None, node.output)) for i, node in enumerate(nodes)}
        if made.get(name):
            return self.find(made[name][0])
        raise InputError(
            f"the model has no tensor {quoted(name)}{near(name, [*self.names, *made])}"
        )

    def define(self, name: str, value: Any, what: str) -> None:
        """Give a name a meaning, once."""
        if not name:
            raise ModelError(f"{what} has no name")
        if name in self.names:
            raise ModelError(f"{what} {quoted(name)} is defined twice: the name is already taken")
        self.names[name] = value

    def inner(self, prefix: str, **changes: Any) -> Scope:
        """A scope one level deeper."""
        if self.depth >= DEEPEST:
            raise LimitError(f"functions and sub-graphs are nested deeper than {DEEPEST}")
        values: dict[str, Any] = {
            "opsets": self.opsets,
            "parent": self,
            "bound": self.bound,
        } | changes
        return Scope(prefix=prefix, depth=self.depth + 1, **values)


def label(node: NodeProto, index: int, prefix: str = "") -> str:
    """How messages call a node: its name (or operator and number) and operator."""
    return f"node {quoted(prefix + node_name(node, index))} ({quoted(node.op_type)[1:-1]})"


def node_name(node: NodeProto, index: int) -> str:
    """The node's own name, or one made of operator and position."""
    return node.name or f"{node.op_type}_{index}"


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes_within(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and, to any allowed depth, those of their sub-graphs."""
    stack = [(nodes, 0)]
    while stack:
        level, depth = stack.pop()
        if depth > DEEPEST:
            raise LimitError(f"sub-graphs are nested deeper than {DEEPEST}")
        for node in level:
            yield node
            stack.extend((graph.node, depth + 1) for graph in subgraphs(node))


def captured(node: NodeProto) -> set[str]:
    """The names that a node's sub-graphs use from outside."""
    used: set[str] = set()
    given: set[str] = set()
    stack = [(graph, 0) for graph in subgraphs(node)]
    while stack:
        graph, depth = stack.pop()
        if depth > DEEPEST:
            raise LimitError(f"sub-graphs are nested deeper than {DEEPEST}")
        given.update(v.name for v in graph.input)
        given.update(t.name for t in graph.initializer)
        given.update(t.values.name for t in graph.sparse_initializer)
        used.update(v.name for v in graph.output)
        for inner in graph.node:
            used.update(inner.input)
            given.update(inner.output)
            stack.extend((g, depth + 1) for g in subgraphs(inner))
    return used - given - {""}


def in_order(nodes: Sequence[NodeProto], scope: Scope) -> list[int]:
    """Indices of the nodes, each after those it uses; the file's order wherever it is one."""
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer or name in scope.names:
                raise ModelError(
                    f"{label(node, index, scope.prefix)}: output {quoted(name)} is defined twice:"
                    " the name is already taken"
                )
            producer[name] = index
    needs: list[set[int]] = []
    for index, node in enumerate(nodes):
        wanted = set()
        for name in (*filter(None, node.input), *captured(node)):
            if name in producer:
                wanted.add(producer[name])
            elif name not in scope:
                raise ModelError(
                    f"{label(node, index, scope.prefix)}: input {quoted(name)} is not defined by"
                    " any node, input or initializer"
                )
        needs.append(wanted)
    if all(not wanted or max(wanted) < index for index, wanted in enumerate(needs)):
        return list(range(len(nodes)))
    return _sorted(nodes, needs, scope)


def _sorted(nodes: Sequence[NodeProto], needs: Sequence[set[int]], scope: Scope) -> list[int]:
    """Kahn's algorithm, the earliest node in the file first."""
    users: list[list[int]] = [[] for _ in nodes]
    for index, wanted in enumerate(needs):
        for producer in wanted:
            users[producer].append(index)
    waiting = [len(wanted) for wanted in needs]
    ready = [index for index, count in enumerate(waiting) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) == len(nodes):
        return order
    raise ModelError(f"{_cycle(nodes, needs, set(order), scope)}: the graph has a cycle through it")


def _cycle(
    nodes: Sequence[NodeProto], needs: Sequence[set[int]], done: set[int], scope: Scope
) -> str:
    """The label of a node on a cycle: walking backwards among the rest must come to one."""
    seen: set[int] = set()
    index = next(i for i in range(len(nodes)) if i not in done)
    while index not in seen:
        seen.add(index)
        index = min(needs[index] - done)
    return label(nodes[index], index, scope.prefix)
