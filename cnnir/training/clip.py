"""Clipping of gradients: functions of all gradients by name, as nodes of the graph of a step."""

from __future__ import annotations

from collections.abc import Callable

from cnnir.errors import InputError
from cnnir.frontends.dsl.arithmetic import clip, minimum, sqrt
from cnnir.frontends.dsl.tensor import Tensor

Gradients = dict[str, Tensor]
Clip = Callable[[Gradients], Gradients]


def clip_value(limit: float) -> Clip:
    """Every element of every gradient stays between -limit and limit."""
    _check(limit)
    return lambda gradients: {name: clip(g, -limit, limit) for name, g in gradients.items()}


def clip_norm(limit: float) -> Clip:
    """All gradients shrink alike where their global L2 norm is above the limit (Pascanu, 2013).

    The factor is min(1, limit / (norm + 1e-6)), as torch has it. All gradients have to be known
    before the first weight changes, which costs memory.
    """
    _check(limit)

    def clipped(gradients: Gradients) -> Gradients:
        squares = [(g * g).sum() for g in gradients.values()]
        total = squares[0]
        for square in squares[1:]:
            total = total + square
        factor = minimum(limit / (sqrt(total) + 1e-6), 1.0)
        return {name: g * factor for name, g in gradients.items()}

    return clipped


def _check(limit: float) -> None:
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit > 0:
        raise InputError(f"the limit of a gradient is {limit!r}, wanted a number above 0")
