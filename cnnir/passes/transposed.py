"""Transposed convolutions become convolutions, whose results are then put side by side.

With stride s every s-th element of the result is a convolution of x with every s-th tap: s phases
along an axis. They read the same window, so they are one convolution to s times as many filters;
putting the phases in turn is a transposition. What knows convolutions well, the algorithms that
save products above all, then serves these too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from cnnir.ir import Graph, Node, Value
from cnnir.passes.base import RulePass
from cnnir.passes.windows import Ints
from cnnir.rewrite import Result, decline, rule


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a transposed convolution: y[i] is element i + begin of

    full[s q + r] = sum over t of x[q - t] w[s t + r],  the phases being 0 <= r < s.
    """

    size: int
    out: int
    taps: int
    stride: int
    begin: int

    @property
    def window(self) -> int:
        """Taps that each phase has, the last of some being zero."""
        return -(-self.taps // self.stride)

    @property
    def first(self) -> int:
        """The first q that y holds."""
        return self.begin // self.stride

    @property
    def last(self) -> int:
        return (self.begin + self.out - 1) // self.stride

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros before and behind x that the windows of all q see; negative where x is cut."""
        return self.window - 1 - self.first, self.last - self.size + 1

    @property
    def start(self) -> int:
        """Where y begins in the phases put together."""
        return self.begin - self.first * self.stride


def _axes(node: Node) -> list[_Axis]:
    x, w = node.operands[0], node.operands[1]
    assert x is not None and w is not None
    rank = x.type.rank - 2
    strides = node.attrs["stride"] or (1,) * rank
    begins = node.attrs["padding"][:rank] or (0,) * rank
    out = node.results[0].type.shape[2:]
    rows = zip(x.type.shape[2:], out, w.type.shape[2:], strides, begins, strict=True)
    return [_Axis(*row) for row in rows]


@rule("conv_transpose")
def transposed_as_conv(g: Graph, node: Node) -> Result:
    """conv_transpose(x, w, b) {stride=s} => shuffle(conv(x, v, b'))

    with v[(o, r), c, j] = w[c, o, s (T - 1 - j) + r] for 0 <= r < s and T = ceil(k / s) taps;
    shuffle puts the phases in turn and drops the padding
    [w and b are constant, no dilation, windows overlap or results are dropped]
    """
    x, w, *rest = node.operands
    assert x is not None and w is not None
    axes, array = _axes(node), g.array(w)
    bias = g.array(rest[0]) if rest and rest[0] is not None else None
    if array is None or (bias is None and any(v is not None for v in rest)):
        return decline(node, "weights are known only at run time")
    dilation = node.attrs["dilation"] or (1,) * len(axes)
    if any(d > 1 and a.taps > 1 for d, a in zip(dilation, axes, strict=True)):
        return decline(node, f"dilation {dilation}")
    if all(a.taps == a.stride and not a.begin and a.out == a.size * a.stride for a in axes):
        return decline(node, "windows do not overlap: results go where they belong at once")
    if not prod(node.results[0].type.shape) or min(p for a in axes for p in a.padding) < 0:
        return decline(node, "a part of x is not read")
    phases = prod(a.stride for a in axes)
    groups = node.attrs["groups"]
    operands = [x, g.param(w.name or "w", _phase_weights(array, axes, groups))]
    if bias is not None:
        operands.append(g.param("b", np.repeat(bias, phases)))
    begins, ends = zip(*(a.padding for a in axes), strict=True)
    y = g.add("conv", *operands, padding=(*begins, *ends), groups=groups)
    return _shuffled(g, y, axes, node.results[0].type.shape) if phases > 1 else y


def _phase_weights(w: np.ndarray, axes: list[_Axis], groups: int) -> np.ndarray:
    """w[C,O/groups,*kernel] as v[O * phases, C/groups, *window]."""
    channels, filters = w.shape[:2]
    rank = len(axes)
    missing = [(0, a.window * a.stride - a.taps) for a in axes]
    w = np.pad(w, [(0, 0), (0, 0), *missing])
    split = [n for a in axes for n in (a.window, a.stride)]
    w = w.reshape(groups, channels // groups, filters, *split)
    taps, phases = (tuple(3 + 2 * i + odd for i in range(rank)) for odd in (0, 1))
    w = np.flip(w, taps).transpose(0, 2, *phases, 1, *taps)
    shape = (-1, channels // groups, *(a.window for a in axes))
    return np.ascontiguousarray(w.reshape(shape))


def _shuffled(g: Graph, y: Value, axes: list[_Axis], shape: Ints) -> Value:
    """[N, O * phases, *positions] with the phases in turn, and of that what belongs to y."""
    rank, strides, positions = len(axes), [a.stride for a in axes], y.type.shape[2:]
    apart = g.add("reshape", y, shape=(*shape[:2], *strides, *positions))
    order = [2 + k * rank + a for a in range(rank) for k in (1, 0)]
    turned = g.add("transpose", apart, perm=(0, 1, *order))
    sizes = [q * s for q, s in zip(positions, strides, strict=True)]
    full = g.add("reshape", turned, shape=(*shape[:2], *sizes))
    if full.type.shape == shape:
        return full
    starts = (0, 0, *(a.start for a in axes))
    return g.add("slice", full, starts=starts, sizes=shape, steps=(1,) * len(shape))


@dataclass(frozen=True)
class Transposed(RulePass):
    """Say transposed convolutions as convolutions, where their windows overlap."""

    name = "transposed"
    rules = (transposed_as_conv,)
