"""Activation functions, and the layers of them."""

from __future__ import annotations

from cnnir.errors import IRError
from cnnir.frontends.dsl.arithmetic import where
from cnnir.frontends.dsl.function_layer import layer, single
from cnnir.frontends.dsl.initialisers import Initialiser, constant
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.tensor import Tensor, op, positive_axes
from cnnir.frontends.dsl.windows import channels


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return op("relu", x)


def relu6(x: Tensor) -> Tensor:
    """x held between 0 and 6."""
    return op("clip", x, lo=0.0, hi=6.0)


def hard_tanh(x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """x held between two numbers."""
    return op("clip", x, lo=single(low, -1.0), hi=single(high, 1.0))


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """x where x >= 0, else slope * x."""
    return op("leaky_relu", x, alpha=single(slope, 0.01))


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x where x >= 0, else slope * x, with slopes that broadcast to x."""
    return op("prelu", x, slope)


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x >= 0, else alpha (e^x - 1)."""
    return op("elu", x, alpha=single(alpha, 1.0))


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x >= 0, else alpha (e^(x / alpha) - 1)."""
    if alpha == 0:
        raise IRError("alpha is 0, wanted another number")
    return op("elu", x / alpha, alpha=1.0) * alpha


def selu(x: Tensor) -> Tensor:
    """The elu that keeps mean 0 and variance 1 through layers of LeCun weights."""
    return op("selu", x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution function of x; approximate is "none" or "tanh"."""
    return op("gelu", x, approximate=approximate)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)"""
    return op("sigmoid", x)


def hard_sigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1/2, held between 0 and 1."""
    return op("hard_sigmoid", x, alpha=single(1 / 6, 0.2), beta=0.5)


def log_sigmoid(x: Tensor) -> Tensor:
    """ln(1 / (1 + e^-x))"""
    return op("neg", op("softplus", op("neg", x)))


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid, also called swish."""
    return op("swish", x)


def hard_swish(x: Tensor) -> Tensor:
    """x times (x / 6 + 1/2 held between 0 and 1)."""
    return op("hard_swish", x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return op("tanh", x)


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x)"""
    return op("softplus", x)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)"""
    return x / (1.0 + abs(x))


def mish(x: Tensor) -> Tensor:
    """x tanh(ln(1 + e^x))"""
    return op("mish", x)


def threshold(x: Tensor, limit: float, value: float = 0.0) -> Tensor:
    """x where x > limit, else value."""
    return where(x > limit, x, value)


def hard_shrink(x: Tensor, limit: float = 0.5) -> Tensor:
    """x where |x| > limit, else 0."""
    return where(abs(x) > limit, x, 0.0)


def soft_shrink(x: Tensor, limit: float = 0.5) -> Tensor:
    """x - limit above it, x + limit below -limit, 0 between."""
    return op("sign", x) * relu(abs(x) - limit)


def softmax(x: Tensor, axis: int = 1) -> Tensor:
    """e^x over its sum along an axis: probabilities of classes or channels."""
    return op("softmax", x, axis=positive_axes(axis, x.rank)[0])


def log_softmax(x: Tensor, axis: int = 1) -> Tensor:
    """The logarithm of softmax."""
    return op("log_softmax", x, axis=positive_axes(axis, x.rank)[0])


def glu(x: Tensor, axis: int = 1) -> Tensor:
    """The first half of an axis times the sigmoid of the second."""
    (axis,) = positive_axes(axis, x.rank)
    half = x.shape[axis] // 2
    if x.shape[axis] % 2:
        raise IRError(f"axis {axis} has {x.shape[axis]} elements, wanted an even number")
    before = (slice(None),) * axis
    return x[(*before, slice(half))] * sigmoid(x[(*before, slice(half, None))])


class PReLU(Module):
    """x where x >= 0, else a slope that is learnt: one a channel, or a single one."""

    def __init__(self, init: Initialiser = constant(0.25), single: bool = False) -> None:  # noqa: B008
        self.init, self.single = init, single

    @property
    def kind(self) -> str:
        """What it is called where it has no name of its own."""
        return "prelu"

    def forward(self, x: Tensor) -> Tensor:
        """The rectified x."""
        count = 1 if self.single else channels(x)
        shape = (count, *(1,) * (x.rank - 2))
        return prelu(x, self.param("weight", shape, self.init, dtype=x.dtype))


ReLU = layer("ReLU", relu)
ReLU6 = layer("ReLU6", relu6)
HardTanh = layer("HardTanh", hard_tanh)
LeakyReLU = layer("LeakyReLU", leaky_relu)
ELU = layer("ELU", elu)
CELU = layer("CELU", celu)
SELU = layer("SELU", selu)
GELU = layer("GELU", gelu)
Sigmoid = layer("Sigmoid", sigmoid)
HardSigmoid = layer("HardSigmoid", hard_sigmoid)
LogSigmoid = layer("LogSigmoid", log_sigmoid)
SiLU = layer("SiLU", silu)
HardSwish = layer("HardSwish", hard_swish)
Tanh = layer("Tanh", tanh)
Softplus = layer("Softplus", softplus)
Softsign = layer("Softsign", softsign)
Mish = layer("Mish", mish)
Threshold = layer("Threshold", threshold)
HardShrink = layer("HardShrink", hard_shrink)
SoftShrink = layer("SoftShrink", soft_shrink)
Softmax = layer("Softmax", softmax)
LogSoftmax = layer("LogSoftmax", log_softmax)
GLU = layer("GLU", glu)
