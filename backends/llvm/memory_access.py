"""Loads and stores of the kernel language: scalar, vector, masked, gathered.

Element types in memory: bool is a byte 0 or 1, 16-bit floats are their bits. Nothing out of
bounds is touched: lanes whose condition fails are masked, single loads are moved to the start of
the buffer, behind whose end 64 bytes may be read.
"""

from __future__ import annotations

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.operations import Operations, value_type
from cnnir.backends.llvm.vectormath import F32, F64, I1, I32, I64, lanes_of, suffix
from cnnir.loops.statements import Buffer

PTR = ir.PointerType()
SLACK = 64  # readable bytes behind every buffer


def storage_type(dtype: str) -> ir.Type:
    """The type of an element in memory."""
    if dtype in ("f16", "bf16"):
        return ir.IntType(16)
    if dtype == "bool":
        return ir.IntType(8)
    return {"f32": F32, "f64": F64}.get(dtype) or value_type(dtype)


class Memory:
    """Reads and writes buffers, each at its pointer."""

    def __init__(self, ops: Operations, pointers: dict[Buffer, ir.Value]) -> None:
        self.ops, self.b, self.pointers = ops, ops.b, pointers

    def load(
        self,
        buffer: Buffer,
        base: ir.Value,
        step: int | None,
        lanes: int,
        mask: ir.Value | None = None,
        inside: ir.Value | None = None,
        other: ir.Value | None = None,
    ) -> ir.Value:
        """An element, or one for each lane.

        base: the offset (of lane 0). step: 0 for one element, 1 for consecutive ones, None when
        base is a vector of offsets. mask: lanes that may be read. inside, other: see `Load`.
        """
        raw, fill = storage_type(buffer.type.dtype), None
        uneven = inside is not None and lanes_of(inside) > 0
        if step == 0 and not lanes_of(base) and not uneven:
            return self._single(buffer, raw, base, inside, other)
        guard = inside
        if step == 1 and inside is not None and not uneven and mask is None:
            if buffer.type.numpy.itemsize * (lanes - buffer.size) <= SLACK:
                base = self.b.select(inside, base, ir.Constant(I64, 0))
                guard = None
        active = mask if guard is None else self.ops.both(self.ops.spread(guard, lanes), mask)
        if step == 1:
            value = self._consecutive(buffer, raw, base, lanes, active)
        else:
            value = self._gathered(buffer, raw, base, step, lanes, active)
        value = self._from_storage(buffer.type.dtype, value)
        if inside is None or other is None:
            return value
        fill = self.ops.spread(other, lanes)
        return self.b.select(inside, value, fill)

    def store(
        self,
        buffer: Buffer,
        base: ir.Value,
        step: int | None,
        value: ir.Value,
        lanes: int,
        mask: ir.Value | None,
    ) -> None:
        """Write an element, or one for each active lane."""
        raw = storage_type(buffer.type.dtype)
        value = self._to_storage(buffer.type.dtype, value)
        if not lanes:
            self.b.store(value, self._at(buffer, raw, base), align=self._align(buffer))
            return
        value = self.ops.spread(value, lanes)
        name, vector = suffix(value.type), ir.VectorType(I1, lanes)
        align = ir.Constant(I32, self._align(buffer))
        if step == 1 and mask is None:
            self.b.store(value, self._at(buffer, raw, base), align=self._align(buffer))
        elif step == 1 and mask is not None:
            arguments = [value, self._at(buffer, raw, base), align, mask]
            self.ops.math.call(f"llvm.masked.store.{name}.p0", ir.VoidType(), arguments)
        else:
            mask = mask or ir.Constant(vector, 1)
            arguments = [value, self._pointers(buffer, raw, base, step, lanes), align, mask]
            self.ops.math.call(f"llvm.masked.scatter.{name}.v{lanes}p0", ir.VoidType(), arguments)

    def read(self, buffer: Buffer, base: ir.Value) -> ir.Value:
        """The present value of one element of a buffer that is written."""
        return self.load(buffer, base, 0, 0)

    def _single(
        self,
        buffer: Buffer,
        raw: ir.Type,
        base: ir.Value,
        inside: ir.Value | None,
        other: ir.Value | None,
    ) -> ir.Value:
        if inside is not None:
            base = self.b.select(inside, base, ir.Constant(I64, 0))
        value = self.b.load(self._at(buffer, raw, base), typ=raw, align=self._align(buffer))
        value = self._from_storage(buffer.type.dtype, value)
        if inside is None or other is None:
            return value
        value, other = self.ops.matched(value, other)
        return self.b.select(inside, value, other)

    def _consecutive(
        self, buffer: Buffer, raw: ir.Type, base: ir.Value, lanes: int, mask: ir.Value | None
    ) -> ir.Value:
        vector, align = ir.VectorType(raw, lanes), self._align(buffer)
        pointer = self._at(buffer, raw, base)
        if mask is None:
            return self.b.load(pointer, typ=vector, align=align)
        arguments = [pointer, ir.Constant(I32, align), mask, ir.Constant(vector, 0)]
        return self.ops.math.call(f"llvm.masked.load.{suffix(vector)}.p0", vector, arguments)

    def _gathered(
        self,
        buffer: Buffer,
        raw: ir.Type,
        base: ir.Value,
        step: int | None,
        lanes: int,
        mask: ir.Value | None,
    ) -> ir.Value:
        lanes = lanes_of(base) or lanes
        vector = ir.VectorType(raw, lanes)
        mask = mask or self.ops.first_lanes(lanes, lanes)
        align = ir.Constant(I32, self._align(buffer))
        pointers = self._pointers(buffer, raw, base, step, lanes)
        arguments = [pointers, align, mask, ir.Constant(vector, 0)]
        name = f"llvm.masked.gather.{suffix(vector)}.v{lanes}p0"
        return self.ops.math.call(name, vector, arguments)

    def _at(self, buffer: Buffer, raw: ir.Type, offset: ir.Value) -> ir.Value:
        return self.b.gep(self.pointers[buffer], [offset], source_etype=raw)

    def _pointers(
        self, buffer: Buffer, raw: ir.Type, base: ir.Value, step: int | None, lanes: int
    ) -> ir.Value:
        """An address for each lane."""
        offsets = self.ops.spread(base, lanes)
        if step:
            steps = [ir.Constant(I64, step * k) for k in range(lanes)]
            offsets = self.b.add(offsets, ir.Constant(ir.VectorType(I64, lanes), steps))
        return self.b.gep(self.pointers[buffer], [offsets], source_etype=raw)

    def _align(self, buffer: Buffer) -> int:
        return buffer.type.numpy.itemsize

    def _from_storage(self, dtype: str, value: ir.Value) -> ir.Value:
        if dtype == "f16":
            return self.ops.from_f16(value)
        if dtype == "bf16":
            return self.ops.from_bf16(value)
        if dtype == "bool":
            return self.b.icmp_signed("!=", value, self.ops.like(0, value))
        return value

    def _to_storage(self, dtype: str, value: ir.Value) -> ir.Value:
        if dtype == "f16":
            return self.ops.to_f16(value)
        if dtype == "bf16":
            return self.ops.to_bf16(value)
        if dtype == "bool":
            byte = ir.IntType(8)
            n = lanes_of(value)
            return self.b.zext(value, ir.VectorType(byte, n) if n else byte)
        return value
