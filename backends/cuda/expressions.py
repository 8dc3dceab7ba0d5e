"""Prints expressions of the kernel language as CUDA C: lines of code, and text for what remains.

Shared, long and looping parts become variables v0, v1, ... on lines of their own; the rest stands
where it is used. A thread is one lane, so everything here is scalar, except that the threads of a
warp may share a reduction. Indices are `int` wherever their bounds are known to fit: division by a
constant takes a device several times longer in 64 bits. `printer.py` has statements.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cnnir.backends.cuda import operations as ops
from cnnir.loops import expr as x
from cnnir.loops.expr import Expr
from cnnir.loops.statements import Buffer

LONG = 60
"""Characters of an expression from which on it gets a line of its own."""
WARP = 32
"""Threads that run as one."""


class Expressions:
    """Prints expressions; keeps which variables stand for what, by block."""

    def __init__(self, pointers: dict[Buffer, str]) -> None:
        self.pointers = pointers
        self.lines: list[str] = []
        self.scopes: list[dict[Expr, str]] = [{}]
        self.warp = False
        """Whether all threads of a warp are here, with the same item: `lane` is which one."""
        self._names = 0

    # ---- lines and names

    def line(self, text: str) -> None:
        """A line of the open block."""
        self.lines.append("  " * len(self.scopes) + text)

    def fresh(self) -> str:
        """A name that is not taken."""
        self._names += 1
        return f"v{self._names - 1}"

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """A block in braces: what is named in it is not known after it."""
        self.line(f"{head} {{".lstrip())
        self.scopes.append({})
        yield
        self.scopes.pop()
        self.line("}")

    @contextmanager
    def loop(self, var: x.Var, start: Expr, stop: Expr) -> Iterator[None]:
        """for var in range(start, stop), as a block."""
        first, last, name = self.index(start), self.index(stop), self.fresh()
        kind = index_type(var, stop)
        with self.block(f"for ({kind} {name} = {first}; {name} < {last}; ++{name})"):
            self.define(var, name)
            yield

    def define(self, e: Expr, name: str) -> None:
        """Let a variable stand for an expression until the block ends."""
        self.scopes[-1][e] = name

    def known(self, e: Expr) -> str | None:
        """The variable that stands for an expression."""
        return next((scope[e] for scope in reversed(self.scopes) if e in scope), None)

    def variable(self, e: Expr, text: str) -> str:
        """Keep the value of an expression in a new variable."""
        name = self.fresh()
        self.line(f"const {type_of(e)} {name} = {bare(text)};")
        self.define(e, name)
        return name

    # ---- expressions

    def value(self, root: Expr) -> str:
        """The text of an expression, after the lines that it needs."""
        order = self._order(root)
        uses: dict[Expr, int] = {}
        for e in order:
            for a in self._operands(e):
                uses[a] = uses.get(a, 0) + 1
        made: dict[Expr, str] = {}
        for e in order:
            text = self.known(e)  # a fold makes all of its states known
            if text is None:
                text = self._print(e, made)
                short = isinstance(e, (x.Const, x.Reduce, x.Fold)) or text.isidentifier()
                shared = uses.get(e, 0) > 1 or (len(text) > LONG and e is not root)
                # wrong indices are reported even where their value is not used
                if isinstance(e, x.Checked) or (shared and not short):
                    text = self.variable(e, text)
            made[e] = text
        return made[root]

    def index(self, e: Expr) -> str:
        """The text of an index that stands alone."""
        return _number(e) if _whole(e) else bare(self.value(e))

    def _order(self, root: Expr) -> list[Expr]:
        """What has to be printed for an expression, operands first; loops see to theirs."""
        order, seen, stack = [], set(), [(root, False)]
        while stack:
            e, expanded = stack.pop()
            if expanded:
                order.append(e)
            elif e not in seen:
                seen.add(e)
                stack.append((e, True))
                stack += [(a, False) for a in reversed(self._operands(e))]
        return order

    def _operands(self, e: Expr) -> tuple[Expr, ...]:
        loop = isinstance(e, (x.Reduce, x.Fold))
        return () if loop or self.known(e) is not None else e.args

    def _print(self, e: Expr, made: dict[Expr, str]) -> str:
        match e:
            case x.Const():
                return ops.constant(e.value, e.dtype)
            case x.Linear():
                return _linear(e, made)
            case x.Load():
                return self._load(e, made)
            case x.Checked():
                return f"cn_checked({bare(made[e.args[0]])}, {e.extent}, {e.code}, error)"
            case x.Call(op="floordiv") | x.Call(op="mod"):
                a, n = e.args
                assert isinstance(n, x.Const)
                negative = a.lo is None or a.lo < 0
                return ops.index_division(e.op, made[a], int(n.value), negative, type_of(a))
            case x.Call(op="max") | x.Call(op="min") if all(map(narrow, e.args)):
                both = ", ".join(_number(a) if _whole(a) else bare(made[a]) for a in e.args)
                return f"cn_{e.op}<int>({both})"
            case x.Call():
                plain = e.op in ("lt", "le", "eq", "ne", "max", "min")
                arguments = [_number(a) if plain and _whole(a) else made[a] for a in e.args]
                return ops.operation(e.op, e.args[-1].dtype, e.dtype, arguments)
            case x.Reduce():
                return self._reduce(e)
            case x.Fold():
                return self._fold(e)
        raise AssertionError(f"{e!r} is not bound here")

    def element(self, buffer: Buffer, offset: str) -> str:
        """The value of an element of a buffer."""
        return ops.from_storage(buffer.storage, f"{self.pointers[buffer]}[{offset}]")

    def _load(self, e: x.Load, made: dict[Expr, str]) -> str:
        at = e.args[0]
        element = self.element(e.buffer, _number(at) if _whole(at) else bare(made[at]))
        if len(e.args) == 1:
            return element
        return f"({made[e.args[1]]} ? {element} : {made[e.args[2]]})"

    # ---- loops inside expressions

    def _reduce(self, e: x.Reduce) -> str:
        """A total by loops, or by a warp whose threads each take a lane of the last loop."""
        total = self.fresh()
        first = ops.constant(x.identity(e.kind, e.args[0]).value, e.dtype)
        self.line(f"{ops.value_type(e.dtype)} {total} = {bare(first)};")
        lane = e.bound[-1]
        shared = self.warp and lane.lanes and lane.hi is not None and lane.hi < WARP
        if shared:
            self.warp = False  # what a thread does for its lane is its own
            self._reduce_loops(e, total, e.ranges, lane)
            self.warp = True
            self.line(f"{total} = {self._across(e, total)};")
        else:
            self._reduce_loops(e, total, e.ranges, None)
        self.define(e, total)
        return total

    def _across(self, e: x.Reduce, total: str) -> str:
        """The total of the lanes, the same bits in all of them."""
        name = {"sum": "add", "prod": "mul"}.get(e.kind, e.kind)
        return f"cn_warp_{name}<{ops.value_type(e.dtype)}>({total})"

    def _reduce_loops(
        self,
        e: x.Reduce,
        total: str,
        ranges: list[tuple[x.Var, Expr, Expr]],
        shared: x.Var | None,
    ) -> None:
        body, where = e.args[:2]
        if ranges and ranges[0][0] is shared:
            some = shared.hi != WARP - 1
            with self.block(f"if (lane < {(shared.hi or 0) + 1})" if some else ""):
                self.define(shared, "lane")
                self._reduce_loops(e, total, ranges[1:], None)
        elif ranges:
            with self.loop(*ranges[0]):
                self._reduce_loops(e, total, ranges[1:], shared)
        elif where is not x.TRUE:
            with self.block(f"if ({bare(self.value(where))})"):
                self._accumulate(e, total, body)
        else:
            self._accumulate(e, total, body)

    def _accumulate(self, e: x.Reduce, total: str, body: Expr) -> None:
        self.line(f"{total} = {bare(ops.combine(e.kind, e.dtype, total, self.value(body)))};")

    def _fold(self, e: x.Fold) -> str:
        """All states at once; the others are known then."""
        count = len(e.states)
        names = []
        for state, init in zip(e.states, e.args[:count], strict=True):
            value = self.value(init)
            names.append(self.fresh())
            self.line(f"{ops.value_type(state.dtype)} {names[-1]} = {bare(value)};")
        self._fold_loops(e, names, e.bound)
        for k, name in enumerate(names):
            self.define(x.fold(e.bound, e.states, e.args, k), name)
        return names[e.position]

    def _fold_loops(self, e: x.Fold, names: list[str], bound: tuple[x.Var, ...]) -> None:
        if bound:
            var = bound[0]
            assert var.lo is not None and var.hi is not None
            with self.loop(var, x.index(var.lo), x.index(var.hi + 1)):
                self._fold_loops(e, names, bound[1:])
            return
        for state, name in zip(e.states, names, strict=True):
            self.define(state, name)
        after = []
        for new in e.args[len(names) :]:
            text = self.value(new)
            # every new state is computed from the old ones
            after.append(text if isinstance(new, x.Const) else self._kept(new, text))
        for name, text in zip(names, after, strict=True):
            if text != name:
                self.line(f"{name} = {text};")

    def _kept(self, e: Expr, text: str) -> str:
        """A value that does not change when the states do."""
        name = self.fresh()
        self.line(f"const {ops.value_type(e.dtype)} {name} = {bare(text)};")
        return name


def narrow(e: Expr) -> bool:
    """Whether an index fits in 32 bits."""
    known = e.dtype == "i64" and e.lo is not None and e.hi is not None
    return known and -(1 << 31) <= e.lo and e.hi < 1 << 31  # type: ignore[operator]


def index_type(*indices: Expr) -> str:
    """The C type that holds indices."""
    return "int" if all(map(narrow, indices)) else "long long"


def type_of(e: Expr) -> str:
    """The C type of a value."""
    return "int" if narrow(e) else ops.value_type(e.dtype)


def _whole(e: Expr) -> bool:
    """Whether it is a number that C reads as it stands, whatever its type."""
    return isinstance(e, x.Const) and e.dtype == "i64" and e.value > -(1 << 63)


def _number(e: Expr) -> str:
    assert isinstance(e, x.Const)
    return str(e.value)


def _linear(e: x.Linear, made: dict[Expr, str]) -> str:
    terms = list(zip(e.args, e.coefficients, strict=True))
    if not _fits(e, 63):
        wide = "(unsigned long long)"
        parts = [
            f"{wide}{made[a]}" if k == 1 else f"{wide}{ops.constant(k, 'i64')} * {wide}{made[a]}"
            for a, k in terms
        ]
        if e.constant:
            parts.append(f"{wide}{ops.constant(e.constant, 'i64')}")
        return f"(long long)({' + '.join(parts)})"
    wide = "" if _fits(e, 31) else "(long long)"
    text = ""
    for a, k in sorted(terms, key=lambda term: term[1] < 0):
        sign = " - " if k < 0 and text else "-" if k < 0 else " + " if text else ""
        text += sign + (f"{wide}{made[a]}" if abs(k) == 1 else f"{abs(k)} * {wide}{made[a]}")
    if e.constant:
        text += f" - {-e.constant}" if e.constant < 0 else f" + {e.constant}"
    return f"({text})"


def _fits(e: x.Linear, bits: int) -> bool:
    """Whether no part of the sum can leave the range of so many bits and a sign."""
    most = abs(e.constant)
    for a, k in zip(e.args, e.coefficients, strict=True):
        if a.lo is None or a.hi is None:
            return False
        most += abs(k) * max(abs(a.lo), abs(a.hi))
    return most < 1 << bits


def bare(text: str) -> str:
    """The text without a pair of parentheses around all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and position < len(text) - 1:
            return text
    return text[1:-1]
