"""Values of a graph while passes work on it: in f64, on random inputs, before and after.

A `Verifier` compares twice. Of each rewrite it evaluates both sides while they are there together;
that names the rule and the node that went wrong. Of each pass it compares the outputs, which is
what counts. `widened` makes a graph whose new weights are not rounded to 32 bits, so that what
differs is the algebra alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import networkx as nx
import numpy as np

from cnnir.errors import Error, PassError
from cnnir.evaluate import evaluate, evaluate_node
from cnnir.ir import Graph, Node, Value
from cnnir.rewrite import Rewrite, observed
from cnnir.tensortype import DTYPES, TensorType, is_float

Arrays = list[np.ndarray]

SCALES = (1.0, 8.0, 0.1)
"""Standard deviations of the inputs: one set of them each."""


ROUNDING = 1e-6
"""A larger difference than new weights in f32 make."""


def random_inputs(graph: Graph, seed: int = 0, scale: float = 1.0) -> Arrays:
    """Arrays for all inputs: normal floats, and 0 or 1 for integers, which index most things."""
    rng = np.random.default_rng(seed)
    return [_random(value.type, rng, scale) for value in graph.inputs]


def _random(type: TensorType, rng: np.random.Generator, scale: float) -> np.ndarray:
    if is_float(type.dtype):
        return (scale * rng.standard_normal(type.shape)).astype(type.numpy)
    return rng.integers(0, 2, type.shape).astype(type.numpy)


def relative_difference(wanted: np.ndarray, got: np.ndarray) -> float:
    """The largest difference, over the largest finite magnitude; inf where specials differ."""
    a, b = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    largest = np.abs(a[finite]).max(initial=0.0)
    error = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return float(error / largest) if largest else float(error)


class Verifier:
    """The values of one graph on several inputs, pass by pass and rewrite by rewrite."""

    def __init__(self, graph: Graph, seed: int = 0) -> None:
        self.graph, self._seed = graph, seed
        self._before: Graph | None = None
        self._step = ""
        self._outputs: list[Arrays] | None = None
        """What the graph gave when it was last looked at, for each set of inputs."""

    @cached_property
    def feeds(self) -> list[Arrays]:
        """The sets of inputs."""
        return [random_inputs(self.graph, self._seed + n, s) for n, s in enumerate(SCALES)]

    @cached_property
    def _sides(self) -> Sides:
        return Sides(self.graph, self.feeds)

    @contextmanager
    def watching(self, step: str, rewrites: bool = True) -> Iterator[None]:
        """Remember the graph, and look at each rewrite of the pass that runs inside."""
        self._before, self._step = self.graph.clone(), step
        if not rewrites:
            self._outputs = None
            yield
            return
        if self._outputs is None:
            self._outputs = self._evaluated(self.graph, "before the first pass")
        with observed(self._sides):
            yield
        self._sides.forget_gone()

    def compare(self, tolerance: float, rewrites: Sequence[Rewrite] = ()) -> float:
        """How much the outputs differ from those before the pass that was watched.

        PassError beyond the tolerance; it names the rewrite that changed its own value most.
        """
        assert self._before is not None
        if _same(self._before, self.graph):
            return 0.0
        if self._outputs is None:
            self._outputs = self._evaluated(self._before, f"before pass {self._step}")
        before, self._outputs = self._outputs, self._evaluated(self.graph, f"after {self._step}")
        worst = 0.0
        for wanted, got in zip(before, self._outputs, strict=True):
            for name, a, b in zip(self.graph.output_names, wanted, got, strict=True):
                difference = relative_difference(a, b)
                if not difference <= tolerance:
                    raise PassError(self._blame(name, difference, tolerance, rewrites))
                worst = max(worst, difference)
        return worst

    def _blame(
        self, output: str, difference: float, tolerance: float, rewrites: Sequence[Rewrite]
    ) -> str:
        told = (
            f"pass {self._step} changed output {output!r} by {difference:.3g} of its largest "
            f"number, allowed are {tolerance:g}"
        )
        worst = max(rewrites, key=lambda r: r.difference or 0.0, default=None)
        if worst is None or not (worst.difference or 0.0) > tolerance:
            return told
        return f"{told}; rule {worst.rule} changed {worst.where} by {worst.difference:.3g}"

    def _evaluated(self, graph: Graph, when: str) -> list[Arrays]:
        try:
            return [evaluate(graph, feeds, dtype="f64") for feeds in self.feeds]
        except Error as error:
            raise PassError(f"values cannot be verified {when}: {error}") from error


def _same(before: Graph, after: Graph) -> bool:
    """Whether text and arrays are the same, so that values need no comparing."""
    kept = before.params.keys() == after.params.keys()
    kept = kept and all(array is after.params[name] for name, array in before.params.items())
    return kept and before.text() == after.text()


class Sides:
    """Evaluates both sides of each rewrite, and notes in it by how much they differ.

    Values are kept for the rewrites that follow. Where one changes a value by more than rounding,
    all that depends on it is forgotten, so that the error is not blamed on a later rewrite.
    """

    def __init__(self, graph: Graph, feeds: list[Arrays]) -> None:
        self.graph = graph
        self.known: list[dict[Value, np.ndarray]] = [
            {v: _carried(a, v.type) for v, a in zip(graph.inputs, arrays, strict=True)}
            for arrays in feeds
        ]

    def __call__(
        self, g: Graph, rewrite: Rewrite, old: Sequence[Value], new: Sequence[Value]
    ) -> None:
        """The observer."""
        worst = 0.0
        for known in self.known:
            try:
                wanted = [self._value(known, value) for value in old]
            except Error:
                return  # data that the op cannot work on: there is nothing to compare with
            try:
                got = [self._value(known, value) for value in new]
            except Error:
                worst = float("inf")
                break
            pairs = zip(wanted, got, strict=True)
            worst = max(worst, *(relative_difference(a, b) for a, b in pairs))
        rewrite.difference = worst
        if worst > ROUNDING:
            depending = set().union(*(nx.descendants(g.nx, value.node) for value in old))
            self._forget(lambda value: value.node in depending)

    def forget_gone(self) -> None:
        """Drop the values of nodes that are gone."""
        self._forget(lambda value: value.node not in self.graph.nx)

    def _forget(self, chosen: Callable[[Value], bool]) -> None:
        for known in self.known:
            for value in [v for v in known if chosen(v)]:
                del known[value]

    def _value(self, known: dict[Value, np.ndarray], wanted: Value) -> np.ndarray:
        """A value and all that it needs, without recursion."""
        stack = [wanted.node]
        while stack:
            node = stack[-1]
            missing = [v.node for v in node.operands if v is not None and v not in known]
            if missing:
                stack += missing
                continue
            stack.pop()
            if node.results[0] not in known:
                known.update(zip(node.results, self._results(known, node), strict=True))
        return known[wanted]

    def _results(self, known: dict[Value, np.ndarray], node: Node) -> Sequence[np.ndarray]:
        if node.kind == "param":
            return [_carried(self.graph.params[node.attrs["ref"]], node.results[0].type)]
        return evaluate_node(node, [None if v is None else known[v] for v in node.operands], "f64")


def _carried(array: np.ndarray, type: TensorType) -> np.ndarray:
    return array.astype(DTYPES["f64"], copy=False) if is_float(type.dtype) else array


# ---------------------------------------------------------------- a graph in f64


def widened(graph: Graph) -> Graph:
    """The same graph in f64 throughout: floats of all inputs, params, casts and bodies."""
    wide = Graph(graph.name)
    new: dict[Value, Value] = {}
    for node in graph.order():
        with wide.provenance(*node.sources):
            made = _widened(wide, graph, node, new)
        results = made if isinstance(made, tuple) else (made,)
        for old, value in zip(node.results, results, strict=True):
            value.name = old.name
            new[old] = value
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        wide.output(new[value], name)
    wide.trims, wide.carried = dict(graph.trims), dict(graph.carried)
    return wide


def _widened(
    wide: Graph, graph: Graph, node: Node, new: dict[Value, Value]
) -> Value | tuple[Value, ...]:
    type = node.results[0].type
    floats = is_float(type.dtype)
    if node.kind == "input":
        return wide.input(
            TensorType("f64", type.shape) if floats else type, str(node.results[0].name)
        )
    if node.op is None:
        array = graph.params[node.attrs["ref"]]
        return wide.param(node.attrs["ref"], array.astype(DTYPES["f64"]) if floats else array)
    attrs = dict(node.attrs)
    if is_float(attrs.get("dtype", "bool")):
        attrs["dtype"] = "f64"
    if isinstance(body := attrs.get("body"), Graph):
        attrs["body"] = widened(body)
    made: Value | tuple[Value, ...] = wide.add(
        node.op, *(v and new[v] for v in node.operands), **attrs
    )
    return made
