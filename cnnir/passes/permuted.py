"""Groups of a convolution whose channels lie in another order: block-diagonal weights, permuted.

Part of the pass `grouped`. The order is put right where it costs nothing, in the filters of the
convolution before or in the weights of the one behind; a gather does it where neither is there.
"""

from __future__ import annotations

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Cost
from cnnir.passes.channels import by_channel, chain_before, mapped, picked, taken
from cnnir.passes.factor import block_groups, diagonal_blocks
from cnnir.passes.linear import weights, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.rewrite import Result, accept, decline, other_uses, rule
from cnnir.tensortype import TensorType

_CHANNEL_AXIS = 1


@rule("conv", kind="reassociating")
def find_permuted_groups(g: Graph, node: Node) -> Result:
    """conv(x, w) => gather(conv(gather(x, p), w') {groups=g}, q)

    [w is zero outside of g blocks once its channels are put in the order p and its filters in that
    of q, all blocks have the same shape, and it pays; p may instead become the order of the filters
    of a convolution before, with elementwise ops between the two, which has no other use]
    """
    window = window_of(node)
    if window is None or node.name != "conv" or window.groups != 1:
        return None
    x, w, *rest = node.operands
    raw = g.array(w)
    if x is None or raw is None or min(raw.shape[:2]) == 1:
        return None
    taps = tuple(range(2, raw.ndim))
    if (raw[0] != 0).any(axis=tuple(a - 1 for a in taps)).all():
        return None  # which is so nearly always, and quick to see
    array = weights(g, w)
    if array is None or block_groups(array, 1):
        return None
    used = (array != 0).any(axis=taps)
    blocks = _blocks(used)
    if len(blocks) < 2:
        return None
    if len({(len(f), len(c)) for f, c in blocks}) > 1:
        return decline(node, "the blocks of its weights differ in size")
    filters, channels = (np.concatenate(order) for order in zip(*blocks, strict=True))
    groups, chain = len(blocks), chain_before(g, node)
    free = chain is not None and chain.inner.attrs["groups"] == 1
    before, after = work(cost_of(node)), _work(node, groups, filters, channels, free)
    if after >= before:
        return decline(node, f"{groups} groups in another order would be {ratio(after, before)}")
    operand = picked(g, chain, channels) if free and chain else _ordered(g, x, channels)
    kernel = diagonal_blocks(array[filters][:, channels], 1, groups).astype(x.type.numpy)
    parts = [g.param(w.name or "w" if w else "w", kernel), *(taken(g, b, filters, 0) for b in rest)]
    made = g.add("conv", operand, *parts, **node.attrs | {"groups": groups})
    value = _ordered(g, made, np.argsort(filters))
    return accept(node, value, f"{groups} groups in another order: {ratio(after, before)}")


@rule("conv", kind="reassociating")
def permutation_into_weights(g: Graph, node: Node) -> Result:
    """conv(f(gather(x, p)), v) => conv(f(x), v')  [v' has the channels of v in the order of x]

    f are elementwise ops with constants a channel.
    [p is a constant permutation of the channels, one group, constant weights, no other uses]
    """
    if window_of(node) is None or node.name != "conv":
        return None
    between: list[Node] = []
    y = node.operands[0]
    while y is not None and y.node.name != "gather":
        step = by_channel(g, y.node)
        if step is None or not g.sole_user(y):
            return None
        between.append(y.node)
        y = step
    if y is None:
        return None
    order = g.array(y.node.operands[1])
    x = y.node.operands[0]
    if order is None or x is None or y.node.attrs["axis"] != _CHANNEL_AXIS or order.ndim != 1:
        return None
    if not np.array_equal(np.sort(order), np.arange(x.type.shape[_CHANNEL_AXIS])):
        return decline(node, "the gather is no permutation")
    if node.attrs["groups"] != 1:
        return decline(node, f"the convolution has {node.attrs['groups']} groups")
    if not g.sole_user(y):
        return decline(node, other_uses(g, y, by=between[-1] if between else node))
    back = np.argsort(order)
    value = mapped(g, tuple(between[::-1]), x, back)
    v, *bias = node.operands[1:]
    return g.add("conv", value, taken(g, v, back, 1), *bias, **node.attrs)


def _blocks(used: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Filters and channels that have to do with each other, by the first filter; none where a
    channel or a filter has to do with nothing."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    left = np.ones(len(used), bool)
    if not (used.any(0).all() and used.any(1).all()):
        return []
    while left.any():
        filters, size = np.array([np.argmax(left)]), 0
        while len(filters) > size:
            size = len(filters)
            channels = np.flatnonzero(used[filters].any(0))
            filters = np.flatnonzero(used[:, channels].any(1))
        found.append((filters, channels))
        left[filters] = False
    return found


def _ordered(g: Graph, x: Value, order: np.ndarray) -> Value:
    """The channels of a value in an order; the value itself where it is theirs."""
    if np.array_equal(order, np.arange(len(order))):
        return x
    value: Value = g.add("gather", x, g.constant(order.astype(np.int64)), axis=_CHANNEL_AXIS)
    return value


def _work(node: Node, groups: int, filters: np.ndarray, channels: np.ndarray, free: bool) -> float:
    """Of the convolution in groups and of the gathers that it needs."""
    x, w, *rest = (None if v is None else v.type for v in node.operands)
    assert x is not None and w is not None
    types = (x, w.with_shape((w.shape[0], len(channels) // groups, *w.shape[2:])), *rest)
    cost, y = prospect("conv", *types, **node.attrs | {"groups": groups})
    costs: list[Cost] = [cost]
    for type, order, paid in ((x, channels, not free), (y, filters, True)):
        if paid and not np.array_equal(order, np.arange(len(order))):
            indices = TensorType("i64", (len(order),))
            costs.append(prospect("gather", type, indices, axis=_CHANNEL_AXIS)[0])
    return work(costs)
