"""A structured emitter over `ir`: one function a kernel, loops, folded index arithmetic.

Sits beneath the kernel templates and the printer of the loop language; knows nothing of graphs, ops
or layouts. It emits text and never compiles: that is `engine`. Index values are Python ints where
they are known (and fold) and i64 values elsewhere, so a template is written once for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import cnnir.backends.llvm.ir as ir

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
PTR = ir.PointerType()
_ZERO = ir.Constant(I32, 0)

Index: TypeAlias = int | ir.Value
Condition: TypeAlias = bool | ir.Value

BUFFER_ALIGN = 64  # every buffer, packed weight and scratch starts on such a boundary


@dataclass
class Loop:
    """The loop being emitted: its index, the loop-carried values, and what they end as."""

    index: Index
    state: list[ir.Value]
    result: list[ir.Value] = field(default_factory=list)


class Builder:
    """Emits `void @name(ptr error, ptr scratch, i64 item, ptr p0, ptr p1, ...)`.

    `lanes` is the width V of the f32 vectors of `vload`, `vstore`, `broadcast`. `noalias` names the
    positions among p0, p1, ... that no other pointer overlaps; scratch and error never overlap.
    `ir` is the llvmlite IRBuilder, for whatever has no method here.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        pointers: int,
        lanes: int = 1,
        noalias: Sequence[int] = (),
    ) -> None:
        self.module, self.lanes = module, lanes
        signature = ir.FunctionType(ir.VoidType(), [PTR, PTR, I64] + [PTR] * pointers)
        self.function = ir.Function(module, signature, name)
        self.function.attributes.add("nounwind")
        for position in [0, 1, *(3 + i for i in noalias)]:
            self.function.args[position].add_attribute("noalias")
        arguments: list[ir.Value] = [*self.function.args]
        self.error, self.scratch, self.item, *self.pointers = arguments
        self.ir = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.vector = ir.VectorType(F32, lanes)
        self._nothing = ir.Poison(self.vector)
        self._all_first = ir.Constant(ir.VectorType(I32, lanes), 0)

    def finish(self) -> ir.Function:
        self.ir.ret_void()
        return self.function

    # ---- index arithmetic: Python ints fold, all quantities are non-negative unless said

    def value(self, x: Index) -> ir.Value:
        return ir.Constant(I64, x) if isinstance(x, int) else x

    def add(self, *terms: Index) -> Index:
        constant = sum(t for t in terms if isinstance(t, int))
        total: Index | None = None
        for term in terms:
            if not isinstance(term, int):
                total = term if total is None else self.ir.add(total, term, flags=("nsw",))
        if total is None:
            return constant
        return self.ir.add(total, self.value(constant), flags=("nsw",)) if constant else total

    def sub(self, a: Index, b: Index) -> Index:
        if isinstance(b, int):
            return self.add(a, -b)
        return self.ir.sub(self.value(a), b, flags=("nsw",))

    def mul(self, a: Index, b: Index) -> Index:
        if isinstance(a, int):
            if isinstance(b, int):
                return a * b
            a, b = b, a
        if isinstance(b, int) and b in (0, 1):
            return a if b else 0
        return self.ir.mul(a, self.value(b), flags=("nsw",))

    def div(self, a: Index, b: int) -> Index:
        """a // b, for a >= 0 and b > 0."""
        if isinstance(a, int):
            return a // b
        return a if b == 1 else self.ir.udiv(a, self.value(b))

    def rem(self, a: Index, b: int) -> Index:
        """a % b, for a >= 0 and b > 0."""
        if isinstance(a, int):
            return a % b
        return 0 if b == 1 else self.ir.urem(a, self.value(b))

    def min(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.ir.select(self._less(a, b), self.value(a), self.value(b))

    def max(self, a: Index, b: Index) -> Index:
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.ir.select(self._less(a, b), self.value(b), self.value(a))

    def less(self, a: Index, b: Index) -> Condition:
        if isinstance(a, int) and isinstance(b, int):
            return a < b
        return self._less(a, b)

    def _less(self, a: Index, b: Index) -> ir.Value:
        return self.ir.icmp_signed("<", self.value(a), self.value(b))

    def equal(self, a: Index, b: Index) -> Condition:
        if isinstance(a, int) and isinstance(b, int):
            return a == b
        return self.ir.icmp_signed("==", self.value(a), self.value(b))

    def inside(self, i: Index, extent: int) -> Condition:
        """0 <= i < extent, in one unsigned comparison."""
        if isinstance(i, int):
            return 0 <= i < extent
        return self.ir.icmp_unsigned("<", i, self.value(extent))

    def both(self, a: Condition, b: Condition) -> Condition:
        if isinstance(a, bool):
            return b if a else False
        if isinstance(b, bool):
            return a if b else False
        return self.ir.and_(a, b)

    def unflatten(self, index: Index, extents: Sequence[int]) -> list[Index]:
        """The row-major coordinates of a flat index."""
        coordinates: list[Index] = []
        for extent in reversed(extents[1:]):
            coordinates.append(self.rem(index, extent))
            index = self.div(index, extent)
        return [index if extents[0] > 1 else 0, *reversed(coordinates)]

    def flatten(self, index: Sequence[Index], extents: Sequence[int]) -> Index:
        flat: Index = 0
        for i, extent in zip(index, extents, strict=True):
            flat = self.add(self.mul(flat, extent), i)
        return flat

    # ---- control

    @contextmanager
    def loop(
        self, stop: Index, start: Index = 0, step: int = 1, carry: Sequence[ir.Value] = ()
    ) -> Iterator[Loop]:
        """for index in range(start, stop, step), with loop-carried values.

        Reassign `loop.state[i]` in the body; read `loop.result` after it. Bounds known to be empty
        are a mistake of the caller; bounds known to give one turn make no loop; bounds that are
        not known are tested before the first turn.
        """
        known = isinstance(start, int) and isinstance(stop, int)
        if isinstance(start, int) and isinstance(stop, int):
            if start >= stop:
                raise ValueError(f"empty loop from {start} to {stop}")
            if start + step >= stop:
                loop = Loop(start, list(carry))
                yield loop
                loop.result = loop.state
                return
        before, head = self.ir.block, self.ir.append_basic_block("loop")
        after = self.ir.append_basic_block("after")
        if known:
            self.ir.branch(head)
        else:
            self.ir.cbranch(self._less(start, stop), head, after)
        self.ir.position_at_end(head)
        index = self._phi(I64, self.value(start), before)
        phis = [self._phi(value.type, value, before) for value in carry]
        loop = Loop(index, list(phis))
        yield loop
        latch = self.ir.block
        following = self.ir.add(index, self.value(step), flags=("nsw",))
        index.add_incoming(following, latch)
        for phi, value in zip(phis, loop.state, strict=True):
            phi.add_incoming(value, latch)
        self.ir.cbranch(self._less(following, stop), head, after)
        self.ir.position_at_end(after)
        loop.result = loop.state if known else self._merge(loop.state, latch, carry, before)

    def _phi(self, type_: ir.Type, value: ir.Value, block: ir.Block) -> ir.PhiInstr:
        phi = self.ir.phi(type_)
        phi.add_incoming(value, block)
        return phi

    def _merge(
        self, ours: Sequence[ir.Value], latch: ir.Block, theirs: Sequence[ir.Value], other: ir.Block
    ) -> list[ir.Value]:
        merged: list[ir.Value] = []
        for a, b in zip(ours, theirs, strict=True):
            phi = self._phi(a.type, a, latch)
            phi.add_incoming(b, other)
            merged.append(phi)
        return merged

    @contextmanager
    def when(self, condition: Condition) -> Iterator[None]:
        """The body runs where the condition holds; a condition known to hold makes no branch."""
        if condition is True:
            yield
            return
        with self.ir.if_then(self.truth(condition)):
            yield

    @contextmanager
    def either(self, condition: Condition) -> Iterator[tuple]:
        """with b.either(c) as (yes, no): with yes: ...; with no: ..."""
        with self.ir.if_else(self.truth(condition)) as branches:
            yield branches

    def truth(self, condition: Condition) -> ir.Value:
        return ir.Constant(I1, int(condition)) if isinstance(condition, bool) else condition

    # ---- memory; offsets count elements of `type_`

    def at(self, pointer: ir.Value, offset: Index, type_: ir.Type = F32) -> ir.Value:
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.ir.gep(pointer, [self.value(offset)], source_etype=type_, inbounds=True)

    def opaque(self, pointer: ir.Value) -> ir.Value:
        """The same pointer, but LLVM does not know how it was computed; costs nothing when run.

        Keeps loop strength reduction from the dozens of addresses of an unrolled loop, where it
        has nothing to gain and takes longer than all other code generation together.
        """
        return self.call("llvm.launder.invariant.group.p0", PTR, [pointer])

    def load(self, pointer: ir.Value, offset: Index = 0, type_: ir.Type = F32) -> ir.Value:
        return self.ir.load(self.at(pointer, offset, type_), typ=type_, align=_size(type_))

    def store(self, value: ir.Value, pointer: ir.Value, offset: Index = 0) -> None:
        self.ir.store(value, self.at(pointer, offset, value.type), align=_size(value.type))

    def vload(self, pointer: ir.Value, offset: Index = 0, align: int | None = None) -> ir.Value:
        """V floats; aligned to the vector unless said. The offset counts floats."""
        align = 4 * self.lanes if align is None else align
        return self.ir.load(self.at(pointer, offset), typ=self.vector, align=align)

    def vstore(
        self, value: ir.Value, pointer: ir.Value, offset: Index = 0, align: int | None = None
    ) -> None:
        align = 4 * self.lanes if align is None else align
        self.ir.store(value, self.at(pointer, offset), align=align)

    def masked_load(self, pointer: ir.Value, offset: Index, count: int) -> ir.Value:
        """The first `count` (known) of V floats, zeros behind; nothing else is read."""
        if count >= self.lanes:
            return self.vload(pointer, offset, align=4)
        return self.call(
            f"llvm.masked.load.v{self.lanes}f32.p0",
            self.vector,
            [self.at(pointer, offset), ir.Constant(I32, 4), self.mask(count), self.splat(0.0)],
        )

    def masked_store(self, value: ir.Value, pointer: ir.Value, offset: Index, count: int) -> None:
        """Store the first `count` (known) of V floats; nothing else is written."""
        if count >= self.lanes:
            return self.vstore(value, pointer, offset, align=4)
        arguments = [value, self.at(pointer, offset), ir.Constant(I32, 4), self.mask(count)]
        self.call(f"llvm.masked.store.v{self.lanes}f32.p0", ir.VoidType(), arguments)

    def mask(self, count: int) -> ir.Constant:
        return ir.Constant(ir.VectorType(I1, self.lanes), [i < count for i in range(self.lanes)])

    def prefetch(self, pointer: ir.Value, offset: Index = 0, locality: int = 2) -> None:
        """Ask for a line to be read later; locality 3 is the first cache level, 2 the second."""
        flags = [ir.Constant(I32, x) for x in (0, locality, 1)]
        self.call("llvm.prefetch.p0", ir.VoidType(), [self.at(pointer, offset), *flags])

    # ---- vectors of V floats

    def splat(self, x: float | ir.Value) -> ir.Value:
        """V copies. Of a scalar load used once, LLVM makes a broadcasting memory operand."""
        if isinstance(x, int | float):
            return ir.Constant(self.vector, float(x))
        first = self.ir.insert_element(self._nothing, x, _ZERO)
        return self.ir.shuffle_vector(first, self._nothing, self._all_first)

    def shuffle(self, x: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Lanes of one vector."""
        return self.blend(x, ir.Poison(x.type), lanes)

    def blend(self, x: ir.Value, y: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Lanes of two vectors, those of y counted on from those of x."""
        return self.ir.shuffle_vector(
            x, y, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
        )

    def broadcast(self, pointer: ir.Value, offset: Index = 0) -> ir.Value:
        return self.splat(self.load(pointer, offset))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c, fused where the target has the instruction (never a library call)."""
        return self.call(f"llvm.fmuladd.{_suffix(a.type)}", a.type, [a, b, c])

    def fmax(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger; NaN if either is."""
        return self.call(f"llvm.maximum.{_suffix(a.type)}", a.type, [a, b])

    def call(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call an intrinsic or external function, declared on first use."""
        function = self.module.globals.get(name)
        if function is None:
            signature = ir.FunctionType(result, [argument.type for argument in arguments])
            function = ir.Function(self.module, signature, name)
        return self.ir.call(function, list(arguments))


def _size(type_: ir.Type) -> int:
    if isinstance(type_, ir.VectorType):
        return type_.count * _size(type_.element)
    if isinstance(type_, ir.IntType):
        return max(1, type_.width // 8)
    return {ir.HalfType: 2, ir.FloatType: 4, ir.DoubleType: 8, ir.PointerType: 8}[type(type_)]


def _suffix(type_: ir.Type) -> str:
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{_suffix(type_.element)}"
    return {ir.HalfType: "f16", ir.FloatType: "f32", ir.DoubleType: "f64"}[type(type_)]
