"""The gradient of maximum pooling on the CPU: the template against the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loops_harness import LEVELS
from samples import assert_close

import cnnir
from cnnir import Graph, TensorType

GRID: list[tuple[tuple, dict[str, Any]]] = [
    ((3, 20, 8, 12), {"kernel": (2, 2), "stride": (2, 2)}),
    ((2, 20, 9, 13), {"kernel": (2, 2), "stride": (2, 2)}),
    ((2, 17, 9, 11), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}),
    ((2, 17, 9, 11), {"kernel": (3, 2), "stride": (1, 3), "padding": (1, 0, 2, 1)}),
    ((1, 33, 9, 11), {"kernel": (2, 3), "dilation": (3, 1), "stride": (2, 1)}),
    ((2, 18, 7, 8), {"kernel": (3, 3), "stride": (2, 2), "ceil_mode": True}),
    ((2, 17, 30), {"kernel": (3,), "stride": (3,)}),
    ((1, 17, 4, 6, 6), {"kernel": (2, 2, 3), "stride": (2, 1, 3)}),
    ((1, 17, 6, 6), {"kernel": (1, 1), "stride": (2, 2)}),
]


def pooled(shape: tuple, x: np.ndarray, **attrs: Any) -> tuple[Graph, dict[str, np.ndarray]]:
    """The gradient by x of a pool between convolutions that change nothing, tanh and relu."""
    g = Graph("pool")
    value = g.input(TensorType("f32", shape), "x")
    one = np.eye(shape[1], dtype=np.float32)
    w = g.param("w", one.reshape(*one.shape, *(1,) * len(shape[2:])))
    y = g.add("max_pool", g.add("relu", g.add("conv", value, w)), **attrs)
    g.output(g.add("tanh", g.add("conv", y, w)), "y")
    back = cnnir.gradient(g, "y", ["x"], cotangents=True, outputs=False)
    dy = np.random.default_rng(1).standard_normal(y.type.shape, dtype=np.float32)
    return back, {"x": x, "cotangent.y": dy}


def check(g: Graph, feeds: dict[str, np.ndarray], features: str = "") -> None:
    wanted = cnnir.evaluate(g, feeds, dtype="f64")[0]
    results = []
    for threads in (1, 2):
        exe = cnnir.compile(g, threads=threads, features=features, cache=False)
        results.append(exe.run(feeds)["grad.x"])
        kinds = [step.kernel for step in exe.plan.steps]
        assert "max_pool_grad" in kinds
        assert not [step for step in exe.plan.steps if step.op == "max_pool_index"]
        exe.close()
    np.testing.assert_array_equal(*results)
    assert_close(results[0], wanted, 1e-5)


@pytest.mark.parametrize("features", LEVELS.values())
@pytest.mark.parametrize("case", GRID, ids=str)
def test_windows(case: tuple, features: str) -> None:
    shape, attrs = case
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    check(*pooled(shape, x, **attrs), features)


@pytest.mark.parametrize("case", GRID[:4], ids=str)
def test_of_equal_values_the_first_gets_all(case: tuple) -> None:
    shape, attrs = case
    x = np.random.default_rng(0).integers(1, 3, shape).astype(np.float32)
    check(*pooled(shape, x, **attrs))


@pytest.mark.parametrize("attrs", [GRID[0][1], GRID[2][1]], ids=str)
def test_nan_and_infinities_win_as_in_the_forward_pass(attrs: dict[str, Any]) -> None:
    shape = (2, 16, 8, 8)
    rng = np.random.default_rng(0)
    special = np.array([np.nan, np.inf, -np.inf, 1.0], np.float32)
    x = rng.choice(special, shape)
    g = Graph("pool")
    value = g.input(TensorType("f32", shape), "x")
    y = g.add("max_pool", value, **attrs)
    g.output(y, "y")
    back = cnnir.gradient(g, "y", ["x"], cotangents=True, outputs=False)
    check(back, {"x": x, "cotangent.y": rng.standard_normal(y.type.shape).astype(np.float32)})


def test_an_index_that_is_an_output_is_made() -> None:
    shape, attrs = GRID[0]
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    g, feeds = pooled(shape, x, **attrs)
    index = next(n for n in g.order() if n.name == "max_pool_index")
    g.output(index.results[0], "index")
    exe = cnnir.compile(g, threads=1)
    wanted = cnnir.evaluate(g, feeds)
    np.testing.assert_array_equal(exe.run(feeds)["index"], wanted[1])
    exe.close()
