"""ElementAlgebra: the operations that `element` and `procedure` definitions are written in.

It builds expressions (and, for procedures, statements). `ops/algebra.py` has the other meaning of
the elementwise part, on numpy arrays; both must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cnnir.errors import IRError
from cnnir.loops import expr as x
from cnnir.loops.analysis import conjunction, conjuncts, limits, loads, stride, substitute
from cnnir.loops.expr import TRUE, Expr, Number, Symbol, Var
from cnnir.loops.statements import (
    Buffer,
    For,
    Get,
    If,
    Layout,
    Let,
    Set,
    Statement,
    Store,
    Variable,
)
from cnnir.tensortype import TensorType, is_float


class Accessor:
    """An operand as an element definition sees it: `x[i, j]`, `x.get(...)`, shape and dtype."""

    def __init__(self, shape: tuple[int, ...], dtype: str, read: Callable[..., Expr]) -> None:
        self.shape, self.dtype, self._read = shape, dtype, read

    def __getitem__(self, index: Any) -> Expr:
        return self.get(index)

    def get(self, index: Any, inside: Any = True, other: Any = 0) -> Expr:
        """The element at a tuple index, or `other` where `inside` fails."""
        where = index if isinstance(index, tuple) else (index,)
        if len(where) != len(self.shape):
            raise IRError(f"index of {len(where)} for an operand of rank {len(self.shape)}")
        condition = x.typed(inside, "bool")
        return self._read(tuple(x.index(i) for i in where), condition, other)


def buffer_accessor(m: ElementAlgebra, buffer: Buffer) -> Accessor:
    """Reads a buffer that the kernel does not write."""

    def read(where: tuple[Expr, ...], inside: Expr, other: Any) -> Expr:
        m.note(inside)
        return x.load(buffer, buffer.offset(where), inside, other)

    return Accessor(buffer.type.shape, buffer.type.dtype, read)


class ElementAlgebra:
    """Builds expressions. `errors` collects the words of `checked`, numbered from `first_code`."""

    def __init__(self, first_code: int = 1) -> None:
        self.errors: list[str] = []
        self.conditions: dict[Expr, None] = {}
        """Every condition on reads and loops, before any of them became bounds."""
        self.first_code = first_code
        self._fresh = 0

    # ---- scalar operations

    @staticmethod
    def dtype(value: Expr) -> str:
        """The element type of a value."""
        return value.dtype

    @staticmethod
    def const(value: Number, dtype: str) -> Expr:
        """A constant; 16-bit floats are computed in f32."""
        return x.const(value, "f32" if dtype in ("f16", "bf16") else dtype)

    @staticmethod
    def equal(a: Any, b: Any) -> Expr:
        """a = b."""
        return x.compare("eq", a, b)

    @staticmethod
    def not_equal(a: Any, b: Any) -> Expr:
        """Not a = b."""
        return x.compare("ne", a, b)

    @staticmethod
    def select(condition: Any, a: Any, b: Any) -> Expr:
        """`a` where the condition holds, else `b`."""
        return x.select(condition, a, b)

    @staticmethod
    def max(a: Any, b: Any) -> Expr:
        """The larger; NaN if either is."""
        return x.binary("max", a, b)

    @staticmethod
    def min(a: Any, b: Any) -> Expr:
        """The smaller; NaN if either is."""
        return x.binary("min", a, b)

    @staticmethod
    def div(a: Any, b: Any) -> Expr:
        """Quotient; of integers truncated, 0 by a zero divisor."""
        return x.binary("div", a, b)

    @staticmethod
    def rem(a: Any, b: Any) -> Expr:
        """Remainder with the sign of `a`; of integers 0 by a zero divisor."""
        return x.binary("rem", a, b)

    @staticmethod
    def pow(a: Any, b: Any) -> Expr:
        """a to the power of b; small whole constant powers are products."""
        a, b = x.pair("pow", a, b)
        if isinstance(b, x.Const) and b.value in (1, 2, 3) and is_float(a.dtype):
            return a if b.value == 1 else a * a if b.value == 2 else a * a * a
        return x.binary("pow", a, b)

    @staticmethod
    def cast(value: Expr, dtype: str) -> Expr:
        """Conversion: float to int truncates and saturates, int to int wraps, bool is != 0."""
        return x.cast(value, dtype)

    @staticmethod
    def is_nan(value: Expr) -> Expr:
        """Whether it is NaN."""
        return x.compare("ne", value, value)

    @staticmethod
    def is_inf(value: Expr) -> Expr:
        """Whether it is infinite."""
        return x.compare("eq", x.unary("abs", value), float("inf"))

    @staticmethod
    def all(*conditions: Any) -> Expr:
        """All of the conditions."""
        return conjunction(x.typed(c, "bool") for c in conditions)

    # ---- indices and loops

    def checked(self, i: Any, extent: int, word: str = "index") -> Expr:
        """A valid index from one that may be negative or wrong; wrong ones make the run raise."""
        if word not in self.errors:
            self.errors.append(word)
        return x.checked(i, extent, self.first_code + self.errors.index(word))

    def variables(self, extents: Sequence[int]) -> tuple[Var, ...]:
        """Fresh loop variables."""
        made = []
        for extent in extents:
            self._fresh += 1
            made.append(Var(f"r{self._fresh}", extent))
        return tuple(made)

    def reduce(
        self,
        kind: str,
        extents: Sequence[int],
        body: Callable[..., Expr],
        where: Callable[..., Expr] | None = None,
    ) -> Expr:
        """The sum, prod, max or min of the body over all indices that satisfy `where`."""
        if where is None and len(extents) > 1 and 0 not in extents:
            flat = self._flat_reduce(kind, extents, body)
            if flat is not None:
                return flat
        index, bound = self._indices(extents, keep=where is not None)
        value = body(*index)
        if 0 in extents:
            return x.identity(kind, value)
        condition = TRUE if where is None else x.typed(where(*index), "bool")
        self.note(condition)
        kept, starts, stops = _loop_bounds(bound, condition)
        ranges = [e for pair in zip(starts, stops, strict=True) for e in pair]
        return x.reduce(kind, bound, (value, conjunction(kept), *ranges))

    def _indices(self, extents: Sequence[int], keep: bool) -> tuple[list[Expr], tuple[Var, ...]]:
        """Indices of loops and the variables among them; a loop of one turn needs none.

        A conditional body keeps one loop at least, whose condition guards it.
        """
        needed = [k for k, e in enumerate(extents) if e != 1]
        if keep and extents and not needed:
            needed = [0]
        made = self.variables([extents[k] for k in needed])
        index: list[Expr] = [x.index(0)] * len(extents)
        for k, var in zip(needed, made, strict=True):
            index[k] = var
        return index, made

    def note(self, condition: Expr) -> None:
        """Remember what a read or a loop depends on."""
        self.conditions.update(dict.fromkeys(conjuncts(condition)))

    def _flat_reduce(
        self, kind: str, extents: Sequence[int], body: Callable[..., Expr]
    ) -> Expr | None:
        """One loop instead of several, where that makes every load's offset linear in it."""
        total = 1
        for e in extents:
            total *= e
        (var,) = self.variables((total,))
        index: list[Expr] = []
        flat: Expr = var
        for e in reversed(extents):
            index.insert(0, flat % e)
            flat = flat // e
        value = body(*index)
        for found in loads((value,)):
            if stride(found.args[0], var) is None or any(var in a.free for a in found.args[1:]):
                return None
        return x.reduce(kind, (var,), (value, TRUE, x.index(0), x.index(total)))

    def fold(
        self,
        extents: Sequence[int],
        init: tuple[Expr, ...],
        step: Callable[[tuple, tuple], tuple],
    ) -> tuple[Expr, ...]:
        """The final states of a sequential loop over all indices, row-major."""
        if 0 in extents:
            return init
        index, bound = self._indices(extents, keep=False)
        states = tuple(Symbol(f"s{self._fresh}_{k}", e.dtype) for k, e in enumerate(init))
        after = step(tuple(index), states)
        after = tuple(x.typed(a, s.dtype) for a, s in zip(after, states, strict=True))
        if not bound:
            return tuple(substitute(after, dict(zip(states, init, strict=True))))
        for state, new in zip(states, after, strict=True):
            if state.dtype != new.dtype:
                raise IRError(f"a fold makes {new.dtype} of its {state.dtype} state")
        args = (*init, *after)
        return tuple(x.fold(bound, states, args, k) for k in range(len(init)))


def _loop_bounds(
    bound: tuple[Var, ...], condition: Expr
) -> tuple[list[Expr], list[Expr], list[Expr]]:
    """Conditions that bound a single loop become its start and stop; the others are kept.

    A bound that differs between the lanes of a vector stays a condition.
    """
    starts: list[Expr] = [x.index(0)] * len(bound)
    stops = [x.index((v.hi or 0) + 1) for v in bound]
    kept = []
    names = frozenset(bound)
    for part in conjuncts(condition):
        inner = part.free & names
        lanes = any(isinstance(v, Var) and v.lanes for v in part.free)
        found = None
        if len(inner) == 1 and not lanes:
            position = next(k for k, v in enumerate(bound) if v in inner)
            found = limits(part, bound[position])
        if found is None:
            kept.append(part)
        elif found[0] is not None:
            starts[position] = x.binary("max", starts[position], found[0])
        else:
            stops[position] = x.binary("min", stops[position], found[1])
    return kept, starts, stops


def _function(op: str) -> Callable[[Expr], Expr]:
    def function(value: Expr) -> Expr:
        if op not in ("abs",) and not is_float(value.dtype):
            raise IRError(f"{op} of {value.dtype}, wanted a float")
        return x.unary(op, value)

    function.__doc__ = f"{op} of a value."
    return function


for _op in (
    *("abs", "sqrt", "exp", "log", "tanh", "erf", "sin", "cos"),
    *("floor", "ceil", "rint", "trunc"),
):
    setattr(ElementAlgebra, _op, staticmethod(_function(_op)))


class Cell:
    """A scalar that a procedure changes: `value` is what it holds now."""

    def __init__(self, m: ProcedureAlgebra, variable: Variable) -> None:
        self._m, self._variable = m, variable

    @property
    def value(self) -> Expr:
        """The present value; it stays what it is when the variable changes later."""
        return self._m.snapshot(self._variable.dtype, variable=self._variable)

    def set(self, value: Any) -> None:
        """Change it."""
        self._m.emit(Set(self._variable, x.typed(value, self._variable.dtype)))


class ProcedureAlgebra(ElementAlgebra):
    """Also builds statements, in the order in which the calls are made."""

    def __init__(self, first_code: int, plain: Layout) -> None:
        super().__init__(first_code)
        self.body: list[Statement] = []
        self.scratch_buffers: list[Buffer] = []
        self.parallel: set[For] = set()
        self._plain = plain
        self._blocks = [self.body]

    def emit(self, statement: Statement) -> None:
        """Append a statement to the open block."""
        self._blocks[-1].append(statement)

    @contextmanager
    def _block(self, statement: For | If) -> Iterator[None]:
        self.emit(statement)
        self._blocks.append(statement.body)
        yield
        self._blocks.pop()

    @contextmanager
    def loop(self, extent: Any, parallel: bool = False) -> Iterator[Expr]:
        """for i in range(extent); the turns of a parallel loop are independent."""
        limit = x.index(extent)
        (var,) = self.variables((limit.hi if limit.hi is not None else 1 << 62,))
        statement = For(var, x.index(0), limit, [])
        if parallel:
            self.parallel.add(statement)
        with self._block(statement):
            yield var

    @contextmanager
    def when(self, condition: Any) -> Iterator[None]:
        """The body runs where the condition holds."""
        with self._block(If(x.typed(condition, "bool"), [])):
            yield

    def variable(self, init: Any, dtype: str) -> Cell:
        """A scalar that changes."""
        self._fresh += 1
        dtype = "f32" if dtype in ("f16", "bf16") else dtype
        cell = Cell(self, Variable(f"v{self._fresh}", dtype))
        cell.set(init)
        return cell

    def snapshot(self, dtype: str, **source: Any) -> Expr:
        """What a variable or an element of a written buffer holds at this point."""
        self._fresh += 1
        symbol = Symbol(f"t{self._fresh}", dtype)
        self.emit(Get(symbol, **source))
        return symbol

    def written(self, buffer: Buffer) -> Written:
        """The accessor of a buffer that the procedure stores to."""
        return Written(self, buffer)

    def scratch(self, dtype: str, shape: tuple[int, ...]) -> Written:
        """Memory of the work item's own."""
        self._fresh += 1
        used = [b.byte + b.size * b.type.numpy.itemsize for b in self.scratch_buffers]
        byte = -(-max(used, default=0) // 64) * 64
        type_ = TensorType(dtype, tuple(shape))
        buffer = Buffer(f"scratch{self._fresh}", type_, self._plain, "scratch", byte)
        self.scratch_buffers.append(buffer)
        return self.written(buffer)

    def store(self, out: Written, index: Any, value: Any) -> None:
        """out[index] = value."""
        where = index if isinstance(index, tuple) else (index,)
        stored = x.typed(value, out.buffer.dtype)
        if stored.dtype != out.buffer.dtype:
            raise IRError(f"{stored.dtype} stored to {out.buffer.type}")
        offset = x.index(out.buffer.offset([x.index(i) for i in where]))
        self.emit(Store(out.buffer, offset, stored))


class Written(Accessor):
    """A result or scratch memory: readable, each read seeing the stores before it."""

    def __init__(self, m: ProcedureAlgebra, buffer: Buffer) -> None:
        def read(where: tuple[Expr, ...], inside: Expr, other: Any) -> Expr:
            if inside is not TRUE:
                raise IRError("written memory is read without conditions")
            offset = x.index(buffer.offset(where))
            return m.snapshot(buffer.dtype, buffer=buffer, offset=offset)

        super().__init__(buffer.type.shape, buffer.type.dtype, read)
        self.buffer = buffer


__all__ = ["Accessor", "Buffer", "ElementAlgebra", "Let", "ProcedureAlgebra", "buffer_accessor"]
