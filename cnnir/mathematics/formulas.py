"""Formulas as text and as LaTeX: one more meaning of the algebra that ops are written in.

An elementwise op is a `scalar` function of an algebra; run on these terms it writes itself down,
and its partial derivatives, found by dual numbers, write themselves down too.
"""

from __future__ import annotations

import math
from typing import Any

_SUM, _PRODUCT, _SIGN, _ATOM = range(4)


class Term:
    """A formula. `strength` says how tightly its outermost operation binds."""

    __slots__ = ("latex", "strength", "text")

    def __init__(self, text: str, latex: str, strength: int = _ATOM) -> None:
        self.text, self.latex, self.strength = text, latex, strength

    def __repr__(self) -> str:
        return self.text

    def __add__(self, other: Any) -> Any:
        return _sum(self, other)

    def __radd__(self, other: Any) -> Any:
        return _sum(other, self)

    def __sub__(self, other: Any) -> Any:
        return _difference(self, other)

    def __rsub__(self, other: Any) -> Any:
        return _difference(other, self)

    def __mul__(self, other: Any) -> Any:
        return product(self, other)

    def __rmul__(self, other: Any) -> Any:
        return product(other, self)

    def __truediv__(self, other: Any) -> Any:
        return FORMULAS.div(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return FORMULAS.div(other, self)

    def __neg__(self) -> Any:
        text, latex = _inside(self, _PRODUCT)
        return Term(f"-{text}", f"-{latex}", _SIGN - 1)

    def __lt__(self, other: Any) -> Term:
        return _joined(self, other, " < ", " < ")

    def __le__(self, other: Any) -> Term:
        return _joined(self, other, " <= ", r" \le ")

    def __gt__(self, other: Any) -> Term:
        return _joined(self, other, " > ", " > ")

    def __ge__(self, other: Any) -> Term:
        return _joined(self, other, " >= ", r" \ge ")

    def __and__(self, other: Any) -> Term:
        return _joined(self, other, " and ", r" \wedge ")

    def __or__(self, other: Any) -> Term:
        return _joined(self, other, " or ", r" \vee ")

    def __invert__(self) -> Term:
        return Term(f"not ({self.text})", rf"\neg ({self.latex})", _SUM)


def as_term(value: Any) -> Term:
    """A term, or a number as one."""
    if isinstance(value, Term):
        return value
    number = float(value)
    if not math.isfinite(number):
        return Term(str(number), r"\infty" if number > 0 else r"-\infty")
    shown = f"{number:.6g}"
    return Term(shown, shown, _ATOM if number >= 0 else _SUM)


def latex_name(name: str) -> str:
    """What a value is called, in LaTeX: y12 gets an index, longer names are upright."""
    if name[:1] == "y" and name[1:].isdecimal():
        return f"y_{{{name[1:]}}}"
    plain = name.replace("_", r"\_")
    return name if len(name) == 1 or name[:1].isdecimal() else rf"\mathrm{{{plain}}}"


def _is(value: Any, number: float) -> bool:
    return not isinstance(value, Term) and value == number


def _inside(value: Any, strength: int) -> tuple[str, str]:
    """A term as an operand of an operation: in brackets where it binds less tightly."""
    term = as_term(value)
    if term.strength >= strength:
        return term.text, term.latex
    return f"({term.text})", rf"\left({term.latex}\right)"


def _joined(a: Any, b: Any, sign: str, latex: str, strength: int = _SUM, right: int = 0) -> Term:
    (at, al), (bt, bl) = _inside(a, strength), _inside(b, strength + right)
    return Term(at + sign + bt, al + latex + bl, strength)


def _sum(a: Any, b: Any) -> Any:
    if _is(a, 0):
        return b
    if isinstance(b, Term) and b.strength >= _PRODUCT and b.text[0] == b.latex[0] == "-":
        return _difference(a, Term(b.text[1:], b.latex[1:], b.strength))
    return a if _is(b, 0) else _joined(a, b, " + ", " + ")


def _difference(a: Any, b: Any) -> Any:
    if _is(a, 0):
        return -b
    return a if _is(b, 0) else _joined(a, b, " - ", " - ", right=1)


def product(a: Any, b: Any) -> Any:
    """a b, without factors of 1."""
    if _is(a, 0) or _is(b, 0):
        return 0.0
    if _is(a, 1) or _is(b, 1):
        return b if _is(a, 1) else a
    if _is(a, -1) or _is(b, -1):
        return -as_term(b if _is(a, -1) else a)
    if not isinstance(a, Term) and not isinstance(b, Term):
        return a * b
    return _joined(a, b, " * ", r" \cdot ", _PRODUCT)


class FormulaAlgebra:
    """The algebra of `scalar` definitions on terms."""

    @staticmethod
    def div(a: Any, b: Any) -> Any:
        """a / b."""
        if _is(a, 0):
            return 0.0
        if _is(b, 1):
            return a
        (at, _), (bt, _) = _inside(a, _PRODUCT), _inside(b, _SIGN)
        latex = rf"\frac{{{as_term(a).latex}}}{{{as_term(b).latex}}}"
        return Term(f"{at} / {bt}", latex, _PRODUCT)

    @staticmethod
    def pow(a: Any, b: Any) -> Any:
        """a to the power b."""
        (at, al), (bt, _) = _inside(a, _ATOM), _inside(b, _ATOM)
        return Term(f"{at}^{bt}", f"{{{al}}}^{{{as_term(b).latex}}}", _SIGN)

    @staticmethod
    def select(condition: Any, a: Any, b: Any) -> Any:
        """`a` where the condition holds, else `b`."""
        if not isinstance(condition, Term):
            return a if condition else b
        a, b = as_term(a), as_term(b)
        if a.text == b.text:
            return a
        latex = rf"\begin{{cases}} {a.latex} & {condition.latex} \\ {b.latex} & \text{{else}} \end"
        return Term(f"{a.text} if {condition.text} else {b.text}", latex + "{cases}", -1)

    @staticmethod
    def equal(a: Any, b: Any) -> Term:
        """a = b."""
        return _joined(a, b, " == ", " = ")

    @staticmethod
    def not_equal(a: Any, b: Any) -> Term:
        """Not a = b."""
        return _joined(a, b, " != ", r" \ne ")

    @staticmethod
    def dtype(value: Any) -> str:
        """Formulas are of real numbers."""
        return "f64"

    @staticmethod
    def const(value: Any, dtype: str) -> Any:
        """A number."""
        return value

    @staticmethod
    def cast(value: Any, dtype: str) -> Any:
        """Conversion leaves a formula as it is."""
        return value

    def __getattr__(self, name: str) -> Any:
        def function(*terms: Any) -> Term:
            texts, latexes = zip(*((t.text, t.latex) for t in map(as_term, terms)), strict=True)
            symbol = rf"\{name}" if name in _STANDARD else rf"\mathrm{{{name}}}"
            inner = ", ".join(latexes)
            latex = _SHAPES.get(name, rf"{symbol}\left({{}}\right)").replace("{}", inner)
            return Term(f"{name}({', '.join(texts)})", latex)

        if name.startswith("_"):
            raise AttributeError(name)
        return function


_STANDARD = {"exp", "log", "tanh", "sin", "cos", "max", "min"}
_SHAPES = {"abs": r"\left|{}\right|", "sqrt": r"\sqrt{{}}", "floor": r"\lfloor {} \rfloor",
           "ceil": r"\lceil {} \rceil"}  # fmt: skip

FORMULAS = FormulaAlgebra()
