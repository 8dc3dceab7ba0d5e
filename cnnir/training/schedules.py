"""Learning rates that change: functions of the epochs that are over, such as 1.5.

They may be joined by hand too: any function of a number is a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cnnir.errors import InputError

Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Steps:
    """rate, times `factor` from each of these epochs on."""

    rate: float
    epochs: Sequence[float]
    factor: float = 0.1

    def __call__(self, epoch: float) -> float:
        return self.rate * self.factor ** sum(epoch >= e for e in self.epochs)


@dataclass(frozen=True)
class Cosine:
    """From rate to `last` along half a cosine, over so many epochs (Loshchilov, Hutter 2017)."""

    rate: float
    epochs: float
    last: float = 0.0

    def __post_init__(self) -> None:
        _positive(self, self.epochs)

    def __call__(self, epoch: float) -> float:
        way = min(1.0, epoch / self.epochs)
        return self.last + (self.rate - self.last) * (1 + math.cos(math.pi * way)) / 2


@dataclass(frozen=True)
class WarmUp:
    """From 0 straight up to what `then` gives after so many epochs; after that `then` as it is."""

    epochs: float
    then: float | Schedule

    def __post_init__(self) -> None:
        _positive(self, self.epochs)

    def __call__(self, epoch: float) -> float:
        after = self.then(max(epoch, self.epochs)) if callable(self.then) else self.then
        return after * min(1.0, epoch / self.epochs)


@dataclass(frozen=True)
class OneCycle:
    """Up from rate / 25 to rate in the first part, then down to a 10,000th of the beginning.

    Both along half a cosine (Smith, Topin 2018), with the constants of torch's OneCycleLR.
    """

    rate: float
    epochs: float
    rise: float = 0.3
    """The share of the epochs in which it goes up."""

    def __post_init__(self) -> None:
        _positive(self, self.epochs)

    def __call__(self, epoch: float) -> float:
        first, top = self.rate / 25, self.epochs * self.rise
        if epoch < top:
            return _along(first, self.rate, epoch / top)
        return _along(self.rate, first / 1e4, min(1.0, (epoch - top) / (self.epochs - top)))


def _along(start: float, end: float, way: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2


def _positive(schedule: object, epochs: float) -> None:
    if not epochs > 0:
        name = type(schedule).__name__
        raise InputError(f"{name}: epochs is {epochs!r}, wanted a number above 0")
