"""The mathematics of composing and adding convolution kernels: geometry and arrays, no graphs.

A convolution of stride s, dilation d and begin padding p reads, for its result i, the positions
i s + u d - p of its operand, one for each tap u. So a convolution of a convolution reads

    (i s2 + u d2 - p2) s1 + v d1 - p1  =  i s1 s2 + (u d2 s1 + v d1) - (p2 s1 + p1)

and is one convolution, as long as its operand's padding does not matter (see `border_reason`).
Kernels are [O, C/groups, *taps], in f64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.ops.boundary import ZERO, reads, zeros_left
from cnnir.ops.conv import window_sizes

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """What a convolution reads, on every spatial axis: begins, then ends, are its padding.

    boundary says what is there; it is "zero" on an axis without padding.
    """

    kernel: Ints
    stride: Ints
    dilation: Ints
    padding: Ints
    groups: int = 1
    boundary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundary", reads(self.boundary, self.padding))

    @classmethod
    def of(
        cls,
        kernel: Ints,
        stride: Ints = (),
        dilation: Ints = (),
        padding: Ints = (),
        groups: int = 1,
        boundary: tuple[str, ...] = (),
    ) -> Window:
        """With () for what is trivial on all axes, as attributes of nodes have it."""
        rank = len(kernel)
        one, none = (1,) * rank, (0,) * (2 * rank)
        return cls(kernel, stride or one, dilation or one, padding or none, groups, boundary)

    @property
    def rank(self) -> int:
        """How many spatial axes there are."""
        return len(self.kernel)

    @property
    def spans(self) -> Ints:
        """How far each axis of a window reaches."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether result i depends on element i alone."""
        return {*self.kernel, *self.stride} == {1} and not any(self.padding)

    @property
    def zeros(self) -> bool:
        """Whether zeros pad what it reads."""
        return any(zeros_left(self.padding, self.boundary))

    @property
    def bordered(self) -> bool:
        """Whether anything else pads it."""
        return set(self.boundary) != {ZERO}

    def attrs(self) -> dict[str, Any]:
        """Attributes of a conv node, () where they are trivial."""
        given = {"stride": self.stride, "dilation": self.dilation, "padding": self.padding}
        trivial = {"stride": 1, "dilation": 1, "padding": 0}
        kept = {k: v if any(n != trivial[k] for n in v) else () for k, v in given.items()}
        return kept | {"groups": self.groups, "boundary": self.boundary if self.bordered else ()}

    def sizes(self, of: Ints) -> Ints:
        """How many windows an operand of these sizes has."""
        return window_sizes(of, self.kernel, self.stride, self.dilation, self.padding)


# ---------------------------------------------------------------- one behind the other


def composed(first: Window, second: Window) -> Window:
    """The window of `second` applied to the result of `first`."""
    rank, axes = first.rank, range(first.rank)
    steps = [_steps(first, second, a) for a in axes]
    kernel = tuple(
        (second.kernel[a] - 1) * outer + (first.kernel[a] - 1) * inner + 1
        for a, (outer, inner, _) in enumerate(steps)
    )
    stride = tuple(first.stride[a] * second.stride[a] for a in axes)
    padding = tuple(
        second.padding[i] * first.stride[i % rank] + first.padding[i] for i in range(2 * rank)
    )
    groups = math.gcd(first.groups, second.groups)
    words = (b if a == ZERO else a for a, b in zip(first.boundary, second.boundary, strict=True))
    return Window(kernel, stride, tuple(d for *_, d in steps), padding, groups, tuple(words))


def _steps(first: Window, second: Window, axis: int) -> tuple[int, int, int]:
    """Taps of the composition between neighbours of the outer and inner kernel; its dilation."""
    outer = second.dilation[axis] * first.stride[axis] if second.kernel[axis] > 1 else 0
    inner = first.dilation[axis] if first.kernel[axis] > 1 else 0
    common = math.gcd(outer, inner) or 1
    return outer // common, inner // common, common


def composed_kernel(w1: np.ndarray, first: Window, w2: np.ndarray, second: Window) -> np.ndarray:
    """The kernel of `composed(first, second)`: w[o,c,t] = sum of w2[o,m,u] w1[m,c,v]

    over all channels m between them and all u, v that lead to tap t.
    """
    whole = composed(first, second)
    groups = whole.groups
    inner, outer = ungrouped(w1, first.groups, groups), ungrouped(w2, second.groups, groups)
    channels, filters = inner.shape[1], outer.shape[0]
    rows = inner.reshape(groups, outer.shape[1], -1)
    w = np.zeros((filters, channels, *whole.kernel))
    steps = [_steps(first, second, a) for a in range(first.rank)]
    for u in np.ndindex(*second.kernel):
        columns = outer[(..., *u)].reshape(groups, filters // groups, -1)
        part = (columns @ rows).reshape(filters, channels, *first.kernel)
        where = (
            slice(i * o, i * o + (k - 1) * v + 1, v or 1)
            for i, (o, v, _), k in zip(u, steps, first.kernel, strict=True)
        )
        w[(slice(None), slice(None), *where)] += part
    return w


def border_reason(first: Window, second: Window, sizes: Ints) -> str:
    """Why what pads the result of `first` is not what `first` gives there; nothing if it is.

    `sizes` are those of the operand of `first`, whose bias is not looked at.
    """
    for a, size in enumerate(sizes):
        if second.boundary[a] != ZERO or first.boundary[a] != ZERO:
            if not _continues(first, second, a, size):
                return f"the boundaries of the two on spatial axis {a} do not go together"
        elif reason := _zeros_reason(first, second, a, sizes):
            return reason
    return ""


def _continues(first: Window, second: Window, axis: int, size: int) -> bool:
    """Whether on an axis with a boundary that is not zero one such window reads what the two do.

    It does if the second reads nothing beyond the result of the first; or the first looks at each
    position by itself, which beyond the border is one inside; or both go round the same circle.
    """
    rank, one = first.rank, first.stride[axis] == 1
    if not second.padding[axis] and not second.padding[rank + axis]:
        return True
    padded = first.padding[axis] or first.padding[rank + axis]
    if first.kernel[axis] == 1 and one and not padded:
        return True
    round_both = first.boundary[axis] == second.boundary[axis] == "circular"
    whole = first.padding[axis] + first.padding[rank + axis] == first.spans[axis] - 1
    return round_both and one and whole


def _zeros_reason(first: Window, second: Window, a: int, sizes: Ints) -> str:
    """The same on an axis with zeros. Position -1 of the result must read only what lies before the
    operand, and the position behind the last one only what lies behind it."""
    rank, stride, begin = first.rank, first.stride[a], first.padding[a]
    reached = -stride + first.spans[a] - 1 - begin
    if second.padding[a] and reached >= 0:
        return f"zeros pad the result between the two at the begin of spatial axis {a}"
    if second.padding[rank + a] and first.sizes(sizes)[a] * stride - begin < sizes[a]:
        return f"zeros pad the result between the two at the end of spatial axis {a}"
    return ""


def ungrouped(w: np.ndarray, groups: int, wanted: int) -> np.ndarray:
    """A kernel of fewer groups, a divisor of its own, with zeros for what it did not read."""
    if wanted == groups:
        return w
    each, (filters, channels) = groups // wanted, w.shape[:2]
    blocks = w.reshape(wanted, each, filters // groups, channels, *w.shape[2:])
    full = np.zeros((wanted, each, filters // groups, each, channels, *w.shape[2:]), w.dtype)
    for i in range(each):
        full[:, i, :, i] = blocks[:, i]
    return full.reshape(filters, each * channels, *w.shape[2:])


# ---------------------------------------------------------------- side by side


def common_window(a: Window, b: Window, sizes: Ints) -> Window | None:
    """A window that reads all that two of equal strides and results read; None if they are not,
    or read different things beyond a border.

    Taps of both lie on its grid: its dilation divides theirs and the distance of their begins.
    """
    words = _common_boundary(a, b)
    if words is None or a.stride != b.stride or a.sizes(sizes) != b.sizes(sizes):
        return None
    rank, kernel, dilation, padding = a.rank, [], [], [0] * (2 * a.rank)
    for axis, (size, results) in enumerate(zip(sizes, a.sizes(sizes), strict=True)):
        begins = [w.padding[axis] for w in (a, b)]
        ends = [w.spans[axis] - 1 - w.padding[axis] for w in (a, b)]
        grid = math.gcd(*(w.dilation[axis] for w in (a, b) if w.kernel[axis] > 1), *_gap(begins))
        dilation.append(grid or 1)
        kernel.append((max(ends) + max(begins)) // dilation[-1] + 1)
        padding[axis] = max(begins)
        last = (results - 1) * a.stride[axis] + max(ends)
        padding[rank + axis] = max(0, last - size + 1)
    groups = math.gcd(a.groups, b.groups)
    return Window(tuple(kernel), a.stride, tuple(dilation), tuple(padding), groups, words)


def _common_boundary(a: Window, b: Window) -> tuple[str, ...] | None:
    """The word of each axis; None where both windows have padding and theirs differ."""
    words: list[str] = []
    for axis in range(a.rank):
        own = {w.boundary[axis] for w in (a, b) if w.padding[axis] or w.padding[w.rank + axis]}
        if len(own) > 1:
            return None
        words.append(*own or {ZERO})
    return tuple(words)


def _gap(begins: list[int]) -> list[int]:
    return [abs(begins[0] - begins[1])]


def embedded(w: np.ndarray, own: Window, common: Window) -> np.ndarray:
    """The kernel on the taps (and with the groups) of a window that holds its own."""
    spread = ungrouped(w, own.groups, common.groups)
    full = np.zeros((*spread.shape[:2], *common.kernel))
    where = []
    for axis, taps in enumerate(own.kernel):
        start = (common.padding[axis] - own.padding[axis]) // common.dilation[axis]
        step = max(1, own.dilation[axis] // common.dilation[axis])
        where.append(slice(start, start + (taps - 1) * step + 1, step))
    full[(slice(None), slice(None), *where)] = spread
    return full


def unit_kernel(channels: int, rank: int, factor: np.ndarray | float = 1.0) -> np.ndarray:
    """A depthwise kernel of one tap that multiplies each channel by a factor."""
    return np.broadcast_to(np.reshape(factor, (-1, 1)), (channels, 1)).reshape(
        channels, 1, *(1,) * rank
    )
