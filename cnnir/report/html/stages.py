"""The graph after every pass: all nodes there ever were, once, and what each pass changed.

A stage is `import` or a pass. It lists its nodes in order, where that differs from the stage
before, and what is new of each: operands (`in`) and source names (`from`). The page follows them.
An operand is the number of a node, [number, result] for a further result, -1 - k for param k, or
null; params are not drawn as nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from cnnir.ir import Graph, Node, Value
from cnnir.records import PassRecord
from cnnir.report.html.subject import Subject
from cnnir.report.html.weights import Weights


class Stages:
    """Nodes and stages of a subject as plain data."""

    def __init__(self, subject: Subject, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[dict[str, Any]] = []
        self.stages: list[dict[str, Any]] = []
        self.numbers: dict[int, int] = {}
        """Serial -> number."""
        self._known: dict[int, tuple[Any, Any]] = {}
        self._order: list[int] = []
        self._add({"label": "import"}, subject.imported)
        for record in subject.records:
            if record.graph is not None:
                self._add(self._described(record), record.graph)
        for stage in self.stages:
            stage["heirs"] = self._heirs(stage.get("rewrites", ()))
            for rewrite in stage.get("rewrites", ()):
                for side in ("gone", "made"):
                    numbers = (self.numbers.get(serial) for serial in rewrite[side])
                    rewrite[side] = [number for number in numbers if number is not None]

    def _described(self, record: PassRecord) -> dict[str, Any]:
        return {
            "label": record.label,
            "options": record.options,
            "seconds": record.seconds,
            "before": asdict(record.before),
            "after": asdict(record.after),
            "rewrites": [asdict(rewrite) for rewrite in record.rewrites],
            "declined": [asdict(declined) for declined in record.declined],
            "difference": record.difference,
        }

    def _heirs(self, rewrites: Iterable[dict[str, Any]]) -> dict[int, list[int]]:
        """For nodes that came in a pass those that went for them, through all rewrites between."""
        roots: dict[int, set[int]] = {}
        for rewrite in rewrites:
            gone = set[int]().union(*(roots.get(serial, {serial}) for serial in rewrite["gone"]))
            roots |= {serial: gone for serial in rewrite["made"]}
        return {
            self.numbers[made]: sorted(self.numbers[s] for s in gone if s in self.numbers)
            for made, gone in roots.items()
            if made in self.numbers
        }

    def _add(self, stage: dict[str, Any], graph: Graph) -> None:
        order, changed = [], {}
        for node in graph.order():
            if node.kind == "param":
                continue
            number = self._number(node)
            order.append(number)
            now = ([self._operand(graph, v) for v in node.operands], list(node.sources))
            before = self._known.get(number, (None, None))
            told = {k: v for k, v, old in zip(("in", "from"), now, before, strict=True) if v != old}
            if told:
                changed[number] = told
                self._known[number] = now
        if order != self._order:
            stage["order"] = self._order = order
        stage["changed"] = changed
        outputs = zip(graph.output_names, graph.outputs, strict=True)
        stage["outputs"] = [(name, self._operand(graph, value)) for name, value in outputs]
        self.stages.append(stage)

    def _number(self, node: Node) -> int:
        if node.serial not in self.numbers:
            self.numbers[node.serial] = len(self.nodes)
            self.nodes.append(_facts(node))
        return self.numbers[node.serial]

    def _operand(self, graph: Graph, value: Value | None) -> Any:
        if value is None:
            return None
        if value.node.kind == "param":
            return -1 - self.weights.number(graph, value)
        number = self._number(value.node)
        return [number, value.index] if value.index else number


def _facts(node: Node) -> dict[str, Any]:
    """What does not change of a node."""
    body = node.attrs.get("body")
    facts: dict[str, Any] = {
        "op": node.name,
        "name": node.results[0].name,
        "types": [str(v.type) for v in node.results],
    }
    defaults = node.op.attributes if node.op else {}
    facts["attrs"] = {
        name: repr(value)
        for name, value in sorted(node.attrs.items())
        if name != "body" and defaults.get(name, ...) != value
    }
    if isinstance(body, Graph):
        facts["body"] = body.text()
        facts["parts"] = [inner.name for inner in body.order() if inner.op is not None]
    if node.op is not None:
        cost = node.op.cost(node)
        facts["flops"], facts["bytes"] = cost.flops, cost.read + cost.written
    return facts
