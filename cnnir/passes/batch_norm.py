"""Batch normalisation and other constant factors and shifts, folded into weights.

A batch norm of known statistics becomes a multiplication and an addition a channel. What follows
(or precedes) a convolution or a matmul with constant weights moves into these weights; what follows
another factor or shift joins it. New weights are computed in f64 and rounded once. `affine.py` has
the arithmetic on weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.passes.affine import (
    CHANNEL_AXIS,
    scaled_inputs,
    scaled_outputs,
    shifted_by_inputs,
)
from cnnir.passes.base import RulePass
from cnnir.passes.constants import along_axis, rounded
from cnnir.rewrite import Result, decline, other_uses, rule

_ANCHORS = ("conv", "conv_transpose", "matmul")


@rule("batch_norm", kind="reassociating")
def batch_norm_to_affine(g: Graph, node: Node) -> Result:
    """batch_norm(x, s, b, m, v) => x * f + t  [all but x constant]

    f = s / sqrt(v + epsilon), t = b - m * f
    """
    x, *parameters = node.operands
    assert x is not None
    arrays = [g.array(v) for v in parameters]
    if any(a is None for a in arrays):
        return decline(node, "its parameters are not constant")
    scale, bias, mean, var = (np.asarray(a, np.float64) for a in arrays)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(var + node.attrs["epsilon"])
        made = (rounded(factor, x.type), rounded(bias - mean * factor, x.type))
    f, t = made
    if f is None or t is None:
        return decline(node, "the factor or the shift is not finite")
    shape = (x.type.shape[1],) + (1,) * (x.type.rank - 2)
    scaled = g.add("mul", x, g.param(_name(parameters[0]), f.reshape(shape)))
    return g.add("add", scaled, g.param(_name(parameters[1]), t.reshape(shape)))


def _name(value: Value | None) -> str:
    return (value.name if value else None) or "c"


def _sole_anchor(g: Graph, node: Node) -> Node | None:
    """The convolution or matmul whose only use is the first operand of the node."""
    match node.operands:
        case (Value(Node(name) as anchor) as y, _) if name in _ANCHORS:
            return anchor if y.type == node.results[0].type and g.sole_user(y) else None
    return None


@rule("mul", "div", kind="reassociating")
def scale_after_weights(g: Graph, node: Node) -> Result:
    """conv(x, w, b) * c => conv(x, w * c, b * c); the same for conv_transpose, matmul and / c

    [w, b and c are constant, c has one number a channel, the result has no other use]
    """
    anchor = _sole_anchor(g, node)
    c = g.array(node.operands[1])
    if anchor is None or c is None:
        return _explained(g, node, c)
    with np.errstate(all="ignore"):
        factor = c.astype(np.float64) if node.name == "mul" else 1.0 / c.astype(np.float64)
    made = scaled_outputs(g, anchor, factor, node.results[0].type)
    return decline(node, made) if isinstance(made, str) else made


def _explained(g: Graph, node: Node, c: np.ndarray | None) -> Result:
    """Why a constant right behind a convolution stays; nothing about any other node."""
    match node.operands:
        case (Value(Node("conv" | "conv_transpose")) as y, _) if c is not None:
            if y.type != node.results[0].type:
                return decline(node, "the constant broadcasts the convolution")
            return decline(node, other_uses(g, y, by=node))
    return None


@rule("add", kind="reassociating")
def shift_after_conv(g: Graph, node: Node) -> Result:
    """conv(x, w, b) + c => conv(x, w, b + c); the same for conv_transpose

    [b and c are constant, c has one number a channel, the result has no other use]
    """
    anchor = _sole_anchor(g, node)
    c = g.array(node.operands[1])
    if anchor is None or c is None:
        return _explained(g, node, c)
    if anchor.name == "matmul":
        return None  # it has no operand for a shift: fusing takes the addition
    shift = along_axis(c, node.results[0].type, CHANNEL_AXIS)
    if shift is None:
        return decline(node, "the constant differs within a channel")
    x, w, *given = anchor.operands
    if given:
        b = g.array(given[0])
        if b is None:
            return decline(node, "the bias is not constant")
        shift = shift + b.astype(np.float64)
    bias = rounded(shift, node.results[0].type)
    if bias is None:
        return decline(node, "the bias would not be finite")
    name = _name(given[0] if given else node.operands[1])
    return g.add(anchor.name, x, w, g.param(name, bias), **anchor.attrs)


@rule("conv", "conv_transpose", "matmul", kind="reassociating")
def scale_before_weights(g: Graph, node: Node) -> Result:
    """conv(x * c, w, b) => conv(x, w', b) with w' = w * c for each input channel

    The same for conv_transpose and for either side of a matmul.
    [w and c are constant, c has one number an input channel, the product has no other use]
    """
    for position, operand in enumerate(node.operands[:2]):
        match operand:
            case Value(Node("mul", (Value() as x, c))) if (array := g.array(c)) is not None:
                if x.type != operand.type or not g.sole_user(operand):
                    continue
                made = scaled_inputs(g, node, position, x, array.astype(np.float64))
                return decline(node, made) if isinstance(made, str) else made
    return None


@rule("conv", "matmul", kind="reassociating")
def shift_before_weights(g: Graph, node: Node) -> Result:
    """conv(x + c, w, b) => conv(x, w, b') with b' = b + sum of w * c

    matmul(x + c, w) => matmul(x, w) + c w
    [no padding of zeros; w, b and c are constant, c has one number an input channel, the sum no
    other use]
    """
    match node.operands:
        case (Value(Node("add", (Value() as x, c))) as y, *_) if (array := g.array(c)) is not None:
            if x.type != y.type or not g.sole_user(y):
                return None
            made = shifted_by_inputs(g, node, x, array.astype(np.float64))
            return decline(node, made) if isinstance(made, str) else made
    return None


@rule("mul", "add", kind="reassociating")
def join_affine(g: Graph, node: Node) -> Result:
    """x * a * c => x * (a c);  x + a + c => x + (a + c)

    [a and c are constant, their product is finite and 0 only where one of them is]
    """
    match node.operands:
        case (Value(Node(name, (Value() as x, a))) as y, c) if name == node.name:
            inner, outer = g.array(a), g.array(c)
            if inner is None or outer is None or x.type != node.results[0].type:
                return None
            if not g.sole_user(y):
                return decline(node, other_uses(g, y, by=node))
            joined = _joined(name, inner, outer, x)
            if joined is None:
                return decline(node, "the joined constant overflows or underflows")
            return g.add(name, x, g.param(_name(a), joined))
    return None


def _joined(name: str, a: np.ndarray, c: np.ndarray, x: Value) -> np.ndarray | None:
    if a.dtype.kind in "iu":
        with np.errstate(all="ignore"):
            return a * c if name == "mul" else a + c
    wide_a, wide_c = a.astype(np.float64), c.astype(np.float64)
    if name == "add":
        return rounded(wide_a + wide_c, x.type)
    joined = rounded(wide_a * wide_c, x.type)
    lost = joined is None or np.any((joined == 0) & (wide_a != 0) & (wide_c != 0))
    return None if lost else joined


@rule("mul", kind="reassociating")
def scale_of_shift(g: Graph, node: Node) -> Result:
    """(y + a) * c => y * c + a c  [a and c constant, y from weights or a product, one use]"""
    match node.operands:
        case (Value(Node("add", (Value(Node(name)) as y, a))) as z, c) if name in (
            *_ANCHORS,
            "mul",
        ):
            shift, factor = g.array(a), g.array(c)
            if shift is None or factor is None or not y.type == z.type == node.results[0].type:
                return None
            if not (g.sole_user(z) and g.sole_user(y)) or shift.dtype.kind in "iu":
                return None
            moved = rounded(shift.astype(np.float64) * factor.astype(np.float64), y.type)
            if moved is None:
                return decline(node, "the shift would not be finite")
            return g.add("add", g.add("mul", y, c), g.param(_name(a), moved))
    return None


@dataclass(frozen=True)
class BatchNorm(RulePass):
    """Fold batch norms, factors and shifts into weights."""

    name = "batch_norm"
    rules = (
        batch_norm_to_affine,
        scale_after_weights,
        shift_after_conv,
        scale_before_weights,
        shift_before_weights,
        join_affine,
        scale_of_shift,
    )
