"""Channels from one convolution to the next: what is between them, and some of them picked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise
from cnnir.passes.linear import window_of


@dataclass(frozen=True)
class Chain:
    """A convolution, elementwise ops on its result, and the convolution that reads them."""

    inner: Node
    between: tuple[Node, ...]
    """First to last."""


def chain_before(g: Graph, node: Node) -> Chain | None:
    between: list[Node] = []
    y = node.operands[0]
    while y is not None and g.sole_user(y):
        if y.node.name == "conv":
            return Chain(y.node, tuple(between[::-1])) if window_of(y.node) else None
        step = by_channel(g, y.node)
        if step is None:
            return None
        between.append(y.node)
        y = step
    return None


def by_channel(g: Graph, node: Node) -> Value | None:
    """The operand of an elementwise op whose others are constants of one number a channel."""
    if node.op is None or not issubclass(node.op, Elementwise) or len(node.results) != 1:
        return None
    type, found = node.results[0].type, []
    for value in node.operands:
        array = g.array(value)
        if value is None or (array is None and value.type != type):
            return None
        if array is None:
            found.append(value)
        elif array.size > 1 and array.shape != (1, type.shape[1], *(1,) * (type.rank - 2)):
            return None
    return found[0] if len(found) == 1 else None


def taken(g: Graph, value: Value | None, kept: np.ndarray, axis: int) -> Value:
    """A param with some of its channels; one number for all stays."""
    array = g.array(value)
    assert array is not None and value is not None
    if array.size == 1 or array.shape[axis] == 1:
        return value
    return g.param(value.name or "w", np.take(array, kept, axis))


def picked(g: Graph, chain: Chain, channels: np.ndarray) -> Value:
    """The inner convolution and what follows it, for some channels of its result, in an order."""
    x, w, *bias = chain.inner.operands
    parts = [taken(g, p, channels, 0) for p in (w, *bias)]
    value: Value = g.add("conv", x, *parts, **chain.inner.attrs)
    return mapped(g, chain.between, value, channels)


def mapped(g: Graph, steps: tuple[Node, ...], value: Value, channels: np.ndarray) -> Value:
    """Elementwise ops, first to last, on a value that holds these channels of what they had."""
    for step in steps:
        given = ((p, g.array(p) is None) for p in step.operands)
        operands = [value if varies else taken(g, p, channels, 1) for p, varies in given]
        value = g.add(step.name, *operands, **step.attrs)
    return value
