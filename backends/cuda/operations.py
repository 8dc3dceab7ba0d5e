"""Scalar operations of the kernel language as CUDA C expressions.

Composite expressions come in parentheses, so that any can stand in another. Signed integers are
added and multiplied as unsigned ones, which wrap; the functions called here are in `prelude.py`.
"""

from __future__ import annotations

import math

import numpy as np

from cnnir.tensortype import is_float, is_signed

_TYPES = {
    **{"f32": "float", "f64": "double", "bool": "bool"},
    **{"i8": "signed char", "i16": "short", "i32": "int", "i64": "long long"},
    **{"u8": "unsigned char", "u16": "unsigned short", "u32": "unsigned"},
    "u64": "unsigned long long",
}
_STORAGE = {"f16": "unsigned short", "bf16": "unsigned short", "bool": "unsigned char"}
_SUFFIX = {"i64": "LL", "u64": "ULL", "u32": "u"}
_FUNCTIONS = {
    *("exp", "log", "tanh", "erf", "sin", "cos", "sqrt"),
    *("floor", "ceil", "trunc", "rint"),
}
_COMPARE = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_BITS = {"and": "&", "or": "|", "xor": "^"}
_LOGIC = {"and": "&&", "or": "||", "xor": "!="}
_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def value_type(dtype: str) -> str:
    """The type of a value in registers."""
    return _TYPES[dtype]


def storage_type(dtype: str) -> str:
    """The type of an element in memory: bool is a byte, 16-bit floats are their bits."""
    return _STORAGE.get(dtype) or _TYPES[dtype]


def from_storage(dtype: str, element: str) -> str:
    """The value of an element in memory."""
    if dtype in ("f16", "bf16"):
        return f"cn_from_{dtype}({element})"
    return f"({element} != 0)" if dtype == "bool" else element


def to_storage(dtype: str, value: str) -> str:
    """What of a value goes to memory."""
    return f"cn_to_{dtype}({value})" if dtype in ("f16", "bf16") else value


def constant(value: bool | int | float, dtype: str) -> str:
    """A number."""
    if dtype == "bool":
        return "true" if value else "false"
    if not is_float(dtype):
        lowest = dtype == "i64" and int(value) == -(1 << 63)
        digits = "-9223372036854775807LL - 1" if lowest else f"{int(value)}{_SUFFIX.get(dtype, '')}"
        return f"({digits})" if value < 0 else digits
    if math.isnan(value):
        return f"({value_type(dtype)})CN_NAN"
    with np.errstate(over="ignore"):
        rounded = value if dtype == "f64" else float(np.float32(value))
    if math.isinf(rounded):
        return f"(-({value_type(dtype)})CN_INF)" if rounded < 0 else f"({value_type(dtype)})CN_INF"
    digits = repr(rounded) if dtype == "f64" else f"{np.float32(rounded)!s}f"
    return f"({digits})" if math.copysign(1, rounded) < 0 else digits


def operation(op: str, of: str, to: str, arguments: list[str]) -> str:
    """Any operation by name, on operands of dtype `of`, with a result of dtype `to`."""
    if op == "select":
        condition, a, b = arguments
        return f"({condition} ? {a} : {b})"
    if op == "cast":
        return cast(arguments[0], of, to)
    if len(arguments) == 1:
        return _unary(op, of, arguments[0])
    a, b = arguments
    if op in _COMPARE:
        return f"({a} {_COMPARE[op]} {b})"
    if op in ("max", "min"):
        return f"cn_{op}<{value_type(of)}>({a}, {b})"
    return _float_binary(op, of, a, b) if is_float(of) else _integer_binary(op, of, a, b)


def _float_binary(op: str, of: str, a: str, b: str) -> str:
    if op in _ARITHMETIC:
        return f"({a} {_ARITHMETIC[op]} {b})"
    name = {"rem": "fmod", "pow": "pow"}[op]
    return f"{name}{'' if of == 'f64' else 'f'}({a}, {b})"


def _integer_binary(op: str, of: str, a: str, b: str) -> str:
    if of == "bool":
        return f"({a} {_LOGIC[op]} {b})"
    if op in ("div", "rem", "pow"):
        return f"cn_{op}<{value_type(of)}>({a}, {b})"
    if op in _BITS:
        return f"({a} {_BITS[op]} {b})"
    if op == "shr":
        return f"({a} >> {b})"
    wide = wide_type(of)
    if op == "shl":
        return f"({value_type(of)})(({wide}){a} << {b})"
    return f"({value_type(of)})(({wide}){a} {_ARITHMETIC[op]} ({wide}){b})"


def wide_type(dtype: str) -> str:
    """The unsigned type in which integers of a type are computed."""
    return "unsigned long long" if dtype in ("i64", "u64") else "unsigned"


def _unary(op: str, of: str, a: str) -> str:
    if op in _FUNCTIONS:
        return f"{op}{'' if of == 'f64' else 'f'}({a})"
    if op == "neg":
        if is_float(of):
            return f"(-{a})"
        return f"({value_type(of)})(0 - ({wide_type(of)}){a})"
    if op == "not":
        return f"(!{a})" if of == "bool" else f"({value_type(of)})(~{a})"
    if op == "abs":
        if is_float(of):
            return f"fabs{'' if of == 'f64' else 'f'}({a})"
        return f"cn_abs<{value_type(of)}>({a})" if is_signed(of) else a
    if op in ("round_f16", "round_bf16"):
        kind = op.removeprefix("round_")
        return f"cn_from_{kind}(cn_to_{kind}({a}))"
    raise AssertionError(op)


def cast(a: str, of: str, to: str) -> str:
    """Float to int truncates and saturates, int to int wraps, to bool is != 0."""
    if of == to:
        return a
    if to == "bool":
        return f"({a} != 0)"
    if is_float(of) and not is_float(to):
        return f"cn_to_{to}<{value_type(of)}>({a})"
    return f"({value_type(to)}){a}"


def combine(kind: str, dtype: str, total: str, value: str) -> str:
    """One step of a reduction."""
    return operation(_COMBINE[kind], dtype, dtype, [total, value])


def index_division(op: str, a: str, n: int, negative: bool, kind: str) -> str:
    """Floor division or modulo of an index of a C type by a positive constant."""
    if negative:
        return f"cn_{op}<{kind}>({a}, {n})"
    return f"({a} {'/' if op == 'floordiv' else '%'} {n})"
