"""Linear branches of the same operand, side by side, become one layer.

A sum of convolutions of x, of x itself and of x scaled a channel is one convolution: each kernel is
put on a grid of taps that holds all of them, and they are added. Zeros pad x for every branch, so
this is exact at borders too. (A block trained with a 3x3, a 1x1 and an identity branch becomes one
3x3 convolution.)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.passes.base import RulePass
from cnnir.passes.constants import along_axis, rounded
from cnnir.passes.linear import COMPUTED, Linear, Shape, is_constant, weights, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.passes.windows import Window, common_window, embedded, ungrouped, unit_kernel
from cnnir.rewrite import Declined, Result, accept, decline, other_uses, rule

_LAYERS = ("conv", "avg_pool")
_CHANNEL_AXIS = 1


# ---------------------------------------------------------------- the terms of a sum


@dataclass(frozen=True)
class _Term:
    """One operand of a tree of additions, with its sign."""

    value: Value
    sign: int


def _terms(g: Graph, node: Node) -> list[_Term]:
    """What a tree of add and sub adds up; inner sums have no other use and the same type."""
    terms: list[_Term] = []
    stack = [_Term(node.results[0], 1)]
    while stack:
        term = stack.pop()
        inner = term.value is node.results[0] or g.sole_user(term.value)
        match term.value:
            case Value(Node("add" | "sub" as name, (Value() as a, Value() as b))) if (
                inner and a.type == b.type == node.results[0].type
            ):
                stack.append(_Term(b, -term.sign if name == "sub" else term.sign))
                stack.append(_Term(a, term.sign))
            case _:
                terms.append(term)
    return terms


def _inside_sum(g: Graph, node: Node) -> bool:
    """Whether the node is a part of a larger sum, which then decides."""
    y = node.results[0]
    users = [user for user, _ in g.users(y)]
    if len(users) != 1 or g.is_output(y) or users[0].name not in ("add", "sub"):
        return False
    return all(v is not None and v.type == y.type for v in users[0].operands)


def _sum(g: Graph, terms: list[_Term]) -> Value:
    """The terms added up, the first positive one first."""
    first = next((t for t in terms if t.sign > 0), terms[0])
    total: Value = first.value if first.sign > 0 else g.add("neg", first.value)
    for term in terms:
        if term is not first:
            total = g.add("add" if term.sign > 0 else "sub", total, term.value)
    return total


# ---------------------------------------------------------------- convolutions of one operand


@dataclass(frozen=True)
class _Branch:
    """A term as a linear layer of `x`; `nodes` are what it consists of."""

    x: Value
    layer: Linear
    nodes: tuple[Node, ...]


def _branches(g: Graph, value: Value) -> Iterator[_Branch]:
    """All ways to read a value as a layer: of its operand, or of itself."""
    match value:
        case Value(Node(name, (Value() as x, *_)) as node) if name in _LAYERS:
            if (layer := Linear.of(g, node)) is not None:
                yield _Branch(x, layer, (node,))
        case Value(Node("mul", (Value() as x, Value() as c)) as node):
            if (line := _line(g, x, value, c)) is not None:
                yield _Branch(x, _scale(x, line), (node,))
        case Value(Node("add", (Value() as y, Value() as c)) as node):
            if (line := _line(g, y, value, c)) is not None:
                yield _Branch(y, _scale(y, 1.0, line), (node,))
                match y:
                    case Value(Node("mul", (Value() as x, Value() as f)) as inner) if (
                        g.sole_user(y) and (factor := _line(g, x, value, f)) is not None
                    ):
                        yield _Branch(x, _scale(x, factor, line), (node, inner))
    if value.type.rank > 2:
        yield _Branch(value, _scale(value, 1.0), ())


def _line(g: Graph, x: Value, y: Value, c: Value) -> np.ndarray | None:
    """A constant as one number a channel of x, which it does not broadcast."""
    array = weights(g, c)
    if array is None or x.type != y.type or x.type.rank < 3:
        return None
    return along_axis(array, x.type, _CHANNEL_AXIS)


def _scale(x: Value, factor: np.ndarray | float, shift: np.ndarray | None = None) -> Linear:
    channels, rank = x.type.shape[1], x.type.rank - 2
    window = Window.of((1,) * rank, groups=channels)
    return Linear(window, unit_kernel(channels, rank, factor), shift)


@rule("add", "sub", kind="reassociating")
def merge_branches(g: Graph, node: Node, options: Parallel) -> Result:
    """conv(x, w, b) + conv(x, v, c) => conv(x, w + v, b + c), on the taps that hold those of both

    The same for a difference, for avg_pool, for x itself, x * f and x * f + t as 1x1 convolutions,
    and for any two terms of a longer sum.
    [constant weights, equal strides and results, no other use of the terms, and it pays]
    """
    if _inside_sum(g, node) or node.results[0].type.dtype not in COMPUTED:
        return None
    terms, stopped = _terms(g, node), None
    for a, b in itertools.combinations(range(len(terms)), 2):
        if terms[a].value is terms[b].value:
            continue
        for one, other in itertools.product(
            _branches(g, terms[a].value), _branches(g, terms[b].value)
        ):
            if one.x is not other.x or not any(
                n.name in _LAYERS for n in (*one.nodes, *other.nodes)
            ):
                continue
            made = _merged(g, node, (terms[a], one), (terms[b], other), options)
            if isinstance(made, Declined):
                stopped = made
                continue
            value, told = made
            terms[a] = _Term(value, 1)
            del terms[b]
            return accept(node, _sum(g, terms), told)
    return stopped


def _merged(
    g: Graph,
    node: Node,
    first: tuple[_Term, _Branch],
    second: tuple[_Term, _Branch],
    options: Parallel,
) -> tuple[Value, str] | Declined:
    """Two signed branches as one layer and what that saves, or why they stay two."""
    (term_a, a), (term_b, b) = first, second
    for term, branch in (first, second):
        if branch.nodes and not g.sole_user(term.value):
            return decline(node, other_uses(g, term.value, by=node))
    x = a.x
    common = common_window(a.layer.window, b.layer.window, x.type.shape[2:])
    if common is None:
        return decline(node, "the strides or sizes of the branches differ")
    shifted = any(branch.layer.shift is not None for branch in (a, b))
    whole = Shape(common, x.type, term_a.value.type.shape[1], shifted)
    addition = prospect("add", term_a.value.type, term_b.value.type)[0]
    before = work([cost_of(*a.nodes, *b.nodes), addition])
    if whole.work() > options.max_cost * before:
        return decline(node, f"one layer would be {ratio(whole.work(), before)}")
    pairs = ((term_a.sign, a.layer), (term_b.sign, b.layer))
    w, shift = np.zeros(whole.kernel_shape), np.zeros(whole.filters)
    for sign, layer in pairs:
        w += sign * embedded(layer.w, layer.window, common)
        shift += 0.0 if layer.shift is None else sign * layer.shift
    built = Linear(common, w, shift if shifted else None).build(g, x, _weight_name(a, b))
    if built is None:
        return decline(node, "the sum of the weights is not finite")
    return built, f"two branches as one: {ratio(whole.work(), before)}"


def _weight_name(*branches: _Branch) -> str:
    for branch in branches:
        for node in branch.nodes:
            if node.name == "conv" and (w := node.operands[1]) is not None and w.name:
                return w.name
    return "w"


# ---------------------------------------------------------------- dense layers


@rule("add", "sub", kind="reassociating")
def merge_dense(g: Graph, node: Node) -> Result:
    """x @ A + x @ B => x @ (A + B);  x @ A + x => x @ (A + I)

    The same for a difference, and for any two terms of a longer sum.
    [A and B are constant matrices, the products have no other use]
    """
    if _inside_sum(g, node) or node.results[0].type.dtype not in COMPUTED:
        return None
    terms, stopped = _terms(g, node), None
    for a, b in itertools.combinations(range(len(terms)), 2):
        if terms[a].value is terms[b].value:
            continue
        made = _merged_dense(g, node, terms[a], terms[b]) or _merged_dense(
            g, node, terms[b], terms[a]
        )
        if isinstance(made, Declined):
            stopped = made
        elif made is not None:
            terms[a] = _Term(made, 1)
            del terms[b]
            return _sum(g, terms)
    return stopped


def _merged_dense(g: Graph, node: Node, one: _Term, other: _Term) -> Value | Declined | None:
    (x, a), y = _product(one.value), other.value
    if x is None or a is None or (y is not x and _product(y)[0] is not x):
        return None
    if not g.sole_user(one.value) or (y is not x and not g.sole_user(y)):
        return decline(node, other_uses(g, one.value, y, by=node))
    matrix = weights(g, a)
    added = np.eye(a.type.shape[0]) if y is x else weights(g, _product(y)[1])
    if matrix is None or added is None:
        return decline(node, "the weights are not finite")
    array = rounded(one.sign * matrix + other.sign * added, x.type)
    if array is None:
        return decline(node, "the sum of the weights is not finite")
    return g.add("matmul", x, g.param(a.name or "w", array))


def _product(value: Value) -> tuple[Value | None, Value | None]:
    """x and A of x @ A with a constant matrix."""
    match value:
        case Value(Node("matmul", (x, a))) if a is not None and is_constant(a):
            return (x, a) if a.type.rank == 2 else (None, None)
    return None, None


@rule("add", kind="reassociating")
def sum_before_layer(g: Graph, node: Node) -> Result:
    """conv(x, w, b) + conv(y, w, c) => conv(x + y, w, b + c), for matmul too

    [w is the same constant for both, the convolutions have no other use]
    """
    match node.operands:
        case (Value(Node(name, (x, w, *bs)) as a) as p, Value(Node(other, (y, v, *cs)) as b) as q):
            if name != other or name not in ("conv", "matmul") or p is q or a.attrs != b.attrs:
                return None
        case _:
            return None
    if x is None or y is None or x is y or x.type != y.type or not _same_array(g, w, v):
        return None
    if not (g.sole_user(p) and g.sole_user(q)):
        return decline(node, other_uses(g, p, q, by=node))
    shifts = [weights(g, s) for s in (*bs, *cs)]
    if any(s is None for s in shifts):
        return decline(node, "the bias is not constant")
    operands = [g.add("add", x, y), w]
    if shifts:
        total = rounded(np.sum([s for s in shifts if s is not None], axis=0), x.type)
        if total is None:
            return decline(node, "the sum of the biases is not finite")
        operands.append(g.param("b", total))
    return g.add(name, *operands, **a.attrs)


def _same_array(g: Graph, w: Value | None, v: Value | None) -> bool:
    a, b = g.array(w), g.array(v)
    if a is None or b is None or not is_constant(w):
        return False
    return a is b or (a.dtype == b.dtype and np.array_equal(a, b))


# ---------------------------------------------------------------- concatenated branches


@rule("conv", kind="reassociating")
def collapse_concat(g: Graph, node: Node, options: Parallel) -> Result:
    """conv(concat(conv(x, w1), conv(x, w2), ...), v) => conv(x, v o w)

    w holds the filters of all branches, on the taps that hold those of all; x itself is a branch.
    [constant weights, equal strides and results, inner results have no other use, no zeros pad the
    concatenation that the branches do not give there, and it pays]
    """
    match node.operands:
        case (Value(Node("concat", parts) as concat) as y, *_) if window_of(node) is not None:
            if concat.attrs["axis"] != _CHANNEL_AXIS or len(parts) < 2:
                return None
        case _:
            return None
    branches = _same_operand(g, parts)
    if branches is None:
        return None
    if not g.sole_user(y) or any(b.nodes and not g.sole_user(p) for b, p in branches):
        return decline(node, other_uses(g, y, *(p for b, p in branches if b.nodes), by=node))
    x, window = branches[0][0].x, branches[0][0].layer.window
    name = node.operands[1].name if node.operands[1] is not None else None
    for branch, _ in branches[1:]:
        found = common_window(window, branch.layer.window, x.type.shape[2:])
        if found is None:
            return decline(node, "the strides or sizes of the branches differ")
        window = found
    window = replace(window, groups=1)
    shifted = any(b.layer.shift is not None for b, _ in branches)
    outer = Shape.of(node)
    assert outer is not None
    whole = Shape(window, x.type, y.type.shape[1], shifted).then(outer)
    if isinstance(whole, str):
        return decline(node, whole)
    nodes = {n for b, _ in branches for n in b.nodes}
    before = work(cost_of(node, concat, *nodes))
    if whole.work() > options.max_cost * before:
        return decline(node, f"one layer would be {ratio(whole.work(), before)}")
    second = Linear.of(g, node)
    if second is None:
        return decline(node, "the weights are not finite")
    stacked = _stacked([b for b, _ in branches], window)
    made = stacked.then(second, x.type.shape[2:]).build(g, x, name or "w")
    if made is None:
        return decline(node, "the composed weights are not finite")
    return accept(node, made, f"{len(branches)} branches as one: {ratio(whole.work(), before)}")


def _same_operand(g: Graph, parts: tuple[Value | None, ...]) -> list[tuple[_Branch, Value]] | None:
    """Every part as a layer of one and the same value; at least one is a convolution or pool."""
    options = [list(_branches(g, part)) for part in parts if part is not None]
    for candidate in options[0] if options else []:
        chosen = [next((b for b in some if b.x is candidate.x), None) for some in options]
        found = [(b, p) for b, p in zip(chosen, parts, strict=True) if b is not None and p]
        if len(found) == len(parts) and any(n.name in _LAYERS for b, _ in found for n in b.nodes):
            return found
    return None


def _stacked(branches: list[_Branch], window: Window) -> Linear:
    """One layer with the filters of all branches."""
    kernels, shifts = [], []
    for branch in branches:
        layer = branch.layer
        full = ungrouped(layer.w, layer.window.groups, 1)
        own = replace(layer.window, groups=1)
        kernels.append(embedded(full, own, window))
        shifts.append(layer.shift if layer.shift is not None else np.zeros(len(full)))
    shift = np.concatenate(shifts)
    shifted = any(b.layer.shift is not None for b in branches)
    return Linear(window, np.concatenate(kernels), shift if shifted else None)


@dataclass(frozen=True)
class Parallel(RulePass):
    """Linear branches of one operand that are added, or concatenated and convolved, become one."""

    name = "parallel"
    max_cost: float = 1.0
    """Most work of a merged layer, as a part of that of the layers it takes the place of."""
    rules = (merge_branches, merge_dense, sum_before_layer, collapse_concat)
