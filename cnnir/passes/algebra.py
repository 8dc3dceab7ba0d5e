"""Small exact identities: pools before activations, slices, concatenations and enlargements undone.

Every rule keeps the values bit by bit, but for pooled_repetition of an average.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import OPS, Elementwise
from cnnir.passes.base import RulePass
from cnnir.passes.linear import is_constant
from cnnir.rewrite import Result, decline, other_uses, rule

_LARGEST_LOOK = 1 << 20
"""Elements of an enlarged image of which it is looked up where they come from."""
_MONOTONE = ("relu", "clip", "leaky_relu", "hard_sigmoid", "floor", "ceil", "round", "sign")


@rule("max_pool")
def pool_before_activation(g: Graph, node: Node) -> Result:
    """max_pool(f(x)) => f(max_pool(x))

    for relu, clip, leaky_relu and hard_sigmoid that do not fall, floor, ceil, round, sign
    [f(x) has no other use, the pool makes it smaller, and f is not free behind a layer that makes x
    or in a chain of elementwise ops]
    """
    match node.operands:
        case (Value(Node(name, (Value() as x,)) as f) as y,) if name in _MONOTONE:
            pass
        case _:
            return None
    if f.attrs.get("alpha", 0) < 0:
        return decline(node, f"the {name} falls")
    if f.attrs.get("lo") is not None and f.attrs.get("hi") is not None:
        if f.attrs["lo"] > f.attrs["hi"]:
            return decline(node, "the bounds of the clip are in the wrong order")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    if _is_free_behind(x):
        return decline(node, f"the {name} is free behind the {x.node.name}")
    if node.results[0].type.size >= y.type.size:
        return decline(node, "the pool makes nothing smaller")
    return g.add(name, g.add("max_pool", x, **node.attrs), **f.attrs)


_LAYERS = ("conv", "conv_transpose", "matmul", "max_pool", "avg_pool", "lp_pool")


def _is_free_behind(x: Value) -> bool:
    """Whether elementwise work on a value is done where the value is made."""
    op = x.node.op
    return op is not None and (issubclass(op, Elementwise) or op.name in _LAYERS)


# ---------------------------------------------------------------- slices


@rule("slice")
def slice_of_slice(g: Graph, node: Node) -> Result:
    """slice(slice(x)) => slice(x)"""
    match node.operands:
        case (Value(Node("slice", (x,)) as inner),):
            a, b = inner.attrs, node.attrs
            moved = [s * p for s, p in zip(b["starts"], a["steps"], strict=True)]
            starts = [s + m for s, m in zip(a["starts"], moved, strict=True)]
            steps = [p * q for p, q in zip(a["steps"], b["steps"], strict=True)]
            return g.add("slice", x, starts=starts, sizes=b["sizes"], steps=steps)
    return None


@rule("slice")
def slice_of_concat(g: Graph, node: Node) -> Result:
    """slice(concat(x, y), part of y) => slice(y)  [it reads one operand alone]"""
    match node.operands:
        case (Value(Node("concat", parts) as concat),):
            axis, begin = concat.attrs["axis"], 0
        case _:
            return None
    start, size, step = (node.attrs[k][axis] for k in ("starts", "sizes", "steps"))
    low, high = sorted((start, start + (size - 1) * step))
    for part in parts:
        assert part is not None
        end = begin + part.type.shape[axis]
        if begin <= low and high < end and size:
            starts = list(node.attrs["starts"])
            starts[axis] -= begin
            return g.add("slice", part, **node.attrs | {"starts": starts})
        begin = end
    return decline(node, "it reads several operands of the concatenation")


@rule("slice")
def slice_of_pad(g: Graph, node: Node) -> Result:
    """slice(pad(x)) => slice(x)  [it reads nothing that was added]"""
    match node.operands:
        case (Value(Node("pad", (Value() as x,)) as pad),):
            begins = pad.attrs["padding"][: x.type.rank]
        case _:
            return None
    starts = [s - b for s, b in zip(node.attrs["starts"], begins, strict=True)]
    for start, size, step, whole in zip(
        starts, node.attrs["sizes"], node.attrs["steps"], x.type.shape, strict=True
    ):
        last = start + (size - 1) * step
        if not (0 <= start < whole and 0 <= last < whole):
            return decline(node, "it reads some of the padding")
    return g.add("slice", x, **node.attrs | {"starts": starts})


@rule("slice")
def slice_before_elementwise(g: Graph, node: Node) -> Result:
    """slice(f(x, y, c)) => f(slice(x), slice(y), slice(c))

    [f is elementwise and has no other use; it would not be free where x or y is made, or that is a
    convolution of one group of which channels are cut]
    """
    y = node.operands[0]
    assert y is not None
    f = y.node
    if f.op is None or not issubclass(f.op, Elementwise) or not node.results[0].type.size:
        return None
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    varying = [v for v in f.operands if v is not None and g.array(v) is None]
    if not all(not _is_free_behind(v) or _gives_channels(g, v, node) for v in varying):
        return decline(node, f"the {f.name} is free where its operand is made")
    return g.add(f.name, *(v and _sliced(g, v, node) for v in f.operands), **f.attrs)


def _gives_channels(g: Graph, x: Value, node: Node) -> bool:
    """Whether x is a convolution that can be cut to what the slice takes of it."""
    if x.node.name != "conv" or not g.sole_user(x) or not is_constant(x.node.operands[1]):
        return False
    others = [a for a in range(x.type.rank) if a != 1]
    whole = all(node.attrs["sizes"][a] == x.type.shape[a] for a in others)
    return whole and x.node.attrs["groups"] == 1 and min(node.attrs["steps"]) > 0


def _sliced(g: Graph, x: Value, node: Node) -> Value:
    """What the slice leaves of an operand; it is broadcast along its axes of extent 1."""
    rank = x.type.rank
    attrs: dict[str, Any] = {
        k: list(node.attrs[k][len(node.attrs[k]) - rank :]) for k in node.attrs
    }
    for axis, extent in enumerate(x.type.shape):
        if extent == 1:
            attrs["starts"][axis], attrs["sizes"][axis], attrs["steps"][axis] = 0, 1, 1
    return g.add("slice", x, **attrs) if rank else x


# ---------------------------------------------------------------- concatenations


@rule("concat")
def concat_of_concat(g: Graph, node: Node) -> Result:
    """concat(concat(x, y), z) => concat(x, y, z)  [one axis, the inner one has no other use]"""
    parts: list[Value | None] = []
    shared: list[Value] = []
    for part in node.operands:
        match part:
            case Value(Node("concat", inner) as concat) if concat.attrs == node.attrs:
                if g.sole_user(part):
                    parts += inner
                    continue
                shared.append(part)
        parts.append(part)
    if len(parts) > len(node.operands):
        return g.add("concat", *parts, **node.attrs)
    return decline(node, other_uses(g, *shared, by=node)) if shared else None


@rule("concat")
def concat_of_slices(g: Graph, node: Node) -> Result:
    """concat(slice(x, a..b), slice(x, b..c)) => slice(x, a..c)  [neighbours, all else equal]"""
    axis = node.attrs["axis"]
    for position, (left, right) in enumerate(zip(node.operands, node.operands[1:], strict=False)):
        match left, right:
            case Value(Node("slice", (x,)) as a), Value(Node("slice", (z,)) as b) if x is z:
                joined = _joined(a, b, axis)
                if joined is None:
                    return decline(node, "the slices are no neighbours")
                value = g.add("slice", x, **joined)
                rest = node.operands[:position], node.operands[position + 2 :]
                if not any(rest):
                    return value
                return g.add("concat", *rest[0], value, *rest[1], axis=axis)
    return None


def _joined(a: Node, b: Node, axis: int) -> dict[str, Any] | None:
    """Attributes of one slice that takes what one takes and then what the other takes."""
    for key in ("starts", "sizes", "steps"):
        others = zip(a.attrs[key], b.attrs[key], strict=True)
        if any(p != q for i, (p, q) in enumerate(others) if i != axis):
            return None
    step = a.attrs["steps"][axis]
    follows = a.attrs["starts"][axis] + a.attrs["sizes"][axis] * step
    if b.attrs["steps"][axis] != step or b.attrs["starts"][axis] != follows:
        return None
    sizes = list(a.attrs["sizes"])
    sizes[axis] += b.attrs["sizes"][axis]
    return a.attrs | {"sizes": tuple(sizes)}


# ---------------------------------------------------------------- enlarged and made smaller again


@rule("max_pool", "avg_pool", kind="reassociating")
def pooled_repetition(g: Graph, node: Node) -> Result:
    """max_pool(resize(x)) => x;  avg_pool(resize(x)) => x

    [the resize repeats each element as often as the windows are large, which do not overlap]
    """
    match node.operands:
        case (Value(Node("resize", (Value() as x,)) as resize),) if x.type == node.results[0].type:
            pass
        case _:
            return None
    kernel = node.attrs["kernel"]
    wide = [k for k in kernel if k > 1]
    regular = node.attrs["stride"] == kernel or not wide
    if not regular or any(node.attrs["padding"]) or set(node.attrs["dilation"]) - {1}:
        return decline(node, "the windows overlap, or leave something out")
    if resize.attrs["mode"] != "nearest" or not _repeats(x, resize, kernel):
        return decline(node, "the resize does more than repeat each element")
    return x


def _repeats(x: Value, resize: Node, kernel: tuple[int, ...]) -> bool:
    """Whether the resize repeats each element `kernel` times, found by resizing positions."""
    spatial, sizes = x.type.shape[2:], resize.attrs["sizes"]
    if sizes[2:] != tuple(n * k for n, k in zip(spatial, kernel, strict=True)):
        return False
    if sizes[:2] != x.type.shape[:2] or np.prod(sizes[2:]) > _LARGEST_LOOK:
        return False
    positions = np.arange(np.prod(spatial), dtype=np.float64).reshape(1, 1, *spatial)
    attrs = resize.attrs | {"sizes": (1, 1, *sizes[2:])}
    if attrs["roi"]:
        return False
    wanted = positions
    for axis, times in enumerate(kernel, start=2):
        wanted = np.repeat(wanted, times, axis)
    return bool(np.array_equal(OPS["resize"].evaluate(positions, **attrs), wanted))


@dataclass(frozen=True)
class Algebra(RulePass):
    """Do less by small identities: pool first, move slices, join concatenations."""

    name = "algebra"
    rules = (
        pool_before_activation,
        slice_of_slice,
        slice_of_concat,
        slice_of_pad,
        slice_before_elementwise,
        concat_of_concat,
        concat_of_slices,
        pooled_repetition,
    )
