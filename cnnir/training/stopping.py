"""Early stopping: an end to a training that gets no better."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnnir.errors import InputError
from cnnir.training.history import Row

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when a number of the epoch's row has not got better for `patience` epochs.

    of: its name. least: how much better counts. largest: whether more is better. restore: whether
    the weights of the best epoch come back in the end.
    """

    patience: int = 5
    of: str = "validation loss"
    least: float = 0.0
    largest: bool = False
    restore: bool = True

    def __post_init__(self) -> None:
        if type(self.patience) is not int or self.patience < 1:
            raise InputError(f"patience is {self.patience!r}, wanted an integer of at least 1")


class Watch:
    """What early stopping has seen of a training; `best` is part of checkpoints."""

    def __init__(self, rule: EarlyStopping | None) -> None:
        self.rule = rule
        self.value = math.inf
        self.waited = 0
        self.best: Arrays | None = None

    def done(self, row: Row, weights: Callable[[], Arrays]) -> bool:
        """Whether to stop after this epoch."""
        if self.rule is None:
            return False
        if self.rule.of not in row:
            raise InputError(
                f"early stopping watches {self.rule.of!r}, an epoch has {', '.join(row)}"
            )
        value = -row[self.rule.of] if self.rule.largest else row[self.rule.of]
        if value < self.value - self.rule.least:
            self.value, self.waited = value, 0
            self.best = weights() if self.rule.restore else None
            return False
        self.waited += 1
        return self.waited >= self.rule.patience
