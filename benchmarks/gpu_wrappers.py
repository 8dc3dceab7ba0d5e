"""The functions of `backends/cuda/device.py` on two machines: what each gives for the same input.

The emulator only claims what inline PTX means; on a GPU, this is where the claim is checked. Each
case is a kernel, its launch, its input and how much the results may differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Machine, Task

HEAD = """extern "C" __global__ void __launch_bounds__({threads}) {name}(
    int* error, unsigned char* scratch, const {kind}* a, unsigned* out) {{
  const int i = blockIdx.x * {threads} + threadIdx.x;
"""
CONVERT = """  const float x = a[i];
  out[4 * i] = cn_to_f16(x);
  out[4 * i + 1] = cn_to_bf16(x);
  out[4 * i + 2] = cn_tf32(((const unsigned*)a)[i]);
  const float back = cn_from_f16((unsigned short)((const unsigned*)a)[i]);
  out[4 * i + 3] = back == back ? *(const unsigned*)&back : 0x7fc00000u;  // any NaN is as good
}
"""
EXCHANGE = """  unsigned mixed = a[i];
  for (int other = 1; other < 32; other *= 2) mixed = 3 * mixed + cn_exchange(mixed, other);
  out[i] = mixed;
}
"""
COPY = """  CN_SHARED(shared);
  const bool wanted = i % 3 != 1;
  cn_copy<16>(shared + 16 * i, a + 4 * (31 - i), wanted);
  cn_end_group();
  cn_copy<8>(shared + 512 + 8 * i, a + 2 * i, !wanted);
  cn_end_group();
  cn_copy<4>(shared + 768 + 4 * i, a + i, true);
  cn_end_group();
  cn_wait_groups<1>();
  __syncthreads();
  const unsigned* const early = (const unsigned*)shared;
  for (int k = 0; k < 6; ++k) out[i * 7 + k] = early[(6 * i + k + 5) % 192];
  cn_wait_groups<0>();
  __syncthreads();
  out[i * 7 + 6] = early[192 + (i + 9) % 32];
}
"""
MATRICES = """  CN_SHARED(shared);
  for (int k = 0; k < 4; ++k) ((unsigned*)shared)[32 * k + i] = a[32 * k + i];
  __syncthreads();
  unsigned r[4];
  cn_load_matrices(r, shared + 16 * ((i * 5 + 3) % 32));
  for (int k = 0; k < 4; ++k) out[4 * i + k] = r[k];
}
"""
MULTIPLY = """  const unsigned* const bits = (const unsigned*)a;
  const unsigned x[4] = {{bits[6 * i], bits[6 * i + 1], bits[6 * i + 2], bits[6 * i + 3]}};
  float c[4] = {{1.f, -2.f, 0.5f, (float)i}};
  cn_multiply_{dtype}(c, x, bits[6 * i + 4], bits[6 * i + 5]);
  for (int k = 0; k < 4; ++k) ((float*)out)[4 * i + k] = c[k];
}}
"""
PRODUCTS = """  CN_SHARED(shared);
  for (int k = 0; k < 8; ++k) cn_copy<16>(shared + 2048 * k + 16 * i, a + 512 * k + 4 * i, true);
  cn_end_group();
  cn_wait_groups<0>();
  cn_show_copies();
  __syncthreads();
  float c[8][4];
  for (int j = 0; j < 32; ++j) c[j / 4][j % 4] = j - 0.01f * i;
  cn_begin_products();
  for (int k = 0; k < 4; ++k)
    cn_products_{dtype}<64>(c, cn_rows(shared + 32 * k), cn_rows(shared + 8192 + 32 * k));
  cn_end_products();
  cn_wait_products<0>();
  for (int j = 0; j < 32; ++j) ((float*)out)[32 * i + j] = c[j / 4][j % 4];
}}
"""


@dataclass(frozen=True)
class Case:
    """A kernel of one pointer in and one out; `tolerance` is relative, 0 for equal bits."""

    name: str
    text: str
    launch: Launch
    given: np.ndarray
    words: int
    """Of the result."""
    tolerance: float = 0.0


def cases(arch: str) -> list[Case]:
    """All functions that are not plain C, as far as an architecture has them."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 1 << 16, np.uint64).astype(np.uint32)
    bits[:4096] = bits[:4096] & 0x807FFFFF | 0x38000000  # about the least normal f16
    bits = np.where(bits >> 23 & 0xFF == 0xFF, bits & 0xFF800000, bits)  # no NaN, whose bits vary
    bits = (bits & 0xFFFF0000) | np.arange(1 << 16, dtype=np.uint32)  # every f16 in the low half
    bits = np.where(bits >> 23 & 0xFF == 0xFF, bits & 0xFF00FFFF, bits).astype(np.uint32)
    words = rng.integers(0, 1 << 32, 128, np.uint64).astype(np.uint32)
    found = [
        _case("convert", CONVERT, bits.view(np.float32), 4 << 16, blocks=512, threads=128),
        _case("exchange", EXCHANGE, words, 128, threads=128),
        _case("copy", COPY, words, 7 * 32, shared=1024),
        _case("matrices", MATRICES, words, 128, shared=512),
    ]
    for dtype in ("tf32", "f16", "bf16"):
        numbers = _operands(rng.standard_normal((192, 2)).astype(np.float32), dtype)
        text = MULTIPLY.format(dtype=dtype)
        found.append(_case(f"multiply_{dtype}", text, numbers, 128, tolerance=1e-6))
    for dtype in ("f16", "bf16") if arch == "sm_90a" else ():
        numbers = _operands(rng.standard_normal((4096, 2)).astype(np.float32), dtype)
        text = PRODUCTS.format(dtype=dtype)
        about = {"threads": 128, "shared": 16384, "tolerance": 1e-6}
        found.append(_case(f"products_{dtype}", text, numbers, 4096, **about))
    return found


def _operands(values: np.ndarray, dtype: str) -> np.ndarray:
    """A word of operands a row: an f32 that is a tf32 each, or two of 16 bits."""
    wide = values.view(np.uint32)
    if dtype == "tf32":
        return (wide[:, 0] & np.uint32(0xFFFFE000)).view(np.float32)
    if dtype == "f16":
        return values.astype(np.float16).view(np.float32).reshape(-1)
    return (wide >> 16).astype(np.uint16).view(np.float32).reshape(-1)


def _case(
    name: str, body: str, given: np.ndarray, words: int, *,
    blocks: int = 1, threads: int = 32, shared: int = 0, tolerance: float = 0.0,
) -> Case:  # fmt: skip
    kind = "float" if given.dtype == np.float32 else "unsigned"
    head = HEAD.format(name=name, threads=threads, kind=kind)
    launch = Launch((blocks, 1, 1), (threads, 1, 1), shared)
    return Case(name, head + body, launch, given, words, tolerance)


def result(machine: Machine, case: Case) -> np.ndarray:
    """What a machine makes of a case."""
    binary = machine.load({case.name: case.text}, {case.name: case.launch})
    given, out = machine.allocate(case.given.nbytes), machine.allocate(4 * case.words)
    machine.upload(given.address, np.ascontiguousarray(case.given))
    machine.clear(out.address, 4 * case.words)
    arguments = (out.address, out.address, given.address, out.address)
    machine.record([Task(binary.functions[case.name], case.launch, arguments, 0)])()
    found = np.empty(case.words, np.uint32)
    machine.download(found, out.address)
    machine.wait()
    return found


def difference(case: Case, mine: np.ndarray, theirs: np.ndarray) -> float:
    """The largest relative difference, or the part of the words that are not equal."""
    if case.tolerance == 0.0:
        return float(np.mean(mine != theirs))
    x, y = mine.view(np.float32).astype(np.float64), theirs.view(np.float32)
    return float(np.abs(x - y).max() / np.abs(y).max())
