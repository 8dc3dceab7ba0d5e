"""Optimisers: how a weight changes by its gradient, as nodes of the graph of a step.

Formulas and defaults are those of torch.optim (2.x), so that curves can be compared; its
documentation has the sources: Polyak 1964 and Sutskever et al. 2013 for momentum, Kingma and Ba
2015 for Adam, Loshchilov and Hutter 2019 for AdamW, Tieleman and Hinton 2012 for RMSProp.

An optimiser is options and nothing else; what it remembers of each weight (its slots) is part of
the state of the step. What changes from step to step, such as the learning rate, is computed in f64
outside and comes as inputs of the graph, so that nothing is compiled again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cnnir.errors import InputError
from cnnir.frontends.dsl.arithmetic import sqrt
from cnnir.frontends.dsl.tensor import Tensor

Rate = float | Callable[[float], float]
"""A learning rate, or a schedule: a function of the epochs that are over, such as 1.5."""

Slots = dict[str, Tensor]


@dataclass(frozen=True)
class Optimizer(ABC):
    """Base of the optimisers."""

    learning_rate: Rate = 1e-3

    def __post_init__(self) -> None:
        if not callable(self.learning_rate):
            self._check("learning_rate", 0.0)

    @property
    def slots(self) -> tuple[str, ...]:
        """What is remembered of each weight, in arrays of its shape that begin as zeros."""
        return ()

    def rate(self, epoch: float) -> float:
        """The learning rate after so many epochs."""
        return float(self.learning_rate(epoch) if callable(self.learning_rate)
                     else self.learning_rate)  # fmt: skip

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        """The inputs of step 1, 2, ... at this learning rate."""
        return {"learning_rate": rate}

    @abstractmethod
    def update(self, w: Tensor, dw: Tensor, slots: Slots, numbers: Slots) -> tuple[Tensor, Slots]:
        """The weight and its slots after the step."""

    def _check(self, name: str, least: float, below: float = math.inf) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (
            least <= value < below
        ):  # fmt: skip
            bound = f" and below {below:g}" if below < math.inf else ""
            raise InputError(
                f"{type(self).__name__}: {name} is {value!r}, wanted a number of at least "
                f"{least:g}{bound}"
            )


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, with momentum and weight decay where asked for.

    g = dw + weight_decay w;  m' = momentum m + g;  w' = w - learning_rate m'
    nesterov: w' = w - learning_rate (g + momentum m')
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("momentum", 0, 1)
        self._check("weight_decay", 0)
        if self.nesterov and not self.momentum:
            raise InputError("SGD: nesterov needs a momentum")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def update(self, w: Tensor, dw: Tensor, slots: Slots, numbers: Slots) -> tuple[Tensor, Slots]:
        dw = _decayed(w, dw, self.weight_decay)
        if not self.momentum:
            return w - numbers["learning_rate"] * dw, {}
        m = slots["momentum"] * self.momentum + dw
        direction = dw + m * self.momentum if self.nesterov else m
        return w - numbers["learning_rate"] * direction, {"momentum": m}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps of the size of the learning rate, by the moments of the gradient.

    g = dw + weight_decay w;  m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2
    w' = w - learning_rate (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + epsilon)
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta1", 0, 1)
        self._check("beta2", 0, 1)
        self._check("epsilon", 0)
        self._check("weight_decay", 0)

    @property
    def slots(self) -> tuple[str, ...]:
        return "first_moment", "second_moment"

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        return {
            "step_size": rate / (1 - self.beta1**step),
            "second_scale": 1 / math.sqrt(1 - self.beta2**step),
        }

    def update(self, w: Tensor, dw: Tensor, slots: Slots, numbers: Slots) -> tuple[Tensor, Slots]:
        dw = _decayed(w, dw, self.weight_decay)
        m = slots["first_moment"] * self.beta1 + dw * (1 - self.beta1)
        v = slots["second_moment"] * self.beta2 + dw * dw * (1 - self.beta2)
        deviation = sqrt(v) * numbers["second_scale"] + self.epsilon
        return w - numbers["step_size"] * m / deviation, {"first_moment": m, "second_moment": v}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weight decay does not pass through the moments: w shrinks by
    learning_rate weight_decay w before the step."""

    weight_decay: float = 0.01

    def numbers(self, step: int, rate: float) -> dict[str, float]:
        return super().numbers(step, rate) | {"shrink": 1 - rate * self.weight_decay}

    def update(self, w: Tensor, dw: Tensor, slots: Slots, numbers: Slots) -> tuple[Tensor, Slots]:
        plain = Adam(self.learning_rate, self.beta1, self.beta2, self.epsilon)
        return plain.update(w * numbers["shrink"], dw, slots, numbers)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """Gradients divided by their running root mean square.

    g = dw + weight_decay w;  v' = decay v + (1 - decay) g^2;  a = decay a + (1 - decay) g
    d = g / (sqrt(v' - a'^2 if centred else v') + epsilon);  m' = momentum m + d
    w' = w - learning_rate m'
    """

    learning_rate: Rate = 0.01
    decay: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centred: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("decay", "momentum"):
            self._check(name, 0, 1)
        for name in ("epsilon", "weight_decay"):
            self._check(name, 0)

    @property
    def slots(self) -> tuple[str, ...]:
        names = ("square", "mean" if self.centred else "", "momentum" if self.momentum else "")
        return tuple(filter(None, names))

    def update(self, w: Tensor, dw: Tensor, slots: Slots, numbers: Slots) -> tuple[Tensor, Slots]:
        dw = _decayed(w, dw, self.weight_decay)
        new = {"square": slots["square"] * self.decay + dw * dw * (1 - self.decay)}
        spread = new["square"]
        if self.centred:
            new["mean"] = slots["mean"] * self.decay + dw * (1 - self.decay)
            spread = spread - new["mean"] * new["mean"]
        direction = dw / (sqrt(spread) + self.epsilon)
        if self.momentum:
            direction = new["momentum"] = slots["momentum"] * self.momentum + direction
        return w - numbers["learning_rate"] * direction, new


def _decayed(w: Tensor, dw: Tensor, decay: float) -> Tensor:
    return dw + w * decay if decay else dw


Groups = Mapping[str, Optimizer | None]
"""Optimisers by patterns of names, such as "head.*"; the first that matches counts. None, and what
no pattern matches, is not trained."""
