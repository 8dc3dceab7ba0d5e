"""Normalisation layers."""

from __future__ import annotations

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.function_layer import layer, single
from cnnir.frontends.dsl.initialisers import ones, zeros
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.tensor import Tensor, op, positive_axes
from cnnir.frontends.dsl.windows import channels

EPSILON = 1e-5


def _check_epsilon(epsilon: float) -> float:
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or epsilon < 0:
        raise IRError(f"epsilon is {epsilon!r}, wanted a number >= 0")
    return single(epsilon, EPSILON)


class BatchNorm(Module):
    """Normalisation of every channel of x [N,C,...], then scale and shift.

    In training by mean and variance of the batch, which move the running ones by `momentum`; in
    inference, and where frozen, by the running ones. Weights, all [C]: weight, bias (both unless
    affine=False), running_mean, running_var (the unbiased estimate).
    """

    def __init__(
        self, *, epsilon: float = EPSILON, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self.epsilon = _check_epsilon(epsilon)
        if not 0 <= momentum <= 1:
            raise IRError(f"momentum is {momentum!r}, wanted a number from 0 to 1")
        self.momentum, self.affine = momentum, affine

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x."""
        count, dtype = (channels(x),), x.dtype
        scale, bias = _affine(self, x, count, self.affine)
        mean = self.param("running_mean", count, zeros, dtype=dtype, trainable=False)
        var = self.param("running_var", count, ones, dtype=dtype, trainable=False)
        if self.training:
            mean, var = self._of_batch(x, mean, var)
        return op("batch_norm", x, scale, bias, mean, var, epsilon=self.epsilon)

    def _of_batch(self, x: Tensor, old_mean: Tensor, old_var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the batch; the running ones are told to move towards them."""
        seen = x.size // channels(x)
        if seen < 2:
            raise IRError(f"{seen} value a channel has no variance, wanted a larger batch")
        axes = (0, *range(2, x.rank))
        mean = x.mean(axes, keepdims=True)
        centred = x - mean
        mean, var = mean.reshape(-1), (centred * centred).mean(axes)
        for name, old, new in (
            ("running_mean", old_mean, mean),
            ("running_var", old_var, var * (seen / (seen - 1))),
        ):
            old = self.updated(name, old)
            self.update(name, old + (new - old) * self.momentum)
        return mean, var


def _affine(
    module: Module, x: Tensor, shape: tuple[int, ...], learnt: bool
) -> tuple[Tensor, Tensor]:
    """Scale and shift: weights, or constants that do nothing."""
    if learnt:
        scale = module.param("weight", shape, ones, dtype=x.dtype)
        return scale, module.param("bias", shape, zeros, dtype=x.dtype)
    one, zero = np.ones(shape, x.type.numpy), np.zeros(shape, x.type.numpy)
    return module.constant(one), module.constant(zero)


class GroupNorm(Module):
    """Normalisation of each sample over groups of channels. Weights: weight [C], bias [C]."""

    def __init__(self, groups: int, *, epsilon: float = EPSILON, affine: bool = True) -> None:
        if type(groups) is not int or groups < 1:
            raise IRError(f"groups is {groups!r}, wanted a number >= 1")
        self.groups, self.epsilon, self.affine = groups, _check_epsilon(epsilon), affine

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x."""
        scale, bias = _affine(self, x, (channels(x),), self.affine)
        return op("group_norm", x, scale, bias, groups=self.groups, epsilon=self.epsilon)


class InstanceNorm(Module):
    """Normalisation of each channel of each sample. Weights: weight [C], bias [C]."""

    def __init__(self, *, epsilon: float = EPSILON, affine: bool = True) -> None:
        self.epsilon, self.affine = _check_epsilon(epsilon), affine

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x."""
        if x.rank < 3:
            raise IRError(f"x has rank {x.rank}, wanted at least 3: [N, C, sizes]")
        scale, bias = _affine(self, x, (channels(x),), self.affine)
        return op("group_norm", x, scale, bias, groups=x.shape[1], epsilon=self.epsilon)


class LayerNorm(Module):
    """Normalisation of each sample over the axes from `axis` to the last.

    Weights of the shape of those axes: weight, bias.
    """

    def __init__(self, axis: int = 1, *, epsilon: float = EPSILON, affine: bool = True) -> None:
        self.axis, self.epsilon, self.affine = axis, _check_epsilon(epsilon), affine

    def forward(self, x: Tensor) -> Tensor:
        """The normalised x."""
        (axis,) = positive_axes(self.axis, x.rank)
        scale, bias = _affine(self, x, x.shape[axis:], self.affine)
        y, _, _ = op("layer_norm", x, scale, bias, axis=axis, epsilon=self.epsilon)
        return y


def local_response_norm(
    x: Tensor, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """x / (bias + alpha / size * sum of squares of `size` neighbouring channels)^beta"""
    return op(
        "lrn", x, size=size, alpha=single(alpha, 1e-4), beta=single(beta, 0.75),
        bias=single(bias, 1.0),
    )  # fmt: skip


LocalResponseNorm = layer("LocalResponseNorm", local_response_norm)
