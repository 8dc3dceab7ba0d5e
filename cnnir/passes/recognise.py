"""Activations and normalisations that a model spells out become the op that they are.

Matches modulo the order of factors: `_product` flattens a tree of multiplications. Expects the
spelling of `canonical.py`, such as constants to the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cnnir.ir import Graph, Node, Value
from cnnir.passes.base import RulePass
from cnnir.passes.constants import uniform
from cnnir.rewrite import Result, decline, other_uses, rule
from cnnir.tensortype import compute_dtype, is_float


def _product(g: Graph, value: Value | None) -> tuple[float, list[Value]]:
    """The number in a tree of multiplications, and its other factors.

    Inner nodes of the tree have no other use, and no factor broadcasts the product.
    """
    number, factors, stack = 1.0, [], [value]
    while stack:
        factor = stack.pop()
        assert factor is not None and value is not None
        inner = factor is value or g.sole_user(factor)
        match factor:
            case Value(Node("param")) if (constant := uniform(g, factor)) is not None:
                number *= constant
            case Value(Node("mul", (a, b))) if inner and factor.type == value.type:
                stack += [b, a]
            case Value(Node("div", (a, b))) if inner and uniform(g, b):
                number /= uniform(g, b) or 1.0
                stack.append(a)
            case _:
                factors.append(factor)
    return number, factors


def _close(number: float, wanted: float, value: Value) -> bool:
    """Whether a constant is `wanted`, as far as its element type can say."""
    exact = compute_dtype(value.type.dtype) == value.type.dtype
    return math.isclose(number, wanted, rel_tol=1e-6 if exact else 5e-3)


def _two_factors(g: Graph, node: Node) -> tuple[float, list[tuple[Value, Value]]]:
    """The number of a product of two factors, and the factors in both orders."""
    result = node.results[0]
    number, factors = _product(g, result) if is_float(result.type.dtype) else (1.0, [])
    if len(factors) != 2 or any(f.type != result.type for f in factors):
        return number, []
    a, b = factors
    return number, [(a, b), (b, a)]


def _is_clip_0_6_of_plus_3(g: Graph, value: Value, x: Value | None) -> Value | None:
    """The x of clip(x + 3, 0, 6), where it is `x` if one is given."""
    match value:
        case Value(Node("clip", (Value(Node("add", (Value() as y, c))),)) as clip):
            six = (clip.attrs["lo"], clip.attrs["hi"]) == (0, 6)
            if six and uniform(g, c) == 3 and (x is None or y is x) and y.type == value.type:
                return y
    return None


@rule("mul", "div", kind="reassociating")
def hard_sigmoid_of_clip(g: Graph, node: Node) -> Result:
    """clip(x + 3, 0, 6) / 6 => hard_sigmoid(x, alpha=1/6, beta=1/2)"""
    result = node.results[0]
    if not is_float(result.type.dtype):
        return None
    number, factors = _product(g, result)
    if len(factors) != 1 or factors[0].type != result.type or not g.sole_user(factors[0]):
        return None
    x = _is_clip_0_6_of_plus_3(g, factors[0], None)
    if x is None or not _close(number, 1 / 6, result):
        return None
    return g.add("hard_sigmoid", x, alpha=1 / 6, beta=0.5)


@rule("mul", "div", kind="reassociating")
def hard_swish_of_parts(g: Graph, node: Node) -> Result:
    """x * hard_sigmoid(x, 1/6, 1/2), x * clip(x + 3, 0, 6) / 6 => hard_swish(x)"""
    number, pairs = _two_factors(g, node)
    for x, gate in pairs:
        if not g.sole_user(gate):
            continue
        if _is_clip_0_6_of_plus_3(g, gate, x) and _close(number, 1 / 6, x):
            return g.add("hard_swish", x)
        match gate:
            case Value(Node("hard_sigmoid", (y,)) as inner) if y is x and _close(number, 1.0, x):
                if _close(inner.attrs["alpha"], 1 / 6, x) and inner.attrs["beta"] == 0.5:
                    return g.add("hard_swish", x)
    return None


@rule("mul", kind="reassociating")
def swish_of_sigmoid(g: Graph, node: Node) -> Result:
    """x * sigmoid(alpha * x) => swish(x, alpha)"""
    number, pairs = _two_factors(g, node)
    for x, gate in pairs:
        match gate:
            case Value(Node("sigmoid", (y,))) if number == 1.0 and g.sole_user(gate):
                alpha, factors = _product(g, y) if y is not x else (1.0, [x])
                if len(factors) == 1 and factors[0] is x:
                    return g.add("swish", x, alpha=alpha)
    return None


@rule("mul", kind="reassociating")
def mish_of_parts(g: Graph, node: Node) -> Result:
    """x * tanh(softplus(x)) => mish(x)"""
    number, pairs = _two_factors(g, node)
    for x, gate in pairs:
        match gate:
            case Value(Node("tanh", (Value(Node("softplus", (y,))),))) if y is x:
                return g.add("mish", x) if number == 1.0 and g.sole_user(gate) else None
    return None


@rule("log", kind="reassociating")
def softplus_of_exp(g: Graph, node: Node) -> Result:
    """log(e^x + 1) => softplus(x), which does not overflow"""
    match node:
        case Node(_, (Value(Node("add", (Value(Node("exp", (Value() as x,))), one))),)):
            if uniform(g, one) == 1 and x.type == node.results[0].type:
                return g.add("softplus", x)
    return None


@rule("mul", "div", kind="reassociating")
def gelu_of_parts(g: Graph, node: Node) -> Result:
    """x / 2 * (erf(x / sqrt(2)) + 1) => gelu(x)

    x / 2 * (tanh(sqrt(2/pi) * (x + 0.044715 * x^3)) + 1) => gelu(x, approximate="tanh")
    """
    number, pairs = _two_factors(g, node)
    for x, gate in pairs:
        if not _close(number, 0.5, x) or not g.sole_user(gate):
            continue
        match gate:
            case Value(Node("add", (Value(Node("erf" | "tanh" as name, (Value() as u,))), one))):
                if uniform(g, one) != 1:
                    continue
                if name == "erf" and _is_scaled(g, u, math.sqrt(0.5), x):
                    return g.add("gelu", x)
                if name == "tanh" and _is_tanh_argument(g, u, x):
                    return g.add("gelu", x, approximate="tanh")
    return None


def _is_scaled(g: Graph, value: Value, wanted: float, x: Value) -> bool:
    """Whether value is wanted * x."""
    number, factors = _product(g, value)
    return len(factors) == 1 and factors[0] is x and _close(number, wanted, x)


def _is_tanh_argument(g: Graph, value: Value, x: Value) -> bool:
    """Whether value is sqrt(2/pi) * (x + 0.044715 * x^3)."""
    number, factors = _product(g, value)
    if len(factors) != 1 or not _close(number, math.sqrt(2 / math.pi), x):
        return False
    match factors[0]:
        case Value(Node("add", (a, b))) if a is x or b is x:
            small, cube = _product(g, b if a is x else a)
            return _close(small, 0.044715, x) and _is_cube(g, cube, x)
    return False


def _is_cube(g: Graph, factors: list[Value], x: Value) -> bool:
    if len(factors) == 1:
        match factors[0]:
            case Value(Node("pow", (y, three))):
                return y is x and uniform(g, three) == 3
    return len(factors) == 3 and all(f is x for f in factors)


@rule("maximum", kind="reassociating")
def leaky_relu_of_maximum(g: Graph, node: Node) -> Result:
    """maximum(x, alpha * x) => leaky_relu(x, alpha)  [0 < alpha < 1]"""
    match node:
        case Node(_, (Value() as a, Value() as b)) if is_float(a.type.dtype) and a.type == b.type:
            for x, y in ((a, b), (b, a)):
                alpha, factors = _product(g, y)
                if y is not x and len(factors) == 1 and factors[0] is x and 0 < alpha < 1:
                    return g.add("leaky_relu", x, alpha=alpha)
    return None


@rule("reshape", kind="reassociating")
def group_norm_of_lines(g: Graph, node: Node) -> Result:
    """reshape(group_norm(reshape(x), scale, bias)) => group_norm(x, scale', bias')

    [the result has x's shape, [N,C,...], and some of its channels are a channel of what is
    normalised; that one's scale and bias are theirs]
    """
    match node:
        case Node(_, (Value(Node("group_norm", (lines, *parts)) as norm),)):
            pass
        case _:
            return None
    match lines:
        case Value(Node("reshape", (Value() as x,))) if x.type == node.results[0].type:
            if not _joins_channels(x, lines):
                return None
            if not g.sole_user(norm.results[0]):
                return decline(node, other_uses(g, norm.results[0], by=node))
            repeated = [_repeated(g, part, x.type.shape[1]) for part in parts]
            return g.add("group_norm", x, *repeated, **norm.attrs)
    return None


def _joins_channels(x: Value, lines: Value) -> bool:
    """Whether channels of a reshaped value are some neighbouring channels of x each."""
    (n, channels, *_), (m, joined, *_) = x.type.shape, lines.type.shape
    return n == m and joined > 0 and channels % joined == 0


def _repeated(g: Graph, value: Value | None, size: int) -> Value:
    """[G] as [size], each element as often as all others."""
    assert value is not None
    (count,) = value.type.shape
    each = g.add("reshape", value, shape=(count, 1))
    return g.add("reshape", g.add("expand", each, shape=(count, size // count)), shape=(size,))


@dataclass(frozen=True)
class Recognise(RulePass):
    """Find activations and normalisations that are spelled out."""

    name = "recognise"
    rules = (
        hard_sigmoid_of_clip,
        hard_swish_of_parts,
        swish_of_sigmoid,
        mish_of_parts,
        softplus_of_exp,
        gelu_of_parts,
        leaky_relu_of_maximum,
        group_norm_of_lines,
    )
