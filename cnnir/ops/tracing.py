"""The algebra of `scalar` definitions, building graph nodes: a third meaning beside numpy and code.

Derivatives are written in that algebra, so here they become ordinary nodes. Python numbers stay
numbers as long as they can: products with 0 and 1 are never built, and a choice between numbers
waits for what it is multiplied by, so that dy * (1 if x > 0 else 0) is one `where`, and no 0 * inf.
"""

from __future__ import annotations

from typing import Any

from cnnir.errors import GradientError
from cnnir.ops.algebra import NUMPY
from cnnir.tensortype import compute_dtype


class Traced:
    """A value of a graph, with Python's operators."""

    __slots__ = ("_value", "m")

    def __init__(self, m: GraphAlgebra, value: Any) -> None:
        self.m, self._value = m, value

    @property
    def value(self) -> Any:
        """The value of the graph."""
        return self._value

    def __add__(self, other: Any) -> Any:
        return self.m.add(self, other)

    def __radd__(self, other: Any) -> Any:
        return self.m.add(other, self)

    def __sub__(self, other: Any) -> Any:
        return self.m.sub(self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.m.sub(other, self)

    def __mul__(self, other: Any) -> Any:
        return self.m.mul(self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.m.mul(other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.m.div(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.m.div(other, self)

    def __neg__(self) -> Any:
        return self.m.build("neg", self)

    def __lt__(self, other: Any) -> Any:
        return self.m.build("less", self, other)

    def __le__(self, other: Any) -> Any:
        return self.m.build("less_equal", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.m.build("less", other, self)

    def __ge__(self, other: Any) -> Any:
        return self.m.build("less_equal", other, self)

    def __and__(self, other: Any) -> Any:
        return self.m.build("logical_and", self, other)

    def __or__(self, other: Any) -> Any:
        return self.m.build("logical_or", self, other)

    def __xor__(self, other: Any) -> Any:
        return self.m.build("logical_xor", self, other)

    def __invert__(self) -> Any:
        return self.m.build("logical_not", self)


class Choice(Traced):
    """A choice with a number among its two sides, built as a `where` when it is needed."""

    __slots__ = ("a", "b", "condition")

    def __init__(self, m: GraphAlgebra, condition: Traced, a: Any, b: Any) -> None:
        super().__init__(m, None)
        self.condition, self.a, self.b = condition, a, b

    @property
    def value(self) -> Any:
        """The `where` of the graph."""
        if self._value is None:
            sides = self.m.values(self.a, self.b)
            self._value = self.m.g.add("where", self.condition.value, *sides)
        return self._value


def _is(value: Any, number: float) -> bool:
    return not isinstance(value, Traced) and value == number


class GraphAlgebra:
    """Builds nodes in the graph `g`. Numbers on their own have the element type `dtype`."""

    def __init__(self, g: Any, dtype: str) -> None:
        self.g, self.number_dtype = g, dtype
        self._constants: dict[tuple[Any, str], Any] = {}

    def widened(self, value: Any) -> Traced:
        """A value of the graph in the type that arithmetic on it is done in."""
        return Traced(self, widened(self.g, value))

    def values(self, *terms: Any) -> list[Any]:
        """Values of the graph; numbers become constants of the type of the terms beside them."""
        dtypes = [t.value.type.dtype for t in terms if isinstance(t, Traced)]
        dtype = dtypes[0] if dtypes else self.number_dtype
        return [t.value if isinstance(t, Traced) else self._constant(t, dtype) for t in terms]

    def _constant(self, number: Any, dtype: str) -> Any:
        key = (number, dtype)
        if key not in self._constants:
            self._constants[key] = self.g.constant(number, dtype)
        return self._constants[key]

    def build(self, op: str, *terms: Any, **attrs: Any) -> Traced:
        """A node of an elementwise op."""
        return Traced(self, self.g.add(op, *self.values(*terms), **attrs))

    # ---- arithmetic

    def add(self, a: Any, b: Any) -> Any:
        """a + b."""
        if _is(a, 0):
            return b
        return a if _is(b, 0) else self.build("add", a, b)

    def sub(self, a: Any, b: Any) -> Any:
        """a - b."""
        if _is(a, 0):
            return -b
        return a if _is(b, 0) else self.build("sub", a, b)

    def mul(self, a: Any, b: Any) -> Any:
        """a * b; a choice is multiplied on both sides."""
        if _is(a, 0) or _is(b, 0):
            return 0.0
        for one, other in ((a, b), (b, a)):
            if _is(one, 1):
                return other
            if _is(one, -1):
                return -other
            if isinstance(one, Choice):
                return self.select(one.condition, self.mul(one.a, other), self.mul(one.b, other))
        both = isinstance(a, Traced) or isinstance(b, Traced)
        return self.build("mul", a, b) if both else a * b

    def div(self, a: Any, b: Any) -> Any:
        """a / b."""
        if _is(a, 0):
            return 0.0
        return a if _is(b, 1) else self.build("div", a, b)

    def rem(self, a: Any, b: Any) -> Traced:
        """The remainder of a / b with the sign of a."""
        return self.build("mod", a, b, fmod=True)

    def pow(self, a: Any, b: Any) -> Any:
        """a to the power b."""
        return self.build("pow", a, b)

    def trunc(self, a: Any) -> Any:
        """The whole number next to a towards 0."""
        return self.build("sign", a) * self.build("floor", self.build("abs", a))

    # ---- comparing, choosing, converting

    def equal(self, a: Any, b: Any) -> Traced:
        """a = b."""
        return self.build("equal", a, b)

    def not_equal(self, a: Any, b: Any) -> Traced:
        """Not a = b."""
        return ~self.equal(a, b)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        """`a` where the condition holds, else `b`."""
        if not isinstance(condition, Traced):
            return a if condition else b
        if isinstance(a, Traced) and isinstance(b, Traced):
            return self.build_where(condition, a, b)
        same = not isinstance(a, Traced) and not isinstance(b, Traced) and a == b
        return a if same else Choice(self, condition, a, b)

    def build_where(self, condition: Traced, a: Traced, b: Traced) -> Traced:
        """The node of a choice between two values."""
        return Traced(self, self.g.add("where", condition.value, a.value, b.value))

    def dtype(self, value: Any) -> str:
        """The element type of a value."""
        return value.value.type.dtype if isinstance(value, Traced) else self.number_dtype

    @staticmethod
    def const(value: Any, dtype: str) -> Any:
        """A number, which takes the element type of what it meets."""
        return value

    def cast(self, value: Any, dtype: str) -> Any:
        """Conversion to another element type."""
        if not isinstance(value, Traced):
            return value
        return Traced(self, converted(self.g, value.value, dtype))

    def __getattr__(self, name: str) -> Any:
        op = _FUNCTIONS.get(name)
        if op is None:
            raise GradientError(f"a derivative needs {name!r}, which has no graph op")

        def function(*terms: Any) -> Any:
            if not any(isinstance(t, Traced) for t in terms):
                return float(getattr(NUMPY, name)(*terms))
            return self.build(op, *terms)

        return function


_FUNCTIONS = {
    name: name
    for name in ("abs", "sqrt", "exp", "log", "tanh", "sin", "cos", "floor", "ceil", "erf")
} | {"max": "maximum", "min": "minimum", "rint": "round", "is_nan": "is_nan", "is_inf": "is_inf"}
"""Functions of the algebra and the ops that they are."""


def converted(g: Any, value: Any, dtype: str) -> Any:
    """A value in another element type; itself where it has that already."""
    return value if value.type.dtype == dtype else g.add("cast", value, dtype=dtype)


def widened(g: Any, value: Any) -> Any:
    """A value in the type that arithmetic on it is done in: 16-bit floats in f32."""
    return converted(g, value, compute_dtype(value.type.dtype))
