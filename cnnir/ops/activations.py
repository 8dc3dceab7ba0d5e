"""Activation functions, on single elements. All but relu and prelu are for floats only.

Each keeps NaN, and is written so that no intermediate overflow spoils a finite result.
"""

from __future__ import annotations

import math
from typing import Any

from cnnir.errors import IRError
from cnnir.ops.elementwise import Typed, common_dtype


class Relu(Typed):
    """The rectifier: y = max(x, 0)."""

    name = "relu"
    accepts = ("float", "int")

    def scalar(m, x):
        return m.max(x, 0)

    def derivative(m, y, x):
        return m.select(y > 0, 1.0, 0.0)


class LeakyRelu(Typed):
    """y = x where x >= 0, else alpha * x."""

    name = "leaky_relu"

    def scalar(m, x, *, alpha=0.01):
        return m.select(x < 0, alpha * x, x)


class PRelu(Typed):
    """y = x where x >= 0, else slope * x; slope broadcasts against x."""

    name = "prelu"
    accepts = ("float", "int")

    def scalar(m, x, slope):
        return m.select(x < 0, slope * x, x)


class Elu(Typed):
    """y = x where x >= 0, else alpha * (e^x - 1)."""

    name = "elu"

    def scalar(m, x, *, alpha=1.0):
        return m.select(x < 0, alpha * (m.exp(x) - 1.0), x)

    def derivative(m, y, x, *, alpha=1.0):
        return m.select(x < 0, y + alpha, 1.0)


class Selu(Typed):
    """y = gamma * x where x > 0, else gamma * alpha * (e^x - 1).

    The defaults keep mean 0 and variance 1 through layers of fitting weights.
    """

    name = "selu"

    def scalar(m, x, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875):
        return m.select(x < 0, (gamma * alpha) * (m.exp(x) - 1.0), gamma * x)

    def derivative(m, y, x, *, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875):
        return m.select(x < 0, y + gamma * alpha, gamma)


class Sigmoid(Typed):
    """The logistic function: y = 1 / (1 + e^-x)."""

    name = "sigmoid"

    def scalar(m, x):
        return _sigmoid(m, x)

    def derivative(m, y, x):
        return y * (1.0 - y)


def _sigmoid(m: Any, x: Any) -> Any:
    """Where e^-x overflows the quotient is 0, which is right to less than the least normal."""
    return 1.0 / (1.0 + m.exp(-x))


class HardSigmoid(Typed):
    """A sigmoid of straight lines: y = max(0, min(1, alpha * x + beta))."""

    name = "hard_sigmoid"

    def scalar(m, x, *, alpha=0.2, beta=0.5):
        return m.max(m.min(alpha * x + beta, 1.0), 0.0)


class Swish(Typed):
    """The sigmoid-weighted unit, SiLU when alpha = 1: y = x * sigmoid(alpha * x)."""

    name = "swish"

    def scalar(m, x, *, alpha=1.0):
        return x / (1.0 + m.exp(-alpha * x))

    def derivative(m, y, x, *, alpha=1.0):
        s = _sigmoid(m, alpha * x)
        return s + alpha * y * (1.0 - s)


class HardSwish(Typed):
    """y = x * max(0, min(1, x / 6 + 1/2))."""

    name = "hard_swish"

    def scalar(m, x):
        return x * m.max(m.min(x * (1.0 / 6.0) + 0.5, 1.0), 0.0)


class Tanh(Typed):
    """The hyperbolic tangent: y = (e^x - e^-x) / (e^x + e^-x)."""

    name = "tanh"

    def scalar(m, x):
        return m.tanh(x)

    def derivative(m, y, x):
        return 1.0 - y * y


class Softplus(Typed):
    """y = ln(1 + e^x), computed as max(x, 0) + ln(1 + e^-|x|)."""

    name = "softplus"

    def scalar(m, x):
        return m.max(x, 0.0) + m.log(1.0 + m.exp(-m.abs(x)))

    def derivative(m, y, x):
        return _sigmoid(m, x)


class Mish(Typed):
    """y = x * tanh(softplus(x)) = x * n / (n + 2) with n = e^x * (e^x + 2)."""

    name = "mish"

    def scalar(m, x):
        # from 20 on, n / (n + 2) is 1 to more than f64 holds, and e^x must not overflow
        e = m.exp(m.min(x, 20.0))
        n = e * (e + 2.0)
        return x * (n / (n + 2.0))


class Gelu(Typed):
    """The Gaussian error linear unit.

    approximate="none": y = x/2 * (1 + erf(x / sqrt(2)))
    approximate="tanh": y = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))
    """

    name = "gelu"

    def infer(x, *, approximate="none"):
        common_dtype(("float",), x)
        if approximate not in ("none", "tanh"):
            raise IRError(f"attribute approximate is {approximate!r}, wanted 'none' or 'tanh'")
        return x

    def scalar(m, x, *, approximate="none"):
        if approximate == "none":
            return 0.5 * x * (1.0 + m.erf(x * math.sqrt(0.5)))
        return 0.5 * x * (1.0 + m.tanh(math.sqrt(2.0 / math.pi) * x * (1.0 + 0.044715 * x * x)))
