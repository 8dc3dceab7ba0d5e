"""ONNX DeformConv, as sampling at moved positions and a matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_windows import Window, window
from cnnir.ir import Value

Ints = Sequence[int]


@onnx_op("DeformConv")
def deform_conv(
    b: Builder,
    x: Value,
    w: Value,
    offset: Value,
    bias: Value | None = None,
    mask: Value | None = None,
    *,
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    offset_group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """A convolution whose taps are moved by `offset` and scaled by `mask`."""
    b.require(x.type.rank == w.type.rank == 4, "X and W must have rank 4: [N,C,H,W]")
    (n, c, *sizes), (filters, inner, *kernel) = x.type.shape, w.type.shape
    if kernel_shape is not None and list(kernel_shape) != kernel:
        b.reject(f"kernel_shape {list(kernel_shape)} contradicts the weight's {kernel}")
    if min(group, offset_group) < 1 or c != inner * group or c % offset_group or filters % group:
        b.reject(f"group {group} and offset_group {offset_group} do not fit {x.type} and {w.type}")
    area = window(
        b, sizes, kernel, auto_pad="NOTSET", dilations=dilations, pads=pads, strides=strides
    )
    out = _positions(b, area, sizes)
    groups, taps = offset_group, math.prod(kernel)
    b.require(
        offset.type.shape == (n, groups * taps * 2, *out),
        f"offset has shape {list(offset.type.shape)}, wanted {[n, groups * taps * 2, *out]}",
    )
    grid = _grid(b, offset, area, sizes, (n, groups, taps, *out))
    image = b.reshape(x, (n * groups, c // groups, *sizes))
    seen = b.add(
        "grid_sample", image, grid, mode="linear", padding_mode="zeros", align_corners=False
    )
    seen = b.reshape(seen, (n, groups, c // groups, taps, *out))
    if mask is not None:
        wanted = (n, groups * taps, *out)
        b.require(mask.type.shape == wanted, f"mask is {mask.type}, wanted {list(wanted)}")
        seen = b.add("mul", seen, b.reshape(mask, (n, groups, 1, taps, *out)))
    columns = b.reshape(seen, (n, group, inner * taps, math.prod(out)))
    rows = b.reshape(w, (1, group, filters // group, inner * taps))
    result = b.reshape(b.add("matmul", rows, columns), (n, filters, *out))
    return result if bias is None else b.add("add", result, b.reshape(bias, (filters, 1, 1)))


def _positions(b: Builder, area: Window, sizes: Ints) -> tuple[int, ...]:
    out = tuple(
        (size + area.padding[i] + area.padding[i + 2] - area.extent[i]) // area.stride[i] + 1
        for i, size in enumerate(sizes)
    )
    b.require(min(*out, *sizes) >= 1, f"the kernel is larger than the input: output {list(out)}")
    return out


def _grid(b: Builder, offset: Value, area: Window, sizes: Ints, shape: tuple[int, ...]) -> Value:
    """Where each tap samples, as grid_sample has it: (x, y) from -1 to 1, edge to edge."""
    n, groups, taps, *out = shape
    b.check_bytes((2, taps, *out), 8)
    lines = []
    for i in range(2):
        at = np.arange(out[i]) * area.stride[i] - area.padding[i]
        tap = np.arange(area.kernel[i]) * area.dilation[i]
        lines.append(tap[:, None] + at)
    plain = np.empty((2, *area.kernel, *out))
    plain[0] = lines[0][:, None, :, None]
    plain[1] = lines[1][None, :, None, :]
    dtype = offset.type.dtype
    base = b.constant(np.moveaxis(plain.reshape(2, taps, *out), 0, 1), dtype)
    moved = b.add("add", b.reshape(offset, (n, groups, taps, 2, *out)), base)
    scale = np.array([2 / size for size in sizes]).reshape(2, 1, 1)
    shift = np.array([1 / size - 1 for size in sizes]).reshape(2, 1, 1)
    unit = b.add("mul", moved, b.constant(scale, dtype))
    unit = b.add("add", unit, b.constant(shift, dtype))
    swapped = b.add("gather", unit, b.constant(np.array([1, 0])), axis=3)
    last = b.transpose(swapped, (0, 1, 2, 4, 5, 3))
    return b.reshape(last, (n * groups, taps * out[0], out[1], 2))
