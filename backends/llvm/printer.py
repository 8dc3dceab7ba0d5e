"""print_kernel: a Kernel of the loop language as an LLVM function.

`void @name(ptr error, ptr scratch, i64 item, ptr p0, ...)`, pointers as in `kernel.buffers`. Loops
stay as they are and vectors are explicit, so LLVM's own vectorisers have nothing to do. Expressions
are printed by `values.py`; compiling is for others.
"""

from __future__ import annotations

from collections.abc import Collection

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.memory_access import PTR
from cnnir.backends.llvm.operations import value_type
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.values import Values, split_offset, width_of
from cnnir.backends.llvm.vectormath import I64
from cnnir.loops import Kernel
from cnnir.loops.statements import Buffer, For, Get, If, Let, Set, Statement, Store, Variable


def print_kernel(
    module: ir.Module,
    kernel: Kernel,
    target: CpuTarget,
    name: str | None = None,
    shared: Collection[int] = (),
) -> ir.Function:
    """Write the kernel into the module.

    shared: positions among `kernel.buffers` that another pointer may overlap (results computed in
    place of an operand). All other pointers are promised not to overlap what is written.
    """
    signature = ir.FunctionType(ir.VoidType(), [PTR, PTR, I64] + [PTR] * len(kernel.buffers))
    function = ir.Function(module, signature, name or kernel.name)
    function.attributes.add("nounwind")
    error, scratch, item, *pointers = function.args
    for position, argument in enumerate(pointers):
        if position not in shared:
            argument.add_attribute("noalias")
    error.add_attribute("noalias")
    scratch.add_attribute("noalias")
    entry, start = function.append_basic_block("entry"), function.append_basic_block("start")
    builder = ir.IRBuilder(entry)
    builder.branch(start)  # entry is for allocas alone
    builder.position_at_end(start)
    places: dict[Buffer, ir.Value] = dict(zip(kernel.buffers, pointers, strict=True))
    for buffer in kernel.scratch:
        offset = ir.Constant(I64, buffer.byte)
        places[buffer] = builder.gep(scratch, [offset], source_etype=ir.IntType(8))
    printer = _Statements(Values(builder, target, places, error))
    printer.values.define(kernel.item, item)
    printer.block(kernel.body)
    builder.ret_void()
    return function


class _Statements:
    def __init__(self, values: Values) -> None:
        self.values, self.b = values, values.b
        self.variables: dict[Variable, ir.Value] = {}

    def block(self, body: list[Statement]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, s: Statement) -> None:
        values = self.values
        match s:
            case For() if s.var.lanes:
                with values.lanes(s.var):
                    self.block(s.body)
            case For():
                with values.loop(s.var, values.value(s.start), values.value(s.stop)):
                    self.block(s.body)
            case If():
                with self.b.if_then(values.value(s.condition)), values.scope():
                    self.block(s.body)
            case Let():
                values.define(s.name, values.value(s.value))
            case Store():
                self.store(s)
            case Set():
                self.set(s)
            case Get():
                self.get(s)

    def store(self, s: Store) -> None:
        values = self.values
        base, step = split_offset(s.offset, values.lane)
        value = values.value(s.value)
        lanes = width_of(values.lane) if values.lane is not None else 0
        values.memory.store(s.buffer, values.value(base), step, value, lanes, values.mask)

    def set(self, s: Set) -> None:
        cell = self.variables.get(s.variable)
        if cell is None:
            with self.b.goto_entry_block():
                cell = self.b.alloca(value_type(s.variable.dtype))
            self.variables[s.variable] = cell
        self.b.store(self.values.value(s.value), cell)

    def get(self, s: Get) -> None:
        if s.variable is not None:
            cell = self.variables[s.variable]
            value = self.b.load(cell, typ=value_type(s.variable.dtype))
        else:
            assert s.buffer is not None and s.offset is not None
            value = self.values.memory.read(s.buffer, self.values.value(s.offset))
        self.values.define(s.symbol, value)
