"""Loss scaling: gradients that f16 would round to zero are computed times a power of two.

The loss is multiplied by a scale before it is differentiated, and what comes out is divided by it,
so weights and optimisers see the true gradients, in f32. A step whose gradients overflow changes
nothing but the scale, which becomes smaller; after many steps without it becomes larger again. The
scale is part of the training's state, so checkpoints hold it. Source: P. Micikevicius et al., Mixed
precision training, 2018; the numbers are those of torch.amp.GradScaler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from cnnir.errors import InputError
from cnnir.frontends.dsl.arithmetic import clip, minimum, where
from cnnir.frontends.dsl.tensor import Tensor
from cnnir.tensortype import TensorType

SCALE, COUNT = "loss~scale", "loss~steps"
"""Slots: the scale, 0 before the first step, and the steps since it last changed."""

SLOTS = {SCALE: TensorType("f32", ()), COUNT: TensorType("f32", ())}

LIMITS = 2.0**-24, 2.0**32
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LossScaling:
    """How the scale begins and changes.

    initial: the first scale. growth: its factor after `interval` steps in a row without an
    overflow. backoff: its factor after one. Powers of two round nothing.
    """

    initial: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000

    def __post_init__(self) -> None:
        low, high = LIMITS
        for name, least, most in (
            ("initial", low, high),
            ("growth", 1.0, high),
            ("backoff", low, 1.0),
            ("interval", 1, 2**24),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (
                least <= value <= most
            ):  # fmt: skip
                raise InputError(
                    f"LossScaling: {name} is {value!r}, wanted a number from {least:g} to {most:g}"
                )

    def scale(self, held: Tensor) -> Tensor:
        """The scale of this step, from what the slot holds."""
        return where(held > 0.0, held, self.initial)

    def next(self, scale: Tensor, count: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """The slots after a step; fine: that nothing overflowed."""
        counted = where(fine, count + 1.0, 0.0)
        full = counted >= float(self.interval)
        larger = where(full, scale * self.growth, scale)
        changed = where(fine, larger, scale * self.backoff)
        return {SCALE: clip(changed, *LIMITS), COUNT: where(full, 0.0, counted)}


def unscaled(gradients: Mapping[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
    """The gradients of the loss, from those of the loss times the scale."""
    inverse = 1.0 / scale
    return {name: g * inverse.astype(g.dtype) for name, g in gradients.items()}


def all_finite(gradients: Mapping[str, Tensor]) -> Tensor:
    """Whether no element of any gradient is infinite, or no number."""
    each = [(abs(g) <= LARGEST).astype("f32").min() for g in gradients.values()]
    return reduce(minimum, each) > 0.0
