"""Chains of reshapes and transposes become one, and transposes sink until they cancel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes.base import RulePass
from cnnir.rewrite import Result, decline, other_uses, rule


@rule("reshape")
def reshape_of_reshape(g: Graph, node: Node) -> Result:
    """reshape(reshape(x)) => reshape(x), or x where that is its shape"""
    match node:
        case Node(_, (Value(Node("reshape", (Value() as x,))),)):
            same = x.type == node.results[0].type
            return x if same else g.add("reshape", x, shape=node.attrs["shape"])
    return None


@rule("transpose")
def transpose_of_transpose(g: Graph, node: Node) -> Result:
    """transpose(transpose(x, p), q) => transpose(x, p o q), or x where they cancel"""
    match node:
        case Node(_, (Value(Node("transpose", (Value() as x,)) as inner),)):
            perm = tuple(inner.attrs["perm"][axis] for axis in node.attrs["perm"])
            return x if perm == tuple(range(len(perm))) else g.add("transpose", x, perm=perm)
    return None


@rule("transpose")
def transpose_of_ones(g: Graph, node: Node) -> Result:
    """transpose(x) => reshape(x)  [only axes of extent 1 change their place]"""
    match node:
        case Node(_, (Value() as x,)) if _moves_only_ones(x, node.attrs["perm"]):
            return g.add("reshape", x, shape=node.results[0].type.shape)
    return None


def _moves_only_ones(x: Value, perm: tuple[int, ...]) -> bool:
    moved = [axis for axis in perm if x.type.shape[axis] != 1]
    return moved == sorted(moved)


@rule("reshape")
def keepdims_for_reshape(g: Graph, node: Node) -> Result:
    """reshape(reduce(x, keepdims=False)) => reduce(x, keepdims=True)  [the types agree]"""
    match node:
        case Node(_, (Value(Node(name, (Value() as x,)) as inner) as y,)) if name.startswith(
            "reduce_"
        ):
            if inner.attrs["keepdims"]:
                return None
            kept = tuple(
                1 if axis in inner.attrs["axes"] else size for axis, size in enumerate(x.type.shape)
            )
            if kept != node.results[0].type.shape:
                return None
            if not g.sole_user(y):
                return decline(node, other_uses(g, y, by=node))
            return g.add(name, x, **inner.attrs | {"keepdims": True})
    return None


@rule()
def sink_transpose(g: Graph, node: Node) -> Result:
    """f(transpose(x, p), transpose(y, p), c) => transpose(f(x, y, c'), p)

    [f is elementwise, concat, pad or a reduction that keeps its axes; the transposes have no other
    use; c is constant of rank 0, or of full rank, or broadcasts along leading axes]
    """
    if not _moves_with_axes(node):
        return None
    moved = [v for v in node.operands if v is not None and v.node.name == "transpose"]
    if not moved:
        return None
    perm = moved[0].node.attrs["perm"]
    inner = [_before(g, v, perm) for v in node.operands]
    if any(v is None for v in inner):
        return decline(node, "its operands are not all transposed alike")
    if not all(_only_use(g, v, node) for v in moved):
        return decline(node, other_uses(g, *moved, by=node))
    attrs = node.attrs | _permuted(node.attrs, perm)
    return g.add("transpose", g.add(node.name, *inner, **attrs), perm=perm)


def _moves_with_axes(node: Node) -> bool:
    if node.op is None or any(v is None for v in node.operands):
        return False
    if node.name.startswith("reduce_"):
        return bool(node.attrs["keepdims"])
    return issubclass(node.op, Elementwise) or node.name in ("concat", "pad")


def _only_use(g: Graph, value: Value, node: Node) -> bool:
    return not g.is_output(value) and all(user is node for user, _ in g.users(value))


def _before(g: Graph, value: Value | None, perm: tuple[int, ...]) -> Value | None:
    """The operand as it is before the transpose; None when it has no such form."""
    assert value is not None
    match value:
        case Value(Node("transpose", (x,)) as node):
            return x if node.attrs["perm"] == perm else None
        case Value(Node("reshape", (Value() as x,))) if x.type.rank == len(perm):
            turned = tuple(x.type.shape[axis] for axis in perm) == value.type.shape
            return x if turned and _moves_only_ones(x, perm) else None
    array = g.array(value)
    if array is None:
        return None
    if array.ndim == 0:
        return value
    if array.ndim > len(perm):
        return None
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return g.param(value.name or "c", np.ascontiguousarray(full.transpose(np.argsort(perm))))


def _permuted(attrs: dict[str, Any], perm: tuple[int, ...]) -> dict[str, Any]:
    """Attributes that name axes, for the operand before the transpose."""
    changed: dict[str, Any] = {}
    if "axis" in attrs:
        changed["axis"] = perm[attrs["axis"]]
    if "axes" in attrs:
        changed["axes"] = tuple(sorted(perm[axis] for axis in attrs["axes"]))
    if "padding" in attrs:
        inverse = [perm.index(axis) for axis in range(len(perm))]
        begins, ends = attrs["padding"][: len(perm)], attrs["padding"][len(perm) :]
        changed["padding"] = tuple([*(begins[i] for i in inverse), *(ends[i] for i in inverse)])
    return changed


@dataclass(frozen=True)
class ReshapeTranspose(RulePass):
    """One reshape for several, one transpose for several, none where they cancel."""

    name = "reshape_transpose"
    rules = (
        reshape_of_reshape,
        transpose_of_transpose,
        transpose_of_ones,
        keepdims_for_reshape,
        sink_transpose,
    )
