"""Transposed convolutions of any stride on the CPU: the template against the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loops_harness import LEVELS
from samples import assert_close

import cnnir
from cnnir import Graph, TensorType

PASSES = "inference,-transposed"  # which would say those of params as convolutions

GRID: list[tuple[tuple, tuple, dict[str, Any]]] = [
    ((2, 7, 5, 4), (7, 5, 3, 3), {"stride": (2, 2), "padding": (1, 1, 1, 1)}),
    (
        (2, 40, 5, 8),
        (40, 24, 3, 3),
        {"stride": (2, 1), "dilation": (1, 2), "padding": (1, 1, 0, 1)},
    ),
    (
        (2, 20, 6, 6),
        (20, 33, 5, 5),
        {"stride": (2, 2), "padding": (2,) * 4, "output_padding": (1, 1)},
    ),
    ((2, 48, 4, 5), (48, 20, 1, 1), {"stride": (2, 2), "output_padding": (1, 0)}),
    ((2, 64, 4, 4), (64, 16, 3, 3), {"stride": (2, 2), "groups": 2, "padding": (1, 1, 0, 0)}),
    ((2, 33, 10), (33, 18, 5), {"stride": (3,), "padding": (2, 2)}),
    ((1, 18, 2, 3, 4), (18, 17, 2, 3, 1), {"stride": (2, 1, 2), "padding": (0, 1, 0, 1, 1, 0)}),
    (
        (1, 20, 5, 6),
        (20, 20, 3, 4),
        {"stride": (2, 2), "dilation": (3, 1), "padding": (3, 1, 2, 2)},
    ),
    ((2, 17, 6, 7), (17, 18, 3, 3), {"padding": (1, 0, 1, 2)}),
]


@pytest.mark.parametrize("run_time", (False, True), ids=("params", "inputs"))
@pytest.mark.parametrize("features", LEVELS.values())
@pytest.mark.parametrize("case", GRID, ids=str)
def test_phases(case: tuple, features: str, run_time: bool) -> None:
    shape, kernel, attrs = case
    rng = np.random.default_rng(0)
    filters = kernel[1] * attrs.get("groups", 1)
    arrays = {"x": shape, "w": kernel, "b": (filters,)}
    feeds = {k: rng.standard_normal(s, dtype=np.float32) for k, s in arrays.items()}
    g = Graph("up")
    make = (lambda k, a: g.input(TensorType.of(a), k)) if run_time else g.param
    x = g.input(TensorType.of(feeds["x"]), "x")
    w, b = make("w", feeds["w"]), make("b", feeds["b"])
    y = g.add("conv_transpose", x, w, b, **attrs)
    if not run_time:
        feeds = {"x": feeds["x"]}
    feeds["z"] = rng.standard_normal(y.type.shape, dtype=np.float32)
    z = g.input(y.type, "z")
    g.output(g.add("mul", g.add("tanh", y), z), "y")
    wanted = cnnir.evaluate(g, feeds, dtype="f64")[0]
    results = []
    for threads in (1, 2):
        exe = cnnir.compile(g, passes=PASSES, threads=threads, features=features, cache=False)
        assert "phased_transpose" in [step.kernel for step in exe.plan.steps]
        results.append(exe.run(feeds)["y"])
        exe.close()
    np.testing.assert_array_equal(*results)
    assert_close(results[0], wanted, 1e-5)


def test_a_phase_that_begins_inside_is_printed_as_loops() -> None:
    rng = np.random.default_rng(0)
    g = Graph("up")
    w = g.param("w", rng.standard_normal((17, 18, 2, 2)).astype(np.float32))
    x = g.input(TensorType("f32", (2, 17, 5, 5)), "x")
    g.output(g.add("conv_transpose", x, w, stride=(3, 3), padding=(1, 1, 1, 1)), "y")
    exe = cnnir.compile(g, passes=PASSES, threads=1)
    assert "begins behind" in exe.plan.notes[0]
    feeds = {"x": rng.standard_normal((2, 17, 5, 5)).astype(np.float32)}
    assert_close(exe.run(feeds)["y"], cnnir.evaluate(g, feeds, dtype="f64")[0], 1e-5)
    exe.close()
