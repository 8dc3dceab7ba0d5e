"""DEVICE: the few things that only a device can do, as functions around inline PTX.

Kernels use nothing else beyond C, threadIdx, blockIdx, __syncthreads and __syncwarp, so that
`emulator.h` can stand in for this text on a processor. Needs sm_80. Sources: the PTX ISA's chapters
on cvt, cp.async, ldmatrix, and mma.sync.m16n8k8 and m16n8k16 (fragment layouts).
"""

DEVICE = """\
#define CN_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

static __device__ inline float cn_from_f16(unsigned short h) {
  float a;
  asm("cvt.f32.f16 %0, %1;" : "=f"(a) : "h"(h));
  return a;
}

static __device__ inline unsigned short cn_to_f16(float a) {  // to nearest, ties to even
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(a));
  return h;
}

static __device__ inline unsigned short cn_to_bf16(float a) {
  unsigned short h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(a));
  return h;
}

// neighbours in memory, at an address that is a multiple of their size or of 16 bytes
template <class T, int N>
struct __align__(N * sizeof(T) < 16 ? N * sizeof(T) : 16) cn_several { T at[N]; };

template <int N, class T> static __device__ inline cn_several<T, N> cn_read(const T* from) {
  return *(const cn_several<T, N>*)from;
}

template <int N, class T>
static __device__ inline void cn_write(T* to, const cn_several<T, N>& values) {
  *(cn_several<T, N>*)to = values;
}

template <class T> static __device__ inline T cn_exchange(T a, int other) {  // with lane ^ other
  return (T)__shfl_xor_sync(0xffffffffu, a, other);
}

static __device__ inline unsigned cn_shared_address(const void* p) {
  return (unsigned)__cvta_generic_to_shared(p);
}

// N bytes to shared memory some time before the wait for their group; zeros where not wanted
template <int N>
static __device__ inline void cn_copy(void* to, const void* from, bool wanted) {
  const int bytes = wanted ? N : 0;
  if (N == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(cn_shared_address(to)), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(cn_shared_address(to)), "l"(from), "n"(N), "r"(bytes) : "memory");
}

static __device__ inline void cn_end_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static __device__ inline void cn_wait_groups() {  // until N groups are under way
  asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

// four 8x8 matrices of 16-bit elements (8x4 of 32 bits), whose rows lanes 0-7, 8-15 ... point to
static __device__ inline void cn_load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(cn_shared_address(row)) : "memory");
}

static __device__ inline unsigned cn_tf32(unsigned bits) {  // to nearest, ties away from zero
  unsigned r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(bits)));
  return r;
}

// c[16][8] += a[16][32 bytes] b[32 bytes][8], spread over the lanes of a warp
#define CN_MULTIPLY(type, shape)                                                             \\
  static __device__ inline void cn_multiply_##type(float (&c)[4], const unsigned (&a)[4],     \\
                                                   unsigned b0, unsigned b1) {                \\
    asm volatile("mma.sync.aligned." shape ".row.col.f32." #type "." #type ".f32 "            \\
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"            \\
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                             \\
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));             \\
  }
CN_MULTIPLY(tf32, "m16n8k8")
CN_MULTIPLY(f16, "m16n8k16")
CN_MULTIPLY(bf16, "m16n8k16")
"""
