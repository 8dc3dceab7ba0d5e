"""Newton's method for small nets: conjugate gradients on Hessian products, in a trust region.

A step minimises the quadratic model g'p + p'Hp / 2 of the loss within a radius in which the model
is trusted, which shrinks and grows by how well the model foretold the loss. It wants the loss of
all samples, so batches are the whole data; the Hessian is never formed.

Source: J. Nocedal, S. Wright, Numerical Optimization, 2nd ed., Springer 2006: algorithm 7.2
(Steihaug's conjugate gradients) for the step, algorithm 4.1 for the radius; for losses with
rounding errors, A. Conn, N. Gould, P. Toint, Trust-Region Methods, SIAM 2000, section 17.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnnir.errors import InputError
from cnnir.frontends.dsl.tensor import Tensor
from cnnir.training.optimizers import Optimizer, Rate, Slots

_MOST_TRIES = 25


@dataclass(frozen=True)
class NewtonCG(Optimizer):
    """Truncated Newton steps on the loss of a batch, which should be all samples.

    learning_rate: the radius of the trust region in the first step; later ones find their own.
    iterations: of conjugate gradients in a step, at most. They end where the residual is below
    min(tolerance, sqrt|g|) |g|, at the radius, or in a direction of negative curvature, which is
    followed to the radius. Weight decay is `regularisers={"*": lambda w: decay * nn.l2(w)}`.
    """

    learning_rate: Rate = 1.0
    iterations: int = 50
    tolerance: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("iterations", 1)
        self._check("tolerance", 0, 1)

    def update(self, w: Tensor, dw: Tensor, slots: Slots, numbers: Slots) -> tuple[Tensor, Slots]:
        raise InputError(
            "NewtonCG works on all weights at once: wanted a NewtonStep, or a Trainer, which makes "
            "one by itself"
        )


@dataclass(frozen=True)
class Path:
    """The way of conjugate gradients from 0 to where they ended, each point p with H p.

    It leads ever farther from 0, so within a smaller radius it ends where it crosses that.
    """

    points: list[tuple[np.ndarray, np.ndarray]]
    curved: bool
    """Whether it ended because the curvature is not positive."""

    def within(self, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Where it crosses a radius, or its end."""
        for (p, hp), (q, hq) in itertools.pairwise(self.points):
            if np.linalg.norm(q) > radius:
                t = _crossing(p, q - p, radius)
                return p + t * (q - p), hp + t * (hq - hp)
        return self.points[-1]


def path(
    g: np.ndarray,
    product: Callable[[np.ndarray], np.ndarray],
    radius: float,
    iterations: int,
    tolerance: float,
) -> Path:
    """The way towards the p with H p = -g, as far as it pays: algorithm 7.2.

    product: v -> H v.
    """
    size = float(np.linalg.norm(g))
    enough = min(tolerance, size**0.5) * size
    p, hp, r, d = np.zeros_like(g), np.zeros_like(g), g, -g
    points = [(p, hp)]
    for _ in range(iterations if size else 0):
        hd = product(d)
        square, curvature, edge = float(r @ r), float(d @ hd), _crossing(p, d, radius)
        t = square / curvature if curvature > 0 else edge
        p, hp = p + min(t, edge) * d, hp + min(t, edge) * hd
        points.append((p, hp))
        if t >= edge:
            return Path(points, curvature <= 0)
        r = g + hp
        if float(np.linalg.norm(r)) <= enough:
            break
        d = -r + float(r @ r) / square * d
    return Path(points, False)


def _crossing(p: np.ndarray, d: np.ndarray, radius: float) -> float:
    """The t >= 0 with |p + t d| = radius."""
    a, b, c = float(d @ d), float(p @ d), float(p @ p) - radius**2
    return (-b + (b * b - a * c) ** 0.5) / a


@dataclass(frozen=True)
class Accepted:
    """The end of a search."""

    p: np.ndarray
    """The step; 0 where no radius will do."""
    radius: float
    """To begin with the next time."""
    values: int
    """Losses that it took."""


def search(
    way: Path, g: np.ndarray, value: Callable[[np.ndarray], float], f: float, radius: float,
    rounding: float,
) -> Accepted:  # fmt: skip
    """A step whose loss is what the model says, in part at least: algorithm 4.1.

    value: p -> the loss there; f: at 0. rounding: how far losses are off, as a share: near a
    minimum they change by less, and the model is believed.
    """
    for tried in range(1, _MOST_TRIES + 1):
        p, hp = way.within(radius)
        foretold = -float(g @ p + p @ hp / 2)
        slack = rounding * abs(f)
        ratio = (f - value(p) + slack) / (foretold + slack or 1.0)
        far = float(np.linalg.norm(p))
        if ratio > 0.75 and far > 0.99 * radius:
            radius *= 2
        elif not ratio >= 0.25:  # not a number counts as bad
            radius = far / 4
        if ratio > 1e-4:
            return Accepted(p, radius, tried)
    return Accepted(np.zeros_like(g), radius, _MOST_TRIES)
