"""Fusion: regions of nodes become `fused` nodes, each run as one kernel.

A region has one result. Every other node of it is used inside only, so contracting it cannot make
a cycle. It holds at most one anchor, with elementwise nodes behind it (the epilogue) and, where the
anchor is a reduction, before it (the prologue). Every epilogue node has the anchor's result shape;
operands from outside may broadcast.

One walk from the outputs back assigns each node to the region of its users where the conditions
hold, else it starts a region of its own. As that meets later nodes first, of two convolutions that
are added the later one takes the addition: the other is complete when it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes.base import Pass
from cnnir.rewrite import Declined, Outcome, decline, other_uses, replace_values, unite

REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")
POOLS = ("max_pool", "avg_pool", "lp_pool", "max_pool_grad")
ANCHORS = ("conv", "conv_transpose", "matmul", *POOLS, *REDUCTIONS)


@dataclass(eq=False)
class _Region:
    """Nodes that will be one, last first: the first is the one whose result leaves."""

    nodes: list[Node]
    anchor: Node | None = None
    prologue: set[Node] = field(default_factory=set)


@dataclass(frozen=True)
class Fuse(Pass):
    """op, elementwise ... => fused { op; elementwise ... }"""

    name = "fuse"
    max_nodes: int = 32
    """Nodes that one region may hold."""

    def run(self, g: Graph) -> Outcome:
        """Partition, then contract every region of two nodes or more."""
        g.sweep()
        order = g.order()
        plan = _Partition(g, order, self.max_nodes)
        outcome = Outcome(declined=[replace(d, rule=self.name) for d in plan.declined])
        position = {node: number for number, node in enumerate(order)}
        for region in reversed(plan.regions):
            if len(region.nodes) > 1:
                nodes = sorted(region.nodes, key=position.__getitem__)
                _contract(g, nodes, _kind(region), outcome)
        return outcome


def _kind(region: _Region) -> str:
    if region.anchor is None:
        return "fuse_elementwise"
    return "fuse_prologue" if region.prologue else "fuse_epilogue"


class _Partition:
    """Which region every node belongs to."""

    def __init__(self, g: Graph, order: list[Node], max_nodes: int) -> None:
        self.g, self.max_nodes = g, max_nodes
        self.regions: list[_Region] = []
        self.declined: list[Declined] = []
        self.home: dict[Node, _Region] = {}
        self.behind_anchor = _behind_anchor(g, order)
        for node in reversed(order):
            if node.op is not None:
                self._assign(node)

    def _assign(self, node: Node) -> None:
        region = self._region_of_users(node)
        if isinstance(region, _Region):
            reason = self._obstacle(node, region)
            if not reason:
                self._join(node, region)
                return
        else:
            reason = region
        obvious = node.name in ANCHORS and node.name not in REDUCTIONS
        if reason and obvious and self._has_elementwise_user(node):
            self.declined.append(decline(node, reason))
        region = _Region([node], node if _is_anchor(node) else None)
        self.regions.append(region)
        self.home[node] = region

    def _region_of_users(self, node: Node) -> _Region | str:
        """The one region that all uses of the node are in, or why there is none."""
        if not (_is_anchor(node) or _is_elementwise(node)):
            return f"{node.name} does not fuse"
        if self.g.is_output(node.results[0]):
            return "its result is an output of the graph"
        homes = {self.home[user] for user in self.g.nx.succ[node]}
        if len(homes) == 1:
            return homes.pop()
        return other_uses(self.g, node.results[0], by=next(iter(self.g.nx.succ[node]), node))

    def _obstacle(self, node: Node, region: _Region) -> str:
        """Why the node cannot join the region; nothing when it can."""
        root = region.nodes[0]
        if not (_is_elementwise(root) or _is_anchor(root)):
            return f"{root.name} does not fuse"
        if len(region.nodes) >= self.max_nodes:
            return f"the region has {self.max_nodes} nodes already"
        if self._feeds_anchor(node, region):
            return self._prologue_obstacle(node, region)
        shape, wanted = node.results[0].type.shape, root.results[0].type.shape
        if shape != wanted:
            return f"its shape {list(shape)} is not that of the epilogue, {list(wanted)}"
        if _is_anchor(node) and node.name not in REDUCTIONS:
            # tuned kernels store what they accumulate; another type would cost the kernel
            made, stored = node.results[0].type.dtype, root.results[0].type.dtype
            if made != stored:
                return f"its element type {made} is not that of the epilogue, {stored}"
        if region.anchor is not None and _is_anchor(node):
            return f"the epilogue went to a later {region.anchor.name}"
        if region.anchor is not None and node in self.behind_anchor:
            return "it is the epilogue of an earlier anchor"
        return ""

    def _feeds_anchor(self, node: Node, region: _Region) -> bool:
        return any(u is region.anchor or u in region.prologue for u in self.g.nx.succ[node])

    def _prologue_obstacle(self, node: Node, region: _Region) -> str:
        """A reduction reads each element once, so work before it is done once as well."""
        assert region.anchor is not None and region.anchor.operands[0] is not None
        if region.anchor.name not in REDUCTIONS or not _is_elementwise(node):
            return f"a {region.anchor.name} takes no prologue of {node.name}"
        if node in self.behind_anchor:
            return "it is the epilogue of an earlier anchor"
        if node.results[0].type.shape != region.anchor.operands[0].type.shape:
            return "its shape is not that of the reduction's operand"
        users = self.g.nx.succ[node]
        inside = all(u is region.anchor or u in region.prologue for u in users)
        return "" if inside else "the epilogue uses it too"

    def _join(self, node: Node, region: _Region) -> None:
        if self._feeds_anchor(node, region):
            region.prologue.add(node)
        elif _is_anchor(node):
            region.anchor = node
        region.nodes.append(node)
        self.home[node] = region

    def _has_elementwise_user(self, node: Node) -> bool:
        return any(_is_elementwise(user) for user in self.g.nx.succ[node])


def _is_elementwise(node: Node) -> bool:
    return node.op is not None and issubclass(node.op, Elementwise) and len(node.results) == 1


def _is_anchor(node: Node) -> bool:
    return node.name in ANCHORS and len(node.results) == 1


def _behind_anchor(g: Graph, order: list[Node]) -> set[Node]:
    """Elementwise nodes that an anchor before them can take as its epilogue."""
    found: set[Node] = set()
    for node in order:
        if not _is_elementwise(node):
            continue
        for value in node.operands:
            if value is not None and (_is_anchor(value.node) or value.node in found):
                same_shape = value.type.shape == node.results[0].type.shape
                inside = not g.is_output(value) and set(g.nx.succ[value.node]) == {node}
                if same_shape and inside:
                    found.add(node)
    return found


def _contract(g: Graph, nodes: list[Node], rule: str, outcome: Outcome) -> None:
    """Put one fused node in the place of nodes, which are in order."""
    body = Graph("body")
    inner: dict[Value, Value] = {}
    outer: list[Value] = []
    members = set(nodes)
    for node in nodes:
        for value in node.operands:
            if value is not None and value.node not in members and value not in inner:
                inner[value] = body.input(value.type, f"x{len(outer)}")
                outer.append(value)
    for node in nodes:
        with body.provenance(*node.sources):
            operands = (v and inner[v] for v in node.operands)
            result = node.results[0]
            inner[result] = body.add(
                node.op or node.name, *operands, name=result.name, **node.attrs
            )
    result = nodes[-1].results[0]
    body.output(inner[result], "y")
    with g.provenance(*unite(nodes)):
        fused = g.add("fused", *outer, name=result.name, body=body)
    replace_values(g, outcome.record(rule, nodes, [fused.node]), [result], [fused])
    g.prune([nodes[-1]])
