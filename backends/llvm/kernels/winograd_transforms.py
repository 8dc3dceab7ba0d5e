"""The matrices of Winograd's minimal filtering, F(m, r): m neighbouring results of r taps.

    y = A^T [(G w) * (B^T x)],   y[i] = sum_k w[k] x[i + k],   with n = m + r - 1 products

Toom-Cook's construction: evaluate at n - 1 finite points and at infinity, multiply, interpolate,
all transposed. In two dimensions every axis is transformed by itself. Sources: S. Winograd,
"Arithmetic Complexity of Computations", 1980; A. Lavin and S. Gray, "Fast Algorithms for
Convolutional Neural Networks", 2016; for the choice of points B. Barabasz et al., "Error Analysis
and Improving the Accuracy of Winograd Convolution", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

ROOT = 2.0**0.5

POINTS: dict[int, tuple[float, ...]] = {
    1: (),
    2: (0,),
    3: (0, 1),
    4: (0, 1, -1),
    5: (0, 1, -1, 2),
    6: (0, ROOT / 2, -ROOT / 2, ROOT, -ROOT),
    7: (0, ROOT / 2, -ROOT / 2, ROOT, -ROOT, 1),
    8: (0, 1, -1, 0.6, -0.6, 1.5, -1.5),
}
"""Finite points by the number n of products. Pairs +-p share work; these were the best of those
tried in f32 (F(4, 3): 2e-6 of max|y|, where the usual 0, +-1, +-2 give 7e-6)."""


@dataclass(frozen=True, eq=False)
class Transforms:
    """F(m, r) along one axis: results [m, n], taps [n, r] and inputs [n, n], in f64."""

    results: np.ndarray
    taps: np.ndarray
    inputs: np.ndarray


@cache
def transforms(m: int, r: int) -> Transforms:
    """The matrices of F(m, r); m + r - 1 must be among POINTS."""
    n = m + r - 1
    points = np.array(POINTS[n])
    results, taps, inputs = np.zeros((m, n)), np.zeros((n, r)), np.zeros((n, n))
    for j, point in enumerate(points):
        others = np.delete(points, j)
        results[:, j] = point ** np.arange(m)
        taps[j] = point ** np.arange(r) / np.prod(point - others)
        inputs[j, : n - 1] = np.atleast_1d(np.poly(others))[::-1]
    results[m - 1, n - 1] = taps[n - 1, r - 1] = 1  # infinity: the highest coefficients
    inputs[n - 1] = np.atleast_1d(np.poly(points))[::-1]
    return Transforms(results, taps, np.where(abs(inputs) < 1e-12, 0, inputs))
