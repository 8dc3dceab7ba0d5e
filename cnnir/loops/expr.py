"""Typed scalar expressions of the kernel language, built in normal form.

i64 expressions are linear combinations wherever possible, with floor division and modulo folded by
the ranges of the variables, so that `(16 * block + lane) // 16` is `block`. Arithmetic on i64
wraps, as the machine's does; ranges are those of values that do not wrap. The kinds of expressions
are in `terms.py`, statements in `statements.py`, what op definitions call in `algebra.py`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from cnnir.errors import IRError
from cnnir.loops.terms import (
    Call,
    Checked,
    Const,
    Expr,
    Fold,
    Linear,
    Load,
    Number,
    Reduce,
    Symbol,
    Var,
    interned,
    remember,
    remembered,
)
from cnnir.tensortype import is_float, is_int, is_signed

__all__ = ["Call", "Checked", "Const", "Expr", "Fold", "Linear", "Load", "Reduce", "Symbol", "Var"]


def const(value: Number, dtype: str) -> Const:
    """A constant of a type; floats given for integers must be whole."""
    if dtype == "bool":
        value = bool(value)
    elif is_float(dtype):
        value = float(value)
    else:
        if value != int(value):
            raise IRError(f"{value!r} is no {dtype}")
        bits = int(dtype[1:])
        value = int(value) & ((1 << bits) - 1)
        value -= (1 << bits) if is_signed(dtype) and value >> (bits - 1) else 0
    bounds = {"lo": value, "hi": value} if dtype == "i64" else {}
    return interned(Const, dtype, (), repr(value), value=value, **bounds)


TRUE, FALSE = const(True, "bool"), const(False, "bool")


def index(value: Any) -> Expr:
    """An index given as a Python int or an expression."""
    if isinstance(value, Expr):
        if value.dtype != "i64":
            raise IRError(f"an index is {value.dtype}, wanted i64")
        return value
    return const(value, "i64")


def typed(value: Any, dtype: str) -> Expr:
    """An operand; a Python number becomes a constant of the given type."""
    return value if isinstance(value, Expr) else const(value, dtype)


def pair(op: str, a: Any, b: Any) -> tuple[Expr, Expr]:
    dtype = a.dtype if isinstance(a, Expr) else b.dtype
    a, b = typed(a, dtype), typed(b, dtype)
    if a.dtype != b.dtype:
        raise IRError(f"{op} of {a.dtype} and {b.dtype}, wanted one type")
    return a, b


# ---- linear combinations of i64


def split(e: Expr) -> tuple[dict[Expr, int], int]:
    """The terms {operand: coefficient} and the constant of an i64 expression."""
    if isinstance(e, Const):
        return {}, int(e.value)
    if isinstance(e, Linear):
        return dict(zip(e.args, e.coefficients, strict=True)), e.constant
    return {e: 1}, 0


def combination(args: tuple[Expr, ...], coefficients: tuple[int, ...], constant: int) -> Expr:
    """sum of coefficient * operand + constant, for any operands."""
    total: dict[Expr, int] = {}
    for arg, coefficient in zip(args, coefficients, strict=True):
        terms, c = split(arg)
        constant += coefficient * c
        for atom, k in terms.items():
            total[atom] = total.get(atom, 0) + coefficient * k
    return linear(total, constant)


def linear(terms: Mapping[Expr, int], constant: int) -> Expr:
    """The normal form of a linear combination."""
    terms = _recombined({atom: c for atom, c in terms.items() if c})
    while any(isinstance(atom, (Linear, Const)) for atom in terms):
        flat: dict[Expr, int] = {}
        for atom, c in terms.items():
            inner, k = split(atom)
            constant += c * k
            for a, i in inner.items():
                flat[a] = flat.get(a, 0) + c * i
        terms = _recombined({atom: c for atom, c in flat.items() if c})
    if not terms:
        return const(constant, "i64")
    if constant == 0 and len(terms) == 1 and 1 in terms.values():
        return next(iter(terms))
    key = (frozenset(terms.items()), constant)
    known = remembered((Linear, "i64", (), key))
    if known is not None:
        return known
    lo, hi = _range(terms, constant)
    made = interned(
        Linear, "i64", tuple(terms), key, coefficients=tuple(terms.values()), constant=constant
    )
    made.lo, made.hi = lo, hi
    remember((Linear, "i64", (), key), made)
    return made


def _range(terms: Mapping[Expr, int], constant: int) -> tuple[int | None, int | None]:
    lo: int | None = constant
    hi: int | None = constant
    for atom, c in terms.items():
        low, high = (atom.lo, atom.hi) if c > 0 else (atom.hi, atom.lo)
        lo = None if lo is None or low is None else lo + c * low
        hi = None if hi is None or high is None else hi + c * high
    return lo, hi


def _recombined(terms: dict[Expr, int]) -> dict[Expr, int]:
    """c * n * (x // n) + c * (x % n) becomes c * x."""
    for atom, c in terms.items():
        if isinstance(atom, Call) and atom.op == "mod":
            x, n = atom.args[0], int(atom.args[1].value)  # type: ignore[attr-defined]
            quotient = floordiv(x, n)
            if terms.get(quotient) == c * n:
                rest = {a: k for a, k in terms.items() if a is not atom and a is not quotient}
                rest[x] = rest.get(x, 0) + c
                return _recombined(rest)
    return terms


def _divided(x: Expr, n: int) -> tuple[dict[Expr, int], int, dict[Expr, int], int]:
    """x = n * (terms + constant) + (rest terms + rest), with 0 <= rest < n."""
    if type(n) is not int or n < 1:
        raise IRError(f"an index is divided by {n!r}, wanted a positive int")
    terms, constant = split(x)
    whole = {a: c // n for a, c in terms.items() if c % n == 0}
    rest = {a: c for a, c in terms.items() if c % n}
    return whole, constant // n, rest, constant % n


def floordiv(x: Any, n: int) -> Expr:
    """x // n for a positive Python int, rounding down."""
    whole, constant, rest, left = _divided(index(x), n)
    lo, hi = _range(rest, left)
    if lo is not None and hi is not None and lo // n == hi // n:
        return linear(whole, constant + lo // n)
    g = math.gcd(n, *rest.values())
    inner, n = linear({a: c // g for a, c in rest.items()}, left // g), n // g
    if n == 1:
        whole[inner] = whole.get(inner, 0) + 1
        return linear(whole, constant)
    if isinstance(inner, Call) and inner.op == "floordiv":
        inner, n = inner.args[0], n * int(inner.args[1].value)  # type: ignore[attr-defined]
        quotient = floordiv(inner, n)
    else:
        quotient = interned(Call, "i64", (inner, const(n, "i64")), "floordiv", op="floordiv")
        quotient.lo = None if inner.lo is None else inner.lo // n
        quotient.hi = None if inner.hi is None else inner.hi // n
    whole[quotient] = whole.get(quotient, 0) + 1
    return linear(whole, constant)


def modulo(x: Any, n: int) -> Expr:
    """x % n for a positive Python int; never negative."""
    _, _, rest, left = _divided(index(x), n)
    lo, hi = _range(rest, left)
    if lo is not None and hi is not None and lo // n == hi // n:
        return linear(rest, left - lo // n * n)
    g = math.gcd(n, *rest.values())
    inner, n = linear({a: c // g for a, c in rest.items()}, left // g), n // g
    if n == 1:
        return const(left % g, "i64")
    if isinstance(inner, Call) and inner.op == "mod" and inner.args[1].value % n == 0:  # type: ignore[attr-defined]
        return linear({modulo(inner.args[0], n): g}, left % g)
    made = interned(Call, "i64", (inner, const(n, "i64")), "mod", op="mod")
    made.lo, made.hi = 0, n - 1
    return linear({made: g}, left % g)


# ---- operations


def call(op: str, dtype: str, args: tuple[Expr, ...]) -> Expr:
    """Any operation by name, in normal form."""
    if op in ("floordiv", "mod"):
        return (floordiv if op == "floordiv" else modulo)(args[0], args[1].value)  # type: ignore[attr-defined]
    if op in ("lt", "le", "eq", "ne"):
        return compare(op, *args)
    if op == "select":
        return select(*args)
    if op == "cast":
        return cast(args[0], dtype)
    if len(args) == 2:
        return binary(op, *args)
    return interned(Call, dtype, args, op, op=op)


def unary(op: str, x: Expr, dtype: str | None = None) -> Expr:
    """A function of one operand, of its type unless said."""
    if op == "not" and isinstance(x, Const) and x.dtype == "bool":
        return FALSE if x.value else TRUE
    return interned(Call, dtype or x.dtype, (x,), op, op=op)


def binary(op: str, a: Any, b: Any) -> Expr:
    """A function of two operands of one type, which is the result's too."""
    a, b = pair(op, a, b)
    if a.dtype == "i64" and op in ("add", "sub", "mul", "max", "min"):
        return _index_binary(op, a, b)
    if a.dtype == "bool" and op in ("and", "or", "xor"):
        for x, y in ((a, b), (b, a)):
            if isinstance(x, Const):
                if op == "xor":
                    return ~y if x.value else y
                return y if bool(x.value) == (op == "and") else x
    if op in ("and", "or") and a is b:
        return a
    return interned(Call, a.dtype, (a, b), op, op=op)


def _index_binary(op: str, a: Expr, b: Expr) -> Expr:
    if op in ("max", "min"):
        return _extremum(op, a, b)
    terms, constant = split(a)
    others, other = split(b)
    if op == "mul":
        if terms and others:
            return interned(Call, "i64", (a, b), "mul", op="mul")
        if terms:
            terms, constant, others, other = others, other, terms, constant
        return linear({x: c * constant for x, c in others.items()}, other * constant)
    sign = 1 if op == "add" else -1
    for x, c in others.items():
        terms[x] = terms.get(x, 0) + sign * c
    return linear(terms, constant + sign * other)


def _extremum(op: str, a: Expr, b: Expr) -> Expr:
    for first, second in ((a, b), (b, a)):
        below = compare("le", first, second)
        if isinstance(below, Const) and below.value:
            return first if op == "min" else second
    made = interned(Call, "i64", (a, b), op, op=op)
    pick, one = (max, "lo") if op == "max" else (min, "hi")
    both = "hi" if op == "max" else "lo"
    known = [getattr(x, one) for x in (a, b) if getattr(x, one) is not None]
    ends = [getattr(x, both) for x in (a, b)]
    setattr(made, one, pick(known) if known else None)
    setattr(made, both, None if None in ends else pick(ends))
    return made


def quotient(a: Any, b: Any) -> Expr:
    """a / b of floats."""
    a, b = pair("div", a, b)
    if not is_float(a.dtype):
        raise IRError(f"/ of {a.dtype}, wanted floats (integers divide by m.div)")
    return binary("div", a, b)


def compare(op: str, a: Any, b: Any) -> Expr:
    """lt, le, eq or ne of two operands of one type; decided where ranges allow it."""
    a, b = pair(op, a, b)
    if a.dtype == "i64":
        known = a.lo is not None and a.hi is not None and b.lo is not None and b.hi is not None
        difference = a - b if known or a is b else None
        if difference is not None and (answer := _decided(op, difference)) is not None:
            return TRUE if answer else FALSE
    return interned(Call, "bool", (a, b), op, op=op)


def _decided(op: str, difference: Expr) -> bool | None:
    lo, hi = difference.lo, difference.hi
    if lo is None or hi is None:
        return None
    if op in ("lt", "le"):
        limit = -1 if op == "lt" else 0
        return True if hi <= limit else False if lo > limit else None
    if lo == hi == 0:
        return op == "eq"
    return None if lo <= 0 <= hi else op == "ne"


def select(condition: Any, a: Any, b: Any) -> Expr:
    """`a` where the condition holds, else `b`."""
    a, b = pair("select", a, b)
    condition = typed(condition, "bool")
    if condition.dtype != "bool":
        raise IRError(f"select on {condition.dtype}, wanted bool")
    if isinstance(condition, Const):
        return a if condition.value else b
    if a is b:
        return a
    made = interned(Call, a.dtype, (condition, a, b), "select", op="select")
    if a.dtype == "i64":
        made.lo = None if a.lo is None or b.lo is None else min(a.lo, b.lo)
        made.hi = None if a.hi is None or b.hi is None else max(a.hi, b.hi)
    return made


def cast(x: Expr, dtype: str) -> Expr:
    """Conversion; to f16 or bf16 it is f32 rounded to what they hold."""
    if dtype in ("f16", "bf16"):
        return unary(f"round_{dtype}", cast(x, "f32"))
    if x.dtype == dtype:
        return x
    made = interned(Call, dtype, (x,), ("cast", dtype), op="cast")
    if dtype == "i64" and (x.dtype == "bool" or (is_int(x.dtype) and x.dtype != "u64")):
        bits = 1 if x.dtype == "bool" else int(x.dtype[1:])
        signed = x.dtype != "bool" and is_signed(x.dtype)
        made.lo = -(1 << (bits - 1)) if signed else 0
        made.hi = made.lo + (1 << bits) - 1
    return made


def load(buffer: Any, offset: Any, inside: Any = TRUE, other: Any = None) -> Expr:
    """An element of a buffer, or `other` where `inside` fails."""
    inside = typed(inside, "bool")
    if isinstance(inside, Const):
        if not inside.value:
            return typed(other, buffer.dtype)
        return interned(Load, buffer.dtype, (index(offset),), id(buffer), buffer=buffer)
    args = (index(offset), inside, typed(other, buffer.dtype))
    return interned(Load, buffer.dtype, args, id(buffer), buffer=buffer)


def checked(i: Any, extent: int, code: int) -> Expr:
    """An index that is valid for an axis; negative ones count from its end."""
    i = index(i)
    if i.lo is not None and i.hi is not None and i.lo >= 0 and i.hi < extent:
        return i
    made = interned(Checked, "i64", (i,), (extent, code), extent=extent, code=code)
    made.lo, made.hi = 0, max(extent - 1, 0)
    return made


def reduce(kind: str, bound: tuple[Var, ...], args: tuple[Expr, ...]) -> Expr:
    """A Reduce; args are body, where, then start and stop of each variable."""
    if not bound:
        return args[0] if args[1] is TRUE else select(args[1], args[0], identity(kind, args[0]))
    made = interned(Reduce, args[0].dtype, args, (kind, bound), kind=kind, bound=bound)
    made.free = made.free - frozenset(bound)
    return made


def identity(kind: str, like: Expr) -> Const:
    """What a reduction of nothing is."""
    if kind in ("sum", "prod"):
        return const(kind == "prod", like.dtype)
    sign = -1 if kind == "max" else 1
    if is_float(like.dtype):
        return const(sign * math.inf, like.dtype)
    bits = int(like.dtype[1:])
    lowest = -(1 << (bits - 1)) if is_signed(like.dtype) else 0
    return const(lowest if kind == "max" else lowest + (1 << bits) - 1, like.dtype)


def fold(
    bound: tuple[Var, ...], states: tuple[Symbol, ...], args: tuple[Expr, ...], position: int
) -> Expr:
    """A Fold; args are the initial states, then the states after a step."""
    made = interned(
        Fold,
        states[position].dtype,
        args,
        (bound, states, position),
        bound=bound,
        states=states,
        position=position,
    )
    made.free = made.free - frozenset(bound) - frozenset(states)
    return made


Expr.build = sys.modules[__name__]
