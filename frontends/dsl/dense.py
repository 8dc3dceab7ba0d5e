"""Fully connected layers, and dropout."""

from __future__ import annotations

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.arithmetic import where
from cnnir.frontends.dsl.initialisers import Initialiser, glorot_uniform, zeros
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.tensor import Tensor, op
from cnnir.frontends.dsl.windows import entries


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] times weight [I, O], plus bias [O]."""
    y = x @ weight
    return y if bias is None else y + bias


class Dense(Module):
    """Every unit sees all of the last axis of x. Weights: weight [I, O], bias [O]."""

    def __init__(
        self,
        units: int,
        *,
        bias: bool = True,
        init: Initialiser = glorot_uniform,
        bias_init: Initialiser = zeros,
    ) -> None:
        (self.units,) = entries("units", units, 1)
        self.bias, self.init, self.bias_init = bias, init, bias_init

    def forward(self, x: Tensor) -> Tensor:
        """x times the weight, plus the bias."""
        if x.rank < 2:
            raise IRError(f"x has rank {x.rank}, wanted at least 2: [N, ..., inputs]")
        if x.rank > 3:
            raise IRError(f"x has rank {x.rank}, wanted a vector for each sample: nn.Flatten first")
        shape = (x.shape[-1], self.units)
        weight = self.param("weight", shape, self.init, dtype=x.dtype, fans=shape)
        bias = self.param("bias", shape[1:], self.bias_init, dtype=x.dtype) if self.bias else None
        return dense(x, weight, bias)


class Dropout(Module):
    """In training each element is 0 with probability `rate`, the others grow by 1 / (1 - rate).

    whole_channels drops a sample's channels as a whole. Otherwise, and where frozen, x itself. A
    training graph has one more input, the u32 `seed`: the same seed drops the same elements.
    """

    def __init__(self, rate: float = 0.5, *, whole_channels: bool = False) -> None:
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise IRError(f"rate is {rate!r}, wanted a number from 0 to below 1")
        self.rate, self.whole_channels = float(rate), whole_channels

    def forward(self, x: Tensor) -> Tensor:
        """x, with elements dropped in training."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        shape = (*x.shape[:2], *(1,) * (x.rank - 2)) if self.whole_channels else x.shape
        bits = self._random_bits(x, shape)
        kept = bits < min(round(keep * 2**32), 2**32 - 1)
        return where(kept, x / keep, 0.0)

    def _random_bits(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """u32 numbers that depend on the seed, the layer's use, and the position alone."""
        seed = Tensor(x.trace, x.trace.random_seed())
        flat = first = _mixed(seed + x.trace.salt(self))
        stride = 1
        for axis in reversed(range(len(shape))):
            line = np.arange(shape[axis], dtype=np.uint32) * np.uint32(stride % 2**32)
            flat = flat + self.constant(line.reshape(-1, *(1,) * (len(shape) - axis - 1)))
            stride *= shape[axis]
        # one round leaves neighbours alike; the second one has a key of its own
        return _mixed(_mixed(flat) + _mixed(first + np.uint32(0x9E3779B9)))


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers that scatters close ones: multiply, xor with own high bits."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = op("bitwise_xor", x, op("shift_right", x, np.uint32(shift)))
        x = x if factor == 1 else x * np.uint32(factor)
    return x
