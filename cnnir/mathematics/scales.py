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


def rescale_kernel(weight: Any, spacing: float, to: float) -> np.ndarray:
    """A convolution's weight [O, I, *kernel] for a grid of another spacing, f64.

    spacing, to: distance of pixels before and after; an image of half the resolution has twice the
    spacing. Sizes of the kernel are odd and stay as they are.
    """
    weight = np.asarray(weight, np.float64)
    if weight.ndim < 3 or any(size % 2 == 0 for size in weight.shape[2:]):
        raise InputError(f"the weight has shape {list(weight.shape)}, wanted [O, I, *odd sizes]")
    if not (spacing > 0 and to > 0):
        raise InputError(f"spacing {spacing}, to {to}: wanted both above 0")
    for axis in range(2, weight.ndim):
        change = np.linalg.solve(_moments(weight.shape[axis], to),
                                 _moments(weight.shape[axis], spacing))  # fmt: skip
        weight = np.moveaxis(np.tensordot(change, weight, (1, axis)), 0, axis)
    return weight


def _moments(size: int, spacing: float) -> np.ndarray:
    """Row m: what a kernel does to x^m / m! at 0, as a sum over its taps."""
    x = (np.arange(size) - size // 2) * spacing
    return np.array([x**m / math.factorial(m) for m in range(size)])
