"""ONNX optimisers (domain ai.onnx.preview.training): one step on any number of tensors.

Each takes the learning rate R, the number T of steps taken, and then all the tensors that are
optimised, all their gradients, and all of each kind of state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.ir import Value

DOMAIN = "ai.onnx.preview.training"


class Arithmetic:
    """A value with the operators that the formulas below are written in."""

    def __init__(self, b: Builder, value: Value) -> None:
        self.b, self.value = b, value

    def _binary(self, op: str, other: Any, turned: bool = False) -> Arithmetic:
        same = other.value if isinstance(other, Arithmetic) else self.b.like(other, self.value)
        operands = (same, self.value) if turned else (self.value, same)
        return Arithmetic(self.b, self.b.add(op, *operands))

    def __add__(self, other: Any) -> Arithmetic:
        return self._binary("add", other)

    def __rsub__(self, other: Any) -> Arithmetic:
        return self._binary("sub", other, turned=True)

    def __sub__(self, other: Any) -> Arithmetic:
        return self._binary("sub", other)

    def __mul__(self, other: Any) -> Arithmetic:
        return self._binary("mul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Arithmetic:
        return self._binary("div", other)

    def __rpow__(self, other: float) -> Arithmetic:
        return self._binary("pow", other, turned=True)

    def sqrt(self) -> Arithmetic:
        """The square root."""
        return Arithmetic(self.b, self.b.add("sqrt", self.value))

    def where(self, condition: Value, other: Any) -> Arithmetic:
        """This where the condition holds, else another."""
        same = other.value if isinstance(other, Arithmetic) else self.b.like(other, self.value)
        return Arithmetic(self.b, self.b.add("where", condition, self.value, same))


def _each(
    b: Builder, groups: int, tensors: tuple[Value, ...], step: Callable[..., tuple]
) -> tuple[Value, ...]:
    """The new tensors, then the new states of each kind, from `groups` groups of operands."""
    count = len(tensors) // groups
    b.require(
        count > 0 and len(tensors) == count * groups,
        f"{len(tensors)} tensors, wanted a multiple of {groups}",
    )
    rows = zip(*(tensors[k * count : (k + 1) * count] for k in range(groups)), strict=True)
    results = [step(*(Arithmetic(b, v) for v in row)) for row in rows]
    return tuple(r.value for kind in zip(*results, strict=True) for r in kind)


@onnx_op(f"{DOMAIN}.Adagrad")
def adagrad(
    b: Builder,
    rate: Value,
    steps: Value,
    *tensors: Value,
    decay_factor: float = 0.0,
    epsilon: float = 0.0,
    norm_coefficient: float = 0.0,
) -> tuple[Value, ...]:
    """h += g^2; x -= r / (1 + T decay) g / (sqrt h + epsilon), g with the weight decay."""
    taken = Arithmetic(b, b.cast(steps, rate.type.dtype))
    r = Arithmetic(b, rate) / (taken * decay_factor + 1.0)

    def step(x: Arithmetic, g: Arithmetic, h: Arithmetic) -> tuple[Arithmetic, ...]:
        g = x * norm_coefficient + g
        h = h + g * g
        return x - r * g / (h.sqrt() + epsilon), h

    return _each(b, 3, tensors, step)


@onnx_op(f"{DOMAIN}.Adam")
def adam(
    b: Builder,
    rate: Value,
    steps: Value,
    *tensors: Value,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 0.0,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Value, ...]:
    """v and h are running means of g and g^2; x -= r v / (sqrt h + epsilon).

    r makes up for v and h having begun at 0: times sqrt(1 - beta^T) / (1 - alpha^T) for T > 0.
    """
    begun = b.add("less", b.like(0, steps), steps)
    taken, plain = Arithmetic(b, b.cast(steps, rate.type.dtype)), Arithmetic(b, rate)
    r = (plain * (1.0 - beta**taken).sqrt() / (1.0 - alpha**taken)).where(begun, plain)

    def step(x: Arithmetic, g: Arithmetic, v: Arithmetic, h: Arithmetic) -> tuple[Arithmetic, ...]:
        g = x * norm_coefficient + g
        v = v * alpha + g * (1.0 - alpha)
        h = h * beta + g * g * (1.0 - beta)
        return (x - r * v / (h.sqrt() + epsilon)) * (1.0 - norm_coefficient_post), v, h

    return _each(b, 4, tensors, step)


@onnx_op(f"{DOMAIN}.Momentum")
def momentum(
    b: Builder,
    rate: Value,
    steps: Value,
    *tensors: Value,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> tuple[Value, ...]:
    """v = alpha v + beta g, beta 1 when T = 0; x -= r v, or r (g + alpha v) with mode nesterov."""
    b.require(mode in ("standard", "nesterov"), f"mode is {mode!r}")
    begun = b.add("less", b.like(0, steps), steps)
    r = Arithmetic(b, rate)
    share = Arithmetic(b, b.like(beta, rate)).where(begun, 1.0)

    def step(x: Arithmetic, g: Arithmetic, v: Arithmetic) -> tuple[Arithmetic, ...]:
        g = x * norm_coefficient + g
        v = v * alpha + share * g
        return x - r * (v if mode == "standard" else g + v * alpha), v

    return _each(b, 3, tensors, step)
