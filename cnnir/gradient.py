"""Derivatives of graphs, as graphs: `gradient` in reverse mode, `jvp` in forward mode.

What an op contributes is its own `vjp` (and `jvp`); here is the way through the graph. The result
is ordinary IR, forward and backward in one: it prints, verifies, and goes through the same passes
and backends, and it can be differentiated again. Differentiate before optimising: `fused` nodes are
taken apart again, and ops without a derivative of their own are replaced by their `decompose`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cnnir.errors import GradientError, IRError
from cnnir.ir import Graph, Node, Value
from cnnir.ops.derivative import Undefined, filled
from cnnir.recompute import Choice
from cnnir.recompute import recompute as use_copies
from cnnir.tensortype import TensorType, is_float

Chosen = str | Value | Sequence[str | Value] | None
Named = list[tuple[str, Value]]


def gradient(
    graph: Graph,
    of: Chosen = None,
    wrt: Chosen = None,
    *,
    cotangents: bool = False,
    outputs: bool = True,
    recompute: Choice | None = None,
) -> Graph:
    """A graph that also computes the gradient of `of` with respect to `wrt` (reverse mode).

    of: an output's name, or a Value of the graph, or several, whose gradients are added; None is
        the sole output. Each has to be a single number, such as a loss.
    wrt: names of inputs and params, or Values, intermediate ones too; None is every param of a
        float type. What is not listed is constant: no node is built for it. Outputs are computed
        in order, so it needs the least memory when what is used last is first, as with None.
    cotangents: `of` may be tensors; each gets an input `cotangent.NAME` of its type, and the
        result is the sum of the products of cotangent and Jacobian.
    outputs: whether the outputs of `graph` stay outputs, before the gradients.
    recompute: which forward nodes the backward pass computes again instead of keeping what they
        gave, for less memory and more time: a function of a Node, such as
        `lambda node: node.name == "relu"`.

    The gradients are outputs named `grad.NAME`, in the order of `wrt` (of names that are taken,
    `grad.NAME~1`), zeros for what `of` does not depend on. The arrays of params are shared with
    `graph`, which is not changed.

    Raises GradientError for names that there are not, an `of` that is no single number, and ops on
    the way that cannot be differentiated, naming the node of the model.
    """
    work = _Work(graph)
    targets, leaves = work.targets(of), work.leaves(wrt)
    seeds = [_seed(work.g, name, target.type, cotangents) for name, target in targets]
    work.expand(targets, leaves)
    start: dict[Value, Value] = {}
    for (_, target), seed in zip(targets, seeds, strict=True):
        _accumulate(work.g, start, work.now(target), seed)
    forward = _order(start)
    found = _backward(work.g, start, [work.now(v) for _, v in leaves])
    if recompute is not None:
        use_copies(work.g, forward, start, found, recompute)
    named = [(f"grad.{name}", v.type, found.get(work.now(v))) for name, v in leaves]
    return work.finish(named, outputs)


def _seed(g: Graph, name: str, type: TensorType, cotangents: bool) -> Value:
    """The cotangent of what is differentiated: an input, or 1."""
    if cotangents:
        return _input(g, type, f"cotangent.{name}")
    if type.size != 1:
        raise GradientError(
            f"the gradient of {name!r}, {type}: it is no single number; "
            "wanted a loss, or cotangents=True"
        )
    return filled(g, type, 1)


def jvp(graph: Graph, wrt: Chosen = None, of: Chosen = None, *, outputs: bool = True) -> Graph:
    """A graph that also computes the derivative of `of` in a direction (forward mode).

    Each of `wrt` (as in `gradient`) gets an input `tangent.NAME` of its type, the direction; each
    of `of` (None is every output of a float type) an output `tangent.NAME`: the product of the
    Jacobian and the tangents. `outputs` and errors are those of `gradient`.

    Elementwise ops have a rule of their own. For the others the `vjp`, which is linear in the
    cotangent, is transposed: exact, and after dead code is gone no larger than a rule would be.
    """
    work = _Work(graph)
    leaves = work.leaves(wrt)
    targets = work.targets(of, every=True)
    tangents = [_input(work.g, v.type, f"tangent.{name}") for name, v in leaves]
    work.expand(targets, leaves)
    known: dict[Value, Value] = {}
    for (_, leaf), tangent in zip(leaves, tangents, strict=True):
        _accumulate(work.g, known, work.now(leaf), tangent)
    for node in _order(work.now(v) for _, v in targets):
        if node.op is not None and any(v in known for v in node.operands if v is not None):
            _forward(work.g, node, known)
    named = [(f"tangent.{name}", v.type, known.get(work.now(v))) for name, v in targets]
    return work.finish(named, outputs)


# ---------------------------------------------------------------- the two ways through a graph


def _backward(g: Graph, seeds: dict[Value, Value], leaves: Iterable[Value]) -> dict[Value, Value]:
    """The cotangents of all values between the leaves and the seeds, which are given theirs."""
    order = _order(seeds)
    active = _active(order, leaves)
    cotangents = dict(seeds)
    for node in reversed(order):
        if node.op is None or not any(v in active for v in node.operands):
            continue
        dys = [cotangents.get(v) for v in node.results]
        if all(dy is None for dy in dys):
            continue
        for position, dx in enumerate(_vjp(g, node, dys)):
            x = node.operands[position]
            if x is None or x not in active or dx is None:
                continue
            dx = _checked(node, position, x, dx)
            with g.provenance(*node.sources):
                _accumulate(g, cotangents, x, dx)
    return cotangents


def _accumulate(g: Graph, sums: dict[Value, Value], value: Value, term: Value) -> None:
    """Add a term to the sum that belongs to a value."""
    sums[value] = g.add("add", sums[value], term) if value in sums else term


def _order(roots: Iterable[Value]) -> list[Node]:
    """What these values depend on, operands first, in an order of structure alone."""
    done: list[Node] = []
    seen: set[Node] = set()
    stack = [(v.node, False) for v in roots]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            done.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((v.node, False) for v in reversed(node.operands) if v is not None)
    return done


def _active(order: Iterable[Node], leaves: Iterable[Value]) -> set[Value | None]:
    """The leaves and the floats that depend on them: what carries a derivative."""
    active: set[Value | None] = set(leaves)
    for node in order:
        if any(v in active for v in node.operands if v is not None):
            active.update(v for v in node.results if is_float(v.type.dtype))
    return active


def _vjp(g: Graph, node: Node, dys: Sequence[Value | None]) -> tuple[Any, ...]:
    assert node.op is not None
    if node.op.vjp is None:
        raise GradientError(f"{_where(node)}: the op has no derivative")
    with g.provenance(*node.sources):
        try:
            found: tuple[Any, ...] = node.op.vjp(g, node, *dys)
        except IRError as error:
            raise GradientError(f"{_where(node)}: the vjp of the op fails: {error}") from error
    count = len(node.operands)  # the last ones may have been left out
    if len(found) < count or any(dx is not None for dx in found[count:]):
        raise GradientError(f"{_where(node)}: its vjp gives {len(found)} cotangents")
    return found[:count]


def _checked(node: Node, position: int, x: Value, dx: Any) -> Value:
    """A cotangent that an op gave; GradientError where it has none, or a wrong one."""
    if isinstance(dx, Undefined):
        raise GradientError(f"{_where(node)}: operand {position}: {dx.reason}")
    if dx.type != x.type:
        raise GradientError(
            f"{_where(node)}: its vjp gives operand {position} a cotangent {dx.type}, "
            f"wanted {x.type}"
        )
    return dx


def _forward(g: Graph, node: Node, known: dict[Value, Value]) -> None:
    """Add the tangents of a node's results to those that are known."""
    tangents = [None if v is None else known.get(v) for v in node.operands]
    if not any(is_float(v.type.dtype) for v in node.results):
        return
    assert node.op is not None
    with g.provenance(*node.sources):
        if node.op.jvp is not None:
            found: Iterable[Value | None] = node.op.jvp(g, node, *tangents)
        else:
            found = _transposed_vjp(g, node, tangents)
        for y, t in zip(node.results, found, strict=True):
            if t is not None:  # an intermediate value that is varied itself has one already
                _accumulate(g, known, y, t)


def _transposed_vjp(g: Graph, node: Node, tangents: Sequence[Value | None]) -> list[Value | None]:
    """The tangents of a node's results, by transposing its vjp.

    u -> vjp(u) is linear, and its own vjp with the tangents for cotangents is the jvp. Both are
    built on a small graph of the node alone, from which u is gone at the end.
    """
    small = Graph("vjp")
    given = [v for v in dict.fromkeys(node.operands) if v is not None]
    inside = {v: small.input(v.type, f"x{k}") for k, v in enumerate(given)}
    assert node.op is not None
    made = small.add(node.op, *(v and inside[v] for v in node.operands), **node.attrs)
    results = made if isinstance(made, tuple) else (made,)
    us = [small.input(y.type, f"u{k}") for k, y in enumerate(results) if is_float(y.type.dtype)]
    free = iter(us)
    dys = [next(free) if is_float(y.type.dtype) else None for y in results]
    twin = results[0].node
    twin.sources = node.sources
    directions = {t: small.input(t.type, f"t{k}") for k, t in enumerate(tangents) if t is not None}
    seeds: dict[Value, Value] = {}
    for position, dx in enumerate(_vjp(small, twin, dys)):
        t, x = tangents[position], twin.operands[position]
        if t is not None and x is not None and dx is not None:
            dx = _checked(twin, position, x, dx)
            _accumulate(small, seeds, dx, directions[t])
    found = _backward(small, seeds, us)
    for u in us:
        if u in found:
            small.output(found[u], f"y{len(small.outputs)}")
    small.sweep()
    if any(small.users(u) for u in us):
        raise GradientError(f"{_where(node)}: its vjp is not linear in the cotangent")
    outer = {inside[v]: v for v in given} | {d: t for t, d in directions.items()}
    outer |= dict(zip(twin.results, node.results, strict=True))
    copies = iter(_copied(g, small, outer))
    return [next(copies) if dy in found else None for dy in dys]


def _copied(g: Graph, part: Graph, known: dict[Value, Value]) -> list[Value]:
    """The outputs of `part`, built in g; what is `known` already stands for itself."""
    known = dict(known)
    for node in part.order():
        if all(v in known for v in node.results) or node.kind == "input":
            continue
        if node.op is None:
            name = node.attrs["ref"]
            known[node.results[0]] = g.param(name, part.params[name])
            continue
        made = g.add(node.op, *(v and known[v] for v in node.operands), **node.attrs)
        made = made if isinstance(made, tuple) else (made,)
        known.update(zip(node.results, made, strict=True))
    return [known[v] for v in part.outputs]


def _where(node: Node) -> str:
    return repr(node) + (f" from {', '.join(node.sources)}" if node.sources else "")


# ---------------------------------------------------------------- names, and making the graph ready


class _Work:
    """The copy of a graph that is worked on, and the way from the caller's values to its own."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.g = graph, graph.clone()
        self._twins: dict[Value, Value] = {}
        for old, new in zip(graph.order(), self.g.order(), strict=True):
            self._twins.update(zip(old.results, new.results, strict=True))
        self._given = set(self.g.nx)

    def now(self, value: Value) -> Value:
        """What stands for one of the caller's values in the copy."""
        return self._twins[value]

    # ---- what the caller chose

    def targets(self, of: Chosen, every: bool = False) -> Named:
        """The values that are differentiated, and their names."""
        names = dict(zip(self.graph.output_names, self.graph.outputs, strict=True))
        if of is not None:
            return [self._chosen(one, "output", names) for one in _several(of)]
        if every:
            return [(n, v) for n, v in names.items() if is_float(v.type.dtype)]
        if len(names) != 1:
            raise GradientError(
                f"the graph has {len(names)} outputs, {', '.join(names)}: "
                "wanted the name of the one to differentiate as `of`"
            )
        return [self._chosen(name, "output", names) for name in names]

    def leaves(self, wrt: Chosen) -> Named:
        """The values that are varied, and their names."""
        params = {n.attrs["ref"]: n.results[0] for n in self.graph.order() if n.kind == "param"}
        if wrt is None:
            return [(n, v) for n, v in reversed(params.items()) if is_float(v.type.dtype)]
        names = params | {v.name or "": v for v in self.graph.inputs}
        return [self._chosen(one, "input or param", names) for one in _several(wrt)]

    def _chosen(self, one: str | Value, what: str, names: dict[str, Value]) -> tuple[str, Value]:
        if isinstance(one, str) and one not in names:
            near = difflib.get_close_matches(one, names, 3) or list(names)[:8]
            raise GradientError(f"there is no {what} {one!r}; there is {', '.join(near)}")
        name, value = (one, names[one]) if isinstance(one, str) else (self._name(one, names), one)
        if value not in self._twins:
            raise GradientError(f"{value!r} is not a value that the outputs of the graph need")
        if not is_float(value.type.dtype):
            raise GradientError(f"{name!r} is {value.type}: only floats have derivatives")
        return name, value

    def _name(self, value: Value, names: dict[str, Value]) -> str:
        known = (name for name, v in names.items() if v is value)
        if name := next(known, value.name):
            return name
        return f"value{list(self._twins).index(value)}" if value in self._twins else "value"

    # ---- making ready, and the result

    def expand(self, targets: Named, leaves: Named) -> None:
        """Take apart what has no derivative of its own: fused nodes, and ops that decompose."""
        again = True
        while again:
            order = _order(self.now(t) for _, t in targets)
            active = _active(order, [self.now(v) for _, v in leaves])
            found = [n for n in order if any(v in active for v in n.operands) and _composed(n)]
            for node in found:
                self._expand(node)
            again = bool(found)

    def _expand(self, node: Node) -> None:
        assert node.op is not None
        with self.g.provenance(*node.sources):
            if isinstance(body := node.attrs.get("body"), Graph):
                given = zip(body.inputs, node.operands, strict=True)
                parts = _copied(self.g, body, {a: b for a, b in given if b is not None})
            else:
                assert node.op.decompose is not None
                made = node.op.decompose(self.g, *node.operands, **node.attrs)
                parts = list(made) if isinstance(made, tuple) else [made]
        for old, new in zip(node.results, parts, strict=True):
            self.g.replace(old, new)
            for key in [k for k, v in self._twins.items() if v is old]:
                self._twins[key] = new

    def finish(self, named: Iterable[tuple[str, Any, Value | None]], outputs: bool) -> Graph:
        """The graph with what was asked for as outputs."""
        g = self.g
        if not outputs:
            g.outputs, g.output_names, g.trims, g.carried = [], [], {}, {}
        for name, type, value in named:
            g.output(filled(g, type) if value is None else value, _fresh(name, g.output_names))
        g.sweep()
        self._share_constants()
        g.verify()
        return g

    def _share_constants(self) -> None:
        """One param for all equal numbers that derivatives brought along."""
        first: dict[tuple[str, bytes], Value] = {}
        for node in [n for n in self.g.order() if n.kind == "param" and n not in self._given]:
            value = node.results[0]
            array = self.g.params[node.attrs["ref"]]
            if value.type.size == 1:
                kept = first.setdefault((str(value.type), array.tobytes()), value)
                self.g.replace(value, kept)
        self.g.sweep()


def _composed(node: Node) -> bool:
    """Whether a node has to be taken apart to be differentiated."""
    op = node.op
    if op is None or op.vjp is not None:
        return False
    return op.decompose is not None or isinstance(node.attrs.get("body"), Graph)


def _several(chosen: str | Value | Sequence[str | Value]) -> Iterator[str | Value]:
    """The chosen ones, each once."""
    yield from dict.fromkeys([chosen] if isinstance(chosen, str | Value) else chosen)


def _input(g: Graph, type: TensorType, name: str) -> Value:
    return g.input(type, _fresh(name, [v.name or "" for v in g.inputs]))


def _fresh(name: str, taken: Iterable[str]) -> str:
    taken, numbered, number = set(taken), name, 0
    while numbered in taken:
        number += 1
        numbered = f"{name}~{number}"
    return numbered
