"""Gradients of convolutions as convolutions: what the `vjp` of conv, its transpose and pools share.

By the input: a convolution with the weights turned round where the stride is 1, so that it gets the
fast kernels, else a transposed convolution. By the weights: the op conv_weight_grad, in
`conv_weight_grad.py`. This file defines no op.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cnnir.ops.boundary import ZERO, reads, zeros_left


@dataclass(frozen=True)
class WindowShape:
    """The attributes of a convolution, one entry an axis. Negative padding cuts x."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    boundary: tuple[str, ...] = ()
    """As conv has it; () is zeros on all axes."""

    @staticmethod
    def of(node: Any) -> WindowShape:
        """Those of a conv, conv_transpose or conv_weight_grad node."""
        rank, attrs = node.operands[0].type.rank - 2, node.attrs
        padding = attrs["padding"] or (0,) * (2 * rank)
        words = reads(attrs.get("boundary", ()), padding)
        return WindowShape(
            attrs["stride"] or (1,) * rank,
            padding,
            attrs["dilation"] or (1,) * rank,
            attrs["groups"],
            words if set(words) - {ZERO} else (),
        )

    @property
    def attributes(self) -> dict[str, Any]:
        """As the attributes of an op; what is the same as the default is left out."""
        given = {"stride": (self.stride, 1), "dilation": (self.dilation, 1)}
        given["padding"] = (self.padding, 0)
        plain = {k: v if any(n != default for n in v) else () for k, (v, default) in given.items()}
        more = {"boundary": self.boundary} if self.boundary else {}
        return {**plain, "groups": self.groups, **more}

    def with_zeros(self) -> WindowShape:
        """Of an operand that has its other borders around it."""
        return replace(self, padding=zeros_left(self.padding, self.boundary), boundary=())

    def turns_round(
        self, sizes: tuple[int, ...], out: tuple[int, ...], kernel: tuple[int, ...]
    ) -> bool:
        """Whether the gradient by x is a convolution of the same boundary.

        It is with zeros; and on a circle, which is turned as a whole: sizes and steps stay.
        """
        reach = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
        if not self.boundary:
            return True
        if any(s != 1 for s in self.stride) or any(
            p > r for p, r in zip(self.padding, reach * 2, strict=True)
        ):
            return False
        axes = zip(self.boundary, sizes, out, strict=True)
        return all(word == ZERO or (word == "circular" and a == b) for word, a, b in axes)

    def cut(self, ends: tuple[int, ...]) -> WindowShape:
        """With less padding at the ends."""
        rank = len(self.stride)
        less = (0,) * rank + (ends or (0,) * rank)
        return replace(self, padding=tuple(p - e for p, e in zip(self.padding, less, strict=True)))


def input_gradient(g: Any, dy: Any, w: Any, sizes: tuple[int, ...], shape: WindowShape) -> Any:
    """The cotangent of x [N,C,*sizes] in conv(x, w), from that of the result."""
    rank, kernel = len(sizes), w.type.shape[2:]
    reach = tuple(d * (k - 1) for d, k in zip(shape.dilation, kernel, strict=True))
    begins, ends = shape.padding[:rank], shape.padding[rank:]
    turned = tuple(r - p for r, p in zip(reach * 2, shape.padding, strict=True))
    if all(s == 1 for s in shape.stride) and min(turned) >= 0:
        back = replace(shape, padding=turned)
        return g.add("conv", dy, _turned(g, w, shape.groups), **back.attributes)
    left, cut = [], []
    for a, size in enumerate(sizes):
        covered = (dy.type.shape[2 + a] - 1) * shape.stride[a] + reach[a] + 1
        rest = size + begins[a] + ends[a] - covered  # what no window reaches
        left.append(max(rest, 0))
        cut.append(ends[a] + max(-rest, 0))
    back = replace(shape, padding=(*begins, *cut))
    more = tuple(left) if any(left) else ()
    return g.add("conv_transpose", dy, w, output_padding=more, **back.attributes)


def _turned(g: Any, w: Any, groups: int) -> Any:
    """Weights [O,C/g,*kernel] as [C,O/g,*kernel], each axis of the kernel backwards."""
    (filters, channels, *kernel), rank = w.type.shape, w.type.rank - 2
    each = filters // groups
    if groups == 1:
        w = g.add("transpose", w, perm=(1, 0, *range(2, rank + 2)))
    elif each != 1 or channels != 1:
        w = g.add("reshape", w, shape=(groups, each, channels, *kernel))
        w = g.add("transpose", w, perm=(0, 2, 1, *range(3, rank + 3)))
        w = g.add("reshape", w, shape=(groups * channels, each, *kernel))
    if max(kernel) == 1:
        return w
    starts = (0, 0, *(k - 1 for k in kernel))
    return g.add("slice", w, starts=starts, sizes=w.type.shape, steps=(1, 1, *(-1,) * rank))


def cropped_conv(g: Any, x: Any, w: Any, shape: WindowShape) -> Any:
    """conv(x, w), where negative padding cuts x."""
    rank = len(shape.stride)
    if min(shape.padding) < 0:
        cut = [max(0, -p) for p in shape.padding]
        sizes = (n - cut[a] - cut[rank + a] for a, n in enumerate(x.type.shape[2:]))
        starts, ones = (0, 0, *cut[:rank]), (1,) * (rank + 2)
        x = g.add("slice", x, starts=starts, sizes=(*x.type.shape[:2], *sizes), steps=ones)
    kept = replace(shape, padding=tuple(max(0, p) for p in shape.padding))
    return g.add("conv", x, w, **kept.attributes)


def channel_sum(g: Any, dy: Any) -> Any:
    """The cotangent [C] of what was added to the channels of [N,C,...]."""
    axes = (0, *range(2, dy.type.rank))
    return g.add("reduce_sum", dy, axes=axes, keepdims=False)
