"""The text form of statements: a small loop program to read, never to parse."""

from __future__ import annotations

from typing import Any

from cnnir.loops import expr as x
from cnnir.loops.expr import Expr, Var
from cnnir.loops.statements import For, Get, If, Let, Set, Statement, Store

_INFIX = {
    **{"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "and": "&", "or": "|"},
    **{"xor": "^", "shl": "<<", "shr": ">>", "lt": "<", "le": "<=", "eq": "==", "ne": "!="},
    "div": "/",
}
_LONG = 60  # a shared or long expression gets a line of its own


def block_text(body: list[Statement], item: Var) -> list[str]:
    """A kernel's body as indented lines."""
    text = _Text()
    text.names[item] = "item"
    text.block(body, "  ")
    return text.out


class _Text:
    def __init__(self) -> None:
        self.out: list[str] = []
        self.names: dict[Expr, str] = {}
        self.taken: dict[str, int] = {}

    def block(self, body: list[Any], pad: str) -> None:
        outer = dict(self.names)
        for s in body:
            self.statement(s, pad)
        self.names = outer

    def statement(self, s: Any, pad: str) -> None:
        if isinstance(s, For):
            start, stop = self.show(s.start, pad), self.show(s.stop, pad)
            name = self.define(s.var, s.var.name)
            head = f"{start} .. {stop}" if start != "0" else stop
            self.out.append(f"{pad}{'vector' if s.var.lanes else 'for'} {name} in {head} {{")
            self.block(s.body, pad + "  ")
            self.out.append(pad + "}")
        elif isinstance(s, If):
            self.out.append(f"{pad}if {self.show(s.condition, pad)} {{")
            self.block(s.body, pad + "  ")
            self.out.append(pad + "}")
        elif isinstance(s, Store):
            offset, value = self.show(s.offset, pad), self.show(s.value, pad)
            self.out.append(f"{pad}{s.buffer.name}[{offset}] = {value}")
        elif isinstance(s, Set):
            self.out.append(f"{pad}{s.variable.name} := {self.show(s.value, pad)}")
        elif isinstance(s, Get):
            source = s.variable.name if s.variable else None
            if s.buffer is not None and s.offset is not None:
                source = f"{s.buffer.name}[{self.show(s.offset, pad)}]"
            self.out.append(f"{pad}let {self.define(s.symbol, s.symbol.name)} = {source}")
        elif isinstance(s, Let):
            value = self.show(s.value, pad, whole=True)
            base = s.name.name if isinstance(s.name, (x.Var, x.Symbol)) else "t"
            self.out.append(f"{pad}let {self.define(s.name, base)} = {value}")

    def define(self, e: Expr, base: str) -> str:
        count = self.taken.get(base, 0)
        self.taken[base] = count + 1
        self.names[e] = f"{base}_{count}" if count else base
        return self.names[e]

    def show(self, root: Expr, pad: str, whole: bool = False) -> str:
        """The expression; its shared and long parts are printed as lines before it."""
        uses: dict[Expr, int] = {}
        order = self.visible(root)
        for e in order:
            for a in e.args:
                uses[a] = uses.get(a, 0) + 1
        made: dict[Expr, str] = {}
        for e in order:
            text = self.names.get(e) or self.one(e, made)
            simple = e.dtype == "i64" or isinstance(e, (x.Const, x.Symbol))
            shared = uses.get(e, 0) > 1 and not simple and len(text) > 12
            loop = isinstance(e, (x.Reduce, x.Fold))
            bound = bool(e.free) and not e.free <= self.bound()
            if e not in self.names and e is not root and not loop and not bound:
                if shared or len(text) > _LONG:
                    self.out.append(f"{pad}let {self.define(e, 't')} = {text}")
                    text = self.names[e]
            made[e] = text
        return made[root]

    def bound(self) -> frozenset[Expr]:
        return frozenset(self.names)

    def visible(self, root: Expr) -> list[Expr]:
        """What has to be shown for the expression, operands first."""
        order, seen, stack = [], set(), [(root, False)]
        while stack:
            e, expanded = stack.pop()
            if expanded:
                order.append(e)
            elif e not in seen:
                seen.add(e)
                stack.append((e, True))
                if e not in self.names:
                    stack += [(a, False) for a in reversed(e.args)]
        return order

    def one(self, e: Expr, made: dict[Expr, str]) -> str:
        def part(a: Expr) -> str:
            return made[a]

        match e:
            case x.Const():
                return "true" if e is x.TRUE else "false" if e is x.FALSE else f"{e.value!r}"
            case x.Var() | x.Symbol():
                return e.name
            case x.Linear():
                return self.linear(e, made)
            case x.Load():
                read = f"{e.buffer.name}[{part(e.args[0])}]"
                if len(e.args) == 1:
                    return read
                return f"({read} if {part(e.args[1])} else {part(e.args[2])})"
            case x.Checked():
                return f"checked({part(e.args[0])}, {e.extent})"
            case x.Reduce():
                loops = ", ".join(f"{v.name} in {part(a)} .. {part(b)}" for v, a, b in e.ranges)
                where = "" if e.args[1] is x.TRUE else f" where {part(e.args[1])}"
                return f"{e.kind}({loops}{where}: {part(e.args[0])})"
            case x.Fold():
                n = len(e.states)
                loops = ", ".join(f"{v.name} in {(v.hi or 0) + 1}" for v in e.bound)
                steps = ", ".join(
                    f"{s.name} = {part(i)} then {part(a)}"
                    for s, i, a in zip(e.states, e.args[:n], e.args[n:], strict=True)
                )
                return f"fold({loops}: {steps}).{e.position}"
            case x.Call(op="select"):
                return f"({part(e.args[1])} if {part(e.args[0])} else {part(e.args[2])})"
            case x.Call(op="cast"):
                return f"{e.dtype}({part(e.args[0])})"
            case x.Call() if e.op in _INFIX:
                return f"({part(e.args[0])} {_INFIX[e.op]} {part(e.args[1])})"
            case x.Call():
                return f"{e.op}({', '.join(map(part, e.args))})"
        raise AssertionError(e)

    def linear(self, e: x.Linear, made: dict[Expr, str]) -> str:
        terms = [
            made[a] if k == 1 else f"{k} * {made[a]}"
            for a, k in zip(e.args, e.coefficients, strict=True)
        ]
        if e.constant:
            terms.append(str(e.constant))
        return "(" + " + ".join(terms).replace("+ -", "- ") + ")"
