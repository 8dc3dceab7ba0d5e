"""The well-known filters, as arrays of f64 with one axis a dimension of the image.

Sizes are odd, so that a filter has a middle. What a filter does to a constant image is stated: a
blur keeps it (the entries add up to 1), a derivative makes it 0 (they add up to 0). Filters are
written as convolution layers apply them, by cross-correlation: entry [i, j] multiplies the pixel i
rows down and j columns right of the window's corner.

Sources: R. Gonzalez, R. Woods, Digital Image Processing, 4th ed., chapters 3 and 10; for the
binomial filters, B. Jaehne, Digital Image Processing, 6th ed., section 11.4.
"""

from __future__ import annotations

import math

import numpy as np

from cnnir.errors import InputError


def as_weight(kernel: np.ndarray, channels: int = 1, dtype: str = "float32") -> np.ndarray:
    """A filter as the weight [channels, 1, *sizes] of a convolution with a group a channel."""
    return np.tile(kernel, (channels, 1, *(1,) * kernel.ndim)).astype(dtype)


def identity(size: int = 3, ndim: int = 2) -> np.ndarray:
    """1 in the middle: every image stays as it is."""
    return _outer(np.eye(1, _odd(size), size // 2)[0], ndim)


def box(size: int = 3, ndim: int = 2) -> np.ndarray:
    """The mean over a window; adds up to 1."""
    return _outer(np.full(_odd(size), 1 / size), ndim)


def binomial(size: int = 3, ndim: int = 2) -> np.ndarray:
    """Binomial coefficients, [1 2 1] / 4 for 3: the smoothest small blur; adds up to 1.

    Its variance is (size - 1) / 4 along each axis, and it is a Gaussian in the limit.
    """
    row = [math.comb(_odd(size) - 1, k) for k in range(size)]
    return _outer(np.array(row) / 2 ** (size - 1), ndim)


def gaussian(sigma: float, size: int | None = None, ndim: int = 2) -> np.ndarray:
    """exp(-x^2 / (2 sigma^2)) at whole x, scaled to add up to 1.

    Without a size it reaches to 4 sigma, which leaves out less than 1e-4 of it.
    """
    if not sigma > 0:
        raise InputError(f"sigma is {sigma!r}, wanted a number above 0")
    size = 2 * math.ceil(4 * sigma) + 1 if size is None else _odd(size)
    x = np.arange(size) - size // 2
    row = np.exp(-(x**2) / (2 * sigma**2))
    return _outer(row / row.sum(), ndim)


def derivative(axis: int, ndim: int = 2) -> np.ndarray:
    """The central difference (f(x + 1) - f(x - 1)) / 2 along an axis: size 3 there, 1 elsewhere."""
    _check_axis(axis, ndim)
    return np.array([-0.5, 0, 0.5]).reshape([3 if a == axis else 1 for a in range(ndim)])


def sobel(axis: int, ndim: int = 2, normalised: bool = False) -> np.ndarray:
    """The derivative along an axis, smoothed by [1 2 1] along the others.

    As it is usually written its entries are whole numbers, and a slope of 1 a pixel gives
    2 * 4^(ndim - 1); normalised it gives 1.
    """
    _check_axis(axis, ndim)
    kernel = np.ones(())
    for a in range(ndim):
        kernel = np.multiply.outer(kernel, np.array([-1.0, 0, 1] if a == axis else [1.0, 2, 1]))
    return kernel / (2 * 4 ** (ndim - 1)) if normalised else kernel


def laplacian(ndim: int = 2, diagonal: bool = False, spacing: float = 1.0) -> np.ndarray:
    """The sum of second differences over the axes, [1 -2 1] in 1-D, divided by spacing^2.

    diagonal: differences along the diagonals too, so that all 3^ndim - 1 neighbours count 1.
    """
    if ndim < 1 or not spacing > 0:
        raise InputError(f"ndim {ndim}, spacing {spacing}: wanted both above 0")
    kernel = np.zeros((3,) * ndim)
    if diagonal:
        kernel[:] = 1
    for axis in range(ndim):
        for end in (0, 2):
            kernel[(*(1,) * axis, end, *(1,) * (ndim - axis - 1))] = 1
    kernel[(1,) * ndim] = 0
    kernel[(1,) * ndim] = -kernel.sum()
    return kernel / spacing**2


def sharpen(amount: float = 1.0, ndim: int = 2) -> np.ndarray:
    """The image less `amount` times its Laplacian; adds up to 1."""
    return identity(3, ndim) - amount * laplacian(ndim)


def high_pass(size: int = 3, ndim: int = 2) -> np.ndarray:
    """What a binomial blur of this size takes away; adds up to 0."""
    return identity(size, ndim) - binomial(size, ndim)


def _outer(row: np.ndarray, ndim: int) -> np.ndarray:
    if ndim < 1:
        raise InputError(f"ndim is {ndim!r}, wanted at least 1")
    kernel = np.ones(())
    for _ in range(ndim):
        kernel = np.multiply.outer(kernel, row)
    return kernel


def _odd(size: int) -> int:
    if size < 1 or size % 2 == 0:
        raise InputError(f"size is {size!r}, wanted an odd number: a filter has a middle")
    return size


def _check_axis(axis: int, ndim: int) -> None:
    if not 0 <= axis < ndim:
        raise InputError(f"axis is {axis!r}, wanted 0 to {ndim - 1}")
