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

    `first` may be negative. Farther from the line than its own size, elements may be anything.
    What comes `ahead` is asked for, to be read soon.
    """
    if ahead:
        soon = b.value(b.add(line, first, ahead))
        b.prefetch(b.ir.gep(pointer, [soon], source_etype=F32))
    number = b.ir.add(_numbers(b), _splat(b, first))
    mask = b.ir.icmp_unsigned("<", number, _splat(b, axis.size))
    if axis.boundary == ZERO:
        if there is not True:
            mask = b.ir.select(b.truth(there), mask, ir.Constant(mask.type, [0] * b.lanes))
        return _masked(b, pointer, b.add(line, first), mask, b.splat(0.0))
    if there is not True:
        line = b.ir.select(b.truth(there), b.value(line), b.value(0))
    start, beyond = b.at(pointer, line), _BEYOND[axis.boundary]
    if axis.size < b.lanes:
        inner = _masked(b, start, first, mask, b.splat(0.0))
        found = beyond(b, start, first, axis.size, inner)
    else:
        with b.either(b.inside(b.value(first), axis.size - b.lanes + 1)) as (yes, no):
            with yes:
                whole, one = b.vload(start, first, align=4), b.ir.block
            with no:
                inner = _masked(b, start, first, mask, b.splat(0.0))
                joined, other = beyond(b, start, first, axis.size, inner), b.ir.block
        found = b.ir.phi(b.vector)
        found.add_incoming(whole, one)
        found.add_incoming(joined, other)
    return found if there is True else b.ir.select(b.truth(there), found, b.splat(0.0))


def _circular(b: Builder, line: ir.Value, first: Index, size: int, found: ir.Value) -> ir.Value:
    for start in (b.add(first, size), b.sub(first, size)):
        number = b.ir.add(_numbers(b), _splat(b, start))
        mask = b.ir.icmp_unsigned("<", number, _splat(b, size))
        found = _masked(b, line, start, mask, found)
    return found


def _reflect(b: Builder, line: ir.Value, first: Index, size: int, found: ir.Value) -> ir.Value:
    turned = list(reversed(range(b.lanes)))
    number = b.ir.add(_numbers(b), _splat(b, first))
    beyond = b.ir.icmp_unsigned(">=", number, _splat(b, size))
    # the axes are the first element and the last: i is -i, and 2 (size - 1) - i
    for axis in (0, 2 * (size - 1)):
        start = b.sub(axis - (b.lanes - 1), first)
        own = b.ir.add(_numbers(b), _splat(b, start))
        mask = b.ir.icmp_unsigned("<", own, _splat(b, size))
        mirrored = b.shuffle(_masked(b, line, start, mask, b.splat(0.0)), turned)
        mask = b.ir.and_(b.shuffle(mask, turned), beyond)
        found = b.ir.select(mask, mirrored, found)
    return found


def _replicate(b: Builder, line: ir.Value, first: Index, size: int, found: ir.Value) -> ir.Value:
    number = b.ir.add(_numbers(b), _splat(b, first))
    before = b.ir.icmp_signed("<", number, _splat(b, 0))
    behind = b.ir.icmp_signed(">=", number, _splat(b, size))
    found = b.ir.select(before, b.broadcast(line), found)
    return b.ir.select(behind, b.broadcast(line, size - 1), found)


_BEYOND = {"circular": _circular, "reflect": _reflect, "replicate": _replicate}


def _masked(
    b: Builder, pointer: ir.Value, offset: Index, mask: ir.Value, other: ir.Value
) -> ir.Value:
    # not `inbounds`: the address may lie outside where all lanes do
    at = b.ir.gep(pointer, [b.value(offset)], source_etype=F32)
    arguments = [at, ir.Constant(I32, 4), mask, other]
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
