"""WARPGROUP: products that the four warps of a warpgroup ask for together, around inline PTX.

Put after `DEVICE`; only sm_90a has these instructions, so only kernels for it may call them.
`emulator_warpgroup.h` stands in on a processor. Source: the PTX ISA's chapters on wgmma.mma_async
(register fragments, the matrix descriptor of shared memory) and on the async proxy.
"""

WIDTHS = (64, 128, 256)
"""Columns of a product."""


def _products(dtype: str, n: int) -> str:
    """c[64][n] += a[64][32 bytes] b[32 bytes][n]; a thread has c[n / 8][4]."""
    count = n // 2
    sums = ", ".join(f"%{k}" for k in range(count))
    outputs = ", ".join(f'"+f"(c[{k // 4}][{k % 4}])' for k in range(count))
    return f"""\
template <> __device__ inline void cn_products_{dtype}<{n}>(float (&c)[{n // 8}][4],
                                                           unsigned long long a,
                                                           unsigned long long b) {{
  asm volatile("{{ .reg .pred add; setp.eq.b32 add, 0, 0; "
               "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {{{sums}}}, "
               "%{count}, %{count + 1}, add, 1, 1, 0, 0; }}"
               : {outputs}
               : "l"(a), "l"(b));
}}
"""


_TEXT = """\
// what this thread's copies brought to shared memory, as far as it waited, to tensor cores too
static __device__ inline void cn_show_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// rows of 128 bytes, of which 32 are meant from here on, in groups of 8; permuted by their number
static __device__ inline unsigned long long cn_rows(const void* p) {
  return (unsigned long long)(cn_shared_address(p) >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 |
         1ull << 62;
}

static __device__ inline void cn_begin_products() {  // once sums are in registers
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void cn_end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> static __device__ inline void cn_wait_products() {  // until N are under way
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

template <int N> __device__ inline void cn_products_f16(float (&c)[N / 8][4], unsigned long long a,
                                                        unsigned long long b);
template <int N> __device__ inline void cn_products_bf16(float (&c)[N / 8][4], unsigned long long a,
                                                         unsigned long long b);
"""


def uses_warpgroups(text: str) -> bool:
    """Whether a kernel needs this text."""
    return "cn_rows(" in text


WARPGROUP = _TEXT + "\n".join(_products(dtype, n) for dtype in ("f16", "bf16") for n in WIDTHS)
