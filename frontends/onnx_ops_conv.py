"""ONNX convolutions, matrix products and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_windows import Window, entries, halves, padding, window
from cnnir.ir import Value
from cnnir.tensortype import is_float

Ints = Sequence[int]


@onnx_op("Conv")
def conv(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """Convolution over all spatial dimensions of x [N,C,...]."""
    spatial = _operands(b, x, w, kernel_shape, group)
    area = window(
        b, spatial, w.type.shape[2:], auto_pad=auto_pad, dilations=dilations, pads=pads,
        strides=strides,
    )  # fmt: skip
    return b.add(
        "conv", x, w, bias, stride=area.stride, padding=area.padding, dilation=area.dilation,
        groups=group,
    )  # fmt: skip


def _operands(
    b: Builder, x: Value, w: Value, kernel_shape: Ints | None, group: int
) -> tuple[int, ...]:
    """The spatial dimensions of x, once ranks, kernel and group are in order."""
    rank = x.type.rank
    b.require(rank >= 3, f"X has rank {rank}, wanted at least 3: [N,C,...]")
    b.require(w.type.rank == rank, f"W has rank {w.type.rank}, wanted {rank} as X has")
    kernel = w.type.shape[2:]
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        b.reject(f"kernel_shape {list(kernel_shape)} contradicts the weight's {list(kernel)}")
    b.require(group >= 1, f"group must be >= 1, got {group}")
    return x.type.shape[2:]


@onnx_op("ConvTranspose")
def conv_transpose(
    b: Builder,
    x: Value,
    w: Value,
    bias: Value | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """The transpose of a convolution; `output_shape` and `auto_pad` decide the padding."""
    spatial = _operands(b, x, w, kernel_shape, group)
    rank = len(spatial)
    kernel, stride = w.type.shape[2:], entries(b, "strides", strides, rank, 1)
    dilation = entries(b, "dilations", dilations, rank, 1)
    extra = entries(b, "output_padding", output_padding, rank, 0)
    for e, s, d in zip(extra, stride, dilation, strict=True):
        b.require(
            e < max(s, d), f"output_padding {list(extra)} must be less than strides {list(stride)}"
        )
    area = Window(kernel, stride, dilation, padding(b, auto_pad, pads, rank))
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [i * s for i, s in zip(spatial, stride, strict=True)]
    if output_shape is not None:
        area, extra = _towards(b, area, spatial, extra, output_shape, auto_pad == "SAME_UPPER")
    return b.add(
        "conv_transpose", x, w, bias, stride=stride, padding=area.padding, output_padding=extra,
        dilation=dilation, groups=group,
    )  # fmt: skip


def _towards(
    b: Builder, area: Window, spatial: Ints, extra: Ints, output_shape: Ints, upper: bool
) -> tuple[Window, tuple[int, ...]]:
    """The padding, or where it would be negative the output padding, that gives a shape."""
    output_shape = output_shape[-len(spatial) :]
    wanted = entries(b, "output_shape", output_shape, len(spatial), 0)
    totals = [
        s * (i - 1) + e + reach - o
        for s, i, e, reach, o in zip(area.stride, spatial, extra, area.extent, wanted, strict=True)
    ]
    more = tuple(e + max(-t, 0) for e, t in zip(extra, totals, strict=True))
    split = halves([max(t, 0) for t in totals], upper)
    return Window(area.kernel, area.stride, area.dilation, split), more


@onnx_op("Col2Im")
def col2im(
    b: Builder,
    x: Value,
    image: Value,
    block: Value,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """Columns of blocks added back into images: a transposed convolution with unit kernels."""
    sizes, kernel = b.ints(image, "image_shape"), b.ints(block, "block_shape")
    rank, taps = len(sizes), math.prod(kernel)
    b.require(len(kernel) == rank, f"block_shape has {len(kernel)} entries, wanted {rank}")
    b.require(x.type.rank == 3, f"input has rank {x.type.rank}, wanted 3: [N,C*taps,L]")
    area = window(
        b, sizes, kernel, auto_pad="NOTSET", dilations=dilations, pads=pads, strides=strides
    )
    reach = [
        size + area.padding[i] + area.padding[i + rank] - extent
        for i, (size, extent) in enumerate(zip(sizes, area.extent, strict=True))
    ]
    columns = [r // s + 1 for r, s in zip(reach, area.stride, strict=True)]
    n, rows, count = x.type.shape
    if min(reach, default=0) < 0 or rows % taps or count != math.prod(columns):
        b.reject(f"input {x.type} does not fit image {list(sizes)} and block {list(kernel)}")
    b.check_bytes((rows, taps), 4)
    unit = np.tile(np.eye(taps), (rows // taps, 1)).reshape(rows, 1, *kernel)
    return b.add(
        "conv_transpose", b.reshape(x, (n, rows, *columns)), b.constant(unit, x.type.dtype),
        stride=area.stride, padding=area.padding, dilation=area.dilation,
        output_padding=tuple(r % s for r, s in zip(reach, area.stride, strict=True)),
        groups=rows // taps,
    )  # fmt: skip


@onnx_op("MatMul")
def matmul(b: Builder, x: Value, y: Value) -> Value:
    """The matrix product as numpy has it; vectors become matrices and back."""
    for name, value in (("A", x), ("B", y)):
        b.require(value.type.rank > 0, f"{name} is a scalar, wanted at least rank 1")
    left, right = x.type.rank == 1, y.type.rank == 1
    if left:
        x = b.reshape(x, (1, *x.type.shape))
    if right:
        y = b.reshape(y, (*y.type.shape, 1))
    result = product(b, x, y)
    shape = list(result.type.shape)
    if right:
        del shape[-1]
    if left:
        del shape[-1 if right else -2]
    return b.reshape(result, shape)


def product(b: Builder, x: Value, y: Value) -> Value:
    """The product of two (batches of) matrices."""
    inner, rows = x.type.shape[-1], y.type.shape[-2]
    if inner != rows:
        shapes = f"{list(x.type.shape)} and {list(y.type.shape)}"
        b.reject(f"the shapes {shapes} do not match: inner dimensions {inner} and {rows} differ")
    return b.add("matmul", x, y)


@onnx_op("Gemm")
def gemm(
    b: Builder,
    x: Value,
    y: Value,
    c: Value | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Value:
    """alpha * A @ B + beta * C, with A and B transposed where asked for."""
    for name, value in (("A", x), ("B", y)):
        b.require(value.type.rank == 2, f"{name} has rank {value.type.rank}, wanted 2")
    x = b.transpose(x, (1, 0)) if transA else x
    y = b.transpose(y, (1, 0)) if transB else y
    result = _scaled(b, product(b, x, y), alpha)
    if c is None:
        return result
    shape = result.type.shape
    fits = c.type.rank <= 2 and all(
        own in (1, d) for own, d in zip(c.type.shape[::-1], shape[::-1], strict=False)
    )
    b.require(fits, f"C of shape {list(c.type.shape)} does not broadcast to {list(shape)}")
    return b.add("add", result, _scaled(b, c, beta))


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    if factor == 1:
        return x
    if not is_float(x.type.dtype) and factor != int(factor):
        raise UnsupportedError("integer matrices with a fractional alpha or beta")
    return b.add("mul", x, b.like(factor, x))


def _pool_window(b: Builder, x: Value, kernel: Ints, **given: object) -> Window:
    rank = x.type.rank
    b.require(rank >= 3, f"X has rank {rank}, wanted at least 3: [N,C,...]")
    area = window(b, x.type.shape[2:], kernel, **given)  # type: ignore[arg-type]
    for pad, reach in zip(area.padding, area.extent * 2, strict=True):
        if pad >= reach:
            b.reject(f"pads {list(area.padding)} must be less than the kernel {list(area.extent)}")
    return area


@onnx_op("MaxPool")
def max_pool(
    b: Builder,
    x: Value,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
) -> tuple[Value, ...]:
    """The maximum of each window, and where asked for its flat index."""
    area = _pool_window(
        b, x, kernel_shape, auto_pad=auto_pad, dilations=dilations, pads=pads, strides=strides
    )
    shared = {
        "kernel": area.kernel, "stride": area.stride, "padding": area.padding,
        "dilation": area.dilation, "ceil_mode": bool(ceil_mode) and auto_pad[:4] != "SAME",
    }  # fmt: skip
    result = b.add("max_pool", x, **shared)
    if len(b.outputs) < 2 or not b.outputs[1]:
        return (result,)
    b.require(storage_order in (0, 1), f"storage_order must be 0 or 1, got {storage_order}")
    return result, b.add("max_pool_index", x, **shared, storage_order=storage_order)


@onnx_op("AveragePool")
def average_pool(
    b: Builder,
    x: Value,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """The mean of each window."""
    area = _pool_window(
        b, x, kernel_shape, auto_pad=auto_pad, dilations=dilations, pads=pads, strides=strides
    )
    return b.add(
        "avg_pool", x, kernel=area.kernel, stride=area.stride, padding=area.padding,
        dilation=area.dilation, ceil_mode=bool(ceil_mode) and auto_pad[:4] != "SAME",
        count_include_pad=bool(count_include_pad),
    )  # fmt: skip


@onnx_op("LpPool")
def lp_pool(
    b: Builder,
    x: Value,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Value:
    """The p-norm of each window."""
    b.require(p >= 1, f"p must be >= 1, got {p}")
    area = _pool_window(
        b, x, kernel_shape, auto_pad=auto_pad, dilations=dilations, pads=pads, strides=strides
    )
    return b.add(
        "lp_pool", x, kernel=area.kernel, stride=area.stride, padding=area.padding,
        dilation=area.dilation, ceil_mode=bool(ceil_mode) and auto_pad[:4] != "SAME", p=p,
    )  # fmt: skip


@onnx_op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(b: Builder, x: Value) -> Value:
    """The mean or maximum over all spatial dimensions."""
    rank = x.type.rank
    b.require(rank >= 3, f"X has rank {rank}, wanted at least 3: [N,C,...]")
    op = "reduce_mean" if b.op == "GlobalAveragePool" else "reduce_max"
    return b.add(op, x, axes=tuple(range(2, rank)), keepdims=True)


@onnx_op("GlobalLpPool")
def global_lp_pool(b: Builder, x: Value, *, p: int = 2) -> Value:
    """The p-norm over all spatial dimensions."""
    rank = x.type.rank
    b.require(rank >= 3, f"X has rank {rank}, wanted at least 3: [N,C,...]")
    b.require(p >= 1, f"p must be >= 1, got {p}")
    raised = b.add("pow", b.add("abs", x), b.like(p, x))
    total = b.add("reduce_sum", raised, axes=tuple(range(2, rank)), keepdims=True)
    return b.add("pow", total, b.like(1 / p, x))
