"""The graphs of derivatives as formulas: what `gradient` and `hvp` build, written out.

Where some values of a graph have names, each of the others is a formula in them: elementwise ops
write themselves down, the rest are functions by name. Of the derived graphs that is shown which is
left when passes have taken out what changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cnnir.gradient import gradient, jvp
from cnnir.ir import Graph, Node, Value
from cnnir.mathematics.formulas import FORMULAS, Term, as_term, latex_name
from cnnir.ops import Elementwise
from cnnir.pipeline import optimise
from cnnir.tensortype import is_float

_CLEAN = "identity,reshape_transpose,identity,cse,dead"

Equations = list[tuple[Term, Term]]
"""Names, and what they stand for."""


def symbol(name: str) -> Term:
    """A name as a formula."""
    return Term(name, latex_name(name))


def derivative(of: str, name: str) -> Term:
    """The derivative of `of` by a value: dNAME in text."""
    return Term(f"d{name}", rf"\frac{{\partial {latex_name(of)}}}{{\partial {latex_name(name)}}}")


def tangent(of: Term) -> Term:
    """The derivative of something along a direction: tNAME in text, a dot above it in LaTeX."""
    return Term(f"t{of.text}", rf"\dot{{{of.latex}}}")


@dataclass
class Backward:
    """The derivatives of one value by all named ones, as graphs."""

    graph: Graph
    names: dict[Value, str]
    """Values of the graph -> what they are called, in order."""
    of: Value

    def __post_init__(self) -> None:
        probe = self.graph.clone()
        pairs = zip(self.graph.order(), probe.order(), strict=True)
        twins = {a: b for old, new in pairs for a, b in zip(old.results, new.results, strict=True)}
        probe.outputs, probe.trims, probe.carried = [twins[v] for v in self.names], {}, {}
        probe.output_names = list(self.names.values())
        self._of = self.names[self.of]
        wanted = [v for v in reversed(list(self.names)) if v is not self.of]
        self._slopes = gradient(
            probe, twins[self.of], [twins[v] for v in wanted], cotangents=self.of.type.size != 1
        )
        self._symbols = [symbol(name) for name in self.names.values()]
        self._derivatives = [derivative(self._of, self.names[v]) for v in wanted]

    def first(self) -> Equations:
        """Every derivative, from the last value back."""
        graph = self._slopes.clone()
        optimise(graph, _CLEAN)
        count = len(self._symbols)
        known = _called(graph.outputs[:count], self._symbols) | self._cotangent(graph)
        return _equations(graph, known, graph.outputs[count:], self._derivatives)

    def second(self) -> Equations:
        """The tangents of all values and of all derivatives, but of inputs and weights, whose
        tangents are the direction."""
        leaves = [name for value, name in self.names.items() if value.node.op is None]
        graph = jvp(self._slopes, leaves)
        optimise(graph, _CLEAN)
        named = [*self._symbols, *self._derivatives]
        known = _called(graph.outputs, named) | self._cotangent(graph)
        for value in graph.inputs:
            if (value.name or "").startswith("tangent."):
                known[value] = tangent(symbol((value.name or "").removeprefix("tangent.")))
        rows = [
            (value, tangent(term))
            for value, term in zip(graph.outputs[len(named) :], named, strict=True)
            if term.text not in leaves
        ]
        return _equations(graph, known, [v for v, _ in rows], [t for _, t in rows])

    def _cotangent(self, graph: Graph) -> dict[Value, Term]:
        """What is given in the place of 1 where the value is no single number."""
        name = f"cotangent.{self._of}"
        return {v: derivative(self._of, self._of) for v in graph.inputs if v.name == name}


def _called(values: Iterable[Value], terms: Iterable[Term]) -> dict[Value, Term]:
    """What values are called, by the first of their names."""
    found: dict[Value, Term] = {}
    for value, term in zip(values, terms, strict=False):
        found.setdefault(value, term)
    return found


def _equations(
    graph: Graph, known: dict[Value, Term], values: Sequence[Value], terms: Sequence[Term]
) -> Equations:
    """Of each value its formula in those that are known, or came before it."""
    known, found = dict(known), []
    for value, name in zip(values, terms, strict=True):
        formula = _written(graph, value, known)
        found.append((name, as_term(formula)))
        if isinstance(formula, Term):
            known.setdefault(value, name)
    return found


def _written(graph: Graph, value: Value, known: dict[Value, Term]) -> Any:
    """The formula of a value, or a number, through nodes that have no name."""
    made: dict[Value, Any] = dict(known)
    stack: list[Node] = [] if value in made else [value.node]
    while stack:
        node = stack[-1]
        waiting = [v.node for v in node.operands if v is not None and v not in made]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        operands = [made[v] for v in node.operands if v is not None]
        for result in node.results:
            made.setdefault(result, _formula(graph, node, operands))
    return made[value]


def _formula(graph: Graph, node: Node, operands: Sequence[Any]) -> Any:
    """One node of formulas and numbers."""
    if node.op is None:
        array = graph.array(node.results[0])
        if array is not None and array.size == 1 and is_float(node.results[0].type.dtype):
            return float(array.reshape(()))
        return symbol(node.results[0].name or "x")
    op: Any = node.op
    if issubclass(op, Elementwise):
        return op.scalar(FORMULAS, *operands, **node.attrs)
    if node.name in ("reshape", "expand") and not isinstance(operands[0], Term):
        return operands[0]
    terms = [as_term(o) for o in operands]
    latex = rf"\mathrm{{{node.name}}}".replace("_", r"\_")
    return Term(f"{node.name}({', '.join(t.text for t in terms)})",
                latex + rf"\left({', '.join(t.latex for t in terms)}\right)")  # fmt: skip
