"""One spelling for what has several: constants to the right, clips for minima, and so on.

Later rules then match one form. Every rule here keeps the values bit by bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.ops.boundary import ZERO, reads
from cnnir.passes.base import RulePass
from cnnir.passes.constants import uniform
from cnnir.rewrite import Result, decline, other_uses, rule
from cnnir.tensortype import is_float

_COMMUTATIVE = (
    "add",
    "mul",
    "maximum",
    "minimum",
    "equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
)


@rule(*_COMMUTATIVE)
def constant_right(g: Graph, node: Node) -> Result:
    """f(c, x) => f(x, c)  [f is commutative, c constant, x not]"""
    match node:
        case Node(name, (Value(Node("param")) as c, Value() as x)) if x.node.kind != "param":
            return g.add(name, x, c)
    return None


@rule("sub")
def sub_constant(g: Graph, node: Node) -> Result:
    """x - c => x + (-c)  [c constant]"""
    match node:
        case Node(_, (Value() as x, Value() as c)) if (array := g.array(c)) is not None:
            if x.node.kind == "param":
                return None
            return g.add("add", x, g.param(c.name or "c", np.negative(array)))
    return None


@rule("div")
def div_by_power_of_two(g: Graph, node: Node) -> Result:
    """x / c => x * (1 / c)  [c constant floats, all powers of two, so that nothing is rounded]"""
    match node:
        case Node(_, (Value() as x, Value() as c)) if (array := g.array(c)) is not None:
            if not is_float(c.type.dtype) or not array.size or x.node.kind == "param":
                return None
            exact = array.astype(np.float64)
            tiny, huge = (2.0**-14, 2.0**14) if c.type.dtype == "f16" else (2.0**-126, 2.0**126)
            sized = (np.abs(exact) >= tiny) & (np.abs(exact) <= huge)
            if not np.all(sized & (np.abs(np.frexp(exact)[0]) == 0.5)):
                return None
            return g.add("mul", x, g.param(c.name or "c", (1.0 / exact).astype(array.dtype)))
    return None


@rule("pow")
def pow_to_mul(g: Graph, node: Node) -> Result:
    """x ^ 2 => x * x  [the exponent is 2 everywhere and does not broadcast x]"""
    match node:
        case Node(_, (Value() as x, two)) if uniform(g, two) == 2 and is_float(x.type.dtype):
            return g.add("mul", x, x) if x.type == node.results[0].type else None
    return None


@rule("maximum", "minimum")
def extremum_to_clip(g: Graph, node: Node) -> Result:
    """maximum(x, c) => clip(x, lo=c); minimum(x, c) => clip(x, hi=c)

    [c is one number everywhere and does not broadcast x]
    """
    match node:
        case Node(name, (Value() as x, c)) if (bound := uniform(g, c)) is not None:
            if x.type != node.results[0].type or x.node.kind == "param":
                return None
            return g.add(
                "clip",
                x,
                lo=bound if name == "maximum" else None,
                hi=None if name == "maximum" else bound,
            )
    return None


@rule("clip")
def clip_to_relu(g: Graph, node: Node) -> Result:
    """clip(x, lo=0) => relu(x)"""
    match node:
        case Node(_, (x,)) if node.attrs["lo"] == 0 and node.attrs["hi"] in (None, math.inf):
            return g.add("relu", x)
    return None


@rule("clip", "relu")
def clip_of_clip(g: Graph, node: Node) -> Result:
    """clip(clip(x, a, b), c, d) => clip(x, a', b'), where relu is clip from 0 up

    [a <= b and c <= d; a' and b' are a and b limited to c .. d]
    """
    match node:
        case Node(_, (Value(Node("clip" | "relu", (x,)) as inner) as y,)):
            (a, b), (c, d) = _bounds(inner), _bounds(node)
            if a > b or c > d:
                return None
            if not g.sole_user(y):
                return decline(node, other_uses(g, y, by=node))
            lo, hi = min(max(a, c), d), min(max(b, c), d)
            return g.add(
                "clip",
                x,
                lo=None if lo == -math.inf else lo,
                hi=None if hi == math.inf else hi,
            )
    return None


def _bounds(node: Node) -> tuple[float, float]:
    if node.name == "relu":
        return 0.0, math.inf
    lo, hi = node.attrs["lo"], node.attrs["hi"]
    return -math.inf if lo is None else lo, math.inf if hi is None else hi


@rule("prelu")
def prelu_to_leaky_relu(g: Graph, node: Node) -> Result:
    """prelu(x, c) => leaky_relu(x, alpha=c)  [c is one number everywhere; floats]"""
    match node:
        case Node(_, (Value() as x, c)) if (alpha := uniform(g, c)) is not None:
            if is_float(x.type.dtype) and x.type == node.results[0].type:
                return g.add("leaky_relu", x, alpha=alpha)
    return None


@rule("avg_pool", "max_pool")
def pool_to_reduction(g: Graph, node: Node) -> Result:
    """avg_pool(x), max_pool(x) => reduce_mean(x), reduce_max(x)  [one window, all of x]"""
    match node:
        case Node(name, (Value() as x,)):
            spatial = x.type.shape[2:]
            whole = node.attrs["kernel"] == spatial and all(node.results[0].type.shape[2:])
            whole = whole and all(size == 1 for size in node.results[0].type.shape[2:])
            if not whole or any(node.attrs["padding"]) or not x.type.size:
                return None
            reduction = "reduce_mean" if name == "avg_pool" else "reduce_max"
            return g.add(reduction, x, axes=tuple(range(2, x.type.rank)), keepdims=True)
    return None


_UNIT = {"stride": 1, "dilation": 1, "padding": 0, "output_padding": 0}


@rule("conv", "conv_transpose", "max_pool", "max_pool_index", "avg_pool", "lp_pool")
def default_window(g: Graph, node: Node) -> Result:
    """conv(x, w) {stride=(1, 1), padding=(0, 0, 0, 0)} => conv(x, w)

    so for all windows, and for a boundary that nothing is read beyond
    """
    default = {
        name: ()
        for name, unit in _UNIT.items()
        if node.attrs.get(name) and all(v == unit for v in node.attrs[name])
    }
    if words := node.attrs.get("boundary"):
        padding = node.attrs["padding"] or (0,) * (2 * len(words))
        if set(reads(words, padding)) == {ZERO}:
            default["boundary"] = ()
    return g.add(node.name, *node.operands, **node.attrs | default) if default else None


@rule()
def constant_rank(g: Graph, node: Node) -> Result:
    """f(x[N,C,H,W], c[C,1,1]) => f(x, c[1,C,1,1])  [f elementwise, c constant, not one number]

    Backends may then lay a constant out as they do what it meets.
    """
    if node.op is None or not issubclass(node.op, Elementwise):
        return None
    rank = node.results[0].type.rank
    if not any(_shorter(g, v, rank) for v in node.operands):
        return None
    operands = [
        g.param(v.name or "c", _with_rank(g.params[v.node.attrs["ref"]], rank))
        if v is not None and _shorter(g, v, rank)
        else v
        for v in node.operands
    ]
    return g.add(node.op, *operands, **node.attrs)


def _shorter(g: Graph, value: Value | None, rank: int) -> bool:
    array = g.array(value)
    return array is not None and array.size > 1 and array.ndim < rank


def _with_rank(array: np.ndarray, rank: int) -> np.ndarray:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


@dataclass(frozen=True)
class Canonical(RulePass):
    """Spell the same thing in the same way."""

    name = "canonical"
    rules = (
        constant_right,
        sub_constant,
        div_by_power_of_two,
        pow_to_mul,
        extremum_to_clip,
        clip_to_relu,
        clip_of_clip,
        prelu_to_leaky_relu,
        pool_to_reduction,
        default_window,
        constant_rank,
    )
