"""ONNX operators on single elements, and the variadic ones that chain them."""

from __future__ import annotations

import functools
import math

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.frontends.onnx_tensors import element_type
from cnnir.ir import Value
from cnnir.tensortype import is_float

_SAME = {
    "Abs": "abs", "Neg": "neg", "Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Erf": "erf",
    "Sin": "sin", "Cos": "cos", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Sign": "sign", "Softplus": "softplus", "HardSwish": "hard_swish", "Mish": "mish",
    "Not": "logical_not", "BitwiseNot": "bitwise_not", "IsNaN": "is_nan",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Equal": "equal", "Less": "less",
    "LessOrEqual": "less_equal", "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor",
    "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor",
}  # fmt: skip
_SWAPPED = {"Greater": "less", "GreaterOrEqual": "less_equal"}


@onnx_op(*_SAME)
def unary(b: Builder, x: Value) -> Value:
    """Operators that the IR has under another name."""
    return b.add(_SAME[b.op], x)


@onnx_op(*_BINARY, *_SWAPPED)
def binary(b: Builder, x: Value, y: Value, *, broadcast: int = 0, axis: int | None = None) -> Value:
    """Binary operators; `broadcast` and `axis` are the rule of opsets before 7."""
    x, y = old_broadcast(b, x, y, broadcast, axis)
    if b.op in _SWAPPED:
        return b.add(_SWAPPED[b.op], y, x)
    return b.add(_BINARY[b.op], x, y)


def old_broadcast(
    b: Builder, x: Value, y: Value, broadcast: int, axis: int | None
) -> tuple[Value, Value]:
    """Operands as numpy broadcasts them, from the rules of opsets before 7."""
    if b.opset >= 7:
        return x, y
    if not broadcast:
        b.require(
            x.type.shape == y.type.shape,
            f"shapes {list(x.type.shape)} and {list(y.type.shape)} differ without broadcast=1",
        )
        return x, y
    rank, own = x.type.rank, y.type.rank
    b.require(own <= rank, f"the second operand has rank {own}, wanted at most {rank}")
    first = rank - own if axis is None else b.axis(axis, rank)
    b.require(first + own <= rank, f"axis {axis} leaves no room for rank {own} in rank {rank}")
    return x, b.reshape(y, (*y.type.shape, *(1,) * (rank - first - own)))


@onnx_op("Pow")
def power(b: Builder, x: Value, y: Value, *, broadcast: int = 0, axis: int | None = None) -> Value:
    """x to the y, in the element type of x."""
    x, y = old_broadcast(b, x, y, broadcast, axis)
    if x.type.dtype == y.type.dtype:
        return b.add("pow", x, y)
    if is_float(y.type.dtype) and not is_float(x.type.dtype):
        # 2 to the 0.5 must not become 2 to the 0
        return b.cast(b.add("pow", b.cast(x, y.type.dtype), y), x.type.dtype)
    return b.add("pow", x, b.cast(y, x.type.dtype))


@onnx_op("PRelu")
def prelu(b: Builder, x: Value, slope: Value) -> Value:
    """x where it is positive, else slope * x; before opset 7 a slope for each channel."""
    if b.opset < 7 and slope.type.size > 1 and slope.type.rank == 1:
        slope = b.reshape(slope, (slope.type.size, *(1,) * (x.type.rank - 2)))
    return b.add("prelu", x, slope)


@onnx_op("Mod")
def modulo(b: Builder, x: Value, y: Value, *, fmod: int = 0) -> Value:
    """The remainder; with the sign of the divisor, or with fmod=1 that of the dividend."""
    b.require(fmod in (0, 1), f"fmod must be 0 or 1, got {fmod}")
    if fmod or not is_float(x.type.dtype):
        return b.add("mod", x, y, fmod=bool(fmod))
    b.require(b.opset >= 28, "fmod=0 is for integers before opset 28, wanted fmod=1")
    rest, zero = b.add("mod", x, y, fmod=True), b.like(0, x)
    opposite = b.add("logical_xor", b.add("less", rest, zero), b.add("less", y, zero))
    exact = b.add("equal", rest, zero)
    other = b.add("logical_and", opposite, b.add("logical_not", exact))
    return b.add("where", other, b.add("add", rest, y), rest)


@onnx_op("BitShift")
def bit_shift(b: Builder, x: Value, y: Value, *, direction: str) -> Value:
    """x shifted by y bits."""
    b.choice("direction", direction, ("LEFT", "RIGHT"))
    return b.add("shift_left" if direction == "LEFT" else "shift_right", x, y)


@onnx_op("Where")
def where(b: Builder, condition: Value, x: Value, y: Value) -> Value:
    """x where the condition holds, else y."""
    return b.add("where", condition, x, y)


@onnx_op("Sum", "Mean", "Max", "Min")
def chain(b: Builder, *xs: Value) -> Value:
    """A fold of a binary op over all operands; Mean divides by their number."""
    op = {"Max": "maximum", "Min": "minimum"}.get(b.op, "add")
    result = functools.reduce(lambda x, y: b.add(op, x, y), xs)
    if b.op == "Mean" and len(xs) > 1:
        return b.add("div", result, b.like(len(xs), result))
    return result


@onnx_op("Elu")
def elu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    """x where positive, else alpha * (exp(x) - 1)."""
    return b.add("elu", x, alpha=alpha)


@onnx_op("Selu")
def selu(
    b: Builder, x: Value, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805
) -> Value:
    """gamma * elu(x, alpha)."""
    return b.add("selu", x, alpha=alpha, gamma=gamma)


@onnx_op("LeakyRelu")
def leaky_relu(b: Builder, x: Value, *, alpha: float = 0.01) -> Value:
    """x where positive, else alpha * x."""
    return b.add("leaky_relu", x, alpha=alpha)


@onnx_op("HardSigmoid")
def hard_sigmoid(b: Builder, x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """alpha * x + beta, clipped to 0..1."""
    return b.add("hard_sigmoid", x, alpha=alpha, beta=beta)


@onnx_op("Swish")
def swish(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    """x * sigmoid(alpha * x)."""
    return b.add("swish", x, alpha=alpha)


@onnx_op("Gelu")
def gelu(b: Builder, x: Value, *, approximate: str = "none") -> Value:
    """x times the normal distribution function of x."""
    return b.add("gelu", x, approximate=b.choice("approximate", approximate, ("none", "tanh")))


@onnx_op("Celu")
def celu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    """alpha * elu(x / alpha)."""
    b.require(alpha != 0, "alpha is 0")
    scale = b.like(alpha, x)
    return b.add("mul", b.add("elu", b.add("div", x, scale), alpha=1.0), scale)


@onnx_op("ThresholdedRelu")
def thresholded_relu(b: Builder, x: Value, *, alpha: float = 1.0) -> Value:
    """x where above alpha, else 0."""
    return b.add("where", b.add("less", b.like(alpha, x), x), x, b.like(0, x))


@onnx_op("Shrink")
def shrink(b: Builder, x: Value, *, bias: float = 0.0, lambd: float = 0.5) -> Value:
    """x + bias below -lambd, x - bias above lambd, 0 between."""
    if not is_float(x.type.dtype):  # -lambd and bias need not be whole
        return b.cast(shrink(b, b.cast(x, "f32"), bias=bias, lambd=lambd), x.type.dtype)
    low, high = b.like(-lambd, x), b.like(lambd, x)
    positive = b.add(
        "where", b.add("less", high, x), b.add("sub", x, b.like(bias, x)), b.like(0, x)
    )
    return b.add("where", b.add("less", x, low), b.add("add", x, b.like(bias, x)), positive)


@onnx_op("Softsign")
def softsign(b: Builder, x: Value) -> Value:
    """x / (1 + |x|)."""
    return b.add("div", x, b.add("add", b.like(1, x), b.add("abs", x)))


@onnx_op("IsInf")
def is_inf(b: Builder, x: Value, *, detect_negative: int = 1, detect_positive: int = 1) -> Value:
    """Which elements are infinite, of the signs asked for."""
    return b.add("is_inf", x, negative=bool(detect_negative), positive=bool(detect_positive))


@onnx_op("Tan")
def tangent(b: Builder, x: Value) -> Value:
    """sin(x) / cos(x)."""
    return b.add("div", b.add("sin", x), b.add("cos", x))


@onnx_op("Sinh", "Cosh")
def hyperbolic(b: Builder, x: Value) -> Value:
    """(exp(x) -+ exp(-x)) / 2."""
    up, down = b.add("exp", x), b.add("exp", b.add("neg", x))
    return b.add("div", b.add("sub" if b.op == "Sinh" else "add", up, down), b.like(2, x))


@onnx_op("Asinh", "Acosh")
def inverse_hyperbolic(b: Builder, x: Value) -> Value:
    """log(x + sqrt(x * x +- 1)); the odd function asinh through |x|, which does not cancel."""
    one, square = b.like(1, x), b.add("mul", x, x)
    if b.op == "Acosh":
        return b.add("log", b.add("add", x, b.add("sqrt", b.add("sub", square, one))))
    root = b.add("sqrt", b.add("add", square, one))
    return b.add("mul", b.add("sign", x), b.add("log", b.add("add", b.add("abs", x), root)))


@onnx_op("Atanh")
def atanh(b: Builder, x: Value) -> Value:
    """log((1 + x) / (1 - x)) / 2."""
    one = b.like(1, x)
    ratio = b.add("div", b.add("add", one, x), b.add("sub", one, x))
    return b.add("mul", b.add("log", ratio), b.like(0.5, x))


@onnx_op("Clip")
def clip(
    b: Builder,
    x: Value,
    low: Value | None = None,
    high: Value | None = None,
    *,
    min: float | None = None,
    max: float | None = None,
) -> Value:
    """x held between two bounds: attributes before opset 11, then operands."""
    bounds: list[float | None] = [min, max]
    arrays = [b.graph.array(v) for v in (low, high)]
    for position, (value, array) in enumerate(zip((low, high), arrays, strict=True)):
        if value is not None:
            b.require(value.type.size == 1, f"a bound has shape {list(value.type.shape)}")
            bounds[position] = None if array is None else b.number(value, "bound")
    known = all(a is not None for v, a in zip((low, high), arrays, strict=True) if v is not None)
    if known and not any(math.isnan(v) for v in bounds if v is not None):
        return x if bounds == [None, None] else b.add("clip", x, lo=bounds[0], hi=bounds[1])
    if low is not None:
        x = b.add("maximum", x, b.reshape(low, ()))
    return x if high is None else b.add("minimum", x, b.reshape(high, ()))


@onnx_op("Cast")
def cast(b: Builder, x: Value, *, to: int, saturate: int = 1, round_mode: str = "up") -> Value:
    """x in another element type; `saturate` and `round_mode` only matter for 8-bit floats."""
    return b.cast(x, element_type(to, "Cast to"))


@onnx_op("CastLike")
def cast_like(
    b: Builder, x: Value, target: Value, *, saturate: int = 1, round_mode: str = "up"
) -> Value:
    """x in the element type of another value."""
    return b.cast(x, target.type.dtype)


@onnx_op("Identity")
def identity(b: Builder, x: Value) -> Value:
    """x itself: a weight behind an Identity stays the same param."""
    return x


@onnx_op("Dropout")
def dropout(
    b: Builder,
    x: Value,
    rate: Value | None = None,
    training: Value | None = None,
    *,
    is_test: int = 1,
    ratio: float = 0.5,
    seed: int = 0,
) -> tuple[Value, ...]:
    """x itself and a mask of ones; dropping anything is not supported."""
    if training is not None and b.number(training, "training_mode"):
        if (ratio if rate is None else b.number(rate, "ratio")) != 0:
            raise UnsupportedError("training_mode with a ratio that is not 0")
    if len(b.outputs) < 2 or not b.outputs[1]:
        return (x,)
    return x, b.full(x.type.shape, 1, "bool" if b.opset >= 10 else x.type.dtype)
