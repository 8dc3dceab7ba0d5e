"""Convolutions: plain, transposed, depthwise, separable, and locally connected."""

from __future__ import annotations

import math

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.initialisers import Initialiser, he_normal, zeros
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.tensor import Tensor, op
from cnnir.frontends.dsl.windows import (
    Boundary,
    Ints,
    Padding,
    Size,
    channels,
    check_boundary,
    check_image,
    entries,
    kernel_of,
    pads,
)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    boundary: Boundary = "zero",
    flip: bool = False,
) -> Tensor:
    """Cross-correlation of x [N,C,*sizes] with weight [O,C/groups,*kernel], plus bias [O].

    flip: convolution as mathematics has it, with the kernel turned round along all axes.
    """
    rank = weight.rank - 2
    check_image(x, rank)
    words = check_boundary(boundary, rank)
    if flip:
        weight = weight[(slice(None), slice(None), *(slice(None, None, -1),) * rank)]
    kernel, steps = weight.shape[2:], entries("stride", stride, rank)
    spread = entries("dilation", dilation, rank)
    border = pads(padding, x.shape[2:], kernel, steps, spread)
    beyond = () if set(words) == {"zero"} or not any(border) else words
    return op(
        "conv", x, weight, bias, stride=steps, padding=border, dilation=spread, groups=groups,
        boundary=beyond,
    )  # fmt: skip


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: Size = 1,
    padding: Padding = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv`, for weight [C,O/groups,*kernel]: sizes grow by the stride.

    "same" padding makes size * stride results; `output_padding` adds to the ends.
    """
    rank = weight.rank - 2
    check_image(x, rank)
    kernel, steps = weight.shape[2:], entries("stride", stride, rank)
    spread, more = entries("dilation", dilation, rank), entries("output_padding", output_padding,
                                                                rank, 0)  # fmt: skip
    if padding == "same":
        totals = [(k - 1) * d + 1 - s for k, d, s in zip(kernel, spread, steps, strict=True)]
        more = tuple(max(-t, 0) for t in totals)
        begins = [max(t, 0) // 2 for t in totals]
        ends = [max(t, 0) - b for t, b in zip(totals, begins, strict=True)]
        border: Ints = (*begins, *ends)
    else:
        border = pads(padding, x.shape[2:], kernel, steps, spread)
    return op(
        "conv_transpose", x, weight, bias, stride=steps, padding=border, output_padding=more,
        dilation=spread, groups=groups,
    )  # fmt: skip


class Conv(Module):
    """Convolution of x [N,C,*sizes] with `filters` filters.

    kernel: one size an axis, which says whether it is 1-D, 2-D or 3-D; a number is a square.
    padding: a number, one an axis, pairs, "same" or "valid". boundary: what lies beyond the ends,
    "zero", "circular", "reflect" or "replicate", or one of them an axis. flip: convolution as
    mathematics has it, with the kernel turned round.
    Weights: weight [O,C/groups,*kernel], bias [O].
    """

    def __init__(
        self,
        filters: int,
        kernel: Size,
        stride: Size = 1,
        padding: Padding = 0,
        *,
        dilation: Size = 1,
        groups: int = 1,
        boundary: Boundary = "zero",
        flip: bool = False,
        bias: bool = True,
        init: Initialiser = he_normal,
        bias_init: Initialiser = zeros,
    ) -> None:
        (self.filters,) = entries("filters", filters, 1)
        self.kernel = kernel_of(kernel)
        self.stride = entries("stride", stride, len(self.kernel))
        self.dilation = entries("dilation", dilation, len(self.kernel))
        pads(padding, self.kernel, self.kernel, self.stride, self.dilation)
        check_boundary(boundary, len(self.kernel))
        (self.groups,) = entries("groups", groups, 1)
        if filters % groups:
            raise IRError(f"{filters} filters in {groups} groups, wanted a multiple of them")
        self.padding, self.boundary, self.flip = padding, boundary, flip
        self.bias, self.init, self.bias_init = bias, init, bias_init

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        check_image(x, len(self.kernel))
        if channels(x) % self.groups:
            raise IRError(f"x has {x.shape[1]} channels, wanted a multiple of {self.groups} groups")
        shape = (self.filters, channels(x) // self.groups, *self.kernel)
        weight = self.param("weight", shape, self.init, dtype=x.dtype)
        bias = self.param("bias", shape[:1], self.bias_init, dtype=x.dtype) if self.bias else None
        return conv(
            x, weight, bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=self.groups, boundary=self.boundary, flip=self.flip,
        )  # fmt: skip


class DepthwiseConv(Module):
    """Convolution of each channel by itself, with `multiplier` filters a channel."""

    def __init__(
        self,
        kernel: Size,
        stride: Size = 1,
        padding: Padding = 0,
        *,
        multiplier: int = 1,
        dilation: Size = 1,
        boundary: Boundary = "zero",
        bias: bool = True,
        init: Initialiser = he_normal,
        bias_init: Initialiser = zeros,
    ) -> None:
        (self.multiplier,) = entries("multiplier", multiplier, 1)
        self.kernel = kernel_of(kernel)
        self.stride = entries("stride", stride, len(self.kernel))
        self.dilation = entries("dilation", dilation, len(self.kernel))
        pads(padding, self.kernel, self.kernel, self.stride, self.dilation)
        check_boundary(boundary, len(self.kernel))
        self.padding, self.boundary = padding, boundary
        self.bias, self.init, self.bias_init = bias, init, bias_init

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        check_image(x, len(self.kernel))
        shape = (channels(x) * self.multiplier, 1, *self.kernel)
        weight = self.param("weight", shape, self.init, dtype=x.dtype)
        bias = self.param("bias", shape[:1], self.bias_init, dtype=x.dtype) if self.bias else None
        return conv(
            x, weight, bias, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=channels(x), boundary=self.boundary,
        )  # fmt: skip


class PointwiseConv(Conv):
    """Convolution with a kernel of 1: every pixel's channels are mixed."""

    def __init__(
        self, filters: int, *, rank: int = 2, bias: bool = True, init: Initialiser = he_normal
    ) -> None:
        super().__init__(filters, (1,) * rank, bias=bias, init=init)


class SeparableConv(Module):
    """A depthwise convolution (`depthwise`), then a pointwise one (`pointwise`)."""

    def __init__(
        self,
        filters: int,
        kernel: Size,
        stride: Size = 1,
        padding: Padding = 0,
        *,
        multiplier: int = 1,
        dilation: Size = 1,
        boundary: Boundary = "zero",
        bias: bool = True,
        init: Initialiser = he_normal,
    ) -> None:
        self.depthwise = DepthwiseConv(
            kernel, stride, padding, multiplier=multiplier, dilation=dilation, boundary=boundary,
            bias=False, init=init,
        )  # fmt: skip
        rank = len(self.depthwise.kernel)
        self.pointwise = PointwiseConv(filters, rank=rank, bias=bias, init=init)

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        return self.pointwise(self.depthwise(x))


class ConvTranspose(Module):
    """The transpose of a convolution: sizes grow by the stride.

    padding as for Conv; "same" makes size * stride. Weights: weight [C,O/groups,*kernel], bias [O].
    """

    def __init__(
        self,
        filters: int,
        kernel: Size,
        stride: Size = 1,
        padding: Padding = 0,
        *,
        output_padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        init: Initialiser = he_normal,
        bias_init: Initialiser = zeros,
    ) -> None:
        (self.filters,) = entries("filters", filters, 1)
        self.kernel = kernel_of(kernel)
        self.stride = entries("stride", stride, len(self.kernel))
        self.dilation = entries("dilation", dilation, len(self.kernel))
        self.output_padding = entries("output_padding", output_padding, len(self.kernel), 0)
        pads(padding, self.kernel, self.kernel, self.stride, self.dilation)
        (self.groups,) = entries("groups", groups, 1)
        if filters % groups:
            raise IRError(f"{filters} filters in {groups} groups, wanted a multiple of them")
        self.padding = padding
        self.bias, self.init, self.bias_init = bias, init, bias_init

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        check_image(x, len(self.kernel))
        taps = math.prod(self.kernel)
        shape = (channels(x), self.filters // self.groups, *self.kernel)
        # every result is reached by about taps / stride products a channel
        inputs = channels(x) // self.groups * taps // math.prod(self.stride)
        fans = (max(inputs, 1), shape[1] * taps)
        weight = self.param("weight", shape, self.init, dtype=x.dtype, fans=fans)
        size = (self.filters,)
        bias = self.param("bias", size, self.bias_init, dtype=x.dtype) if self.bias else None
        return conv_transpose(
            x, weight, bias, stride=self.stride, padding=self.padding,
            output_padding=self.output_padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip


class LocallyConnected(Module):
    """A convolution whose every position has filters of its own (unshared weights).

    Weights: weight [positions, C * taps, O], bias [O, *result sizes].
    """

    def __init__(
        self,
        filters: int,
        kernel: Size,
        stride: Size = 1,
        padding: Padding = 0,
        *,
        dilation: Size = 1,
        boundary: Boundary = "zero",
        bias: bool = True,
        init: Initialiser = he_normal,
    ) -> None:
        (self.filters,) = entries("filters", filters, 1)
        self.kernel = kernel_of(kernel)
        self.stride = entries("stride", stride, len(self.kernel))
        self.dilation = entries("dilation", dilation, len(self.kernel))
        pads(padding, self.kernel, self.kernel, self.stride, self.dilation)
        check_boundary(boundary, len(self.kernel))
        self.padding, self.boundary = padding, boundary
        self.bias, self.init = bias, init

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        check_image(x, len(self.kernel))
        seen = self._patches(x)  # [N, C * taps, *sizes]
        (n, inner, *sizes), dtype = seen.shape, x.dtype
        columns = seen.reshape(n, inner, math.prod(sizes)).transpose(2, 0, 1)
        fans = (inner, self.filters * math.prod(self.kernel))
        shape = (math.prod(sizes), inner, self.filters)
        weight = self.param("weight", shape, self.init, dtype=dtype, fans=fans)
        y = (columns @ weight).transpose(1, 2, 0).reshape(n, self.filters, *sizes)
        return y + self.param("bias", y.shape[1:], dtype=dtype) if self.bias else y

    def _patches(self, x: Tensor) -> Tensor:
        """The window of every position as channels: a depthwise convolution with unit kernels."""
        c, taps = channels(x), math.prod(self.kernel)
        unit = np.tile(np.eye(taps), (c, 1)).reshape(c * taps, 1, *self.kernel)
        weight = self.constant(unit.astype(x.type.numpy))
        return conv(
            x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation,
            groups=c, boundary=self.boundary,
        )  # fmt: skip
