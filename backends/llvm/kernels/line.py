"""Vectors of a row-major line that may reach beyond its ends: zeros there, nothing written."""

from __future__ import annotations

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import F32, I32, Builder, Condition, Index


def read(
    b: Builder, pointer: ir.Value, line: Index, first: Index, size: int, there: Condition = True
) -> ir.Value:
    """Elements first to first + V of a line of `size` that begins at `line`; none where it is not
    `there`. `first` may be negative."""
    number = b.ir.add(_numbers(b), _splat(b, first))
    mask = b.ir.icmp_unsigned("<", number, _splat(b, size))
    if there is not True:
        mask = b.ir.select(b.truth(there), mask, ir.Constant(mask.type, [0] * b.lanes))
    # not `inbounds`: the address may lie outside where all lanes do
    at = b.ir.gep(pointer, [b.value(b.add(line, first))], source_etype=F32)
    arguments = [at, ir.Constant(I32, 4), mask, b.splat(0.0)]
    return b.call(f"llvm.masked.load.v{b.lanes}f32.p0", b.vector, arguments)


def write(b: Builder, value: ir.Value, pointer: ir.Value, offset: Index, count: Index) -> None:
    """The first `count` lanes, which may be more than there are."""
    mask = b.ir.icmp_signed("<", _numbers(b), _splat(b, b.min(count, b.lanes)))
    arguments = [value, b.at(pointer, offset), ir.Constant(I32, 4), mask]
    b.call(f"llvm.masked.store.v{b.lanes}f32.p0", ir.VoidType(), arguments)


def _numbers(b: Builder) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, b.lanes), list(range(b.lanes)))


def _splat(b: Builder, index: Index) -> ir.Value:
    """V copies of an index as i32."""
    kind = ir.VectorType(I32, b.lanes)
    if isinstance(index, int):
        return ir.Constant(kind, [index] * b.lanes)
    undefined = ir.Poison(kind)
    first = b.ir.insert_element(undefined, b.ir.trunc(index, I32), ir.Constant(I32, 0))
    return b.shuffle(first, [0] * b.lanes)
