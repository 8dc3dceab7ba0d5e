"""The chain rule in the open: every local derivative of a net, and how they multiply.

Reverse mode goes from the loss back: the derivative by a value is the sum, over the nodes that use
it, of the derivative by their result times their local derivative. For elementwise ops that is a
formula, written down by the op itself; for the others it is a linear map, named here in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

from cnnir.errors import InputError
from cnnir.ir import Graph, Node, Value
from cnnir.mathematics.derived import Backward, Equations, derivative, symbol
from cnnir.mathematics.formulas import FORMULAS, Term, as_term, latex_name, product
from cnnir.mathematics.operators import graph_of
from cnnir.ops import Elementwise
from cnnir.ops.derivative import partials
from cnnir.tensortype import TensorType, is_float

_COLUMN = 60
"""Where the second column begins at the latest."""

_MAPS: dict[tuple[str, int], tuple[str, str]] = {
    ("conv", 0): ("<w> transposed, convolved with <g>", r"<w>^{\mathsf T} * <g>"),
    ("conv", 1): ("<x> correlated with <g>", r"<x> \star <g>"),
    ("conv", 2): ("<g> summed over images and positions", r"\sum <g>"),
    ("conv_transpose", 0): ("<w> convolved with <g>", r"<w> * <g>"),
    ("conv_transpose", 1): ("<g> correlated with <x>", r"<g> \star <x>"),
    ("conv_transpose", 2): ("<g> summed over images and positions", r"\sum <g>"),
    ("matmul", 0): ("<g> <w>'", r"<g>\, <w>^{\mathsf T}"),
    ("matmul", 1): ("<x>' <g>", r"<x>^{\mathsf T} <g>"),
    ("reshape", 0): ("<g> in the shape of <x>", r"\mathrm{reshape}(<g>)"),
    ("transpose", 0): ("<g> with its axes put back", r"\mathrm{transpose}(<g>)"),
    ("expand", 0): ("<g> summed over what was repeated", r"\sum <g>"),
    ("concat", 0): ("<g> where <x> is", r"<g>|_{<x>}"),
    ("slice", 0): ("<g>, and 0 around it", r"<g> \oplus 0"),
    ("pad", 0): ("<g> without the border", r"<g>|_{<x>}"),
    ("reduce_sum", 0): ("<g>, repeated", r"<g>\, \mathbf 1"),
    ("reduce_mean", 0): ("<g> / n, repeated", r"\tfrac1n <g>\, \mathbf 1"),
    ("max_pool", 0): ("<g> where <x> is the maximum of its window", r"<g>\, [<x> = \max]"),
    ("avg_pool", 0): ("<g> / n, spread over the window", r"\tfrac1n <g>"),
    ("softmax", 0): (
        "(diag(<y>) - <y> <y>') <g>",
        r"(\mathrm{diag}(<y>) - <y> <y>^{\mathsf T})\, <g>",
    ),
    ("log_softmax", 0): (
        "<g> - softmax(<x>) sum(<g>)",
        r"<g> - \mathrm{softmax}(<x>) \sum <g>",
    ),
    ("cross_entropy", 0): (
        "<g> (softmax(<x>) - [label]) / n",
        r"\tfrac1n <g>\, (\mathrm{softmax}(<x>) - e_{\mathrm{label}})",
    ),
}
"""(op, operand) -> what it makes of the derivative g by its result: text, LaTeX."""


@dataclass(frozen=True)
class Line:
    """One value: how it is made, and the derivative by it."""

    name: str
    """What it is called in formulas."""
    type: TensorType
    sources: tuple[str, ...]
    """Nodes of the model or layers."""
    forward: Term | None
    """How it is made; None for inputs and weights."""
    backward: tuple[Term, ...]
    """Terms whose sum is the derivative of the loss by it; none for the loss itself."""
    derived: Term | None
    """The same as `cnnir.gradient` builds it; None for the loss itself."""


@dataclass(frozen=True)
class ChainRule:
    """All values between weights, inputs and the loss; prints as text."""

    of: str
    lines: list[Line]
    second: Equations
    """The derivatives of all of them along a direction, as `cnnir.hvp` builds them: of y1 it is
    called ty1, of the derivative by it tdy1."""

    def __str__(self) -> str:
        wide = max([len(line.name) for line in self.lines])
        made = [(line, str(line.forward)) for line in self.lines if line.forward is not None]
        text = ["forward"]
        for line, formula in made:
            where = f"    [{', '.join(line.sources)}]" if line.sources else ""
            text.append(f"  {line.name:{wide}} = {formula}{where} {line.type}")
        rows = [(line, " + ".join(map(str, line.backward)) or "1") for line in self.lines[::-1]]
        column = min(_COLUMN, max(len(formula) for _, formula in rows))
        heading = f"backward, d. = the derivative of {self.of} by it"
        text += ["", f"{heading:{wide + 6 + column}}   as the graph of gradient"]
        for line, formula in rows:
            built = f"   {line.derived}" if line.derived is not None else ""
            text.append(f"  d{line.name:{wide}} = {formula:{column}}{built}".rstrip())
        if self.second:
            text += ["", "second, t. = the derivative along a direction, whose parts are given"]
            text += [f"  {name.text:{wide + 2}} = {term}" for name, term in self.second]
        return "\n".join(text)

    def latex(self) -> str:
        """The same as `aligned` blocks of LaTeX: forward, backward, and what is second."""
        made = [line for line in self.lines if line.forward is not None]
        forward = [rf"{latex_name(li.name)} &= {li.forward.latex}" for li in made if li.forward]
        backward = []
        for line in reversed(self.lines):
            terms = " + ".join(t.latex for t in line.backward) or "1"
            backward.append(rf"{derivative(self.of, line.name).latex} &= {terms}")
        second = [f"{name.latex} &= {term.latex}" for name, term in self.second]
        blocks = (" \\\\\n".join(rows) for rows in (forward, backward, second) if rows)
        return "\n".join(f"\\begin{{aligned}}\n{rows}\n\\end{{aligned}}" for rows in blocks)


def chain_rule(source: Any, of: str | None = None, *shapes: Any, second: bool = False) -> ChainRule:
    """Every local derivative on the way from a single number back to inputs and weights.

    source: a graph, net or ONNX model. of: the output to differentiate, None for the only one.
    second: the second derivatives too, along a direction in all inputs and weights.
    Raises InputError where there is no such output, and GradientError for what has no derivative.
    """
    graph = graph_of(source, shapes)
    names = dict(zip(graph.output_names, graph.outputs, strict=True))
    if of is None and len(names) == 1:
        (of,) = names
    if of not in names:
        raise InputError(f"there is no output {of!r}; there is {', '.join(names)}")
    target = names[of]
    needed = nx.ancestors(graph.nx, target.node) | {target.node}
    order = [node for node in graph.order() if node in needed]
    called = _called(graph, order, target)
    terms = _backward(order, called)
    named = {v for v in terms if not called[v][:1].isdecimal()} | {target}
    shown = {v: called[v] for node in order for v in node.results if v in named}
    back = Backward(graph, shown, target)
    derived = {name.text: formula for name, formula in back.first()}
    lines = [
        Line(
            name, value.type, value.node.sources,
            None if value.node.op is None else _forward(value.node, called),
            () if value is target else tuple(terms[value]), derived.get(f"d{name}"),
        )
        for value, name in shown.items()
    ]  # fmt: skip
    return ChainRule(called[target], lines, back.second() if second else [])


def _called(graph: Graph, order: list[Node], target: Value) -> dict[Value, str]:
    """Short names: those of inputs and weights, y1, y2 ... for what is computed."""
    called: dict[Value, str] = {}
    for node in order:
        for value in node.results:
            if node.op is None:
                array = graph.array(value)
                single = array is not None and not array.ndim and is_float(value.type.dtype)
                called[value] = f"{float(array):.6g}" if single else value.name or "x"  # type: ignore[arg-type]
            else:
                called[value] = f"y{sum(name.startswith('y') for name in called.values()) + 1}"
    called[target] = "L"
    return called


def _forward(node: Node, called: dict[Value, str]) -> Term:
    """How a node makes its result: its formula, or its name and operands."""
    symbols = [symbol(called[v]) for v in node.operands if v is not None]
    op: Any = node.op
    if issubclass(op, Elementwise):
        return as_term(op.scalar(FORMULAS, *symbols, **node.attrs))
    latex = rf"\mathrm{{{node.name}}}".replace("_", r"\_")
    return Term(f"{node.name}({', '.join(s.text for s in symbols)})",
                latex + rf"\left({', '.join(s.latex for s in symbols)}\right)")  # fmt: skip


def _backward(order: list[Node], called: dict[Value, str]) -> dict[Value, list[Term]]:
    """For each value the terms of the derivative by it, one for each use."""
    terms: dict[Value, list[Term]] = {}
    for node in reversed(order):
        if node.op is None or not is_float(node.results[0].type.dtype):
            continue
        g = derivative("L", called[node.results[0]])
        for position, value in enumerate(node.operands):
            if value is not None and is_float(value.type.dtype):
                term = _local(node, position, called, g)
                if term is not None:
                    terms.setdefault(value, []).append(term)
    return terms


def _local(node: Node, position: int, called: dict[Value, str], g: Term) -> Term | None:
    """The derivative by one operand, through one node; None where nothing passes."""
    op: Any = node.op
    operands = [v for v in node.operands if v is not None]
    if issubclass(op, Elementwise):
        symbols: list[Any] = [symbol(called[v]) for v in operands]
        y = symbol(called[node.results[0]])
        slope = partials(op, FORMULAS, y, symbols, node.attrs)[position]
        if not isinstance(slope, Term) and slope == 0:
            return None
        term = as_term(product(g, slope))
        if operands[position].type.shape == node.results[0].type.shape:
            return term
        text = f"({term.text})" if " " in term.text else term.text
        return Term(f"{text} summed over what was repeated", rf"\sum {term.latex}", 0)
    last = max((p for o, p in _MAPS if o == node.name), default=0)
    unknown = f"the vjp of {node.name} on <g>", rf"\mathrm{{vjp}}_{{{latex_name(node.name)}}}(<g>)"
    text, latex = _MAPS.get((node.name, min(position, last)), unknown)
    own = operands[position] if node.name == "concat" else operands[0]
    shown = {"x": own, "w": operands[min(1, len(operands) - 1)], "y": node.results[0]}
    for letter, value in shown.items():
        text = text.replace(f"<{letter}>", called[value])
        latex = latex.replace(f"<{letter}>", latex_name(called[value]))
    return Term(text.replace("<g>", g.text), latex.replace("<g>", g.latex), 0)
