"""Kernels as sums of products of 1-D kernels: the nearest one of a given rank.

Of a plane kernel that is the singular value decomposition, cut off (Eckart, Young 1936). With more
axes there is no such formula: factors are improved in turn, each by least squares, from a few
beginnings (alternating least squares).

Source: T. Kolda, B. Bader, Tensor decompositions and applications, SIAM Review 51, 2009, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from cnnir.errors import InputError

_SWEEPS = 500
_STARTS = 4
_STILL = 1e-12
"""A sweep that changes the error by less ends it."""


@dataclass(frozen=True)
class CPFit:
    """kernel = sum over r of factors[0][r] (outer) factors[1][r] ... : rank as given, or less."""

    factors: list[np.ndarray]
    """Of each axis [terms, size], f64: what `nn.SeparableKernelConv` calls factor0, factor1, ..."""
    error: float
    """The norm of what is left of the kernel, as a share of its norm."""

    @property
    def kernel(self) -> np.ndarray:
        """The sum of the products."""
        return _composed(self.factors)


def cp_fit(kernel: Any, terms: int) -> CPFit:
    """The kernel of CP rank `terms` that is nearest to a kernel of any number of axes.

    It is the nearest for one or two axes, and a good one for more. Raises InputError for terms
    below 1.
    """
    kernel = np.asarray(kernel, np.float64)
    if not kernel.ndim or not kernel.size or terms < 1:
        raise InputError(f"kernel {list(kernel.shape)}, {terms} terms: wanted some of both")
    if kernel.ndim <= 2:
        return _measured(kernel, _singular(np.atleast_2d(kernel), terms)[-kernel.ndim :])
    starts = [_leading(kernel, terms)]
    rng = np.random.default_rng(0)
    for _ in range(_STARTS - 1):
        starts.append([rng.standard_normal((terms, size)) for size in kernel.shape])
    fits = [_measured(kernel, _alternating(kernel, start)) for start in starts]
    return min(fits, key=lambda fit: fit.error)


def _singular(kernel: np.ndarray, terms: int) -> list[np.ndarray]:
    """Both factors of a plane kernel; terms beyond its rank are 0."""
    u, s, v = np.linalg.svd(kernel, full_matrices=False)
    found = [np.zeros((terms, size)) for size in kernel.shape]
    count = min(terms, len(s))
    root = np.sqrt(s[:count, None])
    found[0][:count], found[1][:count] = root * u.T[:count], root * v[:count]
    if kernel.shape[0] == 1:  # of one axis: all in the second
        found[1] *= found[0]
    return found


def _leading(kernel: np.ndarray, terms: int) -> list[np.ndarray]:
    """The leading singular vectors of the kernel unfolded along each axis."""
    found = []
    for axis, size in enumerate(kernel.shape):
        u, _, _ = np.linalg.svd(np.moveaxis(kernel, axis, 0).reshape(size, -1), full_matrices=False)
        found.append(u.T[np.arange(terms) % len(u.T)] + 0.01 * np.eye(terms, size))
    return found


def _alternating(kernel: np.ndarray, factors: list[np.ndarray]) -> list[np.ndarray]:
    """Each factor in turn by least squares, until nothing changes."""
    size, before = float(np.linalg.norm(kernel)) or 1.0, np.inf
    for _ in range(_SWEEPS):
        for axis in range(kernel.ndim):
            others = [f for a, f in enumerate(factors) if a != axis]
            products = reduce(_rows, others)
            unfolded = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
            factors[axis] = np.linalg.lstsq(products.T, unfolded.T, rcond=None)[0]
        error = float(np.linalg.norm(_composed(factors) - kernel)) / size
        if abs(before - error) <= _STILL:
            break
        before = error
    return _balanced(factors)


def _balanced(factors: list[np.ndarray]) -> list[np.ndarray]:
    """The same products, each of factors of equal norm."""
    norms = np.array([np.linalg.norm(f, axis=1) for f in factors])
    mean = np.exp(np.log(np.maximum(norms, 1e-300)).mean(0))
    return [f * (mean / np.maximum(n, 1e-300))[:, None]
            for f, n in zip(factors, norms, strict=True)]  # fmt: skip


def _rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The outer product of each row of a with that of b, flattened."""
    return np.einsum("ri,rj->rij", a, b).reshape(len(a), -1)


def _composed(factors: list[np.ndarray]) -> np.ndarray:
    shape = [f.shape[1] for f in factors]
    return np.asarray(reduce(_rows, factors).sum(0).reshape(shape))


def _measured(kernel: np.ndarray, factors: list[np.ndarray]) -> CPFit:
    left = np.linalg.norm(_composed(factors) - kernel)
    return CPFit(factors, float(left / (np.linalg.norm(kernel) or 1.0)))
