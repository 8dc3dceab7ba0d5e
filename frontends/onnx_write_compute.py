"""Exports of ops that compute: arithmetic, activations, convolution, pooling, normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_writer import CODES, Writer, number, writes
from cnnir.ir import Node, Value
from cnnir.ops.boundary import pads, zeros_left
from cnnir.tensortype import TensorType, is_float

_SAME = {
    "abs": "Abs", "neg": "Neg", "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal", "erf": "Erf",
    "sin": "Sin", "cos": "Cos", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "sign": "Sign", "softplus": "Softplus", "hard_swish": "HardSwish", "mish": "Mish",
    "logical_not": "Not", "bitwise_not": "BitwiseNot", "is_nan": "IsNaN", "add": "Add",
    "sub": "Sub", "mul": "Mul", "div": "Div", "equal": "Equal", "less": "Less",
    "less_equal": "LessOrEqual", "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor",
    "bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor",
    "maximum": "Max", "minimum": "Min", "where": "Where", "pow": "Pow", "identity": "Identity",
    "matmul": "MatMul",
}  # fmt: skip


@writes(*_SAME)
def same(w: Writer, node: Node, *xs: str) -> None:
    """Operators that ONNX has under another name."""
    w.emit(_SAME[node.name], xs, node)


# Op -> operator, and of its float attributes name in ONNX and default.
_NUMBERS: dict[str, tuple[str, dict[str, float]]] = {
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    "swish": ("Swish", {"alpha": 1.0}),
}


@writes(*_NUMBERS)
def with_numbers(w: Writer, node: Node, x: str) -> None:
    """Activations with numbers for attributes."""
    op, defaults = _NUMBERS[node.name]
    w.emit(op, [x], node, **{k: number(node.attrs[k], d) for k, d in defaults.items()})


@writes("gelu")
def gelu(w: Writer, node: Node, x: str) -> None:
    """Gelu, exact or by tanh."""
    w.emit("Gelu", [x], node, approximate=node.attrs["approximate"])


@writes("prelu")
def prelu(w: Writer, node: Node, x: str, slope: str) -> None:
    """PRelu, whose slope broadcasts to x."""
    if node.results[0].type.shape != w.types[x].shape:
        raise UnsupportedError("PRelu cannot broadcast x to its slope")
    w.emit("PRelu", [x, slope], node)


@writes("clip")
def clip(w: Writer, node: Node, x: str) -> None:
    """Clip, its bounds as constants of the element type."""
    dtype = w.types[x].dtype
    bounds = [node.attrs["lo"], node.attrs["hi"]]
    if not is_float(dtype):
        limits = np.iinfo(w.types[x].numpy)
        bounds = [None if b is None else min(max(b, limits.min), limits.max) for b in bounds]
    names = ["" if b is None else w.constant(b, dtype) for b in bounds]
    w.emit("Clip" if any(names) else "Identity", [x, *names], node)


@writes("mod")
def mod(w: Writer, node: Node, x: str, y: str) -> None:
    """Mod with the sign of the divisor, or fmod."""
    w.emit("Mod", [x, y], node, fmod=int(node.attrs["fmod"]) or None)


@writes("shift_left", "shift_right")
def shift(w: Writer, node: Node, x: str, y: str) -> None:
    """BitShift, which is for unsigned numbers."""
    w.emit("BitShift", [x, y], node, direction=node.name.removeprefix("shift_").upper())


@writes("is_inf")
def is_inf(w: Writer, node: Node, x: str) -> None:
    """IsInf for the signs asked for."""
    signs = {"detect_positive": "positive", "detect_negative": "negative"}
    w.emit("IsInf", [x], node, **{k: None if node.attrs[a] else 0 for k, a in signs.items()})


@writes("cast")
def cast(w: Writer, node: Node, x: str) -> None:
    """Cast to a code of ONNX."""
    w.emit("Cast", [x], node, to=CODES[node.attrs["dtype"]])


# ---------------------------------------------------------------- windows


def _window(node: Node, *, kernel: tuple[int, ...], padding: bool = True) -> dict[str, Any]:
    """The attributes that windows share; those that are left empty stay out."""
    attrs = node.attrs
    if any(p < 0 for p in attrs["padding"]):
        raise UnsupportedError(f"padding is negative: {list(attrs['padding'])}")
    return {
        "kernel_shape": list(kernel),
        "strides": list(attrs["stride"]) or None,
        "pads": list(attrs["padding"]) or None,
        "dilations": list(attrs["dilation"]) or None,
    }


@writes("conv")
def conv(w: Writer, node: Node, x: str, weight: str, bias: str = "") -> None:
    """Conv of floats, ConvInteger of 8-bit integers that were widened; a Pad before them makes a
    boundary that is not zero."""
    area = _window(node, kernel=w.types[weight].shape[2:])
    area["group"] = node.attrs["groups"]
    if w.types[x].dtype != "i32":
        x = _bordered(w, node, x, area)
        w.emit("Conv", [x, weight, bias], node, **area)
        return
    operands = [*_narrow(w, node.operands[0]), *_narrow(w, node.operands[1])]
    operands[0] = _bordered(w, node, operands[0], area)
    names = [operands[0], operands[2], operands[1], operands[3]]
    if not bias:
        w.emit("ConvInteger", names, node, **area)
        return
    total, column = w.fresh(f"{x}_total"), w.fresh(f"{bias}_column")
    w.types[total], rank = w.types[x], w.types[x].rank
    w.types[column] = w.types[bias].with_shape((*w.types[bias].shape, *(1,) * (rank - 2)))
    w.emit("ConvInteger", names, [total], **area)
    w.emit("Reshape", [bias, w.constant((-1, *(1,) * (rank - 2)))], [column])
    w.emit("Add", [total, column], node)


def _bordered(w: Writer, node: Node, x: str, area: dict[str, Any]) -> str:
    """x with its borders that are not zero; `area` keeps the padding of the others."""
    rank = len(area["kernel_shape"])
    padding = node.attrs["padding"] or (0,) * (2 * rank)
    for attrs in pads(padding, node.attrs["boundary"]):
        amounts, wide = attrs["padding"], w.fresh(f"{x}_bordered")
        sizes = w.types[x].shape
        grown = zip(sizes, amounts[: len(sizes)], amounts[len(sizes) :], strict=True)
        w.types[wide] = w.types[x].with_shape(tuple(n + b + e for n, b, e in grown))
        w.emit("Pad", [x, w.constant(amounts)], [wide], mode=attrs["mode"])
        x = wide
        area["pads"] = list(zeros_left(padding, node.attrs["boundary"]))
    return x


def _narrow(w: Writer, value: Value | None) -> tuple[str, str]:
    """An i32 operand as an 8-bit one and its zero point ("" for 0): what ConvInteger takes."""
    assert value is not None
    array, node = w.array(value), value.node
    if array is not None:
        low, high = int(array.min(initial=0)), int(array.max(initial=0))
        if high - low > 255:
            raise UnsupportedError(f"i32 weights from {low} to {high}, ConvInteger takes 8 bits")
        if -128 <= low and high <= 127:
            return w.constant(array, "i8"), ""
        return w.constant(array - low, "u8"), w.constant(-low, "u8")
    zero = None
    if node.name == "sub" and node.operands[1] is not None:
        zero = w.array(node.operands[1])
        node = node.operands[0].node if node.operands[0] and zero is not None else node
    source = node.operands[0] if node.name == "cast" else None
    if source is None or source.type.dtype not in ("i8", "u8"):
        raise UnsupportedError(
            "i32 that is not widened from 8 bits, which is all ConvInteger takes"
        )
    if zero is None:
        return w.names[source], ""
    limits = np.iinfo(source.type.numpy)
    if zero.size != 1 or not limits.min <= zero.reshape(-1)[0] <= limits.max:
        raise UnsupportedError("a zero point that does not fit 8 bits")
    return w.names[source], w.constant(zero.reshape(()), source.type.dtype)


@writes("conv_transpose")
def conv_transpose(w: Writer, node: Node, x: str, weight: str, bias: str = "") -> None:
    """ConvTranspose with explicit padding."""
    area = _window(node, kernel=w.types[weight].shape[2:])
    more = list(node.attrs["output_padding"]) or None
    groups = node.attrs["groups"]
    w.emit("ConvTranspose", [x, weight, bias], node, **area, output_padding=more, group=groups)


@writes("max_pool", "avg_pool", "lp_pool", "max_pool_index")
def pool(w: Writer, node: Node, x: str) -> None:
    """Pooling; positions are the second output of MaxPool."""
    given = _window(node, kernel=node.attrs["kernel"])
    given["ceil_mode"] = int(node.attrs["ceil_mode"])
    if node.name == "avg_pool":
        count = int(node.attrs["count_include_pad"])
        w.emit("AveragePool", [x], node, **given, count_include_pad=count)
    elif node.name == "lp_pool":
        p = node.attrs["p"]
        if p != int(p):
            raise UnsupportedError(f"p is {p}, LpPool takes whole numbers")
        w.emit("LpPool", [x], node, **given, p=int(p))
    elif node.name == "max_pool":
        w.emit("MaxPool", [x], node, **given)
    else:
        maxima = w.fresh(f"{w.results(node)[0]}_of")
        order = node.attrs["storage_order"]
        w.emit("MaxPool", [x], [maxima, *w.results(node)], **given, storage_order=order)


# ---------------------------------------------------------------- reductions

_REDUCTIONS = {
    "reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd",
}  # fmt: skip
_GLOBAL = {"reduce_mean": "GlobalAveragePool", "reduce_max": "GlobalMaxPool"}


@writes(*_REDUCTIONS)
def reduction(w: Writer, node: Node, x: str) -> None:
    """A reduction over axes; over all spatial ones the global pooling that it is."""
    axes, keepdims, type = node.attrs["axes"], node.attrs["keepdims"], w.types[x]
    spatial = type.rank > 2 and axes == tuple(range(2, type.rank)) and keepdims
    if spatial and node.name in _GLOBAL and is_float(type.dtype):
        w.emit(_GLOBAL[node.name], [x], node)
    elif not axes:
        w.emit("Identity", [x], node)
    else:
        names = [x, w.constant(axes)]
        w.emit(_REDUCTIONS[node.name], names, node, keepdims=int(keepdims))


@writes("argmax", "argmin")
def arg_reduction(w: Writer, node: Node, x: str) -> None:
    """ArgMax and ArgMin."""
    w.emit(
        {"argmax": "ArgMax", "argmin": "ArgMin"}[node.name], [x], node,
        axis=node.attrs["axis"], keepdims=int(node.attrs["keepdims"]),
        select_last_index=int(node.attrs["select_last"]),
    )  # fmt: skip


@writes("cumsum")
def cumsum(w: Writer, node: Node, x: str) -> None:
    """CumSum along a constant axis."""
    flags = {k: int(node.attrs[k]) for k in ("exclusive", "reverse")}
    w.emit("CumSum", [x, w.constant(node.attrs["axis"])], node, **flags)


@writes("topk")
def topk(w: Writer, node: Node, x: str) -> None:
    """TopK with a constant k."""
    flags = {k: int(node.attrs[k]) for k in ("largest", "sorted")}
    w.emit("TopK", [x, w.constant([node.attrs["k"]])], node, axis=node.attrs["axis"], **flags)


# ---------------------------------------------------------------- normalisation


@writes("softmax", "log_softmax")
def softmax(w: Writer, node: Node, x: str) -> None:
    """Softmax along an axis."""
    op = "Softmax" if node.name == "softmax" else "LogSoftmax"
    w.emit(op, [x], node, axis=node.attrs["axis"])


def _epsilon(node: Node) -> float | None:
    return number(node.attrs["epsilon"], 1e-5)


@writes("batch_norm")
def batch_norm(w: Writer, node: Node, *xs: str) -> None:
    """BatchNormalization in its inference form."""
    w.emit("BatchNormalization", xs, node, epsilon=_epsilon(node))


@writes("layer_norm")
def layer_norm(w: Writer, node: Node, x: str, scale: str = "", bias: str = "") -> None:
    """LayerNormalization, which always has a scale."""
    axis, type = node.attrs["axis"], w.types[x]
    if type.dtype == "f64" and any(w.results(node)[1:]):
        raise UnsupportedError("LayerNormalization gives mean and deviation of f64 in f32")
    ones = TensorType(type.dtype, type.shape[axis:])
    scale = scale or w.constant(np.ones(ones.shape), type.dtype)
    operands = [x, scale, bias]
    w.emit("LayerNormalization", operands, node, axis=axis, epsilon=_epsilon(node))


@writes("group_norm")
def group_norm(w: Writer, node: Node, *xs: str) -> None:
    """GroupNormalization; a group a channel is InstanceNormalization."""
    groups, x = node.attrs["groups"], w.types[xs[0]]
    if groups == x.shape[1] and x.rank > 2:
        w.emit("InstanceNormalization", xs, node, epsilon=_epsilon(node))
    else:
        w.emit("GroupNormalization", xs, node, epsilon=_epsilon(node), num_groups=groups)


@writes("lrn")
def lrn(w: Writer, node: Node, x: str) -> None:
    """LRN, whose window is the same on both sides of a channel only for an odd size."""
    defaults = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    numbers = {k: number(node.attrs[k], d) for k, d in defaults.items()}
    if not math.isfinite(sum(v for v in numbers.values() if v is not None)):
        raise UnsupportedError("an attribute is not finite")
    w.emit("LRN", [x], node, size=node.attrs["size"], **numbers)
