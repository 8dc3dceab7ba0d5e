"""Layers change places with what averages, picks or enlarges, so that they work on less.

A 1x1 convolution sees each position alone: it may come after an average pool, a mean over positions
or before an interpolation, whose weights sum to one, so that a bias stays what it is. A slice of
what a layer makes is made by a part of its weights, and a stride over its results by the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.passes.base import RulePass
from cnnir.passes.linear import is_constant, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.passes.strides import steps_into_layer, stride_into_layer, stride_of_all_readers
from cnnir.rewrite import Result, accept, decline, other_uses, rule
from cnnir.tensortype import TensorType

_CHANNEL_AXIS = 1


def _pointwise(node: Node) -> bool:
    """Whether a node is a 1x1 convolution of stride 1 with constant weights."""
    window = window_of(node)
    return node.name == "conv" and window is not None and window.pointwise


def _behind(g: Graph, layer: Node, moved: Value) -> Value:
    """The layer on another operand."""
    return g.add(layer.name, moved, *layer.operands[1:], **layer.attrs)


@rule("avg_pool", kind="reassociating")
def pool_before_pointwise(g: Graph, node: Node) -> Result:
    """avg_pool(conv1x1(x, w, b)) => conv1x1(avg_pool(x), w, b)

    [stride 1, no padding; the convolution has no other use, and it pays; with a bias the pool
    divides by what lies inside]
    """
    match node.operands:
        case (Value(Node("conv", (Value() as x, *rest)) as conv) as y,) if _pointwise(conv):
            pass
        case _:
            return None
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    if len(rest) > 1 and any(node.attrs["padding"]) and node.attrs["count_include_pad"]:
        return decline(node, "the padding, which counts, has no bias")
    cost, pooled = prospect("avg_pool", x.type, **node.attrs)
    after = work([cost, prospect("conv", pooled, *_types(rest), **conv.attrs)[0]])
    before = work(cost_of(conv, node))
    if after >= before:
        return decline(node, f"pooling first would be {ratio(after, before)}")
    moved = g.add("avg_pool", x, **node.attrs)
    return accept(node, _behind(g, conv, moved), ratio(after, before))


def _types(values: list[Value | None]) -> list[TensorType | None]:
    return [None if v is None else v.type for v in values]


@rule("reduce_mean", kind="reassociating")
def mean_before_pointwise(g: Graph, node: Node) -> Result:
    """reduce_mean(conv1x1(x, w, b)) => conv1x1(reduce_mean(x), w, b)

    [the mean is over spatial axes, the convolution has stride 1, no padding and no other use]
    """
    match node.operands:
        case (Value(Node("conv", (Value() as x, *_)) as conv) as y,) if _pointwise(conv):
            pass
        case _:
            return None
    axes = node.attrs["axes"]
    if not axes or min(axes) < 2:
        return decline(node, "the mean is over more than positions")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    mean = g.add("reduce_mean", x, axes=axes, keepdims=True)
    made = _behind(g, conv, mean)
    return made if node.attrs["keepdims"] else g.add("reshape", made, shape=_shape(node))


def _shape(node: Node) -> tuple[int, ...]:
    return node.results[0].type.shape


@rule("reduce_mean", kind="reassociating")
def mean_before_dense(g: Graph, node: Node) -> Result:
    """reduce_mean(x @ A) => reduce_mean(x) @ A

    [A is a constant matrix, the mean is not over the last axis, the product has no other use]
    """
    match node.operands:
        case (Value(Node("matmul", (Value() as x, Value() as a))) as y,) if is_constant(a):
            pass
        case _:
            return None
    last = y.type.rank - 1
    if a.type.rank != 2 or not node.attrs["axes"] or last in node.attrs["axes"]:
        return decline(node, "the mean is over the columns of the product")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    mean = g.add("reduce_mean", x, axes=node.attrs["axes"], keepdims=True)
    made = g.add("matmul", mean, a)
    return made if node.attrs["keepdims"] else g.add("reshape", made, shape=_shape(node))


@rule("conv", kind="reassociating")
def pointwise_before_resize(g: Graph, node: Node) -> Result:
    """conv1x1(resize(x), w, b) => resize(conv1x1(x, w, b))

    [nearest or linear over spatial axes, whose weights sum to 1; the resize has no other use, and
    it pays]
    """
    match node.operands:
        case (Value(Node("resize", (Value() as x,)) as resize) as y, *rest) if _pointwise(node):
            attrs = resize.attrs
        case _:
            return None
    if attrs["mode"] not in ("nearest", "linear") or attrs["coordinates"] == "tf_crop_and_resize":
        return decline(node, f"it resizes by {attrs['mode']}, {attrs['coordinates']}")
    if y.type.shape[:2] != x.type.shape[:2] or any(s != 1 for s in attrs["scales"][:2]):
        return decline(node, "channels are resized")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    cost, small = prospect("conv", x.type, *_types(rest), **node.attrs)
    sizes = (*small.shape[:2], *attrs["sizes"][2:])
    after = work([cost, prospect("resize", small, **attrs | {"sizes": sizes})[0]])
    before = work(cost_of(resize, node))
    if after >= before:
        return decline(node, f"resizing last would be {ratio(after, before)}")
    first = _behind(g, node, x)
    return accept(node, g.add("resize", first, **attrs | {"sizes": sizes}), ratio(after, before))


# ---------------------------------------------------------------- parts of what a layer makes


@rule("slice")
def slice_of_filters(g: Graph, node: Node) -> Result:
    """slice(conv(x, w, b), channels) => conv(x, w[channels], b[channels])

    [constant weights, one group, nothing but channels is cut, the convolution has no other use]
    """
    match node.operands:
        case (Value(Node("conv", (x, w, *bias)) as conv) as y,) if window_of(conv) is not None:
            pass
        case _:
            return None
    if _cut_axes(node, y.type) != [_CHANNEL_AXIS]:
        return decline(node, "more than channels is cut") if _cut_axes(node, y.type) else None
    if conv.attrs["groups"] != 1:
        return decline(node, f"the convolution has {conv.attrs['groups']} groups")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    if not node.results[0].type.size:
        return None
    start, size, step = (node.attrs[k][_CHANNEL_AXIS] for k in ("starts", "sizes", "steps"))
    chosen = np.arange(start, start + size * step, step)[:size]
    cut = [g.param(v.name or "w", g.array(v)[chosen]) for v in (w, *bias)]  # type: ignore
    return g.add("conv", x, *cut, **conv.attrs)


@rule("slice")
def slice_of_columns(g: Graph, node: Node) -> Result:
    """slice(x @ A, columns) => x @ A[:, columns]

    [A is a constant matrix, nothing but columns is cut, the product has no other use]
    """
    match node.operands:
        case (Value(Node("matmul", (x, Value() as a))) as y,) if is_constant(a):
            pass
        case _:
            return None
    last = y.type.rank - 1
    if a.type.rank != 2 or _cut_axes(node, y.type) != [last]:
        return decline(node, "more than columns is cut")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    if not node.results[0].type.size:
        return None
    start, size, step = (node.attrs[k][last] for k in ("starts", "sizes", "steps"))
    chosen = np.arange(start, start + size * step, step)[:size]
    array = np.ascontiguousarray(g.params[a.node.attrs["ref"]][:, chosen])
    return g.add("matmul", x, g.param(a.name or "w", array))


def _cut_axes(node: Node, x: TensorType) -> list[int]:
    """The axes of which a slice does not take everything in order."""
    given = zip(*(node.attrs[k] for k in ("starts", "sizes", "steps")), x.shape, strict=True)
    return [
        axis
        for axis, (start, size, step, whole) in enumerate(given)
        if (start, size) != (0, whole) or (step != 1 and whole > 1)
    ]


@dataclass(frozen=True)
class Commute(RulePass):
    """Work on less: pool, average, cut and skip before a layer, enlarge after it."""

    name = "commute"
    rules = (
        pool_before_pointwise,
        mean_before_pointwise,
        mean_before_dense,
        pointwise_before_resize,
        slice_of_filters,
        slice_of_columns,
        stride_into_layer,
        stride_of_all_readers,
        steps_into_layer,
    )
