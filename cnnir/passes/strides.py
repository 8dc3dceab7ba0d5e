"""Strides move to where values are made, so that what a later layer passes over is not computed.

Part of the pass `commute`. A 1x1 convolution of stride 2, or a slice of every second position,
reads a quarter of an image: the layer that makes the image can make that quarter alone. On the way
lie elementwise ops; where one of them takes a further operand, as the addition of a residual block
does, that one is read by a slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Cost, Elementwise
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.rewrite import Result, accept, decline, other_uses, rule
from cnnir.tensortype import TensorType

Steps = tuple[int, ...]

_LAYERS = ("conv", "avg_pool", "max_pool")


@rule("conv", "avg_pool", "max_pool")
def stride_into_layer(g: Graph, node: Node) -> Result:
    """conv1x1(f(conv(x, w), z), v) {stride=s} => conv1x1(f(conv(x, w) {stride *= s}, z'), v)

    The results that the stride passes over are not computed; z' is a slice of z, every s-th
    position. The inner layer is a conv or a pool, f any tree of elementwise ops with constants that
    do not differ from position to position.
    [kernel 1 wherever the stride is not 1, no padding, inner results have no other use; with a z,
    it pays]
    """
    steps = _skips(node)
    y = node.operands[0]
    if steps is None or y is None:
        return None
    reach = _reach(g, y, steps, node)
    if isinstance(reach, str):
        return decline(node, reach)
    value = _behind(g, node, _built(g, y, steps, reach))
    return accept(node, value, reach.reason) if value.type == node.results[0].type else None


@rule("conv", "avg_pool", "max_pool")
def stride_of_all_readers(g: Graph, node: Node) -> Result:
    """conv1x1(y, v) {stride=s}, and so all readers of y => conv1x1(slice(y, every s-th), v)

    The readers share the slice, whose steps then go into the layer that makes y: see
    steps_into_layer.
    [several readers, each with kernel 1 wherever the stride is not 1 and no padding; y can be made
    by a layer with a stride, and it pays]
    """
    steps = _skips(node)
    y = node.operands[0]
    if steps is None or y is None or g.is_output(y) or len(g.users(y)) < 2:
        return None
    attrs = _every(y.type, steps)
    shared: Value | None = None
    for user, position in g.users(y):
        if user.name == "slice" and user.attrs == attrs:
            shared = user.results[0]
        elif position or _skips(user) != steps:
            return decline(node, other_uses(g, y, by=node))
    reach = _reach(g, y, steps, node, shared=True)
    if isinstance(reach, str):
        return decline(node, reach)
    value = _behind(g, node, shared or g.add("slice", y, **attrs))
    return accept(node, value, reach.reason) if value.type == node.results[0].type else None


@rule("slice")
def steps_into_layer(g: Graph, node: Node) -> Result:
    """slice(f(conv(x, w), z), every s-th position) => f(conv(x, w) {stride *= s}, z')

    For pools as well; f any tree of elementwise ops, z' a slice of z.
    [the slice begins at 0 and takes all channels, inner results have no other use; with a z, it
    pays]
    """
    y = node.operands[0]
    assert y is not None
    steps = node.attrs["steps"]
    if y.type.rank < 3 or min(steps) < 1 or set(steps) == {1} or any(node.attrs["starts"]):
        return None
    if set(steps[:2]) != {1} or node.attrs != _every(y.type, steps[2:]):
        return decline(node, "it takes more than every so many positions")
    reach = _reach(g, y, steps[2:], node)
    if isinstance(reach, str):
        return decline(node, reach)
    return accept(node, _built(g, y, steps[2:], reach), reach.reason)


def _skips(node: Node) -> Steps | None:
    """The strides of a window that reads only every so many positions; None for any other."""
    if node.name not in _LAYERS:
        return None
    w = node.operands[1] if node.name == "conv" else None
    kernel = node.attrs["kernel"] if w is None else w.type.shape[2:]
    stride: Steps = node.attrs["stride"]
    if not stride or set(stride) == {1} or any(node.attrs["padding"]):
        return None
    if any(s > 1 and k > 1 for s, k in zip(stride, kernel, strict=True)):
        return None
    # an axis of stride 1 keeps whatever kernel it has
    return stride


def _behind(g: Graph, node: Node, operand: Value) -> Value:
    """The layer, without its stride, on what is left of its operand."""
    value: Value = g.add(node.name, operand, *node.operands[1:], **node.attrs | {"stride": ()})
    return value


# ---------------------------------------------------------------- what lies on the way


@dataclass
class _Reach:
    """How far back a stride can go from a value."""

    layers: list[Node] = field(default_factory=list)
    """Those that take it."""
    maps: list[Node] = field(default_factory=list)
    """Elementwise ops on the way, users before what they use."""
    leaves: dict[Value, str] = field(default_factory=dict)
    """Where it goes no further, and why."""
    reason: str = ""


def _reach(g: Graph, y: Value, steps: Steps, by: Node, shared: bool = False) -> _Reach | str:
    """The layers that can take a stride, or why none does; `shared` allows y several readers."""
    found = _Reach()
    stack = [(y, by)]
    while stack:
        value, reader = stack.pop()
        node = value.node
        alone = g.sole_user(value) or (shared and value is y)
        obstacle = _obstacle(node, steps) if alone else other_uses(g, value, by=reader)
        if obstacle:
            found.leaves[value] = obstacle
        elif node.name in _LAYERS:
            found.layers.append(node)
        else:
            found.maps.append(node)
            stack += [(v, node) for v in reversed(_varying(node) or [])]
    if not found.layers:
        return next(iter(found.leaves.values()))
    if found.leaves:
        before, after = _work(found, steps)
        found.reason = ratio(after, before)
        if after >= before:
            return f"with slices of what else is read it would be {found.reason}"
    return found


def _obstacle(node: Node, steps: Steps) -> str:
    """Why a node's result cannot be made at every so many positions alone; nothing where it can."""
    if node.name in _LAYERS:
        _, type = _prospect_of_layer(node, steps)
        fits = type == _left(node.results[0].type, steps)
        return "" if fits else "its last window runs over the end"
    return "" if _varying(node) else f"{node.name} has no stride of its own"


def _varying(node: Node) -> list[Value] | None:
    """The operands of an elementwise op that differ between positions; None for other ops.

    All others are the same at every position.
    """
    if node.op is None or not issubclass(node.op, Elementwise) or len(node.results) != 1:
        return None
    shape = node.results[0].type.shape
    if len(shape) < 3:
        return None
    for v in node.operands:
        if v is not None and v.type.shape != shape:
            padded = (1,) * (len(shape) - v.type.rank) + v.type.shape
            if any(n != 1 for n in padded[2:]):
                return None
    return [v for v in node.operands if v is not None and v.type.shape == shape]


# ---------------------------------------------------------------- every so many positions


def _left(type: TensorType, steps: Steps) -> TensorType:
    """The type of every so many positions."""
    sizes = (-(-n // s) for n, s in zip(type.shape[2:], steps, strict=True))
    return type.with_shape((*type.shape[:2], *sizes))


def _every(type: TensorType, steps: Steps) -> dict[str, Any]:
    """The attributes of a slice that takes them."""
    starts = (0,) * type.rank
    return {"starts": starts, "sizes": _left(type, steps).shape, "steps": (1, 1, *steps)}


def _strides(node: Node, steps: Steps) -> Steps:
    own = node.attrs["stride"] or (1,) * len(steps)
    return tuple(a * b for a, b in zip(own, steps, strict=True))


def _prospect_of_layer(node: Node, steps: Steps) -> tuple[Cost, TensorType]:
    types = (None if v is None else v.type for v in node.operands)
    return prospect(node.name, *types, **node.attrs | {"stride": _strides(node, steps)})


def _work(found: _Reach, steps: Steps) -> tuple[float, float]:
    """Before and after. Elementwise work is free behind a layer, but for reading the leaves."""
    before = [cost_of(*found.layers)]
    after = [_prospect_of_layer(node, steps)[0] for node in found.layers]
    for leaf in found.leaves:
        cost, left = prospect("slice", leaf.type, **_every(leaf.type, steps))
        before.append(Cost(read=leaf.type.nbytes))
        after += [cost, Cost(read=left.nbytes)]
    return work(before), work(after)


def _built(g: Graph, y: Value, steps: Steps, found: _Reach) -> Value:
    """The value at every so many positions, computed alone."""
    made = {leaf: g.add("slice", leaf, **_every(leaf.type, steps)) for leaf in found.leaves}
    for layer in found.layers:
        attrs = layer.attrs | {"stride": _strides(layer, steps)}
        made[layer.results[0]] = g.add(layer.name, *layer.operands, **attrs)
    for node in reversed(found.maps):
        operands = (v if v is None else made.get(v, v) for v in node.operands)
        made[node.results[0]] = g.add(node.name, *operands, **node.attrs)
    return made[y]
