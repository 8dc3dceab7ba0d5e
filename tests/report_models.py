"""Models for tests of the report: a small net that passes change, and one with names that bite."""

from __future__ import annotations

import numpy as np

from cnnir.ir import Graph
from cnnir.tensortype import TensorType

EVIL = [
    '</script><img src=x onerror="window.bitten=1">',
    "<!--<script>window.bitten=2</script>",
    "']}\u2028;window.bitten=3;//",
]


def small_net(names: list[str] | None = None, title: str = "small") -> Graph:
    """conv, batch norm, relu, conv, add, global mean, dense: image f32[1,3,12,12] -> f32[1,4].

    names: of the first layers, and of the input and the first weight."""
    rng = np.random.default_rng(3)

    def param(name: str, *shape: int) -> object:
        return g.param(name, rng.standard_normal(shape).astype(np.float32))

    labels = [*(names or []), "conv1", "norm1", "relu1", "conv2", "add", "mean", "dense"]
    g = Graph(title)
    value = g.input(TensorType("f32", (1, 3, 12, 12)), labels[0] if names else "image")
    steps = iter(labels)
    with g.provenance(next(steps)):
        value = first = g.add(
            "conv", value, param(labels[0], 8, 3, 3, 3), padding=(1, 1, 1, 1), name=labels[0]
        )
    with g.provenance(next(steps)):
        scale, shift, mean = (param(n, 8) for n in ("scale", "shift", "mean"))
        variance = g.param("variance", rng.uniform(0.5, 2, 8).astype(np.float32))
        value = g.add("batch_norm", value, scale, shift, mean, variance)
    with g.provenance(next(steps)):
        value = first = g.add("relu", value)
    with g.provenance(next(steps)):
        value = g.add("conv", value, param("w2", 8, 8, 3, 3), padding=(1, 1, 1, 1))
    with g.provenance(next(steps)):
        value = g.add("add", value, first)
    with g.provenance(next(steps)):
        value = g.add("reduce_mean", value, axes=(2, 3), keepdims=False)
    with g.provenance(next(steps)):
        value = g.add("matmul", value, param("w3", 8, 4))
    g.output(value, "scores")
    return g


def odd_graphs() -> dict[str, Graph]:
    """What models rarely are: outputs that are inputs or params, several results, no node."""
    g = Graph("ports")
    x, y = (g.input(TensorType("f32", (2, 3)), name) for name in "xy")
    c = g.param("c", np.array([np.nan, np.inf], np.float32))
    values, indices = g.add("topk", g.add("relu", x), k=2, axis=1)
    total = g.add("add", x, y)
    for value, name in ((x, "same"), (c, "fixed"), (values, "best"), (indices, "where")):
        g.output(value, name)
    g.output(total, "one")
    g.output(total, "other")
    empty = Graph("")
    empty.output(empty.input(TensorType("i64", (0, 4)), "nothing"))
    return {"ports": g, "empty": empty}


def long_net(nodes: int) -> Graph:
    """About so many nodes: blocks of products around shortcuts, none like its neighbour."""
    g = Graph("long")
    value = g.input(TensorType("f32", (1, 4)), "x")
    for block in range(nodes // 8):
        start = value
        for step in range(7):
            with g.provenance(f"block{block}/step{step}"):
                value = g.add(("tanh", "sigmoid", "sin")[(block + step) % 3], value)
        with g.provenance(f"block{block}/add"):
            value = g.add("add", value, start)
    g.output(value)
    return g
