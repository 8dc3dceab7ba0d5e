"""Adjacent layers that are linear, with nothing but shifts between them, become one.

    conv(conv(x, w, b), v, c)  =>  conv(x, v o w, c + v b)

`windows.py` composes the kernels. It is exact where nothing pads the result between the two, or
where the inner layer gives zeros beyond its border anyway (a 1x1 convolution); a bias under a
padded convolution becomes a map of constants. Of a chain of layers the cheapest partition into
composed segments is taken, so no bottleneck is widened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import OPS
from cnnir.passes.base import RulePass
from cnnir.passes.constants import rounded
from cnnir.passes.linear import Linear, Shape, is_constant, weights, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.rewrite import Result, accept, decline, other_uses, rule

_LAYERS = ("conv", "avg_pool")


@rule("conv", "avg_pool", kind="reassociating")
def collapse_convolutions(g: Graph, node: Node, options: Collapse) -> Result:
    """conv(conv(x, w, b), v, c) => conv(x, v o w, c + v b), and so a whole chain, avg_pool too

    (v o w)[o,c,u s + t] = sum over m, u, t of v[o,m,u] w[m,c,t], s the stride of the inner layer
    [the weights are constant, the inner results have no other use, no zeros pad an inner result
    that are not what the inner layer gives there, and the work is at most max_cost of before]
    """
    if _goes_on(g, node):
        return None
    chain = _chain(g, node, window_of)
    if len(chain) < 2:
        return _shared(g, node, window_of)
    shapes = [Shape.of(n) for n in chain]
    found = _partition(len(chain), lambda i, j: _segment_work(chain, shapes, i, j), options)
    if not found:
        return decline(node, _why_not(chain, shapes))
    x = chain[0].operands[0]
    before, after = work(cost_of(*chain)), 0.0
    for start, end in found:
        assert x is not None
        after += _segment_work(chain, shapes, start, end) or 0.0
        if end - start == 1:
            x = g.add(chain[start].op or "", x, *chain[start].operands[1:], **chain[start].attrs)
            continue
        made = _composed(g, chain[start:end], x)
        if made is None:
            return decline(node, "the composed weights are not finite")
        x = made
    assert x is not None
    layers = "+".join(str(end - start) for start, end in found)
    return accept(node, x, f"{len(chain)} layers as {layers}: {ratio(after, before)}")


def _composed(g: Graph, layers: list[Node], x: Value) -> Value | None:
    whole = Linear.of(g, layers[0])
    for layer in layers[1:]:
        second = Linear.of(g, layer)
        if whole is None or second is None:
            return None
        whole = whole.then(second, x.type.shape[2:])
    names = [v.name for n in layers if n.name == "conv" and (v := n.operands[1]) is not None]
    return None if whole is None else whole.build(g, x, names[0] or "w" if names else "w")


def _goes_on(g: Graph, node: Node) -> bool:
    """Whether the only use is a layer of the same chain, which then decides for both."""
    users = g.users(node.results[0])
    if len(users) != 1 or users[0][1] or g.is_output(node.results[0]):
        return False
    return window_of(users[0][0]) is not None


def _chain(g: Graph, node: Node, linear: Callable[[Node], object]) -> list[Node]:
    """The linear layers that end in a node, first to last; inner results have no other use."""
    chain = [node] if linear(node) is not None else []
    while chain and (x := chain[-1].operands[0]) is not None:
        if linear(x.node) is None or not g.sole_user(x):
            break
        chain.append(x.node)
    return chain[::-1]


def _shared(g: Graph, node: Node, linear: Callable[[Node], object]) -> Result:
    x = node.operands[0]
    if x is None or linear(node) is None or linear(x.node) is None:
        return None
    return decline(node, other_uses(g, x, by=node))


def _segment_work(
    chain: list[Node], shapes: list[Shape | None], start: int, end: int
) -> float | None:
    """The work of layers start to end as one; None where they cannot be one."""
    if end - start == 1:
        return work(cost_of(chain[start]))
    whole = _whole(shapes[start:end])
    return whole.work() if isinstance(whole, Shape) else None


def _whole(shapes: list[Shape | None]) -> Shape | str:
    whole = shapes[0]
    for shape in shapes[1:]:
        assert whole is not None and shape is not None
        joined = whole.then(shape)
        if isinstance(joined, str):
            return joined
        whole = joined
    return whole or ""


def _partition(
    count: int, segment: Callable[[int, int], float | None], options: Collapse
) -> list[tuple[int, int]]:
    """The cheapest partition of layers into segments; none where no segment of several pays.

    A segment of several counts 1 / max_cost of its work.
    """
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, count + 1):
        choices = []
        for start in range(end):
            cost = segment(start, end)
            if cost is not None:
                favour = 1.0 if end - start == 1 else options.max_cost
                choices.append((best[start][0] + cost / favour, start))
        # of equal ones the longest segment: fewer layers
        best.append(min(choices))
    cuts, end = [], count
    while end:
        cuts.append((best[end][1], end))
        end = best[end][1]
    return cuts[::-1] if len(cuts) < count else []


def _why_not(chain: list[Node], shapes: list[Shape | None]) -> str:
    """What stopped the last two layers."""
    whole = _whole(shapes[-2:])
    if isinstance(whole, str):
        return whole
    return f"one layer would be {ratio(whole.work(), work(cost_of(*chain[-2:])))}"


@rule("conv", kind="reassociating")
def pad_value_into_map(g: Graph, node: Node) -> Result:
    """conv(pad(x, p, value=v), w, b) => conv(x, w) {padding += p} + map

    The map [1,O,*sizes] is what the padding adds: conv(pad(0, p, value=v), w, b).
    [constant weights, a constant pad of a number other than 0 on spatial axes, no other use of the
    padded value, and it pays]
    """
    match node.operands:
        case (Value(Node("pad", (Value() as x,)) as pad) as y, *_) if window_of(node) is not None:
            layer, amounts = Linear.of(g, node), pad.attrs["padding"]
        case _:
            return None
    if pad.attrs["mode"] != "constant" or pad.attrs["value"] == 0 or layer is None:
        return None
    rank = x.type.rank
    spatial = (*amounts[2:rank], *amounts[rank + 2 :])
    if any((*amounts[:2], *amounts[rank : rank + 2])):
        return decline(node, "it pads the batch or channel axis")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=node))
    window = layer.window
    if window.bordered:
        return decline(node, "the convolution has a boundary of its own")
    padding = tuple(a + b for a, b in zip(window.padding, spatial, strict=True))
    direct = replace(window, padding=padding)
    shape = Shape(direct, x.type, node.results[0].type.shape[1], map=True)
    before = work(cost_of(pad, node))
    if shape.work() > before:
        return decline(node, f"a map would be {ratio(shape.work(), before)}")
    blank = np.zeros((1, *x.type.shape[1:]))
    field = OPS["pad"].evaluate(blank, padding=amounts, mode="constant", value=pad.attrs["value"])
    shift = OPS["conv"].evaluate(field, layer.w, layer.shift, **window.attrs())
    made = Linear(direct, layer.w, shift).build(g, x, _name(node.operands[1]))
    if made is None:
        return decline(node, "the map is not finite")
    return accept(node, made, ratio(shape.work(), before))


# ---------------------------------------------------------------- dense layers


def _is_dense(node: Node) -> bool | None:
    """True for a matmul by a constant matrix, None for any other node."""
    match node:
        case Node("matmul", (Value(), Value() as w)) if is_constant(w) and w.type.rank == 2:
            return True
    return None


@rule("matmul", kind="reassociating")
def collapse_dense(g: Graph, node: Node, options: Collapse) -> Result:
    """x @ A @ B => x @ (A B), and so a whole chain

    [A and B are constant matrices, x @ A has no other use, the work is at most max_cost of before:
    1000 -> 10 -> 1000 stays two]
    """
    users = g.users(node.results[0])
    if len(users) == 1 and _is_dense(users[0][0]) and g.sole_user(node.results[0]):
        return None
    chain = _chain(g, node, _is_dense)
    if len(chain) < 2:
        return _shared(g, node, _is_dense)
    x = chain[0].operands[0]
    assert x is not None

    def segment(start: int, end: int) -> float:
        operand, last = chain[start].operands[0], chain[end - 1].results[0]
        assert operand is not None
        shape = (operand.type.shape[-1], last.type.shape[-1])
        return work(prospect("matmul", operand.type, operand.type.with_shape(shape))[0])

    found = _partition(len(chain), segment, options)
    before = work(cost_of(*chain))
    if not found:
        pair = ratio(segment(len(chain) - 2, len(chain)), work(cost_of(*chain[-2:])))
        return decline(node, f"one product would be {pair}")
    after = sum(segment(start, end) for start, end in found)
    for start, end in found:
        factors = [weights(g, n.operands[1]) for n in chain[start:end]]
        if any(f is None for f in factors):
            return decline(node, "the weights are not finite")
        exact = np.linalg.multi_dot(factors) if len(factors) > 1 else factors[0]  # type: ignore
        array = rounded(np.asarray(exact), x.type)
        if array is None:
            return decline(node, "the composed weights are not finite")
        first = chain[start].operands[1]
        x = g.add("matmul", x, first if end - start == 1 else g.param(_name(first), array))
    return accept(node, x, f"{len(chain)} products as {len(found)}: {ratio(after, before)}")


def _name(value: Value | None) -> str:
    return (value.name if value else None) or "w"


@rule("matmul", kind="reassociating")
def collapse_dense_after_conv(g: Graph, node: Node, options: Collapse) -> Result:
    """flatten(conv(x, w, b)) @ A => flatten(x) @ A' + b A, for an avg_pool too

    A' = the transposed convolution of A, whose columns are images; exact at borders
    [w, b and A are constant, the result of the convolution has no other use, and it pays]
    """
    match node:
        case Node(
            _, (Value(Node("reshape", (Value(Node(name)) as y,)) as flat) as rows, Value() as a)
        ) if name in _LAYERS and _is_dense(node) and _flattens(y, flat):
            pass
        case _:
            return None
    conv, x = y.node, y.node.operands[0]
    window = window_of(conv)
    if x is None or not x.type.size or window is None:
        return decline(node, f"the weights of the {conv.name} are not constant")
    if window.bordered:
        return decline(node, "its transpose would add at the border")
    if not (g.sole_user(y) and g.sole_user(rows)):
        return decline(node, other_uses(g, y, rows, by=node))
    inner, columns = x.type.size // x.type.shape[0], a.type.shape[1]
    flattened = x.type.with_shape((x.type.shape[0], inner))
    cost, _ = prospect("matmul", flattened, x.type.with_shape((inner, columns)))
    before, after = work(cost_of(conv, node)), work(cost)
    if after > options.max_cost * before:
        return decline(node, f"one product would be {ratio(after, before)}")
    layer, matrix = Linear.of(g, conv), weights(g, a)
    if layer is None or matrix is None:
        return decline(node, "the weights are not finite")
    images = matrix.T.reshape(columns, *y.type.shape[1:])
    exact = _adjoint(layer, images, x.type.shape[2:]).reshape(columns, inner).T
    array = rounded(exact, x.type)
    if array is None:
        return decline(node, "the composed weights are not finite")
    made = g.add("matmul", g.add("reshape", x, shape=flattened.shape), g.param(_name(a), array))
    if layer.shift is not None:
        sums = images.sum(tuple(range(2, images.ndim)))
        shift = rounded(sums @ layer.shift, x.type)
        if shift is None:
            return decline(node, "the shift is not finite")
        made = g.add("add", made, g.param(f"{_name(a)}.b", shift.reshape(1, columns)))
    return accept(node, made, ratio(after, before))


def _flattens(y: Value, flat: Node) -> bool:
    """Whether a reshape makes one row of each image."""
    return flat.attrs["shape"] == (y.type.shape[0], y.type.size // max(1, y.type.shape[0]))


def _adjoint(layer: Linear, images: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """What the linear part of a layer, transposed, makes of images: those of its operand's sizes.

    A transposed convolution without padding, cropped or extended to where the operand lies.
    """
    attrs = layer.window.attrs()
    plain = {"stride": attrs["stride"], "dilation": attrs["dilation"], "groups": attrs["groups"]}
    made = OPS["conv_transpose"].evaluate(images, layer.w, padding=(), output_padding=(), **plain)
    begins = layer.window.padding[: layer.window.rank]
    for axis, (begin, size) in enumerate(zip(begins, sizes, strict=True), start=2):
        have = made.shape[axis]
        widths = [(0, 0)] * made.ndim
        widths[axis] = (0, max(0, begin + size - have))
        cut = [slice(None)] * made.ndim
        cut[axis] = slice(begin, begin + size)
        made = np.pad(made, widths)[tuple(cut)]
    return made


@dataclass(frozen=True)
class Collapse(RulePass):
    """Layers that are linear, one behind the other, become one where that is less work."""

    name = "collapse"
    max_cost: float = 1.0
    """Most work of a composed layer, as a part of that of the layers it takes the place of."""
    rules = (
        collapse_convolutions,
        pad_value_into_map,
        collapse_dense,
        collapse_dense_after_conv,
    )
