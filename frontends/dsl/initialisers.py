"""How weights begin: `init(rng, shape, fans)` gives an array.

fans are the numbers of inputs and outputs that one weight connects. The variances are those of
Glorot & Bengio 2010, He et al. 2015, LeCun et al. 1998; orthogonal matrices are those of Saxe et
al. 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from cnnir.errors import IRError

Shape = tuple[int, ...]
Fans = tuple[int, int]
Initialiser = Callable[[np.random.Generator, Shape, Fans], np.ndarray]


def fans_of(shape: Shape) -> Fans:
    """The fans of a convolution's weight [O, I, *kernel]; of a vector its length, twice."""
    if len(shape) < 2:
        return (math.prod(shape),) * 2
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def zeros(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """0 everywhere."""
    return np.zeros(shape)


def ones(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """1 everywhere."""
    return np.ones(shape)


def constant(value: float | np.ndarray) -> Initialiser:
    """The same number everywhere, or an array that broadcasts to the shape."""

    def init(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim > len(shape) or np.broadcast_shapes(array.shape, shape) != shape:
            raise IRError(f"an array {list(array.shape)} does not broadcast to {list(shape)}")
        return np.broadcast_to(array, shape)

    return _named(init, f"constant({value})" if np.ndim(value) == 0 else "constant(...)")


def normal(deviation: float = 0.01) -> Initialiser:
    """The normal distribution about 0."""
    return _named(lambda rng, shape, fans: rng.normal(0, deviation, shape), f"normal({deviation})")


def uniform(limit: float = 0.05) -> Initialiser:
    """The uniform distribution from -limit to limit."""
    return _named(lambda rng, shape, fans: rng.uniform(-limit, limit, shape), f"uniform({limit})")


def _named(init: Initialiser, name: str) -> Initialiser:
    """The initialiser as layers show it that are printed."""
    init.__name__ = name
    return init


def glorot_normal(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Normal with variance 2 / (fan in + fan out): for tanh and softmax."""
    return rng.normal(0, math.sqrt(2 / max(sum(fans), 1)), shape)


def glorot_uniform(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Uniform with variance 2 / (fan in + fan out): for tanh and softmax."""
    limit = math.sqrt(6 / max(sum(fans), 1))
    return rng.uniform(-limit, limit, shape)


def he_normal(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Normal with variance 2 / fan in: for ReLU and its kin."""
    return rng.normal(0, math.sqrt(2 / max(fans[0], 1)), shape)


def he_uniform(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Uniform with variance 2 / fan in: for ReLU and its kin."""
    limit = math.sqrt(6 / max(fans[0], 1))
    return rng.uniform(-limit, limit, shape)


def lecun_normal(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Normal with variance 1 / fan in: for SELU and linear layers."""
    return rng.normal(0, math.sqrt(1 / max(fans[0], 1)), shape)


def lecun_uniform(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Uniform with variance 1 / fan in: for SELU and linear layers."""
    limit = math.sqrt(3 / max(fans[0], 1))
    return rng.uniform(-limit, limit, shape)


def orthogonal(rng: np.random.Generator, shape: Shape, fans: Fans) -> np.ndarray:
    """Rows [first axis] x [the rest] that are orthonormal, or columns where there are fewer."""
    if len(shape) < 2:
        raise IRError(f"orthogonal weights of shape {list(shape)}, wanted at least two axes")
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    # the signs of r's diagonal make the distribution uniform over all such matrices
    q = q * np.sign(np.diag(r))
    return (q if rows >= columns else q.T).reshape(shape)
