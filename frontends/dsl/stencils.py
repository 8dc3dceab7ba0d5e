"""Differences on a grid as small kernels, for layers and regularisers."""

from __future__ import annotations

from functools import reduce

import numpy as np


def difference(axis: int, rank: int) -> np.ndarray:
    """[-1 1] along an axis: f64, size 2 there and 1 elsewhere."""
    return np.array([-1.0, 1.0]).reshape([2 if a == axis else 1 for a in range(rank)])


def laplacian(rank: int) -> np.ndarray:
    """The sum of [1 -2 1] over the axes: f64, of size 3 along each."""
    lines = (np.array([0.0, 1.0, 0.0]), np.array([1.0, -2.0, 1.0]))
    terms = ([lines[a == axis] for a in range(rank)] for axis in range(rank))
    return np.sum([reduce(np.multiply.outer, term) for term in terms], axis=0)
