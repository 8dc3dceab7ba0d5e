"""Layers change places with what averages, picks or enlarges, so that they work on less.

A 1x1 convolution sees each position alone: it may come after an average pool, a mean over positions
or before an interpolation, whose weights sum to one, so that a bias stays what it is. A slice of
what a layer makes is made by a part of its weights, and a stride over its results by the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes.base import RulePass
from cnnir.passes.linear import is_constant, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
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


# ---------------------------------------------------------------- strides


@rule("conv", "avg_pool", "max_pool")
def stride_into_layer(g: Graph, node: Node) -> Result:
    """conv1x1(f(conv(x, w)), v) {stride=s} => conv1x1(f(conv(x, w) {stride *= s}), v)

    The results that the stride passes over are not computed. The inner layer is a conv or a pool,
    f any chain of elementwise ops with constants that do not differ from position to position.
    [kernel 1 wherever the stride is not 1, no padding, inner results have no other use]
    """
    steps = _skips(node)
    y = node.operands[0]
    if steps is None or y is None:
        return None
    made = _strided(g, y, steps, node)
    if isinstance(made, str):
        return decline(node, made)
    value = g.add(node.name, made, *node.operands[1:], **node.attrs | {"stride": ()})
    return value if value.type == node.results[0].type else None


@rule("slice")
def steps_into_layer(g: Graph, node: Node) -> Result:
    """slice(f(conv(x, w)), every s-th position) => f(conv(x, w) {stride *= s})

    For pools as well; f any chain of elementwise ops.
    [the slice begins at 0 and takes all channels, inner results have no other use]
    """
    y = node.operands[0]
    assert y is not None
    steps = node.attrs["steps"]
    if y.type.rank < 3 or min(steps) < 1 or set(steps) == {1} or any(node.attrs["starts"]):
        return None
    wanted = tuple(-(-n // s) for n, s in zip(y.type.shape, steps, strict=True))
    if set(steps[:2]) != {1} or node.attrs["sizes"] != wanted:
        return decline(node, "it takes more than every so many positions")
    made = _strided(g, y, steps[2:], node)
    return decline(node, made) if isinstance(made, str) else made


def _skips(node: Node) -> tuple[int, ...] | None:
    """The strides of a window that reads only every so many positions; None for any other."""
    w = node.operands[1] if node.name == "conv" else None
    kernel = node.attrs["kernel"] if w is None else w.type.shape[2:]
    stride = node.attrs["stride"]
    if not stride or set(stride) == {1} or any(node.attrs["padding"]):
        return None
    if any(s > 1 and k > 1 for s, k in zip(stride, kernel, strict=True)):
        return None
    # an axis of stride 1 keeps whatever kernel it has
    return stride


def _strided(g: Graph, y: Value, steps: tuple[int, ...], by: Node) -> Value | str:
    """Every so many positions of a value, computed alone; or why it cannot be."""
    chain: list[Node] = []
    while True:
        if not g.sole_user(y):
            return other_uses(g, y, by=by)
        layer = y.node
        if layer.name in ("conv", "avg_pool", "max_pool"):
            break
        following = _through(g, layer)
        if following is None:
            return f"{layer.name} has no stride of its own"
        chain.append(layer)
        y, by = following, layer
    own = layer.attrs["stride"] or (1,) * len(steps)
    stride = tuple(a * b for a, b in zip(own, steps, strict=True))
    wanted = tuple(-(-n // s) for n, s in zip(y.type.shape[2:], steps, strict=True))
    made = g.add(layer.name, *layer.operands, **layer.attrs | {"stride": stride})
    if made.type.shape[2:] != wanted:
        return "its last window runs over the end"
    for node in reversed(chain):
        operands = (made if v is y else v for v in node.operands)
        y, made = node.results[0], g.add(node.name, *operands, **node.attrs)
    return made


def _through(g: Graph, node: Node) -> Value | None:
    """The operand of an elementwise op that differs between positions; None unless just one."""
    if node.op is None or not issubclass(node.op, Elementwise) or len(node.results) != 1:
        return None
    shape = node.results[0].type.shape
    varying = [v for v in node.operands if v is not None and v.type.shape == shape]
    others = [v for v in node.operands if v is not None and v.type.shape != shape]
    rank = len(shape)
    for v in others:
        padded = (1,) * (rank - v.type.rank) + v.type.shape
        if any(n != 1 for n in padded[2:]):
            return None
    return varying[0] if len(varying) == 1 and rank > 2 else None


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
        steps_into_layer,
    )
