"""Nodes that only move channels: from where each channel of their result comes.

Concatenations, slices and shuffles of channels. Where their parts are whole blocks they are names
for other bytes (plan.py); elsewhere one kernel puts the blocks together (kernels/channels.py), for
several such nodes in a row at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import TypeAlias

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.kernels import channels
from cnnir.backends.llvm.kernels.channels import ChannelsSpec, Run
from cnnir.backends.llvm.lanes import first_block, keeps_lanes
from cnnir.backends.llvm.schedule import Code
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Graph, Node, Value

Channel: TypeAlias = tuple[Value, int]


@dataclass(frozen=True)
class ChannelsKernel:
    """Makes the blocks of a node's result."""

    spec: ChannelsSpec
    node: Node = field(repr=False)
    kind: str = "channels"

    @property
    def key(self) -> Hashable:
        return (self.kind, repr(self.spec))

    def emit(self, module: ir.Module, name: str, target: CpuTarget) -> Code:
        code = channels.emit(module, name, self.spec)
        return Code(code.name, code.items, code.scratch_bytes, code.summary)


def moves_channels(node: Node, lanes: int) -> bool:
    """Whether a node moves channels of images in f32 between blocks, and does nothing else."""
    return (_cuts(node) and first_block(node, lanes) is None) or _joins(node, lanes)


def waiting(graph: Graph, lanes: int) -> set[Node]:
    """Nodes that need no step, as all who read them move channels themselves, from further back.

    Of those, slices that are whole blocks read further back where they have no other choice: they
    are names for bytes of their operand if that is made.
    """
    order = [node for node in graph.order() if node.op is not None]
    moving = {node for node in order if moves_channels(node, lanes)}
    moving |= {inner for node in moving for inner in _inner(graph, node)}

    def waits(node: Node) -> bool:
        users = [user for user, _ in graph.users(node.results[0])]
        some = any(user in moving for user in users) and not graph.is_output(node.results[0])
        return some and all(user in moving or _cuts(user) for user in users)

    return {node for node in moving if waits(node)}


def _inner(graph: Graph, node: Node) -> list[Node]:
    """Of a shuffle the two nodes before its end, where nothing else reads them."""
    found: list[Node] = []
    while node.name in ("reshape", "transpose") and len(found) < 2:
        (value,) = node.operands
        if value is None or not graph.sole_user(value):
            break
        node = value.node
        found.append(node)
    return found


def _cuts(node: Node) -> bool:
    """Whether a node is a slice of channels."""
    if node.name != "slice" or not _images(node):
        return False
    (value, *_), attrs = node.operands, node.attrs
    assert value is not None
    return all(
        attrs["sizes"][k] == extent and attrs["starts"][k] == 0 and attrs["steps"][k] == 1
        for k, extent in enumerate(value.type.shape)
        if k != 1
    )


def _joins(node: Node, lanes: int) -> bool:
    """Whether a node is a concatenation of channels that are no whole blocks, or a shuffle."""
    if node.name == "concat":
        return _images(node) and node.attrs["axis"] == 1 and not keeps_lanes(node, lanes)
    return _images(node) and shuffled(node) is not None


def _images(node: Node) -> bool:
    type = node.results[0].type
    return type.dtype == "f32" and type.rank >= 3 and type.size > 0


def sources(node: Node, known: Mapping[Value, list[Channel]]) -> list[Channel]:
    """For each channel of a node's result the value that it comes from, and its place there.

    node: one that `moves_channels`, or a slice of whole blocks. known: the same of operands that
    are not made themselves.
    """
    if node.name == "concat":
        parts = [_channels(value, known) for value in node.operands if value is not None]
        return list(chain.from_iterable(parts))
    if node.name == "slice":
        (value,) = node.operands
        start, size, step = (node.attrs[name][1] for name in ("starts", "sizes", "steps"))
        order = [start + i * step for i in range(size)]
    else:
        found = shuffled(node)
        assert found is not None
        value, order = found
    assert value is not None
    channels = _channels(value, known)
    return [channels[channel] for channel in order]


def _channels(value: Value, known: Mapping[Value, list[Channel]]) -> list[Channel]:
    found = known.get(value)
    return [(value, i) for i in range(value.type.shape[1])] if found is None else found


def runs(found: list[Channel]) -> tuple[list[Value], tuple[Run, ...]]:
    """The values of some channels, each once, and the channels as neighbours."""
    places = {value: i for i, value in enumerate(dict.fromkeys(value for value, _ in found))}
    joined: list[Run] = []
    for value, channel in found:
        operand, last = places[value], joined[-1] if joined else None
        if last and last.operand == operand and last.first + last.count == channel:
            joined[-1] = Run(operand, last.first, last.count + 1)
        else:
            joined.append(Run(operand, channel, 1))
    return list(places), tuple(joined)


def spec_of(node: Node, parts: tuple[Run, ...], lanes: int) -> ChannelsSpec:
    """What the kernel needs to know."""
    images, _, *sizes = node.results[0].type.shape
    return ChannelsSpec(images * prod(sizes), parts, lanes)


def shuffled(node: Node) -> tuple[Value, list[int]] | None:
    """Of a reshape that ends a shuffle, the images before it and the order of their channels.

    A shuffle is reshape [N,C,*sizes] to [N,a,b,*sizes], transpose to [N,b,a,*sizes], and back.
    """
    match node:
        case Node("reshape", (Value(Node("transpose", (Value(Node("reshape", (value,))),))) as t,)):
            images, turned = node.results[0].type, t.node
        case _:
            return None
    shape = images.shape
    groups = turned.operands[0]
    assert groups is not None and value is not None
    swapped = (0, 2, 1, *range(3, len(shape) + 1))
    if value.type != images or tuple(turned.attrs["perm"]) != swapped:
        return None
    if groups.type.shape != (shape[0], *groups.type.shape[1:3], *shape[2:]):
        return None
    first, second = groups.type.shape[1:3]
    return value, [i * second + j for j in range(second) for i in range(first)]
