"""Elementary functions on llvm values: polynomials for f32, libm for f64.

The same instructions serve scalars and vectors of any width, so that a value does not depend on
where in a tensor it stands. Inputs are any f32; results are within 2 units in the last place (those
of erf within 4), and below 1e-38 may be 0. Coefficients are least-squares fits at Chebyshev nodes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import cnnir.backends.llvm.ir as ir

F32, F64 = ir.FloatType(), ir.DoubleType()
I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)

_EXP = (0.5, 0.16666509211063385, 0.04166624695062637, 0.008369873277842999, 0.001394760562106967)
_LOG = (
    *(0.3333331048488617, -0.25, 0.20002245903015137, -0.16668511927127838, 0.14217762649059296),
    *(-0.12396445125341415, 0.11890989542007446, -0.11726605147123337, 0.06800912320613861),
)
_TANH = (
    *(-0.33333268761634827, 0.13331080973148346, -0.05370909720659256),
    *(0.020537706092000008, -0.0055902511812746525),
)
_ERF = (
    *(0.36073681712150574, -0.18010857701301575, 0.13408344984054565, -0.10918139666318893),
    *(0.09062101691961288, -0.07399507611989975, 0.058196794241666794, -0.04356003180146217),
    *(0.03050418198108673, -0.019682496786117554, 0.012443342246115208, -0.00808287225663662),
    *(0.004056360572576523, -0.0011051649926230311, 0.0007571470341645181),
    *(-0.0009229510324075818, 0.000341482344083488),
)
_ERF_TURN = 0.1301541030406952
_ERF_END = 3.9199976921081543
"""From where on erf is 1 in f32."""
_SIN = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(1, 7))
_COS = tuple((-1) ** k / math.factorial(2 * k) for k in range(1, 8))
_EXP_SERIES = tuple(1 / math.factorial(k) for k in range(11))
_LOG_SERIES = tuple(1 / (2 * k + 1) for k in range(9))

LIBM = ("exp", "log", "tanh", "erf", "sin", "cos", "pow")


def lanes_of(value: ir.Value) -> int:
    """Lanes of a vector, 0 for a scalar."""
    return value.type.count if isinstance(value.type, ir.VectorType) else 0


def shaped(scalar: ir.Type, lanes: int) -> ir.Type:
    """The type of a scalar (lanes 0) or vector."""
    return ir.VectorType(scalar, lanes) if lanes else scalar


def suffix(type_: ir.Type) -> str:
    """How intrinsics name a type: v16f32."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{suffix(type_.element)}"
    if isinstance(type_, ir.IntType):
        return f"i{type_.width}"
    return {ir.HalfType: "f16", ir.FloatType: "f32", ir.DoubleType: "f64"}[type(type_)]


class VectorMath:
    """Emits functions at the position of an IRBuilder. `rounds` says whether the target has
    instructions for rounding to whole numbers."""

    def __init__(self, builder: ir.IRBuilder, rounds: bool = True) -> None:
        self.b, self.rounds = builder, rounds

    # ---- building blocks

    def call(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call an intrinsic or a libm function, declared on first use."""
        module = self.b.module
        function = module.globals.get(name)
        if function is None:
            signature = ir.FunctionType(result, [a.type for a in arguments])
            function = ir.Function(module, signature, name)
        return self.b.call(function, list(arguments))

    def intrinsic(self, name: str, *arguments: ir.Value) -> ir.Value:
        """An intrinsic whose operands and result are of one type."""
        return self.call(f"llvm.{name}.{suffix(arguments[0].type)}", arguments[0].type, arguments)

    def constant(self, value: float, like: ir.Value | ir.Type) -> ir.Constant:
        """A constant of the type of another value."""
        type_ = like if isinstance(like, ir.Type) else like.type
        return ir.Constant(type_, value)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c, fused where that is one instruction."""
        return self.intrinsic("fmuladd", a, b, c)

    def polynomial(self, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
        """Horner's rule; coefficients from the constant upwards."""
        total: ir.Value = self.constant(coefficients[-1], x)
        for c in reversed(coefficients[:-1]):
            total = self.fma(total, x, self.constant(c, x))
        return total

    def bits(self, x: ir.Value) -> ir.Value:
        """The bits of a float, as an integer."""
        wide = I32 if _scalar(x) == F32 else I64
        return self.b.bitcast(x, shaped(wide, lanes_of(x)))

    def power_of_two(self, n: ir.Value, float_: ir.Type) -> ir.Value:
        """2^n for an i32 (f32) or i64 (f64) integer in the range of normal exponents."""
        bias, shift = (127, 23) if float_ == F32 else (1023, 52)
        biased = self.b.shl(self.b.add(n, self.constant(bias, n)), self.constant(shift, n))
        return self.b.bitcast(biased, shaped(float_, lanes_of(n)))

    def limited(self, x: ir.Value, low: float, high: float) -> ir.Value:
        """x in [low, high]; NaN becomes low."""
        b = self.b
        low_, high_ = self.constant(low, x), self.constant(high, x)
        x = b.select(b.fcmp_ordered(">", x, low_), x, low_)
        return b.select(b.fcmp_ordered("<", x, high_), x, high_)

    def keep_nan(self, x: ir.Value, result: ir.Value) -> ir.Value:
        """NaN where x is, else the result."""
        return self.b.select(self.b.fcmp_unordered("uno", x, x), x, result)

    def per_lane(self, name: str, *arguments: ir.Value) -> ir.Value:
        """A libm function of f64, lane by lane."""
        n = lanes_of(arguments[0])
        if not n:
            return self.call(name, F64, arguments)
        result: ir.Value = ir.Poison(arguments[0].type)
        for lane in range(n):
            at = ir.Constant(I32, lane)
            scalars = [self.b.extract_element(a, at) for a in arguments]
            result = self.b.insert_element(result, self.call(name, F64, scalars), at)
        return result

    # ---- rounding

    def round(self, how: str, x: ir.Value) -> ir.Value:
        """floor, ceil, trunc or rint (half to even), the sign of zero kept."""
        if self.rounds:
            return self.intrinsic("roundeven" if how == "rint" else how, x)
        b = self.b
        limit, whole = (2.0**23, I32) if _scalar(x) == F32 else (2.0**52, I64)
        size = self.intrinsic("fabs", x)
        if how == "rint":
            big = self.intrinsic("copysign", self.constant(limit, x), x)
            rounded = b.fsub(b.fadd(x, big), big)
        else:
            rounded = b.sitofp(b.fptosi(x, shaped(whole, lanes_of(x))), x.type)
            if how != "trunc":
                compare, step = ("<", 1.0) if how == "ceil" else (">", -1.0)
                off = b.fcmp_ordered(compare, rounded, x)
                moved = b.fadd(rounded, self.constant(step, x))
                rounded = b.select(off, moved, rounded)
        rounded = self.intrinsic("copysign", rounded, x)
        return b.select(b.fcmp_ordered("<", size, self.constant(limit, x)), rounded, x)

    # ---- functions

    def function(self, name: str, x: ir.Value) -> ir.Value:
        """exp, log, tanh, erf, sin, cos or sqrt of an f32 or f64 value."""
        if name == "sqrt":
            return self.intrinsic("sqrt", x)
        if _scalar(x) == F64:
            return self.per_lane(name, x)
        made: ir.Value = getattr(self, name)(x)
        return made

    def exp(self, x: ir.Value) -> ir.Value:
        """e^x = 2^n * e^r with |r| <= ln(2)/2."""
        b = self.b
        p, whole = self._exp_parts(self.limited(x, -104.0, 89.0))
        # two factors, because 2^n itself may be too large or too small for a float
        half = b.ashr(whole, self.constant(1, whole))
        p = b.fmul(p, self.power_of_two(half, F32))
        p = b.fmul(p, self.power_of_two(b.sub(whole, half), F32))
        return self.keep_nan(x, p)

    def _exp_near(self, x: ir.Value) -> ir.Value:
        """exp of what is known to lie between -80 and 80: 2^n is a normal float."""
        p, whole = self._exp_parts(x)
        return self.b.fmul(p, self.power_of_two(whole, F32))

    def _exp_parts(self, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        """e^r and n."""
        b = self.b
        n = self.round("rint", b.fmul(x, self.constant(_f32(1 / math.log(2)), x)))
        high = 0.693145751953125
        r = self.fma(n, self.constant(-high, x), x)
        r = self.fma(n, self.constant(_f32(high - math.log(2)), x), r)
        square = b.fmul(r, r)
        p = b.fadd(r, b.fmul(square, self.polynomial(r, _EXP)))
        return b.fadd(p, self.constant(1.0, x)), b.fptosi(n, shaped(I32, lanes_of(x)))

    def log(self, x: ir.Value) -> ir.Value:
        """ln x = ln m + e * ln 2 with m in [sqrt(1/2), sqrt(2))."""
        b = self.b
        small = b.fcmp_ordered("<", x, self.constant(2.0**-126, x))
        scaled = b.select(small, b.fmul(x, self.constant(2.0**23, x)), x)
        bits = self.bits(scaled)
        low = 0x3F3504F3  # sqrt(1/2)
        e = b.ashr(b.sub(bits, self.constant(low, bits)), self.constant(23, bits))
        m = b.bitcast(b.sub(bits, b.shl(e, self.constant(23, bits))), x.type)
        e = b.sub(e, b.select(small, self.constant(23, bits), self.constant(0, bits)))
        f = b.fsub(m, self.constant(1.0, x))
        n = b.sitofp(e, x.type)
        square = b.fmul(f, f)
        tail = b.fmul(b.fmul(square, f), self.polynomial(f, _LOG))
        tail = self.fma(n, self.constant(_f32(math.log(2) - 0.693359375), x), tail)
        tail = self.fma(square, self.constant(-0.5, x), tail)
        result = self.fma(n, self.constant(0.693359375, x), b.fadd(f, tail))
        return self._log_edges(x, result)

    def _log_edges(self, x: ir.Value, result: ir.Value) -> ir.Value:
        b, zero = self.b, self.constant(0.0, x)
        infinite = self.constant(math.inf, x)
        result = b.select(b.fcmp_ordered("==", x, zero), self.constant(-math.inf, x), result)
        result = b.select(b.fcmp_ordered("==", x, infinite), infinite, result)
        return b.select(b.fcmp_unordered("<", x, zero), self.constant(math.nan, x), result)

    def tanh(self, x: ir.Value) -> ir.Value:
        """A polynomial near 0, else 1 - 2 / (e^2|x| + 1) with the sign of x."""
        b = self.b
        size = self.intrinsic("fabs", x)
        square = b.fmul(x, x)
        near = self.fma(b.fmul(x, square), self.polynomial(square, _TANH), x)
        bound = b.select(
            b.fcmp_ordered("<", size, self.constant(10.0, x)), size, self.constant(10.0, x)
        )
        e = self._exp_near(b.fadd(bound, bound))
        one = self.constant(1.0, x)
        far = b.fsub(one, b.fdiv(self.constant(2.0, x), b.fadd(e, one)))
        far = self.intrinsic("copysign", far, x)
        small = b.fcmp_ordered("<", size, self.constant(0.625, x))
        return self.keep_nan(x, b.select(small, near, far))

    def erf(self, x: ir.Value) -> ir.Value:
        """x times a polynomial in x^2, which is turned to [-1, 1] so that little is cancelled."""
        b, one = self.b, self.constant(1.0, x)
        turned = self.fma(b.fmul(x, x), self.constant(_ERF_TURN, x), b.fneg(one))
        near = b.fmul(x, self.polynomial(turned, _ERF))
        size = self.intrinsic("fabs", x)
        inside = b.fcmp_unordered("<", size, self.constant(_ERF_END, x))  # NaN stays
        return b.select(inside, near, self.intrinsic("copysign", one, x))

    def sin(self, x: ir.Value) -> ir.Value:
        """By quadrants, in f64."""
        return self._circular(x, 0)

    def cos(self, x: ir.Value) -> ir.Value:
        """sin a quadrant on."""
        return self._circular(x, 1)

    def _circular(self, x: ir.Value, quadrants: int) -> ir.Value:
        b = self.b
        wide = b.fpext(x, shaped(F64, lanes_of(x)))
        wide = self._reduced_angle(wide)
        n = self.round("rint", b.fmul(wide, self.constant(2 / math.pi, wide)))
        high = 1.5707963267341256  # pi/2 to 33 bits: n * high is exact
        r = b.fsub(wide, b.fmul(n, self.constant(high, wide)))
        r = b.fsub(r, b.fmul(n, self.constant(6.077100506506192e-11, wide)))
        square = b.fmul(r, r)
        sine = self.fma(b.fmul(r, square), self.polynomial(square, _SIN), r)
        cosine = self.fma(square, self.polynomial(square, _COS), self.constant(1.0, wide))
        quadrant = b.fptosi(n, shaped(I64, lanes_of(x)))
        quadrant = b.add(quadrant, self.constant(quadrants, quadrant))
        one, two = self.constant(1, quadrant), self.constant(2, quadrant)
        zero = self.constant(0, quadrant)
        odd = b.icmp_signed("!=", b.and_(quadrant, one), zero)
        result = b.select(odd, cosine, sine)
        down = b.icmp_signed("!=", b.and_(quadrant, two), zero)
        result = b.select(down, b.fneg(result), result)
        finite = b.fcmp_ordered("<", self.intrinsic("fabs", x), self.constant(math.inf, x))
        return b.select(finite, b.fptrunc(result, x.type), self.constant(math.nan, x))

    def _reduced_angle(self, wide: ir.Value) -> ir.Value:
        """Angles of more quadrants than 20 bits hold become those of the same sine and cosine.

        They are found by libm; such lanes are rare and slow.
        """
        b = self.b
        size = self.intrinsic("fabs", wide)
        large = b.fcmp_unordered(">=", size, self.constant(2.0**20, wide))
        n = lanes_of(wide)
        any_ = self.call(f"llvm.vector.reduce.or.v{n}i1", I1, [large]) if n else large
        before = b.block
        with b.if_then(any_, likely=False):
            exact = self.per_lane("atan2", self.per_lane("sin", wide), self.per_lane("cos", wide))
            fixed = b.select(large, exact, wide)
            inside = b.block
        phi = b.phi(wide.type)
        phi.add_incoming(wide, before)
        phi.add_incoming(fixed, inside)
        return phi

    def pow(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """x^y; f32 in f64 arithmetic as 2^(y log2 x), f64 by libm."""
        if _scalar(x) == F64:
            return self.per_lane("pow", x, y)
        b = self.b
        wide = shaped(F64, lanes_of(x))
        size = b.fpext(self.intrinsic("fabs", x), wide)
        exponent = b.fpext(y, wide)
        result = b.fptrunc(self._exp2(b.fmul(exponent, self._log2(size))), x.type)
        return self._pow_edges(x, y, result)

    def _log2(self, x: ir.Value) -> ir.Value:
        """log2 of a positive normal f64, to 1e-14 or so."""
        b = self.b
        bits = self.bits(x)
        low = 0x3FE6A09E667F3BCD  # sqrt(1/2)
        e = b.ashr(b.sub(bits, self.constant(low, bits)), self.constant(52, bits))
        m = b.bitcast(b.sub(bits, b.shl(e, self.constant(52, bits))), x.type)
        one = self.constant(1.0, x)
        s = b.fdiv(b.fsub(m, one), b.fadd(m, one))
        series = self.polynomial(b.fmul(s, s), _LOG_SERIES)
        scale = self.constant(2 / math.log(2), x)
        return self.fma(b.fmul(s, series), scale, b.sitofp(e, x.type))

    def _exp2(self, x: ir.Value) -> ir.Value:
        """2^x in f64, to 1e-12 or so; x is limited to what f32 results need."""
        b = self.b
        near = self.limited(x, -200.0, 200.0)
        n = self.round("rint", near)
        r = b.fmul(b.fsub(near, n), self.constant(math.log(2), x))
        whole = b.fptosi(n, shaped(I64, lanes_of(x)))
        return b.fmul(self.polynomial(r, _EXP_SERIES), self.power_of_two(whole, F64))

    def _pow_edges(self, x: ir.Value, y: ir.Value, result: ir.Value) -> ir.Value:
        """Zero, infinite, negative and NaN operands as C has them."""
        b = self.b
        zero, one = self.constant(0.0, x), self.constant(1.0, x)
        infinite = self.constant(math.inf, x)
        whole = b.fcmp_ordered("==", self.round("trunc", y), y)
        half = b.fmul(y, self.constant(0.5, x))
        odd = b.and_(whole, b.fcmp_ordered("!=", self.round("trunc", half), half))
        size = self.intrinsic("fabs", x)
        up = b.fcmp_ordered(">", y, zero)
        is_zero = b.fcmp_ordered("==", x, zero)
        result = b.select(is_zero, b.select(up, zero, infinite), result)
        endless = b.fcmp_ordered("==", size, infinite)
        result = b.select(endless, b.select(up, infinite, zero), result)
        limitless = b.fcmp_ordered("==", self.intrinsic("fabs", y), infinite)
        grows = b.xor(b.fcmp_ordered("<", size, one), up)
        at_limit = b.select(b.fcmp_ordered("==", size, one), one, b.select(grows, infinite, zero))
        result = b.select(limitless, at_limit, result)
        signed = b.and_(odd, b.icmp_signed("<", self.bits(x), self.constant(0, self.bits(x))))
        result = b.select(signed, b.fneg(result), result)
        negative = b.and_(b.fcmp_ordered("<", x, zero), b.fcmp_ordered("<", size, infinite))
        undefined = b.and_(negative, b.not_(b.or_(whole, limitless)))
        nan = self.constant(math.nan, x)
        result = b.select(undefined, nan, result)
        result = b.select(b.fcmp_unordered("uno", x, y), nan, result)
        trivial = b.or_(b.fcmp_ordered("==", y, zero), b.fcmp_ordered("==", x, one))
        return b.select(trivial, one, result)


def _scalar(x: ir.Value) -> ir.Type:
    return x.type.element if isinstance(x.type, ir.VectorType) else x.type


def _f32(value: float) -> float:
    """The nearest f32: llvmlite wants constants that it can print exactly."""
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded
