"""Vectors of a row-major line that may reach beyond its ends: nothing is written there, and what is
read is zero, or what the boundary of the line's axis says."""

from __future__ import annotations

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import F32, I32, Builder, Condition, Index
from cnnir.backends.llvm.kernels.spec import Axis
from cnnir.ops.boundary import ZERO


def read(
    b: Builder,
    pointer: ir.Value,
    line: Index,
    first: Index,
    axis: Axis,
    there: Condition = True,
    ahead: int = 0,
) -> ir.Value:
    """Elements first to first + V of a line that begins at `line`; zeros where it is not `there`.

    `first` may be negative. Beyond what windows of the axis see, elements may be anything. Where
    zeros lie there, what comes `ahead` is asked for, to be read soon.
    """
    if axis.boundary != ZERO:
        start = line if there is True else b.ir.select(b.truth(there), b.value(line), b.value(0))
        found = _continued(b, b.at(pointer, start), first, axis)
        return found if there is True else b.ir.select(b.truth(there), found, b.splat(0.0))
    number = b.ir.add(_numbers(b), _splat(b, first))
    mask = b.ir.icmp_unsigned("<", number, _splat(b, axis.size))
    if there is not True:
        mask = b.ir.select(b.truth(there), mask, ir.Constant(mask.type, [0] * b.lanes))
    # not `inbounds`: the address may lie outside where all lanes do
    at = b.ir.gep(pointer, [b.value(b.add(line, first))], source_etype=F32)
    if ahead:
        b.prefetch(b.ir.gep(at, [b.value(ahead)], source_etype=F32))
    arguments = [at, ir.Constant(I32, 4), mask, b.splat(0.0)]
    return b.call(f"llvm.masked.load.v{b.lanes}f32.p0", b.vector, arguments)


def _continued(b: Builder, line: ir.Value, first: Index, axis: Axis) -> ir.Value:
    """A vector that lies side by side inside of the line; gathered where it reaches out."""
    if axis.size < b.lanes:
        return _gathered(b, line, first, axis)
    with b.either(b.inside(b.value(first), axis.size - b.lanes + 1)) as (yes, no):
        with yes:
            whole = b.vload(line, first, align=4)
            inner = b.ir.block
        with no:
            parts = _gathered(b, line, first, axis)
            outer = b.ir.block
    found = b.ir.phi(b.vector)
    found.add_incoming(whole, inner)
    found.add_incoming(parts, outer)
    return found


def _gathered(b: Builder, line: ir.Value, first: Index, axis: Axis) -> ir.Value:
    last = axis.span(axis.out) - 1 - axis.begin
    number = _least(b, b.ir.add(_numbers(b), _splat(b, first)), _splat(b, last))
    pointers = b.ir.gep(line, [_places(b, number, axis)], source_etype=F32)
    arguments = [pointers, ir.Constant(I32, 4), b.mask(b.lanes), b.splat(0.0)]
    return b.call(f"llvm.masked.gather.v{b.lanes}f32.v{b.lanes}p0", b.vector, arguments)


def _places(b: Builder, number: ir.Value, axis: Axis) -> ir.Value:
    """`edges.place`, for V elements at once."""
    zero, size = _splat(b, 0), _splat(b, axis.size)
    if axis.boundary == "circular":
        rest = b.ir.srem(number, size)
        return b.ir.select(b.ir.icmp_signed("<", rest, zero), b.ir.add(rest, size), rest)
    if axis.boundary == "reflect":
        number = _most(b, number, b.ir.sub(zero, number))
        return _least(b, number, b.ir.sub(_splat(b, 2 * (axis.size - 1)), number))
    return _least(b, _most(b, number, zero), _splat(b, axis.size - 1))


def _least(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.ir.select(b.ir.icmp_signed("<", x, y), x, y)


def _most(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.ir.select(b.ir.icmp_signed("<", x, y), y, x)


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
