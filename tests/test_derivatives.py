"""Derivatives of every op of the registry on its samples, of first and second order.

Values against another program are in test_gradient_torch.py; whole graphs in test_gradient.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradient_harness import check_derivatives, float_inputs, float_outputs
from samples import SAMPLES, Sample, case_id

from cnnir import GradientError, gradient
from cnnir.tensortype import is_float

WITHOUT = ("grid_sample", "roi_align")
"""Ops that cannot be differentiated."""
MEANINGFUL = ("roi_align", "grid_sample", "one_hot")
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
    if name not in WITHOUT and smooth(name, sample)
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


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_derivatives(name: str, sample: Sample) -> None:
    graph, feeds = drawn(name, sample)
    check_derivatives(graph, feeds)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_derivative(name: str) -> None:
    graph = SAMPLES[name][0].graph(name)
    with pytest.raises(GradientError, match=f"{name}.*no derivative"):
        gradient(graph, wrt=["x0"], cotangents=True)


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
    of, wrt = float_outputs(graph), float_inputs(graph)
    first = gradient(graph, of, wrt, cotangents=True, outputs=False)
    rng = np.random.default_rng(7)
    types = {v.name: v.type for v in first.inputs}
    feeds |= {n: rng.uniform(-1, 1, types[n].shape) for n in types if n not in feeds}
    check_derivatives(first, feeds, tolerance=1e-5)
