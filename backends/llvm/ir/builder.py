"""Writes instructions into a block, one line each; methods are named as in `llvmlite.ir`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from cnnir.backends.llvm.ir.function import Block, Function, Module
from cnnir.backends.llvm.ir.kinds import IntType, PointerType, Type, VectorType
from cnnir.backends.llvm.ir.values import Constant, Value

_I1, _PTR = IntType(1), PointerType()
_SIGNED = {"<": "slt", "<=": "sle", ">": "sgt", ">=": "sge", "==": "eq", "!=": "ne"}
_UNSIGNED = {"<": "ult", "<=": "ule", ">": "ugt", ">=": "uge", "==": "eq", "!=": "ne"}
_ORDERED = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge", "==": "oeq", "!=": "one"}
_UNORDERED = {"<": "ult", "<=": "ule", ">": "ugt", ">=": "uge", "==": "ueq", "!=": "une"}
_ORDERED["ord"], _UNORDERED["uno"] = "ord", "uno"


class PhiInstr(Value):
    """A value that depends on the block one comes from; complete when the text is taken."""

    __slots__ = ("incoming",)

    def __init__(self, type_: Type, ref: str) -> None:
        super().__init__(type_, ref)
        self.incoming: list[tuple[Value, Block]] = []

    def add_incoming(self, value: Value, block: Block) -> None:
        """The value for whoever comes from a block."""
        self.incoming.append((value, block))

    def __str__(self) -> str:
        pairs = [f"[{value.ref}, %{block.label}]" for value, block in self.incoming]
        return f"{self.ref} = phi {self.type.text} {', '.join(pairs)}"


class Alloca(Value):
    """The address of a variable on the stack."""

    __slots__ = ("allocated_type",)

    def __init__(self, type_: Type, ref: str) -> None:
        super().__init__(_PTR, ref)
        self.allocated_type = type_


Binary = Callable[..., Value]


def _binary(opcode: str) -> Binary:
    """An instruction of two operands of one type, which is that of the result."""

    def write(self: IRBuilder, a: Value, b: Value, flags: Sequence[str] = ()) -> Value:
        words = " ".join((opcode, *flags)) if flags else opcode
        return self._value(a.type, f"{words} {a.type.text} {a.ref}, {b.ref}")

    return write


def _cast(opcode: str) -> Binary:
    """A conversion; nothing where the type is that already."""

    def write(self: IRBuilder, a: Value, to: Type) -> Value:
        if a.type is to:
            return a
        return self._value(to, f"{opcode} {a.type.text} {a.ref} to {to.text}")

    return write


def _comparison(opcode: str, predicates: dict[str, str]) -> Binary:
    def write(self: IRBuilder, how: str, a: Value, b: Value) -> Value:
        kind = VectorType(_I1, a.type.count) if isinstance(a.type, VectorType) else _I1
        return self._value(kind, f"{opcode} {predicates[how]} {a.type.text} {a.ref}, {b.ref}")

    return write


class IRBuilder:
    """Writes at the end of `block`."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.function: Function = block.function
        self.module: Module = block.function.module

    def _value(self, type_: Type, text: str) -> Value:
        function = self.function
        function.count = number = function.count + 1
        ref = f"%v{number}"
        self.block.lines.append(f"{ref} = {text}")
        return Value(type_, ref)

    def _name(self) -> str:
        self.function.count += 1
        return f"%v{self.function.count}"

    # ---- arithmetic

    add, sub, mul = _binary("add"), _binary("sub"), _binary("mul")
    udiv, sdiv, urem, srem = _binary("udiv"), _binary("sdiv"), _binary("urem"), _binary("srem")
    and_, or_, xor = _binary("and"), _binary("or"), _binary("xor")
    shl, lshr, ashr = _binary("shl"), _binary("lshr"), _binary("ashr")
    fadd, fsub, fmul = _binary("fadd"), _binary("fsub"), _binary("fmul")
    fdiv, frem = _binary("fdiv"), _binary("frem")
    trunc, zext, sext = _cast("trunc"), _cast("zext"), _cast("sext")
    fptrunc, fpext, bitcast = _cast("fptrunc"), _cast("fpext"), _cast("bitcast")
    fptosi, sitofp, uitofp = _cast("fptosi"), _cast("sitofp"), _cast("uitofp")
    icmp_signed, icmp_unsigned = _comparison("icmp", _SIGNED), _comparison("icmp", _UNSIGNED)
    fcmp_ordered, fcmp_unordered = _comparison("fcmp", _ORDERED), _comparison("fcmp", _UNORDERED)

    def neg(self, a: Value) -> Value:
        return self.sub(Constant(a.type, 0), a)

    def not_(self, a: Value) -> Value:
        return self.xor(a, Constant(a.type, -1))

    def fneg(self, a: Value) -> Value:
        return self._value(a.type, f"fneg {a.type.text} {a.ref}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        kind = a.type.text
        text = f"{condition.type.text} {condition.ref}, {kind} {a.ref}, {kind} {b.ref}"
        return self._value(a.type, f"select {text}")

    # ---- lanes

    def extract_element(self, vector: Value, lane: Value) -> Value:
        assert isinstance(vector.type, VectorType)
        text = f"{vector.type.text} {vector.ref}, {lane.type.text} {lane.ref}"
        return self._value(vector.type.element, f"extractelement {text}")

    def insert_element(self, vector: Value, x: Value, lane: Value) -> Value:
        text = f"{vector.type.text} {vector.ref}, {x.type.text} {x.ref}"
        return self._value(vector.type, f"insertelement {text}, {lane.type.text} {lane.ref}")

    def shuffle_vector(self, a: Value, b: Value, lanes: Value) -> Value:
        """Lanes of a and b, by a constant vector of their numbers."""
        assert isinstance(a.type, VectorType) and isinstance(lanes.type, VectorType)
        kind = a.type
        shape = kind if lanes.type.count == kind.count else None
        text = f"{kind.text} {a.ref}, {kind.text} {b.ref}, {lanes.type.text} {lanes.ref}"
        result = shape or VectorType(kind.element, lanes.type.count)
        return self._value(result, f"shufflevector {text}")

    # ---- memory

    def gep(
        self, pointer: Value, indices: Sequence[Value], source_etype: Type, inbounds: bool = False
    ) -> Value:
        """The address so many elements behind a pointer; one for each lane of a vector."""
        (index,) = indices
        kind = VectorType(_PTR, index.type.count) if isinstance(index.type, VectorType) else _PTR
        words = "getelementptr inbounds" if inbounds else "getelementptr"
        text = f"{source_etype.text}, ptr {pointer.ref}, {index.type.text} {index.ref}"
        return self._value(kind, f"{words} {text}")

    def load(self, pointer: Value, typ: Type, align: int | None = None) -> Value:
        tail = f", align {align}" if align else ""
        return self._value(typ, f"load {typ.text}, ptr {pointer.ref}{tail}")

    def store(self, value: Value, pointer: Value, align: int | None = None) -> None:
        tail = f", align {align}" if align else ""
        line = f"store {value.type.text} {value.ref}, ptr {pointer.ref}{tail}"
        self.block.lines.append(line)

    def alloca(self, type_: Type) -> Alloca:
        cell = Alloca(type_, self._name())
        self.block.lines.append(f"{cell.ref} = alloca {type_.text}")
        return cell

    # ---- control

    def call(self, function: Function, arguments: Sequence[Value]) -> Value:
        given = ", ".join([f"{a.type.text} {a.ref}" for a in arguments])
        text = f"call {function.result.text} {function.ref}({given})"
        if function.result.text == "void":
            self.block.lines.append(text)
            return Value(function.result, "")
        return self._value(function.result, text)

    def phi(self, type_: Type) -> PhiInstr:
        made = PhiInstr(type_, self._name())
        self.block.lines.append(made)
        return made

    def branch(self, to: Block) -> None:
        self._end(f"br label %{to.label}")

    def cbranch(self, condition: Value, yes: Block, no: Block, likely: bool = True) -> None:
        """likely: whether `yes` is anything but an exception."""
        tail = "" if likely else ", !prof !0"
        self.module.weighs |= not likely
        self._end(f"br i1 {condition.ref}, label %{yes.label}, label %{no.label}{tail}")

    def ret_void(self) -> None:
        self._end("ret void")

    def _end(self, text: str) -> None:
        assert not self.block.terminator
        self.block.terminator = text

    def append_basic_block(self, name: str) -> Block:
        return self.function.append_basic_block(name)

    def position_at_end(self, block: Block) -> None:
        self.block = block

    @contextmanager
    def goto_entry_block(self) -> Iterator[None]:
        """Write at the end of the first block for a while."""
        block, self.block = self.block, self.function.blocks[0]
        yield
        self.block = block

    @contextmanager
    def if_then(self, condition: Value, likely: bool = True) -> Iterator[None]:
        """What is written meanwhile runs where the condition holds."""
        then, after = self.append_basic_block("then"), self.append_basic_block("after")
        self.cbranch(condition, then, after, likely)
        with self._branch(then, after):
            yield
        self.position_at_end(after)

    @contextmanager
    def if_else(
        self, condition: Value
    ) -> Iterator[tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
        """with b.if_else(c) as (yes, no): with yes: ...; with no: ..."""
        names = ("then", "else", "after")
        then, otherwise, after = [self.append_basic_block(name) for name in names]
        self.cbranch(condition, then, otherwise)
        yield self._branch(then, after), self._branch(otherwise, after)
        self.position_at_end(after)

    @contextmanager
    def _branch(self, block: Block, after: Block) -> Iterator[None]:
        self.position_at_end(block)
        yield
        self.branch(after)
