"""No-ops: nodes whose result is their operand, bit by bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes.base import RulePass
from cnnir.passes.constants import uniform
from cnnir.rewrite import Result, decline, rule
from cnnir.tensortype import is_float, is_int

_SAME_TYPE = ("identity", "reshape", "expand", "cast", "tile", "pad", "slice", "clip", "concat")


@rule(
    *_SAME_TYPE,
    "transpose",
    "resize",
    "reduce_sum",
    "reduce_mean",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
)
def remove_identity(g: Graph, node: Node) -> Result:
    """identity(x) => x, and so for what its attributes and types make one

    reshape, expand and cast to the same type; pad by 0; tile by 1; the whole slice; clip without
    bounds; concat of one; transpose in order; resize by 1; reduction over no axes.
    """
    x = node.operands[0]
    assert x is not None
    if x.type == node.results[0].type and _changes_nothing(node):
        return x
    return None


def _changes_nothing(node: Node) -> bool:
    """Whether the node, whose result has its operand's type, is an identity."""
    attrs = node.attrs
    match node.name:
        case "identity" | "reshape" | "expand" | "cast" | "tile":
            return True
        case "pad":
            return not any(attrs["padding"])
        case "slice":
            return all(step > 0 for step in attrs["steps"])
        case "clip":
            return attrs["lo"] is None and attrs["hi"] is None
        case "concat":
            return len(node.operands) == 1
        case "transpose":
            return attrs["perm"] == tuple(range(len(attrs["perm"])))
        case "resize":
            exact = attrs["mode"] in ("nearest", "linear") and not attrs["antialias"]
            cropped = attrs["coordinates"] == "tf_crop_and_resize"
            return exact and not cropped and all(s == 1 for s in attrs["scales"])
        case _:
            return not attrs["axes"]


@rule("concat")
def concat_empty(g: Graph, node: Node) -> Result:
    """concat(x, empty, y) => concat(x, y)  [something is left]"""
    full = [v for v in node.operands if v is not None and v.type.size]
    if full and len(full) < len(node.operands):
        return g.add("concat", *full, **node.attrs)
    return None


@rule("mul", "div", "pow")
def times_one(g: Graph, node: Node) -> Result:
    """x * 1, x / 1, x ^ 1 => x  [the other operand is 1 everywhere and does not broadcast x]"""
    match node:
        case Node(_, (Value() as x, one)) if uniform(g, one) == 1:
            return x if x.type == node.results[0].type else None
    return None


@rule("add", "sub")
def plus_zero(g: Graph, node: Node) -> Result:
    """x + -0, x - 0 => x; for integers also x + 0  [the zeros do not broadcast x]

    x + 0 of floats is no identity: it turns -0 into 0.
    """
    match node:
        case Node(name, (Value() as x, zero)) if uniform(g, zero) == 0:
            if x.type != node.results[0].type:
                return None
            negative = math.copysign(1.0, uniform(g, zero) or 0.0) < 0
            if is_float(x.type.dtype) and negative != (name == "add"):
                return decline(node, "x + 0 is not x where x is -0")
            return x
    return None


@rule("neg", "logical_not", "bitwise_not")
def twice_inverse(g: Graph, node: Node) -> Result:
    """neg(neg(x)) => x; the same for logical_not and bitwise_not"""
    match node:
        case Node(name, (Value(Node(inner, (x,))),)) if name == inner:
            return x
    return None


@rule("relu", "abs", "floor", "ceil", "round", "sign")
def twice_idempotent(g: Graph, node: Node) -> Result:
    """f(f(x)) => f(x) for relu, abs, floor, ceil, round, sign"""
    match node:
        case Node(name, (Value(Node(inner)) as y,)) if name == inner:
            return y
    return None


_EXACT = {
    "bf16": {"f32", "f64"},
    "f16": {"f32", "f64"},
    "f32": {"f64"},
    "i8": {"i16", "i32", "i64", "f16", "f32", "f64"},
    "u8": {"i16", "i32", "i64", "u16", "u32", "u64", "f16", "f32", "f64"},
    "i16": {"i32", "i64", "f32", "f64"},
    "u16": {"i32", "i64", "u32", "u64", "f32", "f64"},
    "i32": {"i64", "f64"},
    "u32": {"i64", "u64", "f64"},
    "bool": {"i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "bf16", "f32", "f64"},
}
"""Element type -> those that hold each of its values exactly."""


@rule("cast")
def cast_back(g: Graph, node: Node) -> Result:
    """cast(cast(x, wide), t) => x or cast(x, t)  [wide holds every value of x's type]"""
    match node:
        case Node(_, (Value(Node("cast", (Value() as x,)) as inner),)):
            wide = inner.attrs["dtype"]
            if wide not in _EXACT.get(x.type.dtype, ()):
                return None
            dtype = node.attrs["dtype"]
            if x.type.dtype == dtype:
                return x
            if is_int(x.type.dtype) and is_float(wide) and is_int(dtype):
                return None  # a float saturates where an integer would wrap
            return g.add("cast", x, dtype=dtype)
    return None


@rule("where")
def where_known(g: Graph, node: Node) -> Result:
    """where(c, x, y) => x or y  [c is the same everywhere, the result is not broadcast]"""
    match node:
        case Node(_, (c, Value() as x, Value() as y)) if uniform(g, c) is not None:
            chosen = x if uniform(g, c) else y
            return chosen if chosen.type == node.results[0].type else None
    return None


@rule()
def expand_into_elementwise(g: Graph, node: Node) -> Result:
    """f(expand(x), y) => f(x, y)  [f is elementwise and broadcasts x to the same shape itself]"""
    if node.op is None or not issubclass(node.op, Elementwise):
        return None
    shorter = tuple(_unexpanded(v) for v in node.operands)
    if shorter == node.operands:
        return None
    shapes = [v.type.shape for v in shorter if v is not None]
    if np.broadcast_shapes(*shapes) != node.results[0].type.shape:
        return None
    return g.add(node.name, *shorter, **node.attrs)


def _unexpanded(value: Value | None) -> Value | None:
    match value:
        case Value(Node("expand", (x,))):
            return x
    return value


@dataclass(frozen=True)
class Identity(RulePass):
    """Remove nodes that change nothing."""

    name = "identity"
    rules = (
        remove_identity,
        concat_empty,
        times_one,
        plus_zero,
        twice_inverse,
        twice_idempotent,
        cast_back,
        where_known,
        expand_into_elementwise,
    )
