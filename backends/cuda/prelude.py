"""PRELUDE: the device functions that printed kernels call. It includes no header.

What it takes for granted is built into NVRTC: the f32 and f64 functions of C, and reading the bits
of a float. What only a device has, conversions of 16-bit floats among it, is in `device.py`, for
which `emulator.h` stands in on a processor.
"""

from __future__ import annotations

from cnnir.backends.cuda.operations import constant, value_type
from cnnir.tensortype import is_signed

_BITS = """\
#define CN_INF __int_as_float(0x7f800000)
#define CN_NAN __int_as_float(0x7fc00000)

static __device__ inline float cn_from_bf16(unsigned short h) {
  return __uint_as_float((unsigned)h << 16);
}
"""

_NUMBERS = """\
template <class T> static __device__ inline T cn_max(T a, T b) {  // NaN if either is
  return a > b || a != a ? a : b;
}

template <class T> static __device__ inline T cn_min(T a, T b) {
  return a < b || a != a ? a : b;
}

template <class T> static __device__ inline T cn_abs(T a) {  // the lowest stays as it is
  return a < 0 ? (T)(0 - (unsigned long long)a) : a;
}

template <class T> static __device__ inline T cn_div(T a, T b) {  // truncates; by 0 it is 0
  if (b == 0) return 0;
  return (T)-1 < (T)0 && b == (T)-1 ? (T)(0 - (unsigned long long)a) : (T)(a / b);
}

template <class T> static __device__ inline T cn_rem(T a, T b) {  // sign of a; by 0 it is 0
  return b == 0 || ((T)-1 < (T)0 && b == (T)-1) ? (T)0 : (T)(a % b);
}

template <class T> static __device__ inline T cn_pow(T a, T n) {  // for n >= 0; wraps
  unsigned long long result = 1, base = (unsigned long long)a;
  for (unsigned long long left = (unsigned long long)n; left != 0; left >>= 1) {
    if (left & 1) result *= base;
    base *= base;
  }
  return (T)result;
}

template <class T> static __device__ inline T cn_mod(T a, T n) {  // of a positive n
  const T left = a % n;
  return left < 0 ? left + n : left;
}

template <class T> static __device__ inline T cn_floordiv(T a, T n) {
  return a / n - (a % n < 0);
}

// a valid index of an axis; one that is wrong stores its code and is taken to be 0
static __device__ inline long long cn_checked(long long i, long long extent, int code, int* error) {
  if (i < 0) i += extent;
  if (i >= 0 && i < extent) return i;
  *error = code;
  return 0;
}
"""


def _saturating(dtype: str) -> str:
    """Conversion of floats to an integer type: truncates, saturates, NaN is 0."""
    bits, signed = int(dtype[1:]), is_signed(dtype)
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    kind = value_type(dtype)
    return (
        f"template <class F> static __device__ inline {kind} cn_to_{dtype}(F a) {{\n"
        f"  if (a <= (F){float(least)}) return {constant(least, dtype)};\n"
        f"  if (a >= (F){float(most + 1)}) return {constant(most, dtype)};\n"
        f"  return a != a ? ({kind})0 : ({kind})a;\n}}\n"
    )


# all threads of a warp must come here; they get the same bits, as a + b is b + a
_WARP = """\
#define CN_WARP(name, combined)                                     \\
  template <class T> static __device__ inline T cn_warp_##name(T a) { \\
    for (int other = 16; other > 0; other >>= 1) {                  \\
      const T b = cn_exchange(a, other);                            \\
      a = combined;                                                 \\
    }                                                               \\
    return a;                                                       \\
  }
CN_WARP(add, a + b)
CN_WARP(mul, a * b)
CN_WARP(max, cn_max<T>(a, b))
CN_WARP(min, cn_min<T>(a, b))
"""

_INTEGERS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
PRELUDE = "\n".join([_BITS, _NUMBERS, *map(_saturating, _INTEGERS), _WARP])
"""Put once before all kernels of a program, after `DEVICE` or what stands for it elsewhere."""
