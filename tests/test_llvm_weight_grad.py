"""Gradients of convolutions by their weights on the CPU: the templates against the evaluator."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from loops_harness import LEVELS
from samples import assert_close

import cnnir
from cnnir import Graph, TensorType
from cnnir.backends.llvm.kernels import weight_grad
from cnnir.ops.conv import window_sizes

ROUNDING = 2e-6  # of the largest weight


def weight_gradient(x: tuple, filters: int, **attrs: Any) -> tuple[Graph, dict[str, np.ndarray]]:
    """conv_weight_grad of x [N,C,...] and a fitting dy."""
    rank = len(x) - 2
    stride, dilation = (attrs.get(n, (1,) * rank) for n in ("stride", "dilation"))
    padding = attrs.get("padding", (0,) * (2 * rank))
    out = window_sizes(x[2:], attrs["kernel"], stride, dilation, padding)
    rng = np.random.default_rng(filters)
    shapes = {"x": x, "dy": (x[0], filters, *out)}
    feeds = {k: rng.standard_normal(s, dtype=np.float32) for k, s in shapes.items()}
    g = Graph("gradient")
    operands = [g.input(TensorType.of(array), key) for key, array in feeds.items()]
    g.output(g.add("conv_weight_grad", *operands, **attrs), "dw")
    return g, feeds


def check(g: Graph, feeds: dict[str, np.ndarray], tolerance: float = ROUNDING, **options: Any):
    """The steps of the plan, after comparing with f64, and one thread with two bit by bit."""
    wanted = cnnir.evaluate(g, feeds, dtype="f64")[0]
    results = []
    for threads in (1, 2):
        exe = cnnir.compile(g, threads=threads, cache=False, **options)
        results.append(exe.run(feeds)["dw"])
        kinds = [step.kernel for step in exe.plan.steps]
        exe.close()
    np.testing.assert_array_equal(*results)
    assert_close(results[0], wanted, tolerance)
    return kinds


GRID = [
    *(
        ((2, 19, 9, 10), 21, {"kernel": (3, 2), "stride": s, "dilation": d, "padding": p})
        for s, d, p in itertools.product(
            ((1, 1), (2, 3)), ((1, 1), (2, 1)), ((0,) * 4, (1, 0, 2, 1))
        )
    ),
    ((1, 5, 6, 7), 4, {"kernel": (2, 2)}),
    ((5, 40, 4, 4), 50, {"kernel": (3, 3), "padding": (1,) * 4}),
    ((3, 33, 12, 40), 17, {"kernel": (3, 3), "padding": (1,) * 4}),
    ((2, 24, 6, 8), 144, {"kernel": (1, 1)}),
    ((3, 20, 5, 7), 18, {"kernel": (1, 1)}),
    ((2, 20, 6, 7), 18, {"kernel": (1, 1), "stride": (2, 2), "padding": (1, 1, 0, 0)}),
    ((2, 64, 7, 7), 32, {"kernel": (3, 3), "groups": 2, "padding": (1, 1, 1, 1)}),
    ((2, 18, 30), 33, {"kernel": (5,), "padding": (2, 2)}),
    ((1, 17, 4, 5, 6), 18, {"kernel": (2, 3, 1), "padding": (0, 1, 0, 1, 1, 0)}),
    ((2, 17, 9, 9), 18, {"kernel": (7, 7), "padding": (3,) * 4}),
]


@pytest.mark.parametrize("features", LEVELS.values())
@pytest.mark.parametrize("case", GRID, ids=str)
def test_blocks_of_channels(case: tuple, features: str) -> None:
    x, filters, attrs = case
    g, feeds = weight_gradient(x, filters, **attrs)
    kinds = check(g, feeds, features=features, precision="exact")
    assert "weight_grad" in kinds and "loops" not in kinds


WINOGRAD = [
    ((8, 32, 16, 16), 48, {"kernel": (3, 3), "padding": (1,) * 4}),
    ((5, 37, 15, 13), 33, {"kernel": (3, 3), "padding": (1, 0, 1, 2)}),
    ((33, 96, 4, 4), 64, {"kernel": (3, 3), "padding": (1,) * 4}),
    ((8, 32, 12, 12), 32, {"kernel": (5, 5), "padding": (2,) * 4}),
    ((16, 64, 50), 80, {"kernel": (3,)}),
]


@pytest.mark.parametrize("features", LEVELS.values())
@pytest.mark.parametrize("case", WINOGRAD, ids=str)
def test_winograd(case: tuple, features: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_grad, "reject", lambda spec: "not in this test")
    x, filters, attrs = case
    g, feeds = weight_gradient(x, filters, **attrs)
    assert "weight_grad_winograd" in check(g, feeds, 2e-5, features=features)


def test_winograd_is_not_taken_where_sums_are_to_be_exact() -> None:
    x, filters, attrs = WINOGRAD[0]
    g, feeds = weight_gradient(x, filters, **attrs)
    assert "weight_grad_winograd" in check(g, feeds, 2e-5)
    assert "weight_grad" in check(g, feeds, precision="exact")


COPIED = [
    ((3, 3, 20, 21), 40, {"kernel": (3, 3), "padding": (1,) * 4}),
    ((2, 1, 28, 28), 6, {"kernel": (5, 5), "padding": (2,) * 4}),
    ((2, 3, 30, 31), 33, {"kernel": (7, 7), "stride": (2, 2), "padding": (3,) * 4}),
    ((2, 2, 20, 9), 17, {"kernel": (3, 2), "stride": (2, 1), "dilation": (2, 3)}),
    ((3, 37, 9, 20), 37, {"kernel": (3, 3), "groups": 37, "padding": (1,) * 4}),
    (
        (2, 48, 11, 11),
        48,
        {"kernel": (5, 3), "groups": 48, "stride": (2, 2), "padding": (2, 0) * 2},
    ),
    ((2, 20, 30), 20, {"kernel": (3,), "groups": 20, "padding": (1, 1)}),
    ((1, 20, 4, 5, 6), 20, {"kernel": (2, 3, 1), "groups": 20, "padding": (0, 1, 0, 1, 1, 0)}),
]


@pytest.mark.parametrize("features", LEVELS.values())
@pytest.mark.parametrize("case", COPIED, ids=str)
def test_few_channels_and_depthwise(case: tuple, features: str, monkeypatch) -> None:
    monkeypatch.setattr(weight_grad, "reject", lambda spec: "not in this test")
    x, filters, attrs = case
    g, feeds = weight_gradient(x, filters, **attrs)
    kinds = check(g, feeds, features=features, precision="exact")
    assert "weight_grad_copied" in kinds and "loops" not in kinds


def test_taps_that_never_meet_the_input_are_zero() -> None:
    g, feeds = weight_gradient((1, 16, 2, 2), 16, kernel=(5, 5), padding=(4, 4, 0, 0))
    assert "weight_grad" in check(g, feeds, precision="exact")


def test_sums_over_many_pixels_stay_accurate() -> None:
    g, feeds = weight_gradient((16, 8, 64, 64), 8, kernel=(1, 1))
    feeds = {k: 1 + v / 8 for k, v in feeds.items()}  # nothing cancels: rounding adds up
    check(g, feeds, 5e-7)


def test_a_convolution_that_no_template_takes_is_printed_as_loops() -> None:
    g, feeds = weight_gradient((2, 6, 5, 5), 6, kernel=(2, 2), padding=(-1, 0, 0, 0))
    assert "loops" in check(g, feeds)
