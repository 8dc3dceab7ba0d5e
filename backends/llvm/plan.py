"""The plan stage: a kernel and a layout for every node, each with its reason.

Walks the graph once. Tuned kernels want activations in channel blocks (`Blocked`); everything else
follows its operands where it can work lane by lane, and is row-major (`Plain`) where it cannot. A
value that is needed in another layout than it was made in is packed by a step of its own.

This stage decides; `place.py` gives addresses, `emit.py` writes code.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from cnnir.backends.base import Step
from cnnir.backends.llvm.layout import Blocked, Layout, Plain
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise


@dataclass(frozen=True)
class Slot:
    """A value in a layout: what one pointer of a kernel call refers to."""

    value: Value
    layout: Layout


@dataclass(frozen=True)
class PackedParam:
    """A param in the order of one kernel; equal keys of one value share their bytes."""

    value: Value
    key: Hashable
    pack: Callable[[np.ndarray], np.ndarray] = field(compare=False)


class Kernel(Protocol):
    """Code for one exact shape. Calls with equal keys share one function."""

    kind: str
    key: Hashable

    def emit(self, module: Any, name: str) -> Any:
        """Write the LLVM function; a KernelCode."""


@dataclass
class Call:
    """One kernel call: pointers are `reads` then `writes`."""

    kernel: Kernel
    reads: list[Slot | PackedParam]
    writes: list[Slot]
    step: Step


@dataclass
class Schedule:
    """The plan in the backend's own terms, as the later stages take it."""

    graph: Graph
    target: CpuTarget
    calls: list[Call] = field(default_factory=list)
    aliases: dict[Slot, tuple[Slot, int]] = field(default_factory=dict)
    """A slot that lives inside another one, at an offset in bytes."""
    outputs: list[Slot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def anchor_of(node: Node) -> Node:
    """The node of a fused body that is not elementwise (the last node where all are), else it."""
    body = node.attrs.get("body")
    if not isinstance(body, Graph):
        return node
    inner = [n for n in body.order() if n.op is not None]
    for candidate in inner:
        assert candidate.op is not None
        if not issubclass(candidate.op, Elementwise):
            return candidate
    return inner[-1]


def described(node: Node) -> str:
    """`conv + add + relu` for a fused node, the op's name for another."""
    body = node.attrs.get("body")
    if isinstance(body, Graph):
        return " + ".join(n.name for n in body.order() if n.op is not None)
    return node.name


def keeps_lanes(node: Node, lanes: int) -> bool:
    """Whether every result channel comes from the same channel of the operands (or from all)."""
    body = node.attrs.get("body")
    inner = [n for n in body.order() if n.op] if isinstance(body, Graph) else [node]
    return all(_keeps_lanes(n, lanes) for n in inner)


def _keeps_lanes(node: Node, lanes: int) -> bool:
    assert node.op is not None
    attrs, rank = node.attrs, node.results[0].type.rank
    if issubclass(node.op, Elementwise) or node.name in _WINDOWS:
        return True
    match node.name:
        case "reduce_sum" | "reduce_mean" | "reduce_max" | "reduce_min" | "reduce_prod":
            return attrs["keepdims"] and min(attrs["axes"], default=2) >= 2
        case "resize":
            return _shape(node, 0)[:2] == node.results[0].type.shape[:2]
        case "pad":
            return not any(attrs["padding"][i] for i in (0, 1, rank, rank + 1))
        case "slice":
            return _shape(node, 0)[1] == node.results[0].type.shape[1] and attrs["steps"][1] == 1
        case "concat":
            sizes = [_shape(node, i)[1] for i in range(len(node.operands))]
            return attrs["axis"] != 1 or not any(size % lanes for size in sizes[:-1])
    return False


_WINDOWS = ("max_pool", "avg_pool", "lp_pool", "conv", "conv_transpose", "lrn")


def _shape(node: Node, position: int) -> tuple[int, ...]:
    value = node.operands[position]
    assert value is not None
    return value.type.shape


__all__ = ["Blocked", "Plain"]
