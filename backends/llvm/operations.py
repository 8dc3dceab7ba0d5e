"""Scalar operations of the kernel language on llvm values, alike for scalars and vectors.

Booleans are i1. Integer division never traps, conversions saturate, max and min keep NaN.
"""

from __future__ import annotations

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.vectormath import (
    F32,
    F64,
    I1,
    I32,
    VectorMath,
    lanes_of,
    shaped,
    suffix,
)
from cnnir.tensortype import is_float, is_int, is_signed

_FUNCTIONS = ("exp", "log", "tanh", "erf", "sin", "cos", "sqrt")
_ROUNDING = ("floor", "ceil", "trunc", "rint")
_COMPARE = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "rem": "frem"}
_BITS = {"and": "and_", "or": "or_", "xor": "xor", "shl": "shl"}
_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
CONTRACT = ("contract",)


def value_type(dtype: str) -> ir.Type:
    """The type of a value in registers."""
    if dtype == "bool":
        return I1
    if is_int(dtype):
        return ir.IntType(int(dtype[1:]))
    return F64 if dtype == "f64" else F32


class Operations:
    """Prints operations at the position of an IRBuilder."""

    def __init__(self, builder: ir.IRBuilder, target: CpuTarget) -> None:
        self.b, self.target = builder, target
        self.math = VectorMath(builder, rounds=target.has("sse4.1") if target.x86 else True)

    # ---- shapes

    def constant(self, value: bool | int | float, dtype: str) -> ir.Constant:
        """A scalar constant."""
        return ir.Constant(value_type(dtype), value if is_float(dtype) else int(value))

    def like(self, value: float, other: ir.Value) -> ir.Constant:
        """A constant of the type of another value."""
        return self.math.constant(value, other)

    def spread(self, value: ir.Value, lanes: int) -> ir.Value:
        """The value in every lane; a vector stays as it is."""
        if not lanes or lanes_of(value):
            return value
        vector = ir.VectorType(value.type, lanes)
        if isinstance(value, ir.Constant):
            return ir.Constant(vector, [value] * lanes)
        nothing = ir.Poison(vector)
        first = self.b.insert_element(nothing, value, ir.Constant(I32, 0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, lanes), 0))

    def matched(self, *values: ir.Value) -> list[ir.Value]:
        """All spread to vectors when one of them is."""
        lanes = max(lanes_of(v) for v in values)
        return [self.spread(v, lanes) for v in values]

    def first_lanes(self, count: int, lanes: int) -> ir.Constant:
        """The mask of the first so many lanes."""
        return ir.Constant(ir.VectorType(I1, lanes), [k < count for k in range(lanes)])

    def both(self, a: ir.Value, b: ir.Value | None) -> ir.Value:
        """The conjunction of two masks; None is no mask."""
        if b is None:
            return a
        a, b = self.matched(a, b)
        return self.b.and_(a, b)

    def any_lane(self, condition: ir.Value) -> ir.Value:
        """Whether the condition holds in some lane."""
        n = lanes_of(condition)
        return self.math.call(f"llvm.vector.reduce.or.v{n}i1", I1, [condition]) if n else condition

    # ---- operations

    def operation(self, op: str, of: str, to: str, arguments: list[ir.Value]) -> ir.Value:
        """Any operation by name, on operands of dtype `of`, with a result of dtype `to`."""
        if op == "select":
            condition, a, b = arguments
            a, b = (
                self.matched(a, b) if not lanes_of(condition) else self.matched(condition, a, b)[1:]
            )
            return self.b.select(condition, a, b)
        if op == "cast":
            return self.cast(arguments[0], of, to)
        if len(arguments) == 1:
            return self._unary(op, of, arguments[0])
        a, b = self.matched(*arguments)
        if op in _COMPARE:
            return self._compare(op, of, a, b)
        if op in ("max", "min"):
            return self.extremum(op, of, a, b)
        if op == "pow":
            return self.math.pow(a, b) if is_float(of) else self._integer_power(a, b)
        if is_float(of):
            return getattr(self.b, _FLOAT[op])(a, b, flags=CONTRACT)
        if op in ("div", "rem"):
            return self._integer_division(op, is_signed(of), a, b)
        if op == "shr":
            return (self.b.ashr if is_signed(of) else self.b.lshr)(a, b)
        if op in _BITS:
            return getattr(self.b, _BITS[op])(a, b)
        return self.arithmetic(op, a, b)

    def arithmetic(self, op: str, a: ir.Value, b: ir.Value) -> ir.Value:
        """add, sub or mul of integers; wraps."""
        a, b = self.matched(a, b)
        return getattr(self.b, op)(a, b)

    def _unary(self, op: str, of: str, a: ir.Value) -> ir.Value:
        if op in _FUNCTIONS:
            return self.math.function(op, a)
        if op in _ROUNDING:
            return self.math.round(op, a)
        if op == "neg":
            return self.b.fneg(a) if is_float(of) else self.b.neg(a)
        if op == "not":
            return self.b.not_(a)
        if op == "abs":
            if is_float(of):
                return self.math.intrinsic("fabs", a)
            if not is_signed(of):
                return a
            return self.b.select(self.b.icmp_signed("<", a, self.like(0, a)), self.b.neg(a), a)
        if op == "round_f16":
            return self.from_f16(self.to_f16(a))
        if op == "round_bf16":
            return self.from_bf16(self.to_bf16(a))
        raise AssertionError(op)

    def _compare(self, op: str, of: str, a: ir.Value, b: ir.Value) -> ir.Value:
        sign = _COMPARE[op]
        if is_float(of):
            if op == "ne":
                return self.b.fcmp_unordered(sign, a, b)
            return self.b.fcmp_ordered(sign, a, b)
        if is_signed(of):
            return self.b.icmp_signed(sign, a, b)
        return self.b.icmp_unsigned(sign, a, b)

    def extremum(self, op: str, of: str, a: ir.Value, b: ir.Value) -> ir.Value:
        """max or min. Of floats, `better ? a : b` is one instruction on x86 and takes b where
        either is NaN; a constant goes first, so that only two variables need a second look."""
        if not is_float(of):
            first = self._compare("lt", of, *((b, a) if op == "max" else (a, b)))
            return self.b.select(first, a, b)
        if not self.target.x86:
            return self.math.intrinsic("maximum" if op == "max" else "minimum", a, b)
        if isinstance(b, ir.Constant):
            a, b = b, a
        better = self.b.fcmp_ordered(">" if op == "max" else "<", a, b)
        picked = self.b.select(better, a, b)
        if isinstance(a, ir.Constant):
            return picked
        return self.b.select(self.b.fcmp_unordered("uno", a, a), a, picked)

    def combine(self, kind: str, dtype: str, a: ir.Value, b: ir.Value) -> ir.Value:
        """One step of a reduction."""
        return self.operation(_COMBINE[kind], dtype, dtype, [a, b])

    def across(self, kind: str, dtype: str, vector: ir.Value) -> ir.Value:
        """The reduction of all lanes: halves onto each other, a fixed order."""
        n = lanes_of(vector)
        while n > 1:
            n //= 2
            vector = self.combine(kind, dtype, self._lanes(vector, 0, n), self._lanes(vector, n, n))
        return self.b.extract_element(vector, ir.Constant(I32, 0))

    def _lanes(self, vector: ir.Value, first: int, count: int) -> ir.Value:
        mask = ir.Constant(ir.VectorType(I32, count), range(first, first + count))
        return self.b.shuffle_vector(vector, ir.Poison(vector.type), mask)

    # ---- integers

    def _integer_division(self, op: str, signed: bool, a: ir.Value, b: ir.Value) -> ir.Value:
        """Truncating; by 0 it is 0, and the lowest by -1 wraps."""
        build, zero, one = self.b, self.like(0, a), self.like(1, a)
        by_zero = build.icmp_signed("==", b, zero)
        if not signed:
            safe = build.select(by_zero, one, b)
            if op == "rem":
                return build.urem(a, safe)
            return build.select(by_zero, zero, build.udiv(a, safe))
        by_minus = build.icmp_signed("==", b, self.like(-1, a))
        safe = build.select(build.or_(by_zero, by_minus), one, b)
        if op == "rem":
            return build.srem(a, safe)
        quotient = build.select(by_minus, build.neg(a), build.sdiv(a, safe))
        return build.select(by_zero, zero, quotient)

    def index_division(self, op: str, a: ir.Value, n: ir.Value, negative: bool) -> ir.Value:
        """Floor division or modulo of an i64 by a positive constant."""
        a, n = self.matched(a, n)
        b = self.b
        if not negative:
            return b.udiv(a, n) if op == "floordiv" else b.urem(a, n)
        left = b.srem(a, n)
        below = b.icmp_signed("<", left, self.like(0, a))
        if op == "mod":
            return b.select(below, b.add(left, n), left)
        return b.add(b.sdiv(a, n), b.sext(below, a.type))

    def _integer_power(self, a: ir.Value, n: ir.Value) -> ir.Value:
        """a^n for n >= 0 by squaring; wraps."""
        b = self.b
        whole = a.type.element if isinstance(a.type, ir.VectorType) else a.type
        assert isinstance(whole, ir.IntType)
        before, head, after = b.block, b.append_basic_block("power"), b.append_basic_block("after")
        b.branch(head)
        b.position_at_end(head)
        step, result, base, left = b.phi(I32), b.phi(a.type), b.phi(a.type), b.phi(a.type)
        first = (ir.Constant(I32, 0), self.like(1, a), a, n)
        one = self.like(1, a)
        odd = b.icmp_signed("!=", b.and_(left, one), self.like(0, a))
        following = b.add(step, ir.Constant(I32, 1))
        product = b.select(odd, b.mul(result, base), result)
        turn = (following, product, b.mul(base, base), b.lshr(left, one))
        for phi, init, new in zip((step, result, base, left), first, turn, strict=True):
            phi.add_incoming(init, before)
            phi.add_incoming(new, head)
        b.cbranch(b.icmp_signed("<", following, ir.Constant(I32, whole.width)), head, after)
        b.position_at_end(after)
        return product

    # ---- conversions

    def cast(self, a: ir.Value, of: str, to: str) -> ir.Value:
        """Float to int truncates and saturates, int to int wraps, to bool is != 0."""
        b, target = self.b, shaped(value_type(to), lanes_of(a))
        if of == to:
            return a
        if to == "bool":
            zero = self.like(0.0 if is_float(of) else 0, a)
            return b.fcmp_unordered("!=", a, zero) if is_float(of) else b.icmp_signed("!=", a, zero)
        if is_float(of) and is_float(to):
            return b.fpext(a, target) if to == "f64" else b.fptrunc(a, target)
        if is_float(of):
            name = "fptosi" if is_signed(to) else "fptoui"
            kinds = f"{suffix(target)}.{suffix(a.type)}"
            return self.math.call(f"llvm.{name}.sat.{kinds}", target, [a])
        signed = of != "bool" and is_signed(of)
        if is_float(to):
            return b.sitofp(a, target) if signed else b.uitofp(a, target)
        narrow, wide = _bits(of), _bits(to)
        if wide < narrow:
            return b.trunc(a, target)
        if wide == narrow:
            return a
        return b.sext(a, target) if signed else b.zext(a, target)

    def from_bf16(self, h: ir.Value) -> ir.Value:
        """f32 of the bits of a bf16."""
        wide = self.b.zext(h, shaped(I32, lanes_of(h)))
        return self.b.bitcast(self.b.shl(wide, self.like(16, wide)), shaped(F32, lanes_of(h)))

    def to_bf16(self, a: ir.Value) -> ir.Value:
        """The bits of the nearest bf16, ties to even; NaN stays NaN."""
        b, bits = self.b, self.math.bits(a)
        odd = b.and_(b.lshr(bits, self.like(16, bits)), self.like(1, bits))
        rounded = b.add(b.add(bits, self.like(0x7FFF, bits)), odd)
        quiet = b.or_(bits, self.like(0x400000, bits))
        chosen = b.select(b.fcmp_unordered("uno", a, a), quiet, rounded)
        return b.trunc(b.lshr(chosen, self.like(16, bits)), shaped(ir.IntType(16), lanes_of(a)))

    def from_f16(self, h: ir.Value) -> ir.Value:
        """f32 of the bits of an f16."""
        b, n = self.b, lanes_of(h)
        if self.target.f16c:
            return b.fpext(b.bitcast(h, shaped(ir.HalfType(), n)), shaped(F32, n))
        wide = b.zext(h, shaped(I32, n))
        size = b.and_(wide, self.like(0x7FFF, wide))
        moved = b.shl(size, self.like(13, wide))
        # the exponent field means 2^112 times more in f16; this holds for subnormals as well
        finite = b.bitcast(moved, shaped(F32, n))
        finite = b.fmul(finite, self.like(2.0**112, finite))
        special = b.icmp_unsigned(">=", size, self.like(0x7C00, wide))
        endless = b.or_(moved, self.like(0x7F800000, wide))
        bits = b.select(special, endless, self.math.bits(finite))
        sign = b.shl(b.and_(wide, self.like(0x8000, wide)), self.like(16, wide))
        return b.bitcast(b.or_(bits, sign), shaped(F32, n))

    def to_f16(self, a: ir.Value) -> ir.Value:
        """The bits of the nearest f16, ties to even."""
        b, n = self.b, lanes_of(a)
        short = shaped(ir.IntType(16), n)
        if self.target.f16c:
            return b.bitcast(b.fptrunc(a, shaped(ir.HalfType(), n)), short)
        bits = self.math.bits(a)
        size = b.and_(bits, self.like(0x7FFFFFFF, bits))
        odd = b.and_(b.lshr(size, self.like(13, bits)), self.like(1, bits))
        normal = b.add(b.sub(size, self.like((112 << 23) - 0xFFF, bits)), odd)
        normal = b.lshr(normal, self.like(13, bits))
        # an f32 in [1/2, 1) has steps of 2^-24, those of a subnormal f16: adding rounds
        half = b.bitcast(size, a.type)
        tiny = b.sub(
            self.math.bits(b.fadd(half, self.like(0.5, half))), self.like(0x3F000000, bits)
        )
        h = b.select(b.icmp_unsigned("<", size, self.like(0x38800000, bits)), tiny, normal)
        over = b.icmp_unsigned(">=", size, self.like(0x47800000, bits))
        h = b.select(over, self.like(0x7C00, bits), h)
        nan = b.icmp_unsigned(">", size, self.like(0x7F800000, bits))
        h = b.select(nan, self.like(0x7E00, bits), h)
        sign = b.lshr(b.and_(bits, self.like(0x80000000, bits)), self.like(16, bits))
        return b.trunc(b.or_(h, sign), short)


def _bits(dtype: str) -> int:
    return 1 if dtype == "bool" else int(dtype[1:])
