"""Derivatives of every op of the registry on its samples, of first and second order.

Values against another program are in test_gradient_torch.py; whole graphs in test_gradient.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradient_harness import check_derivatives, float_inputs, float_outputs
from samples import SAMPLES, Sample, case_id

from cnnir import GradientError, gradient, jvp
from cnnir.tensortype import is_float

FIXED = ("roi_align", "roi_align_grad", "grid_sample_grad")
"""Ops without a derivative by their second operand."""
MEANINGFUL = ("roi_align", "roi_align_grad", "one_hot")
"""Ops whose samples hold floats that are no special values."""


def smooth(name: str, sample: Sample) -> bool:
    """Whether the op is differentiable in some operand around what the sample draws."""
    floats = [
        (operand, t)
        for operand, t in zip(sample.operands, sample.types, strict=True)
        if t is not None and is_float(t.dtype)
    ]
    given = any(isinstance(operand, np.ndarray) for operand, _ in floats)
    if not floats or (given and name not in MEANINGFUL):
        return False
    # the same in other element types is the same in f64
    return all(t.dtype in ("f32", "f64") for _, t in floats) and bool(
        float_outputs(sample.graph(name))
    )


CASES = [
    (name, sample)
    for name, samples in sorted(SAMPLES.items())
    for sample in samples
    if name != "grid_slopes" and smooth(name, sample) and sample.attrs.get("mode") != "max"
]


def drawn(name: str, sample: Sample, seed: int = 3) -> tuple[Any, dict[str, np.ndarray]]:
    """The graph in f64 and what to feed it."""
    graph = sample.graph(name, None if name == "fused" else "f64")
    arrays = sample.arrays(np.random.default_rng(seed))
    given = (a for a in arrays if a is not None)
    feeds = {v.name: a for v, a in zip(graph.inputs, given, strict=True)}
    # drawn as f32, moved a little so that nothing is at a kink exactly
    floats = set(float_inputs(graph))
    return graph, {n: a.astype(np.float64) if n in floats else a for n, a in feeds.items()}


def smooth_inputs(name: str, graph: Any) -> list[str]:
    """The inputs that the op has a derivative by."""
    return [n for n in float_inputs(graph) if name not in FIXED or n != "x1"]


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_derivatives(name: str, sample: Sample) -> None:
    graph, feeds = drawn(name, sample)
    check_derivatives(graph, feeds, smooth_inputs(name, graph))


def test_what_has_no_derivative_says_so() -> None:
    average, largest = (
        next(s for s in SAMPLES["roi_align"] if s.attrs["mode"] == mode) for mode in ("avg", "max")
    )
    for sample, operand, message in (
        (average, "x1", r"roi_align\(.*operand 1: roi_align has no derivative by the regions"),
        (largest, "x0", r"operand 0: roi_align has a derivative with mode='avg' only"),
    ):
        for derive in (gradient, jvp):
            options = {"cotangents": True} if derive is gradient else {}
            with pytest.raises(GradientError, match=message):
                derive(sample.graph("roi_align"), wrt=operand, **options)


def spread(per_op: int) -> list[tuple[str, Sample]]:
    """A few samples of each op, from all over its list."""
    by_op: dict[str, list[Sample]] = {}
    for name, sample in CASES:
        if all(v is None or v.size for v in sample.types):
            by_op.setdefault(name, []).append(sample)
    return [
        (name, samples[k * len(samples) // per_op])
        for name, samples in by_op.items()
        for k in range(min(per_op, len(samples)))
    ]


@pytest.mark.parametrize(("name", "sample"), spread(3), ids=case_id)
def test_second_derivatives(name: str, sample: Sample) -> None:
    graph, feeds = drawn(name, sample)
    of, wrt = float_outputs(graph), smooth_inputs(name, graph)
    once = name in FIXED or name == "grid_sample"  # no second derivative by positions
    wrt = [n for n in wrt if not once or n != "x1"]
    first = gradient(graph, of, wrt, cotangents=True, outputs=False)
    rng = np.random.default_rng(7)
    types = {v.name: v.type for v in first.inputs}
    feeds |= {n: rng.uniform(-1, 1, types[n].shape) for n in types if n not in feeds}
    moved = [n for n in float_inputs(first) if not once or n != "x1"]
    check_derivatives(first, feeds, moved, tolerance=1e-5)
