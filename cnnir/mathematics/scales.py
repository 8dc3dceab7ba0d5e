"""Kernels between resolutions of an image.

A kernel on a grid of spacing h is a differential operator: w = b0 [0 1 0] + b1 [-1 0 1] / (2h) +
b2 [1 -2 1] / h^2 in 1-D. Kept are the b, and the kernel is made anew for another h. For any odd
size that is the kernel that does the same to all polynomials of degree below the size.

Source: E. Haber, L. Ruthotto, E. Holtham, S. Jun, Learning across scales: multiscale methods for
convolution neural networks, AAAI 2018.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import InputError


def differential_operator(weight: Any, spacing: float = 1.0) -> np.ndarray:
    """The differential operator that a convolution's weight [O, I, *kernel] is, f64.

    Entry [o, i, m, n] is the factor of the m-th derivative along the first axis and the n-th along
    the second: what the kernel makes of x^m y^n / (m! n!) at 0, on a grid of this spacing. Sizes of
    the kernel are odd.
    """
    weight = _checked(weight, spacing)
    for axis in range(2, weight.ndim):
        weight = _along(weight, axis, _moments(weight.shape[axis], spacing))
    return weight


def rescale_kernel(weight: Any, spacing: float, to: float) -> np.ndarray:
    """A convolution's weight [O, I, *kernel] for a grid of another spacing, f64.

    It stays the same differential operator. spacing, to: distance of pixels before and after; an
    image of half the resolution has twice the spacing. Sizes of the kernel are odd and stay as they
    are.
    """
    weight = differential_operator(_checked(weight, to), spacing)
    for axis in range(2, weight.ndim):
        weight = _along(weight, axis, np.linalg.inv(_moments(weight.shape[axis], to)))
    return weight


def _along(weight: np.ndarray, axis: int, matrix: np.ndarray) -> np.ndarray:
    """A matrix applied to one axis of a weight."""
    return np.moveaxis(np.tensordot(matrix, weight, (1, axis)), 0, axis)


def _checked(weight: Any, spacing: float) -> np.ndarray:
    weight = np.asarray(weight, np.float64)
    if weight.ndim < 3 or any(size % 2 == 0 for size in weight.shape[2:]):
        raise InputError(f"the weight has shape {list(weight.shape)}, wanted [O, I, *odd sizes]")
    if not spacing > 0:
        raise InputError(f"the spacing is {spacing}, wanted a number above 0")
    return weight


def _moments(size: int, spacing: float) -> np.ndarray:
    """Row m: what a kernel does to x^m / m! at 0, as a sum over its taps."""
    x = (np.arange(size) - size // 2) * spacing
    return np.array([x**m / math.factorial(m) for m in range(size)])
