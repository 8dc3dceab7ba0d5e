"""Prints expressions of the kernel language as LLVM values at the position of an IRBuilder.

Values that do not depend on a lane are scalars and are spread over lanes where they meet vectors.
Memory is read under the active mask, so that no lane touches what it must not. Statements and
whole kernels are printed by `printer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.memory_access import Memory
from cnnir.backends.llvm.operations import Operations
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.vectormath import I32, I64, lanes_of
from cnnir.loops import expr as x
from cnnir.loops.analysis import stride
from cnnir.loops.expr import Expr
from cnnir.loops.statements import Buffer


def width_of(lane: x.Var) -> int:
    """Lanes of the vectors that a vector loop is printed with: a power of two."""
    return 1 << (lane.hi or 0).bit_length()


class Values:
    """Prints expressions; keeps what was printed, by block.

    pointers: where each buffer starts. error: where codes of bad indices go.
    """

    def __init__(
        self,
        builder: ir.IRBuilder,
        target: CpuTarget,
        pointers: dict[Buffer, ir.Value],
        error: ir.Value | None = None,
    ) -> None:
        self.b, self.error = builder, error
        self.ops = Operations(builder, target)
        self.memory = Memory(self.ops, pointers)
        self.scopes: list[dict[Expr, ir.Value]] = [{}]
        self.vectors: set[Expr] = set()
        """Variables and symbols that stand for vectors."""
        self.lane: x.Var | None = None
        self.mask: ir.Value | None = None

    # ---- what is known

    def define(self, e: Expr, value: ir.Value) -> None:
        """Let an expression stand for a value until the block ends."""
        self.scopes[-1][e] = value
        if lanes_of(value) and isinstance(e, (x.Var, x.Symbol)):
            self.vectors.add(e)

    def known(self, e: Expr) -> ir.Value | None:
        """The value of an expression that was printed in an open block."""
        for scope in reversed(self.scopes):
            if e in scope:
                return scope[e]
        return None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A block: what is printed in it is not known after it."""
        self.scopes.append({})
        yield
        self.scopes.pop()

    @contextmanager
    def lanes(self, lane: x.Var) -> Iterator[None]:
        """Bind a lane variable; lanes behind its extent are masked."""
        outer = self.lane, self.mask
        n, extent = width_of(lane), (lane.hi or 0) + 1
        vector = ir.VectorType(I64, n)
        with self.scope():
            self.define(lane, ir.Constant(vector, range(n)))
            self.lane = lane
            if extent < n:
                self.mask = self.ops.first_lanes(extent, n)
            yield
        self.lane, self.mask = outer

    @contextmanager
    def masked(self, condition: ir.Value) -> Iterator[None]:
        """A block in which only lanes of the condition may touch memory."""
        outer = self.mask
        with self.scope():
            self.mask = self.ops.both(condition, self.mask)
            yield
        self.mask = outer

    # ---- expressions

    def value(self, root: Expr) -> ir.Value:
        """The value of an expression."""
        stack = [root]
        while stack:
            e = stack[-1]
            if self.known(e) is not None:
                stack.pop()
                continue
            missing = [a for a in self._operands(e) if self.known(a) is None]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            self.define(e, self._print(e))
        found = self.known(root)
        assert found is not None
        return found

    def _operands(self, e: Expr) -> tuple[Expr, ...]:
        """What is to be printed before the expression; loops see to theirs."""
        if isinstance(e, (x.Reduce, x.Fold)):
            return ()
        if isinstance(e, x.Load):
            return (self._address(e)[0], *e.args[1:])
        return e.args

    def _address(self, e: x.Load) -> tuple[Expr, int | None]:
        """(offset of lane 0, stride) of a load; the whole offset where it is uneven."""
        return split_offset(e.args[0], self.lane)

    def _print(self, e: Expr) -> ir.Value:
        match e:
            case x.Const():
                return self.ops.constant(e.value, e.dtype)
            case x.Linear():
                return self._linear(e)
            case x.Load():
                return self._load(e)
            case x.Checked():
                return self._checked(e)
            case x.Call():
                arguments = [self._known(a) for a in e.args]
                if e.op in ("floordiv", "mod"):
                    a, n = arguments
                    low = e.args[0].lo
                    return self.ops.index_division(e.op, a, n, low is None or low < 0)
                return self.ops.operation(e.op, e.args[-1].dtype, e.dtype, arguments)
            case x.Reduce():
                return self._reduce(e)
            case x.Fold():
                return self._fold(e)
        raise AssertionError(f"{e!r} is not bound here")

    def _known(self, e: Expr) -> ir.Value:
        found = self.known(e)
        assert found is not None
        return found

    def _linear(self, e: x.Linear) -> ir.Value:
        """Scalar terms first, so that only their sum is spread."""
        total: ir.Value = ir.Constant(I64, e.constant)
        terms = [(self._known(a), k) for a, k in zip(e.args, e.coefficients, strict=True)]
        first = e.constant == 0
        for value, k in sorted(terms, key=lambda term: lanes_of(term[0])):
            scaled = value
            if k != 1:
                scaled = self.ops.arithmetic("mul", value, self.ops.constant(k, "i64"))
            total = scaled if first else self.ops.arithmetic("add", total, scaled)
            first = False
        return total

    def _load(self, e: x.Load) -> ir.Value:
        base, step = self._address(e)
        inside = self._known(e.args[1]) if len(e.args) > 1 else None
        other = self._known(e.args[2]) if len(e.args) > 2 else None
        n = width_of(self.lane) if self.lane is not None else 0
        return self.memory.load(e.buffer, self._known(base), step, n, self.mask, inside, other)

    def _checked(self, e: x.Checked) -> ir.Value:
        """A valid index; where it is not, the code is stored and 0 taken."""
        ops, b = self.ops, self.b
        i = self._known(e.args[0])
        zero, extent = ops.like(0, i), ops.like(e.extent, i)
        negative = b.icmp_signed("<", i, zero)
        i = b.select(negative, b.add(i, extent), i)
        bad = b.icmp_unsigned(">=", i, extent)
        met = ops.both(bad, self.mask) if lanes_of(bad) else bad
        assert self.error is not None
        with b.if_then(ops.any_lane(met), likely=False):
            b.store(ir.Constant(I32, e.code), self.error)
        return b.select(bad, zero, i)

    # ---- loops inside expressions

    def is_vector(self, parts: tuple[Expr, ...], bound: tuple[x.Var, ...] = ()) -> bool:
        """Whether any of the expressions differs from lane to lane."""
        lanes = any(v.lanes for v in bound)
        return lanes or any(not self.vectors.isdisjoint(p.free) for p in parts)

    def _accumulator(self, init: ir.Value, lanes: int) -> ir.Alloca:
        init = self.ops.spread(init, lanes)
        with self.b.goto_entry_block():
            cell = self.b.alloca(init.type)
        self.b.store(init, cell)
        return cell

    def _reduce(self, e: x.Reduce) -> ir.Value:
        own = e.bound[-1] if e.bound[-1].lanes else None
        lane = self.lane if own is None else own
        n = width_of(lane) if lane is not None and self.is_vector(e.args, e.bound) else 0
        cell = self._accumulator(self.ops.constant(x.identity(e.kind, e.args[0]).value, e.dtype), n)
        body, where = e.args[:2]

        def turn() -> None:
            if where is x.TRUE:
                return self._accumulate(e, cell, body, n)
            condition = self.value(where)
            if lanes_of(condition):
                with self.masked(condition):
                    return self._accumulate(e, cell, body, n)
            with self.b.if_then(condition), self.scope():
                return self._accumulate(e, cell, body, n)

        ranges = e.ranges if own is None else e.ranges[:-1]
        self._loops([(v, self.value(a), self.value(b)) for v, a, b in ranges], own, turn)
        result = self.b.load(cell, typ=cell.allocated_type)
        return result if own is None else self.ops.across(e.kind, e.dtype, result)

    def _accumulate(self, e: x.Reduce, cell: ir.Alloca, body: Expr, n: int) -> None:
        old = self.b.load(cell, typ=cell.allocated_type)
        combined = self.ops.combine(e.kind, e.dtype, old, self.ops.spread(self.value(body), n))
        if n and self.mask is not None:
            combined = self.b.select(self.mask, combined, old)
        self.b.store(combined, cell)

    def _loops(
        self,
        ranges: list[tuple[x.Var, ir.Value, ir.Value]],
        lane: x.Var | None,
        turn: Callable[[], None],
    ) -> None:
        if ranges:
            var, start, stop = ranges[0]
            with self.loop(var, start, stop):
                self._loops(ranges[1:], lane, turn)
        elif lane is not None:
            with self.lanes(lane):
                turn()
        else:
            turn()

    @contextmanager
    def loop(self, var: x.Var, start: ir.Value, stop: ir.Value) -> Iterator[None]:
        """for var in range(start, stop), as a block."""
        b = self.b
        before, head = b.block, b.append_basic_block("loop")
        after = b.append_basic_block("after")
        if _before(start, stop):
            b.branch(head)
        else:
            b.cbranch(b.icmp_signed("<", start, stop), head, after)
        b.position_at_end(head)
        i = b.phi(I64)
        i.add_incoming(start, before)
        with self.scope():
            self.define(var, i)
            yield
        following = b.add(i, ir.Constant(I64, 1), flags=("nsw",))
        i.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, stop), head, after)
        b.position_at_end(after)

    def _fold(self, e: x.Fold) -> ir.Value:
        """All states at once; the others are remembered."""
        count = len(e.states)
        n = width_of(self.lane) if self.lane is not None and self.is_vector(e.args) else 0
        cells = [self._accumulator(self.value(i), n) for i in e.args[:count]]

        def turn() -> None:
            for state, cell in zip(e.states, cells, strict=True):
                self.define(state, self.b.load(cell, typ=cell.allocated_type))
            after = [self.ops.spread(self.value(a), n) for a in e.args[count:]]
            for cell, value in zip(cells, after, strict=True):
                self.b.store(value, cell)

        limits = [
            (v, self.value(x.index(v.lo)), self.value(x.index((v.hi or 0) + 1))) for v in e.bound
        ]
        self._loops(limits, None, turn)
        for k, cell in enumerate(cells):
            value = self.b.load(cell, typ=cell.allocated_type)
            self.define(x.fold(e.bound, e.states, e.args, k), value)
        return self._known(e)


def _before(start: ir.Value, stop: ir.Value) -> bool:
    """Whether it is known that a loop has a first turn."""
    if isinstance(start, ir.Constant) and isinstance(stop, ir.Constant):
        return int(start.ref) < int(stop.ref)
    return False


def split_offset(offset: Expr, lane: x.Var | None) -> tuple[Expr, int | None]:
    """(offset of lane 0, elements from lane to lane); the whole offset and None when uneven."""
    if lane is None or lane not in offset.free:
        return offset, 0
    step = stride(offset, lane)
    return (offset, None) if step is None else (offset - step * lane, step)
