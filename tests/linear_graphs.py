"""Random graphs of layers that are linear, separable or nearly so, for the passes that merge them.

Every graph has one to three spatial axes and odd sizes. Layers draw strides, dilations, paddings on
each side, groups and biases; kernels may have low rank, blocks of zeros, unread channels or outer
taps of zero. Values are shared, and some of them are outputs too.
"""

from __future__ import annotations

import math

import numpy as np

from cnnir.ir import Graph, Value
from cnnir.tensortype import TensorType


class _Drawer:
    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.g = Graph(f"linear{seed}")
        self.rank = int(self.rng.choice([2, 2, 2, 1, 3]))
        channels = int(self.rng.choice([1, 2, 4, 4, 6]))
        sizes = (int(n) for n in self.rng.integers(5, 13 if self.rank < 3 else 8, self.rank))
        self.x = self.g.input(TensorType("f64", (2, channels, *sizes)), "x")

    def chance(self, part: float) -> bool:
        return bool(self.rng.random() < part)

    def ints(self, low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(int(v) for v in self.rng.integers(low, high, count))

    def array(self, *shape: int) -> Value:
        return self.g.param("w", self.rng.standard_normal(shape))

    def line(self, channels: int) -> Value:
        return self.array(1, channels, *(1,) * self.rank)

    # ------------------------------------------------------------ layers

    def conv(self, x: Value, filters: int, same: bool = False) -> Value:
        """Any convolution, or one that keeps the sizes."""
        channels, rank = x.type.shape[1], self.rank
        kernel, dilation = self.ints(1, 4, rank), self.ints(1, 3, rank)
        stride, padding = (), (0,) * (2 * rank)
        if same:
            kernel = tuple(2 * (k // 2) + 1 for k in kernel)
            half = tuple(d * (k // 2) for d, k in zip(dilation, kernel, strict=True))
            padding = half + half
        else:
            stride = self.ints(1, 3, rank)
            padding = self.ints(0, 3, 2 * rank) if self.chance(0.4) else padding
            if self.chance(0.3):
                kernel, padding = (1,) * rank, (0,) * (2 * rank)
            spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
            room = (n + padding[a] + padding[rank + a] for a, n in enumerate(x.type.shape[2:]))
            if any(r < s for r, s in zip(room, spans, strict=True)):
                kernel = (1,) * rank
        groups = int(self.rng.choice([g for g in (1, 1, 2, 3, 4, 6) if channels % g == 0]))
        filters = -(-filters // groups) * groups if not same else filters
        if filters % groups:
            groups = 1
        w = self.g.param("w", self.kernel(filters, channels // groups, kernel))
        b = self.array(filters) if self.chance(0.5) else None
        attrs = {"stride": stride, "dilation": dilation, "padding": padding, "groups": groups}
        return self.g.add("conv", x, w, b, **attrs)

    def kernel(self, filters: int, channels: int, taps: tuple[int, ...]) -> np.ndarray:
        """A kernel with some structure, or none."""
        w = self.rng.standard_normal((filters, channels, *taps))
        pick = self.rng.integers(8)
        if pick == 0:  # every tap is a number of the first axis times one of the others
            first = self.rng.standard_normal((filters, 1, taps[0], *(1,) * (len(taps) - 1)))
            w = first * w[:, :, :1]
        elif pick == 1:  # a depthwise kernel and a 1x1
            w = w[:1] * self.rng.standard_normal((filters, channels, *(1,) * len(taps)))
        elif pick == 2 and filters % 2 == channels % 2 == 0:
            w[: filters // 2, channels // 2 :] = w[filters // 2 :, : channels // 2] = 0
            if self.chance(0.5):
                w = w[self.rng.permutation(filters)][:, self.rng.permutation(channels)]
        elif pick == 3 and channels > 1:
            w[:, self.rng.integers(channels)] = 0
        elif pick == 4 and filters > 1:
            w[self.rng.integers(filters)] = 0
        elif pick == 5 and taps[-1] > 1:
            w[..., 0] = 0
        return w

    def scaled(self, x: Value) -> Value:
        y = self.g.add("mul", x, self.line(x.type.shape[1]))
        return self.g.add("add", y, self.line(x.type.shape[1])) if self.chance(0.5) else y

    def pool(self, x: Value, op: str) -> Value:
        kernel = tuple(min(2, n) for n in x.type.shape[2:])
        attrs = {"kernel": kernel, "stride": self.ints(1, 3, self.rank)}
        if self.chance(0.3):
            attrs["padding"] = tuple(k - 1 for k in kernel) + (0,) * self.rank
        if op == "avg_pool":
            attrs["count_include_pad"] = self.chance(0.5)
        return self.g.add(op, x, **attrs)

    def branches(self, x: Value) -> Value:
        """A sum, or a concatenation and a layer, of branches of x."""
        channels, g = x.type.shape[1], self.g
        parts = [self.conv(x, channels, same=True) for _ in range(int(self.rng.integers(1, 4)))]
        if self.chance(0.5):
            parts.append(self.scaled(x) if self.chance(0.5) else x)
        if self.chance(0.3):
            return self.conv(g.add("concat", *parts, axis=1), 3)
        total = parts[0]
        for part in parts[1:]:
            total = g.add("sub" if self.chance(0.3) else "add", total, part)
        return total

    def moved(self, x: Value) -> Value:
        """Something that moves, cuts or enlarges."""
        shape, pick = x.type.shape, self.rng.integers(4)
        if pick == 0:
            sizes = (*shape[:2], *(2 * n for n in shape[2:]))
            scales = (1.0, 1.0, *(2.0,) * self.rank)
            mode = "nearest" if self.chance(0.5) else "linear"
            return self.g.add("resize", x, sizes=sizes, scales=scales, mode=mode)
        if pick == 1:
            amounts = (0, 0, *self.ints(0, 2, self.rank), 0, 0, *self.ints(0, 2, self.rank))
            return self.g.add("pad", x, padding=amounts, value=float(self.rng.integers(2)))
        starts = [0] * (self.rank + 2)
        steps = [1] * (self.rank + 2)
        axis = int(self.rng.integers(1, self.rank + 2))
        steps[axis] = int(self.rng.integers(1, 3))
        starts[axis] = int(self.rng.integers(0, 2)) if shape[axis] > 1 else 0
        sizes = [-(-(n - s) // t) for n, s, t in zip(shape, starts, steps, strict=True)]
        return self.g.add("slice", x, starts=starts, sizes=sizes, steps=steps)

    def step(self, x: Value) -> Value:
        pick = self.rng.integers(12)
        if pick < 5:
            return self.conv(x, int(self.rng.integers(1, 9)))
        if pick < 7 and math.prod(x.type.shape) < 20_000:
            return self.branches(x)
        if pick == 7:
            return self.pool(x, "max_pool" if self.chance(0.4) else "avg_pool")
        if pick == 8:
            return self.scaled(x)
        if pick == 9:
            return self.g.add("relu" if self.chance(0.7) else "neg", x)
        return self.moved(x)

    def head(self, x: Value) -> Value:
        """Dense layers behind it all."""
        if self.chance(0.5):
            y = self.g.add("reduce_mean", x, axes=tuple(range(2, self.rank + 2)), keepdims=False)
        else:
            y = self.g.add("reshape", x, shape=(2, x.type.size // 2))
        for _ in range(int(self.rng.integers(1, 4))):
            y = self.g.add("matmul", y, self.array(y.type.shape[1], int(self.rng.integers(1, 9))))
            if self.chance(0.3):
                y = self.g.add("add", y, self.array(1, y.type.shape[1]))
        return y


def linear_graph(seed: int) -> Graph:
    """A graph in f64 with one input, and one output or more."""
    draw = _Drawer(seed)
    value = draw.x
    for number in range(int(draw.rng.integers(2, 7))):
        if value.type.size > 60_000:
            break
        value = draw.step(value)
        if draw.chance(0.08):
            draw.g.output(value, f"part{number}")
    if draw.chance(0.3) and value.type.size < 10_000:
        value = draw.head(value)
    draw.g.output(value, "y")
    return draw.g
