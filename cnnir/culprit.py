"""Which rewrite broke it: the first that changes values, and a small graph that shows it.

`find` runs a pipeline pass by pass, looks at both sides of every rewrite, and stops at the first
that differ by more than a tolerance, or at the first pass whose outputs do. What leads to the value
is then shrunk: everything that is not needed for the difference becomes an input. `Culprit.save`
writes the small graph and its inputs, so that it can be run anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import Error
from cnnir.evaluate import evaluate
from cnnir.ir import Graph, Node, Value
from cnnir.passes import Pass, RulePass
from cnnir.pipeline import parse_pipeline
from cnnir.records import labelled
from cnnir.rewrite import Rewrite, observed, rewrite
from cnnir.verify import SCALES, Sides, random_inputs, relative_difference

Change = Callable[[Graph], Any]
"""What is under suspicion: it changes a graph in place."""


@dataclass
class Culprit:
    """What changes values, and the smallest graph found on which it does."""

    label: str
    """The pass, `fold#2` where it ran before."""
    step: Pass
    rewrite: Rewrite | None
    """The rewrite; None where no single one shows a difference, but the whole pass."""
    graph: Graph
    """Before it, shrunk."""
    feeds: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]
    """The outputs before it, in f64."""
    got: dict[str, np.ndarray]
    """The outputs after it; none where it raised `error`."""
    after: str
    """The text of the graph after it."""
    error: str = ""

    @property
    def difference(self) -> float:
        """How much the outputs of the small graph change."""
        return _difference(list(self.wanted.values()), list(self.got.values()))

    def text(self) -> str:
        """Who it was, on what, and what it makes of it."""
        who = f"pass {self.label}"
        if self.rewrite is not None:
            who = f"rule {self.rewrite.rule} of pass {self.label} at {self.rewrite.where}"
        did = f"fails: {self.error}" if self.error else f"changes values by {self.difference:.3g}"
        nodes = sum(node.op is not None for node in self.graph.nx)
        shown = f"{who} {did}; on {nodes} nodes:\n{self.graph.text()}"
        return shown if self.error else f"{shown}\nbecomes\n{self.after}"

    def save(self, stem: str, write: Callable[[Graph, str], None]) -> list[str]:
        """Write STEM.onnx, by `write`, and STEM.npz: inputs by name, `wanted.y` and `got.y`."""
        arrays = dict(self.feeds)
        arrays |= {f"wanted.{name}": array for name, array in self.wanted.items()}
        arrays |= {f"got.{name}": array for name, array in self.got.items()}
        stem = os.fspath(stem)
        with open(f"{stem}.npz", "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        write(self.graph, f"{stem}.onnx")
        return [f"{stem}.onnx", f"{stem}.npz"]


def find(
    graph: Graph,
    passes: str | Sequence[Pass] | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> Culprit | None:
    """The first rewrite, or pass, that changes values by more than `tolerance`; None without one.

    The graph stays as it is. Rewrites and passes that may be lossy are measured like any others.
    """
    chosen = parse_pipeline(passes or "inference") if isinstance(passes, str | None) else passes
    g = graph.clone()
    for step, label in zip(chosen, labelled([p.name for p in chosen]), strict=True):
        before = g.clone()
        watch = _Watch(g, tolerance, seed)
        try:
            with observed(watch.sides), observed(watch):
                step.run(g)
        except _FoundError as found:
            return _shrunk(label, step, found.rewrite, found.graph, tolerance, seed)
        except Error:
            return _shrunk(label, step, None, before, tolerance, seed)
        if _changes(before, _always(g), tolerance, seed):
            return _shrunk(label, step, None, before, tolerance, seed)
    return None


class _FoundError(Exception):
    def __init__(self, rewrite: Rewrite, graph: Graph) -> None:
        super().__init__(rewrite.rule)
        self.rewrite, self.graph = rewrite, graph


class _Watch:
    """An observer that stops at the first rewrite that changes its value too much."""

    def __init__(self, graph: Graph, tolerance: float, seed: int) -> None:
        feeds = [random_inputs(graph, seed + n, scale) for n, scale in enumerate(SCALES)]
        self.sides, self.tolerance = Sides(graph, feeds), tolerance

    def __call__(
        self, g: Graph, rewrite: Rewrite, old: Sequence[Value], new: Sequence[Value]
    ) -> None:
        if not (rewrite.difference or 0.0) <= self.tolerance:
            rewrite.sources = rewrite.sources or old[0].node.sources
            raise _FoundError(rewrite, _part(g, old))


# ---------------------------------------------------------------- does it change values?


def _always(after: Graph) -> Callable[[Graph], Graph]:
    return lambda _: after


def _applied(g: Graph, change: Change) -> Graph:
    after = g.clone()
    change(after)
    after.verify()
    return after


def _changes(g: Graph, made: Callable[[Graph], Graph], tolerance: float, seed: int) -> bool:
    """Whether a changed graph gives other values, on one of several inputs, or fails."""
    for number, scale in enumerate(SCALES):
        feeds = random_inputs(g, seed + number, scale)
        try:
            wanted = evaluate(g, feeds, "f64")
        except Error:
            continue  # data that the graph cannot work on tells nothing
        try:
            after = made(g)
            got = evaluate(after, feeds, "f64")
        except Error:
            return True
        if not _difference(wanted, got) <= tolerance:
            return True
    return False


def _difference(wanted: list[np.ndarray], got: list[np.ndarray]) -> float:
    pairs = zip(wanted, got, strict=False)
    return max((relative_difference(a, b) for a, b in pairs), default=0.0)


# ---------------------------------------------------------------- shrinking


def _shrunk(
    label: str, step: Pass, found: Rewrite | None, graph: Graph, tolerance: float, seed: int
) -> Culprit:
    change = _change(step, found)

    def fails(g: Graph) -> bool:
        return _changes(g, lambda h: _applied(h, change), tolerance, seed)

    if not fails(graph):  # the rule alone does not do it, so it takes the pass
        change = step.run
    small = shrink(graph, fails) if fails(graph) else graph
    for number, scale in enumerate(SCALES):
        arrays = random_inputs(small, seed + number, scale)
        wanted = evaluate(small, arrays, "f64")
        got, after, error = [], "", ""
        try:
            changed = _applied(small, change)
            got, after = evaluate(changed, arrays, "f64"), changed.text()
        except Error as raised:
            error = str(raised)
        if error or not _difference(wanted, got) <= tolerance:
            break
    names = [str(v.name) for v in small.inputs]
    return Culprit(
        label,
        step,
        found,
        small,
        dict(zip(names, arrays, strict=True)),
        dict(zip(small.output_names, wanted, strict=True)),
        dict(zip(small.output_names, got, strict=False)),
        after,
        error,
    )


def _change(step: Pass, found: Rewrite | None) -> Change:
    """The rule alone, where a pass of rules has it; or else the pass."""
    if found is None or not isinstance(step, RulePass):
        return step.run
    alone = tuple(rule for rule in step.rules if rule.name == found.rule)
    return lambda g: rewrite(g, alone, options=step) if alone else step.run(g)


def shrink(graph: Graph, fails: Callable[[Graph], bool]) -> Graph:
    """A smaller graph that still fails: fewer outputs, and inputs in the place of values.

    Delta debugging: of the smaller graphs in turn the first that fails is taken, and it starts
    again, until none of them does.
    """
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(graph):
            if _size(candidate) < _size(graph) and fails(candidate):
                graph, smaller = candidate, True
                break
    return graph


def _size(graph: Graph) -> tuple[int, int]:
    return sum(node.op is not None for node in graph.order()), len(graph.outputs)


def _smaller(graph: Graph) -> Iterator[Graph]:
    """Graphs with less, the boldest cuts first."""
    order = [node for node in graph.order() if node.op is not None]
    if len(graph.outputs) > 1:
        for value in graph.outputs:
            yield _part(graph, [value])
    depth = _distances(graph)
    near = 1
    while near < max(depth.values(), default=0):
        yield _part(graph, graph.outputs, {n for n in order if depth[n] > near})
        near *= 2
    for node in order[:-1]:  # an early node as the end of the graph
        yield _part(graph, node.results)
    for node in order:
        yield _part(graph, graph.outputs, {node})


def _distances(graph: Graph) -> dict[Node, int]:
    """How many nodes lie between each node and the nearest output, and itself."""
    found: dict[Node, int] = {}
    level = list(dict.fromkeys(value.node for value in graph.outputs))
    distance = 1
    while level:
        found |= dict.fromkeys(level, distance)
        level = [n for node in level for n in graph.nx.pred[node] if n not in found]
        level, distance = list(dict.fromkeys(level)), distance + 1
    return {node: d for node, d in found.items() if node.op is not None}


def _part(
    graph: Graph, outputs: Sequence[Value], replaced: set[Node] | frozenset[Node] = frozenset()
) -> Graph:
    """A graph that gives these outputs, with inputs in the place of what some nodes give."""
    part = Graph(graph.name)
    new: dict[Value, Value] = {}
    needed = _needed(outputs, replaced)
    for node in graph.order():
        if node not in needed:
            continue
        with part.provenance(*node.sources):
            if node.op is None or node in replaced:
                made = [_leaf(part, graph, node, value) for value in node.results]
            else:
                given = (v and new[v] for v in node.operands)
                result = part.add(node.op, *given, **node.attrs)
                made = list(result) if isinstance(result, tuple) else [result]
        for old, value in zip(node.results, made, strict=True):
            value.name = value.name or old.name
            new[old] = value
    for position, value in enumerate(dict.fromkeys(outputs)):
        part.output(new[value], f"y{position}")
    return part


def _needed(outputs: Sequence[Value], replaced: set[Node] | frozenset[Node]) -> set[Node]:
    needed: set[Node] = set()
    stack = [value.node for value in outputs]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            if node not in replaced:
                stack += [v.node for v in node.operands if v is not None]
    return needed


def _leaf(part: Graph, graph: Graph, node: Node, value: Value) -> Value:
    if node.kind == "param":
        return part.param(node.attrs["ref"], graph.params[node.attrs["ref"]])
    return part.input(value.type, f"x{len(part.inputs)}")
