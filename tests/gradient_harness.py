"""Directional checks of derivatives in f64: against central differences, and jvp against vjp."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from cnnir import Graph, evaluate, gradient, jvp
from cnnir.tensortype import is_float

EPS = 1e-6


def float_inputs(graph: Graph) -> list[str]:
    """Names of the inputs that have derivatives."""
    return [v.name or "" for v in graph.inputs if is_float(v.type.dtype)]


def float_outputs(graph: Graph) -> list[str]:
    """Names of the outputs that have derivatives."""
    pairs = zip(graph.outputs, graph.output_names, strict=True)
    return list(dict.fromkeys(name for v, name in pairs if is_float(v.type.dtype)))


def check_derivatives(
    graph: Graph,
    feeds: dict[str, np.ndarray],
    wrt: Sequence[str] | None = None,
    of: Sequence[str] | None = None,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> None:
    """Both modes at `feeds`, in a random direction v and for random cotangents w.

    <J v, w> by central differences within `tolerance`, <J v, w> = <v, J' w> within 1e-10, of the
    numbers that are added.
    """
    rng = np.random.default_rng(seed)
    wrt, of = list(wrt or float_inputs(graph)), list(of or float_outputs(graph))
    v = {n: rng.uniform(-1, 1, feeds[n].shape) for n in wrt}
    first = dict(zip(graph.output_names, evaluate(graph, feeds, "f64"), strict=True))
    if not all(np.isfinite(first[n]).all() for n in of):
        pytest.skip("infinite or undefined here")
    w = {n: rng.uniform(-1, 1, first[n].shape) for n in of}

    back = gradient(graph, of, wrt, cotangents=True, outputs=False)
    found = evaluate(back, feeds | {f"cotangent.{n}": a for n, a in w.items()}, "f64")
    products = [g * v[n] for n, g in zip(wrt, found, strict=True)]
    reverse, size = sum(map(np.sum, products)), sum(np.abs(p).sum() for p in products)

    ahead = jvp(graph, wrt, of, outputs=False)
    tangents = evaluate(ahead, feeds | {f"tangent.{n}": a for n, a in v.items()}, "f64")
    products = [t * w[n] for n, t in zip(of, tangents, strict=True)]
    forward, other = sum(map(np.sum, products)), sum(np.abs(p).sum() for p in products)
    scale = max(size, other, 1e-3)
    assert abs(forward - reverse) <= 1e-10 * scale, f"jvp {forward!r}, vjp {reverse!r}"

    moved = []
    for sign in (1, -1):
        there = {n: a + sign * EPS * v[n] if n in v else a for n, a in feeds.items()}
        results = dict(zip(graph.output_names, evaluate(graph, there, "f64"), strict=True))
        moved.append(results)
    central = sum(np.sum((moved[0][n] - moved[1][n]) * w[n]) for n in of) / (2 * EPS)
    assert abs(central - reverse) <= tolerance * scale, f"difference {central!r}, vjp {reverse!r}"
