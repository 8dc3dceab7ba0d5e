"""Padding that a window can do itself moves into the convolution or pool that follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cnnir.ir import Graph, Node, Value
from cnnir.ops.boundary import MODES, ZERO, reads
from cnnir.passes.base import RulePass
from cnnir.rewrite import Declined, Result, decline, rule

_WORDS = {mode: word for word, mode in MODES.items()}


def _spatial(g: Graph, padded: Value) -> tuple[int, ...] | Declined:
    """Begins and ends of a pad over the spatial axes alone."""
    pad, rank = padded.node, padded.type.rank
    begins, ends = pad.attrs["padding"][:rank], pad.attrs["padding"][rank:]
    if any(begins[:2]) or any(ends[:2]):
        return decline(pad, "it pads the batch or channel axis")
    return tuple([*begins[2:], *ends[2:]])


def _not_constant(pad: Node) -> str:
    mode = pad.attrs["mode"]
    return f"the mode is {mode}, not constant" if mode != "constant" else ""


def _added(own: tuple[int, ...], more: tuple[int, ...]) -> tuple[int, ...]:
    """Padding of a node, where () is none, and more of it."""
    return tuple(a + b for a, b in zip(own or (0,) * len(more), more, strict=True))


@rule("conv")
def pad_into_conv(g: Graph, node: Node) -> Result:
    """conv(pad(x, p), w, b) => conv(x, w, b) {padding += p, boundary=what p is}

    [on spatial axes; zeros on axes where the convolution adds zeros itself, another mode where it
    has no padding and the padded value has no use but convolutions]
    """
    match node:
        case Node(_, (Value(Node("pad", (Value() as x,)) as pad) as padded, *rest)):
            more = _spatial(g, padded)
            if isinstance(more, Declined):
                return more
            reason = _own_border(node, pad, more) or _kept_anyway(g, pad, padded)
            if reason:
                return decline(node, reason)
            padding = _added(node.attrs["padding"], more)
            words = _boundary(node, pad, more)
            return g.add("conv", x, *rest, **node.attrs | {"padding": padding, "boundary": words})
    return None


def _boundary(node: Node, pad: Node, more: tuple[int, ...]) -> tuple[str, ...]:
    """The boundary of a convolution that pads by itself; () for zeros."""
    rank = len(more) // 2
    own = reads(node.attrs["boundary"], node.attrs["padding"] or (0,) * len(more))
    added = reads((_WORDS.get(pad.attrs["mode"], ZERO),) * rank, more)
    words = tuple(a if b == ZERO else b for a, b in zip(own, added, strict=True))
    return words if set(words) != {ZERO} else ()


def _own_border(node: Node, pad: Node, more: tuple[int, ...]) -> str:
    """Why a convolution cannot pad by itself; nothing if it can."""
    mode, value, rank = pad.attrs["mode"], pad.attrs["value"], len(more) // 2
    if mode == "constant" and value != 0:
        return f"the pad value is {value}, not 0"
    own = node.attrs["padding"] or (0,) * len(more)
    words = reads(node.attrs["boundary"], own)
    for axis in range(rank):
        if not (more[axis] or more[rank + axis]):
            continue
        if mode != "constant" and (own[axis] or own[rank + axis]):
            return f"the convolution adds a border of its own to spatial axis {axis}"
        if words[axis] != ZERO:
            return f"beyond spatial axis {axis} the convolution reads what was added"
    return ""


def _kept_anyway(g: Graph, pad: Node, padded: Value) -> str:
    """Who needs a padded copy: where there is one, it is as good to read."""
    if pad.attrs["mode"] == "constant":
        return ""
    others = [u for u, position in g.users(padded) if u.name != "conv" or position]
    if g.is_output(padded):
        return "the padded value is an output"
    return f"the padded value is needed by {others[0].name}" if others else ""


@rule("avg_pool")
def pad_into_avg_pool(g: Graph, node: Node) -> Result:
    """avg_pool(pad(x, p)) => avg_pool(x) {padding += p, count_include_pad=True}

    [zeros, on spatial axes; the pool's own padding counts too, or is none; not ceil_mode]
    """
    match node:
        case Node(_, (Value(Node("pad", (Value() as x,)) as pad) as padded,)):
            more = _spatial(g, padded)
            if isinstance(more, Declined):
                return more
            if reason := _not_constant(pad):
                return decline(node, reason)
            if pad.attrs["value"] != 0:
                return decline(node, f"the pad value is {pad.attrs['value']}, not 0")
            if any(node.attrs["padding"]) and not node.attrs["count_include_pad"]:
                return decline(node, "its own padding does not count")
            if node.attrs["ceil_mode"]:
                return decline(node, "windows may reach beyond the padding")
            padding = _added(node.attrs["padding"], more)
            if not _overlaps(node, padding):
                return decline(node, "a window would hold nothing but padding")
            changed = {"padding": padding, "count_include_pad": True}
            return g.add("avg_pool", x, **node.attrs | changed)
    return None


@rule("max_pool")
def pad_into_max_pool(g: Graph, node: Node) -> Result:
    """max_pool(pad(x, p)) => max_pool(x) {padding += p}

    [-inf on spatial axes, or zeros where x is never negative, as after relu, and every window meets
    x; not ceil_mode]
    """
    match node:
        case Node(_, (Value(Node("pad", (Value() as x,)) as pad) as padded,)):
            more = _spatial(g, padded)
            if isinstance(more, Declined):
                return more
            if reason := _not_constant(pad):
                return decline(node, reason)
            dense = all(d == 1 for d in node.attrs["dilation"])
            zero = pad.attrs["value"] == 0 and _never_negative(x) and dense
            if pad.attrs["value"] != -math.inf and not zero:
                return decline(node, f"the pad value is {pad.attrs['value']}, not -inf")
            if zero and any(node.attrs["padding"]):
                return decline(node, "windows of its own padding alone are -inf, not 0")
            padding = _added(node.attrs["padding"], more)
            if node.attrs["ceil_mode"]:
                return decline(node, "windows may reach beyond the padding")
            if not _overlaps(node, padding):
                return decline(node, "a window would hold nothing but padding")
            return g.add("max_pool", x, **node.attrs | {"padding": padding})
    return None


def _overlaps(node: Node, padding: tuple[int, ...]) -> bool:
    """Whether the padding is less than the kernel, so that every window meets the operand."""
    kernel = node.attrs["kernel"]
    return all(p < k for p, k in zip(padding, (*kernel, *kernel), strict=True))


def _never_negative(x: Value) -> bool:
    match x:
        case Value(Node("relu" | "sigmoid" | "abs" | "exp" | "hard_sigmoid")):
            return True
        case Value(Node("clip") as clip):
            return clip.attrs["lo"] is not None and clip.attrs["lo"] >= 0
    return False


@rule("pad")
def pad_of_pad(g: Graph, node: Node) -> Result:
    """pad(pad(x, p), q) => pad(x, p + q)  [both constant, of the same value]"""
    match node:
        case Node(_, (Value(Node("pad", (x,)) as inner),)):
            modes = {inner.attrs["mode"], node.attrs["mode"]}
            if modes != {"constant"} or inner.attrs["value"] != node.attrs["value"]:
                return decline(node, "the pads fill with different values")
            padding = _added(inner.attrs["padding"], node.attrs["padding"])
            return g.add("pad", x, **node.attrs | {"padding": padding})
    return None


@dataclass(frozen=True)
class Pad(RulePass):
    """Fold pads into what follows them."""

    name = "pad"
    rules = (pad_of_pad, pad_into_conv, pad_into_avg_pool, pad_into_max_pool)
