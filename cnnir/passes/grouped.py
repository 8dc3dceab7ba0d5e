"""Zeros in weights: groups that are there but not said, taps and channels that are never used.

All is exact for finite operands: what is left out is a product with a weight of zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.evaluate import evaluate_node
from cnnir.ir import Graph, Node
from cnnir.passes.base import RulePass
from cnnir.passes.channels import Chain, chain_before, picked, taken
from cnnir.passes.constants import rounded
from cnnir.passes.factor import block_groups, diagonal_blocks, tap_range
from cnnir.passes.linear import weights, window_of
from cnnir.passes.paying import cost_of, prospect, ratio, work
from cnnir.passes.permuted import find_permuted_groups, permutation_into_weights
from cnnir.passes.windows import Window
from cnnir.rewrite import Result, accept, decline, rule


@rule("conv", kind="reassociating")
def find_groups(g: Graph, node: Node) -> Result:
    """conv(x, w) {groups=g} => conv(x, w') {groups=g'}  [w is zero outside of g' diagonal blocks]

    A diagonal 1x1 kernel becomes depthwise. Of several g' the cheapest; none where it does not pay.
    """
    window = window_of(node)
    if window is None:
        return None
    x, w, *rest = node.operands
    assert x is not None and w is not None
    if node.name != "conv" or min(w.type.shape[0], w.type.shape[1]) == 1:
        return None  # nothing to divide
    raw = g.params[w.node.attrs["ref"]]
    array = None if _reads_all(raw[0]) else weights(g, w)
    if array is None or not array.any():
        return decline(node, "a filter reads every channel, or is not finite")
    counts = block_groups(array, window.groups)
    if not counts:
        return decline(node, "the weights have no blocks of zeros")
    before = work(cost_of(node))
    after, groups = min((_grouped_work(node, count), count) for count in counts)
    if after >= before:
        return decline(node, f"{groups} groups would be {ratio(after, before)}")
    kernel = rounded(diagonal_blocks(array, window.groups, groups), x.type)
    assert kernel is not None
    made = g.param(w.name or "w", kernel)
    value = g.add("conv", x, made, *rest, **node.attrs | {"groups": groups})
    told = f"{groups} groups instead of {window.groups}: {ratio(after, before)}"
    return accept(node, value, told)


def _grouped_work(node: Node, groups: int) -> float:
    """The work of a convolution in more groups."""
    x, w, *rest = (None if v is None else v.type for v in node.operands)
    assert x is not None and w is not None
    channels = x.shape[1] // groups
    types = (x, w.with_shape((w.shape[0], channels, *w.shape[2:])), *rest)
    return work(prospect("conv", *types, **node.attrs | {"groups": groups})[0])


def _reads_all(filters: np.ndarray) -> bool:
    """Whether no entry along the first axis is zero throughout; a look at one filter is quick."""
    return bool((filters != 0).reshape(len(filters), -1).any(axis=1).all())


@rule("conv")
def trim_kernel(g: Graph, node: Node) -> Result:
    """conv(x, w) {padding=p} => conv(x, w') {padding=p', dilation=d'}  [outer taps of w are zero]

    w' are the taps that are used: those between zeros that are evenly spaced as dilation.
    [the padding covers what is cut: p' = p - d times the taps that go is not negative]
    """
    window = window_of(node)
    if window is None or max(window.kernel) == 1:
        return None
    x, w, *rest = node.operands
    assert x is not None and w is not None
    array = g.array(w)
    assert array is not None
    rank = window.rank
    if array[0, 0].all():
        return None  # which is so nearly always, and quick to see
    ranges = [tap_range(array, a) for a in range(rank)]
    if all(taps == k for (_, taps, _), k in zip(ranges, window.kernel, strict=True)):
        return None
    padding = list(window.padding)
    for a, (start, taps, step) in enumerate(ranges):
        behind = window.kernel[a] - 1 - start - (taps - 1) * step
        padding[a] -= start * window.dilation[a]
        padding[rank + a] -= behind * window.dilation[a]
    if min(padding) < 0:
        return decline(node, "the padding does not cover the outer taps that are zero")
    cut = tuple(slice(s, s + (n - 1) * step + 1, step) for s, n, step in ranges)
    kernel = np.ascontiguousarray(array[(slice(None), slice(None), *cut)])
    trimmed = Window(
        kernel.shape[2:],
        window.stride,
        tuple(d * step for d, (*_, step) in zip(window.dilation, ranges, strict=True)),
        tuple(padding),
        window.groups,
        window.boundary,
    )
    value = g.add("conv", x, g.param(w.name or "w", kernel), *rest, **trimmed.attrs())
    return accept(node, value, f"{window.kernel} taps, of which {trimmed.kernel} are used")


# ---------------------------------------------------------------- channels that do nothing


@rule("conv", kind="reassociating")
def drop_dead_channels(g: Graph, node: Node) -> Result:
    """conv(f(conv(x, w, b)), v) => conv(f(conv(x, w', b')), v') without channels that do nothing

    One that v multiplies by zero, or whose filter in w is zero, so that f(b) is the same
    everywhere: that moves into the bias of the outer convolution.
    [one group each, constant weights, f elementwise with constants a channel, no other uses; f(b)
    is zero or no zeros pad the outer convolution]
    """
    window = window_of(node)
    if window is None or node.name != "conv":
        return None
    found = chain_before(g, node)
    if found is None:
        return None
    raw = [g.array(n.operands[1]) for n in (node, found.inner)]
    if raw[0] is None or raw[1] is None or (_reads_all(raw[0][0]) and _reads_all(raw[1][:, :1])):
        return None
    v, w = (weights(g, n.operands[1]) for n in (node, found.inner))
    if v is None or w is None:
        return None
    unread = np.all(v == 0, axis=tuple(a for a in range(v.ndim) if a != 1))
    still = np.all(w == 0, axis=tuple(range(1, w.ndim)))
    if not (unread.any() or still.any()):
        return None
    if window.groups != 1 or found.inner.attrs["groups"] != 1:
        return decline(node, "a channel does nothing, but the convolutions have groups")
    level = _constant_channels(g, found, still)
    if window.zeros:
        still &= level == 0
    dead = unread | still
    if dead.all():
        dead[0] = still[0] = False  # something must be left to convolve
    if not dead.any():
        return decline(node, "a channel is constant, but the padding is not")
    return _without(g, node, found, dead, np.where(still & ~unread, level, 0.0))


def _constant_channels(g: Graph, chain: Chain, still: np.ndarray) -> np.ndarray:
    """f(b) of each channel, and 0 where the filter is not zero."""
    channels, rank = len(still), chain.inner.results[0].type.rank
    bias = g.array(chain.inner.operands[2]) if len(chain.inner.operands) > 2 else None
    line = np.zeros(channels) if bias is None else bias.astype(np.float64)
    level = line.reshape(1, channels, *(1,) * (rank - 2))
    for node in chain.between:
        arrays = [level if g.array(v) is None else g.array(v) for v in node.operands]
        level = evaluate_node(node, arrays, "f64")[0]
    return np.where(still, level.reshape(-1), 0.0)


def _without(g: Graph, node: Node, chain: Chain, dead: np.ndarray, level: np.ndarray) -> Result:
    """Both convolutions and what is between without dead channels of this constant level."""
    kept, inner = np.flatnonzero(~dead), chain.inner
    value = picked(g, chain, kept)
    v = node.operands[1]
    outer = [taken(g, v, kept, 1), *node.operands[2:]]
    if level.any():
        sums = weights(g, v).sum(tuple(range(2, v.type.rank))) @ level  # type: ignore[union-attr]
        given = weights(g, node.operands[2]) if len(node.operands) > 2 else 0.0
        shift = rounded(sums + given, node.results[0].type)
        if shift is None:
            return decline(node, "the bias would not be finite")
        outer = [outer[0], g.param("b", shift)]
    made = g.add("conv", value, *outer, **node.attrs)
    before = work(cost_of(inner, *chain.between, node))
    nodes, last = [made.node], made.node
    while len(nodes) < len(chain.between) + 2:
        last = next(p.node for p in last.operands if p is not None and p.node.op is not None)
        nodes.append(last)
    after = work(cost_of(*nodes))
    return accept(node, made, f"{dead.sum()} of {dead.size} channels go: {ratio(after, before)}")


@dataclass(frozen=True)
class Grouped(RulePass):
    """Say what zeros in the weights mean: groups, smaller kernels, fewer channels."""

    name = "grouped"
    rules = (
        drop_dead_channels,
        trim_kernel,
        find_groups,
        find_permuted_groups,
        permutation_into_weights,
    )
