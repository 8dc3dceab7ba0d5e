"""Derivatives of random graphs, in f64: deep, branched, with values used several times.

A few in the quick suite, all 200 among the slow tests; some are compiled too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradient_harness import check_derivatives

from cnnir import Graph, TensorType, Value, compile, evaluate, gradient

QUICK = range(40)
ALL = range(40, 200)
SMOOTH = ("tanh", "sigmoid", "softplus", "gelu", "swish", "mish", "sin", "erf", "elu")
KINKED = ("relu", "leaky_relu", "abs", "hard_swish", "hard_sigmoid", "selu")


class Random:
    """Grows a graph on values [N,C,H,W] by ops drawn at random."""

    def __init__(self, seed: int, dtype: str = "f64") -> None:
        self.rng = np.random.default_rng([seed, 17])
        self.g, self.dtype = Graph(f"random{seed}"), dtype
        self.feeds: dict[str, np.ndarray] = {}
        sizes = (int(n) for n in self.rng.integers((1, 1, 3, 3), (3, 5, 8, 8)))
        self.values = [self.input("x", *sizes)]

    def input(self, name: str, *shape: int, scale: float = 1.0) -> Value:
        """An input, so that it is differentiated by; with random numbers to feed it."""
        array = self.rng.standard_normal(shape) * scale
        self.feeds[name] = array.astype(TensorType(self.dtype, ()).numpy)
        return self.g.input(TensorType(self.dtype, shape), name)

    def pick(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def grow(self, steps: int) -> Graph:
        makers = (self.conv, self.conv, self.pool, self.norm, self.binary, self.shape, self.unary)
        for k in range(steps):
            recent = self.values[-3:]  # mostly a chain, with branches
            x = recent[self.rng.integers(len(recent))]
            self.values.append(self.pick(*makers)(x, f"p{k}"))
        used = {o for n in self.g.order() for o in n.operands}
        ends = [v for v in self.values if v not in used] or self.values[-1:]
        for number, value in enumerate(ends):
            self.g.output(value, f"y{number}")
        return self.g

    def unary(self, x: Value, name: str) -> Any:
        return self.g.add(self.pick(*SMOOTH, *KINKED), x)

    def conv(self, x: Value, name: str) -> Any:
        channels, *sizes = x.type.shape[1:]
        groups = self.pick(1, 1, channels)
        filters = groups * int(self.rng.integers(1, 4))
        kernel = [int(self.rng.integers(1, min(n, 3) + 1)) for n in sizes]
        w = self.input(name, filters, channels // groups, *kernel, scale=0.7)
        stride = tuple(int(s) for s in self.rng.integers(1, 3, 2))
        padding = tuple(int(p) for p in self.rng.integers(0, 2, 4))
        bias = self.input(f"{name}.b", filters) if self.pick(True, False) else None
        attrs = {"stride": stride, "padding": padding, "groups": groups}
        if max(sizes) < 5 and self.pick(True, False):
            turned = self.input(f"{name}.t", channels, filters // groups, *kernel, scale=0.7)
            attrs["padding"] = (0, 0, 0, 0)
            return self.g.add("conv_transpose", x, turned, bias, **attrs)
        return self.g.add("conv", x, w, bias, **attrs)

    def pool(self, x: Value, name: str) -> Any:
        kernel = tuple(int(min(n, 2)) for n in x.type.shape[2:])
        stride = tuple(int(s) for s in self.rng.integers(1, 3, 2))
        op = self.pick("max_pool", "avg_pool", "avg_pool")
        return self.g.add(op, x, kernel=kernel, stride=stride, ceil_mode=self.pick(True, False))

    def norm(self, x: Value, name: str) -> Any:
        channels = x.type.shape[1]
        scale, bias = self.input(f"{name}.s", channels), self.input(f"{name}.o", channels)
        if x.type.size // channels >= 4 and self.pick(True, False):
            return self.g.add("batch_norm_training", x, scale, bias, epsilon=0.1)[0]
        if self.pick(True, False):
            return self.g.add("group_norm", x, scale, bias, groups=1, epsilon=0.1)
        return self.g.add("softmax", x, axis=int(self.rng.integers(1, 4)))

    def binary(self, x: Value, name: str) -> Any:
        same = [v for v in self.values if v.type == x.type]
        other = same[self.rng.integers(len(same))]
        if self.pick(True, False):
            other = self.input(f"{name}.v", *self.pick((x.type.shape[1], 1, 1), (1,), ()))
        return self.g.add(self.pick("add", "sub", "mul", "squared_error", "maximum"), x, other)

    def shape(self, x: Value, name: str) -> Any:
        n, c, h, w = x.type.shape
        match self.pick("transpose", "concat", "pad", "slice", "resize", "mean"):
            case "transpose":
                return self.g.add("transpose", x, perm=(0, 1, 3, 2))
            case "concat":
                return self.g.add("concat", x, x, axis=self.pick(2, 3) if c > 6 else 1)
            case "pad":
                mode = self.pick("constant", "edge", "wrap")
                return self.g.add("pad", x, padding=(0, 0, 1, 0, 0, 0, 0, 2), mode=mode)
            case "slice":
                steps = (1, 1, 1, -1)
                return self.g.add(
                    "slice", x, starts=(0, 0, 0, w - 1), sizes=(n, c, h, w), steps=steps
                )
            case "resize" if h * w < 80:
                scales = (1.0, 1.0, (h + 1) / h, (w + 2) / w)
                mode = self.pick("linear", "cubic", "nearest")
                sizes = (n, c, h + 1, w + 2)
                return self.g.add("resize", x, sizes=sizes, scales=scales, mode=mode)
            case _:
                mean = self.g.add("reduce_mean", x, axes=(2, 3))
                return self.g.add("mul", x, self.g.add("sigmoid", mean))


def check(seed: int) -> None:
    made = Random(seed)
    graph = made.grow(int(made.rng.integers(3, 12)))
    check_derivatives(graph, made.feeds, tolerance=1e-5)


@pytest.mark.parametrize("seed", QUICK)
def test_random_graph(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", ALL)
def test_more_random_graphs(seed: int) -> None:
    check(seed)


def compiled(seed: int) -> None:
    made = Random(seed, "f32")
    graph = made.grow(int(made.rng.integers(3, 9)))
    step = gradient(graph, graph.output_names, list(made.feeds), cotangents=True)
    feeds = dict(made.feeds)
    for value in step.inputs[len(graph.inputs) :]:
        feeds[value.name or ""] = made.rng.standard_normal(value.type.shape).astype(np.float32)
    wanted = evaluate(step, feeds, "f64")
    got = compile(step).run(feeds)
    largest = max(np.abs(w).max(initial=0) for w in wanted)
    for name, value in zip(step.output_names, wanted, strict=True):
        bound = 1e-4 * max(np.abs(value).max(initial=0), 1e-2 * largest)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_random_graph_compiled(seed: int) -> None:
    compiled(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 40))
def test_more_random_graphs_compiled(seed: int) -> None:
    compiled(seed)
