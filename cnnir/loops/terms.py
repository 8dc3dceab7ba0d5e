"""The kinds of expressions: immutable, interned nodes. `expr.py` builds them in normal form.

Equal expressions are one object, so `is` compares them and shared values stay shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from cnnir.errors import IRError

_TABLE: WeakValueDictionary[Any, Expr] = WeakValueDictionary()
_NONE: frozenset[Any] = frozenset()

Number = bool | int | float


class Expr:
    """One scalar value. `free` holds the variables and symbols that it depends on.

    `lo` and `hi` bound an i64 value where that is known.
    """

    __slots__ = ("__weakref__", "args", "dtype", "free", "hi", "lo")

    build: ClassVar[Any]
    """The constructors of `expr.py`, which this file lies beneath."""

    args: tuple[Expr, ...]
    dtype: str
    free: frozenset[Expr]
    lo: int | None
    hi: int | None

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        """The same operation on other operands, in normal form."""
        return self

    def __add__(self, other: Any) -> Expr:
        return self.build.binary("add", self, other)

    def __radd__(self, other: Any) -> Expr:
        return self.build.binary("add", other, self)

    def __sub__(self, other: Any) -> Expr:
        return self.build.binary("sub", self, other)

    def __rsub__(self, other: Any) -> Expr:
        return self.build.binary("sub", other, self)

    def __mul__(self, other: Any) -> Expr:
        return self.build.binary("mul", self, other)

    def __rmul__(self, other: Any) -> Expr:
        return self.build.binary("mul", other, self)

    def __truediv__(self, other: Any) -> Expr:
        return self.build.quotient(self, other)

    def __rtruediv__(self, other: Any) -> Expr:
        return self.build.quotient(other, self)

    def __floordiv__(self, other: int) -> Expr:
        return self.build.floordiv(self, other)

    def __mod__(self, other: int) -> Expr:
        return self.build.modulo(self, other)

    def __neg__(self) -> Expr:
        return (
            self.build.binary("mul", self, -1)
            if self.dtype == "i64"
            else self.build.unary("neg", self)
        )

    def __invert__(self) -> Expr:
        return self.build.unary("not", self)

    def __and__(self, other: Any) -> Expr:
        return self.build.binary("and", self, other)

    def __rand__(self, other: Any) -> Expr:
        return self.build.binary("and", other, self)

    def __or__(self, other: Any) -> Expr:
        return self.build.binary("or", self, other)

    def __ror__(self, other: Any) -> Expr:
        return self.build.binary("or", other, self)

    def __xor__(self, other: Any) -> Expr:
        return self.build.binary("xor", self, other)

    def __rxor__(self, other: Any) -> Expr:
        return self.build.binary("xor", other, self)

    def __lshift__(self, other: Any) -> Expr:
        return self.build.binary("shl", self, other)

    def __rshift__(self, other: Any) -> Expr:
        return self.build.binary("shr", self, other)

    def __lt__(self, other: Any) -> Expr:
        return self.build.compare("lt", self, other)

    def __le__(self, other: Any) -> Expr:
        return self.build.compare("le", self, other)

    def __gt__(self, other: Any) -> Expr:
        return self.build.compare("lt", other, self)

    def __ge__(self, other: Any) -> Expr:
        return self.build.compare("le", other, self)

    def __bool__(self) -> bool:
        raise IRError("a value known only when the kernel runs was used as a Python condition")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.dtype}>"


class Const(Expr):
    """A number."""

    __slots__ = ("value",)
    value: Number

    def __bool__(self) -> bool:
        return bool(self.value)

    def __repr__(self) -> str:
        return f"<{self.value!r}: {self.dtype}>"


class Var(Expr):
    """A loop index in [lo, hi], or, where `lanes` is set, the lane of a vector loop."""

    __slots__ = ("lanes", "name")
    name: str
    lanes: bool

    def __init__(self, name: str, extent: int, start: int = 0, lanes: bool = False) -> None:
        self.name, self.lanes, self.dtype, self.args = name, lanes, "i64", ()
        self.lo, self.hi = start, max(start, start + extent - 1)
        self.free = frozenset((self,))


class Symbol(Expr):
    """A value bound elsewhere: by a Let, as the state of a Fold, or by whoever prints."""

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str, dtype: str) -> None:
        self.name, self.dtype, self.args = name, dtype, ()
        self.lo = self.hi = None
        self.free = frozenset((self,))


class Call(Expr):
    """An operation on its operands: arithmetic, comparisons, functions, select, casts."""

    __slots__ = ("op",)
    op: str

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        return self.build.call(self.op, self.dtype, args)


class Linear(Expr):
    """sum of coefficient * operand, plus a constant; i64, at least one operand."""

    __slots__ = ("coefficients", "constant")
    coefficients: tuple[int, ...]
    constant: int

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        return self.build.combination(args, self.coefficients, self.constant)


class Load(Expr):
    """An element of a buffer; 16-bit floats arrive as f32. With a condition: (offset, inside,
    other), which reads nothing where the condition fails and is `other` there."""

    __slots__ = ("buffer",)
    buffer: Any

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        return self.build.load(self.buffer, *args)


class Checked(Expr):
    """A valid index of an axis from one that may be negative or wrong; wrong stores `code`."""

    __slots__ = ("code", "extent")
    extent: int
    code: int

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        return self.build.checked(args[0], self.extent, self.code)


class Reduce(Expr):
    """The sum, prod, max or min of a body over loops; args are body, where, start, stop, ...

    A lane variable among `bound` (only the last may be one) asks for one partial result a lane,
    combined in a fixed order at the end.
    """

    __slots__ = ("bound", "kind")
    kind: str
    bound: tuple[Var, ...]

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        return self.build.reduce(self.kind, self.bound, args)

    @property
    def ranges(self) -> list[tuple[Var, Expr, Expr]]:
        """(variable, start, stop) of the loops, outermost first."""
        limits = self.args[2:]
        return list(zip(self.bound, limits[::2], limits[1::2], strict=True))


class Fold(Expr):
    """One of the final states of a sequential loop over all of `bound`, first index slowest.

    args are the initial states, then the states after a step in terms of `states` and `bound`.
    """

    __slots__ = ("bound", "position", "states")
    bound: tuple[Var, ...]
    states: tuple[Symbol, ...]
    position: int

    def with_args(self, args: tuple[Expr, ...]) -> Expr:
        return self.build.fold(self.bound, self.states, args, self.position)


def interned(
    cls: type[Expr], dtype: str, args: tuple[Expr, ...], key: Any, /, **fields: Any
) -> Any:
    """The one expression with this content."""
    full = (cls, dtype, args, key)
    known = _TABLE.get(full)
    if known is not None:
        return known
    made = cls.__new__(cls)
    made.dtype, made.args = dtype, args
    made.lo = made.hi = None
    made.free = _union(args)
    for name, value in fields.items():
        setattr(made, name, value)
    _TABLE[full] = made
    return made


def _union(args: Iterable[Expr]) -> frozenset[Expr]:
    """Free variables of all; large shared sets are not copied."""
    total: frozenset[Expr] = _NONE
    for arg in args:
        if not arg.free <= total:
            total = arg.free if total <= arg.free else total | arg.free
    return total


def remembered(key: Any) -> Any:
    """The expression that was remembered under a key, if it is still in use."""
    return _TABLE.get(key)


def remember(key: Any, made: Expr) -> None:
    """Remember an expression under a further key."""
    _TABLE[key] = made
