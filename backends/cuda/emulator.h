// Stands in for the device text on a processor: every thread of a block is a fiber, blocks follow
// one another. Meant to be unkind: shared memory is NaN at first, asynchronous copies happen as
// late as their wait allows (or at once), and one thread runs as far ahead as barriers let it.
// Faults (a barrier or a warp's common step that not all threads reach, writes behind the end of
// shared memory, misaligned copies) end the launch with a message.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __align__(n) alignas(n)

struct Three { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
static Three blockIdx, threadIdx;

template <class To, class From> static inline To cn_bits(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __int_as_float(int i) { return cn_bits<float>(i); }
static inline float __uint_as_float(unsigned i) { return cn_bits<float>(i); }
static inline unsigned __float_as_uint(float f) { return cn_bits<unsigned>(f); }

namespace emulator {

enum State { READY, AT_BARRIER, IN_WARP, DONE };
const int STACK = 96 << 10, MOST_THREADS = 1024, MOST_COPIES = 512, GUARD = 256;
const int MOST_SHARED = 256 << 10;

struct Copy { void* to; const void* from; int bytes; bool wanted; int group; };

struct Fiber {
  void* top;  // of its stack, where it is not running
  ucontext_t context;
  Three id;
  State state;
  void* operands;  // of the common step that it waits in
  Copy copies[MOST_COPIES];
  int waiting, groups;
};

struct Group { int arrived, members; const void* step; };  // a warp, or a warpgroup of four

static Fiber* fibers;
static Group warps[MOST_THREADS / 32], warpgroups[MOST_THREADS / 128];
static char* stacks;
static unsigned char* shared;
static int count, running, alive, at_barrier, shared_bytes;
static unsigned long long ready[MOST_THREADS / 64];  // a bit for each thread that is READY
static unsigned short unseen[MOST_SHARED / 16];  // who copied 16 bytes that no fence has shown
static bool last_first, early;  // which thread runs ahead; copies at once
static char fault[200];
static void (*entry)(void**);
static void** arguments;
static ucontext_t home;
static void* home_top;

// ---- switching

#if defined(__x86_64__)
extern "C" void cn_switch(void** save, void* to);
asm(R"(
.text
.type cn_switch,@function
cn_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cn_switch,.-cn_switch
)");
static void leave(Fiber& f) { cn_switch(&f.top, home_top); }
static void enter(Fiber& f) { cn_switch(&home_top, f.top); }
static void prepare(Fiber& f, char* stack, void (*begin)()) {
  void** top = (void**)(stack + STACK);
  *--top = 0;
  *--top = (void*)begin;
  for (int k = 0; k < 6; ++k) *--top = 0;
  f.top = top;
}
#else
static void leave(Fiber& f) { swapcontext(&f.context, &home); }
static void enter(Fiber& f) { swapcontext(&home, &f.context); }
static void prepare(Fiber& f, char* stack, void (*begin)()) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = &home;
  makecontext(&f.context, begin, 0);
}
#endif

static void fail(const char* what) {
  if (!fault[0])
    snprintf(fault, sizeof fault, "block (%u, %u, %u), thread (%u, %u, %u): %s", blockIdx.x,
             blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, what);
}

// In a fiber: the launch ends here, and this does not return.
static void stop(const char* what) {
  fail(what);
  leave(fibers[running]);
}

static void become(int thread, State state) {
  const unsigned long long bit = 1ull << thread % 64;
  fibers[thread].state = state;
  if (state == READY) ready[thread / 64] |= bit;
  else ready[thread / 64] &= ~bit;
}

static void rest(State state) {
  become(running, state);
  leave(fibers[running]);
}

// ---- what threads do together

static void release_barrier() {
  if (!at_barrier || at_barrier < alive) return;
  for (int k = 0; k < count; ++k)
    if (fibers[k].state == AT_BARRIER) become(k, READY);
  at_barrier = 0;
}

static void barrier() {
  ++at_barrier;
  become(running, AT_BARRIER);
  release_barrier();
  if (fibers[running].state != READY) leave(fibers[running]);
}

// The last of N threads, a warp or a warpgroup, to arrive does the step for all: `all` has what each
// of them brought.
template <int N, class Step> static void together(const void* which, void* mine, Step step) {
  const int first = running / N * N;
  Group& group = N == 32 ? warps[first / N] : warpgroups[first / N];
  if (group.arrived && group.step != which) stop("lanes of one warp take different common steps");
  group.step = which;
  fibers[running].operands = mine;
  if (++group.arrived != group.members) return rest(IN_WARP);
  if (group.members != N) stop("a common step in a warp of fewer than 32 threads");
  void* all[N];
  for (int k = 0; k < N; ++k) all[k] = fibers[first + k].operands;
  step(all);
  group.arrived = 0;
  for (int k = 0; k < N; ++k) become(first + k, READY);
}

static void warp_barrier() {
  static const char step = 0;
  together<32>(&step, nullptr, [](void**) {});
}

// ---- a launch

static void begin() {
  entry(arguments);
  Fiber& f = fibers[running];
  --alive;
  if (warps[running / 32].arrived || warpgroups[running / 128].arrived)
    fail("a thread ends while its warp waits in a common step");
  become(running, DONE);
  release_barrier();
  leave(f);
}

static int next_ready() {
  const int words = MOST_THREADS / 64;
  for (int k = 0; k < words; ++k) {
    const int at = last_first ? words - 1 - k : k;
    if (ready[at]) return at * 64 + (last_first ? 63 - __builtin_clzll(ready[at])
                                                : __builtin_ctzll(ready[at]));
  }
  return -1;
}

static void (*at_block)();  // what else begins anew with a block

static void run_block(Three size) {
  if (at_block) at_block();
  memset(shared, 0xff, shared_bytes);
  memset(shared + shared_bytes, 0xfb, GUARD);
  memset(warps, 0, sizeof warps);
  memset(warpgroups, 0, sizeof warpgroups);
  memset(unseen, 0, shared_bytes / 16 * sizeof *unseen);
  memset(ready, 0, sizeof ready);
  alive = count;
  at_barrier = 0;
  for (int k = 0; k < count; ++k) {
    Fiber& f = fibers[k];
    f.id = {k % size.x, k / size.x % size.y, k / (size.x * size.y)};
    become(k, READY);
    f.waiting = f.groups = 0;
    ++warps[k / 32].members;
    ++warpgroups[k / 128].members;
    prepare(f, stacks + (size_t)k * STACK, begin);
  }
  while (alive && !fault[0]) {
    running = next_ready();
    if (running < 0) return fail("threads wait for others that never come");
    threadIdx = fibers[running].id;
    enter(fibers[running]);
  }
  for (int k = 0; k < GUARD; ++k)
    if (shared[shared_bytes + k] != 0xfb) return fail("a write behind the end of shared memory");
}

static void run_alone(Three size) {
  for (threadIdx.z = 0; threadIdx.z < size.z; ++threadIdx.z)
    for (threadIdx.y = 0; threadIdx.y < size.y; ++threadIdx.y)
      for (threadIdx.x = 0; threadIdx.x < size.x; ++threadIdx.x) entry(arguments);
}

static const char* launch(void (*kernel)(void**), const unsigned* sizes, void** a, bool fibrous) {
  const Three grid = {sizes[0], sizes[1], sizes[2]}, size = {sizes[3], sizes[4], sizes[5]};
  entry = kernel;
  arguments = a;
  fault[0] = 0;
  count = size.x * size.y * size.z;
  shared_bytes = sizes[6];
  if (fibrous) {
    if (count > MOST_THREADS) return "a block of more than 1024 threads";
    if (!fibers) fibers = (Fiber*)calloc(MOST_THREADS, sizeof(Fiber));
    if (!stacks) stacks = (char*)malloc((size_t)MOST_THREADS * STACK);
    free(shared);
    shared = (unsigned char*)aligned_alloc(1024, (shared_bytes + GUARD + 1023) / 1024 * 1024);
  }
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x && !fault[0]; ++blockIdx.x)
        if (fibrous) run_block(size);
        else run_alone(size);
  return fault[0] ? fault : 0;
}

template <unsigned... I> struct Positions {};
template <unsigned N, unsigned... I> struct Count : Count<N - 1, N - 1, I...> {};
template <unsigned... I> struct Count<0, I...> { typedef Positions<I...> type; };
template <class... P, unsigned... I>
static inline void call(void (*kernel)(P...), void** a, Positions<I...>) { kernel((P)a[I]...); }
template <class... P> static inline void spread(void (*kernel)(P...), void** a) {
  call(kernel, a, typename Count<sizeof...(P)>::type());
}

static void land(Copy& copy) {
  unseen[((unsigned char*)copy.to - shared) / 16 % (MOST_SHARED / 16)] = running + 1;
  if (copy.wanted) memcpy(copy.to, copy.from, copy.bytes);
  else memset(copy.to, 0, copy.bytes);
}

}  // namespace emulator

#define CN_ENTRY(kernel, fibrous)                                                      \
  static void kernel##_spread(void** a) { emulator::spread(kernel, a); }               \
  extern "C" const char* launch_##kernel(const unsigned* sizes, void** a) {            \
    return emulator::launch(kernel##_spread, sizes, a, fibrous);                       \
  }
extern "C" void cn_schedule(int last_first, int early) {
  emulator::last_first = last_first;
  emulator::early = early;
}

// ---- what kernels call

#define CN_SHARED(name) unsigned char* const name = emulator::shared
#define __syncthreads() emulator::barrier()
#define __syncwarp() emulator::warp_barrier()

static inline unsigned short cn_to_bf16(float a) {  // to nearest, ties to even
  const unsigned bits = __float_as_uint(a);
  if (a != a) return (unsigned short)((bits | 0x400000u) >> 16);
  return (unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static inline float cn_from_f16(unsigned short h) {
  const unsigned size = h & 0x7fffu, sign = (unsigned)(h & 0x8000u) << 16;
  if (size >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | size << 13);
  // the exponent field means 2^112 times more in f16; this holds for subnormals as well
  const float finite = __uint_as_float(size << 13) * 5.192296858534828e+33f;
  return __uint_as_float(sign | __float_as_uint(finite));
}

static inline unsigned short cn_to_f16(float a) {  // to nearest, ties to even
  const unsigned bits = __float_as_uint(a), size = bits & 0x7fffffffu;
  const unsigned sign = bits >> 16 & 0x8000u;
  unsigned h = (size - ((112u << 23) - 0xfffu) + (size >> 13 & 1u)) >> 13;
  // an f32 in [1/2, 1) has steps of 2^-24, those of a subnormal f16: adding rounds
  if (size < 0x38800000u) h = __float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u;
  if (size >= 0x47800000u) h = 0x7c00u;
  if (size > 0x7f800000u) h = 0x7e00u;
  return (unsigned short)(sign | h);
}

template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) cn_several { T at[N]; };

template <int N, class T> static inline cn_several<T, N> cn_read(const T* from) {
  if ((size_t)from % alignof(cn_several<T, N>)) emulator::fail("a misaligned read");
  cn_several<T, N> values;
  memcpy(&values, from, sizeof values);
  return values;
}

template <int N, class T> static inline void cn_write(T* to, const cn_several<T, N>& values) {
  if ((size_t)to % alignof(cn_several<T, N>)) emulator::fail("a misaligned write");
  memcpy(to, &values, sizeof values);
}

template <class T> static inline T cn_exchange(T a, int other) {
  struct Mine { T value, got; int other; } mine = {a, a, other};
  static const char step = 0;
  emulator::together<32>(&step, &mine, [](void** all) {
    for (int k = 0; k < 32; ++k) {
      Mine* me = (Mine*)all[k];
      me->got = ((Mine*)all[k ^ me->other])->value;
    }
  });
  return mine.got;
}

template <int N> static inline void cn_copy(void* to, const void* from, bool wanted) {
  using namespace emulator;
  if ((size_t)to % N || (wanted && (size_t)from % N)) stop("a misaligned copy");
  Fiber& f = fibers[running];
  Copy copy = {to, from, N, wanted, f.groups};
  if (early) return land(copy);
  if (f.waiting == MOST_COPIES) return stop("too many copies under way");
  f.copies[f.waiting++] = copy;
}
static inline void cn_end_group() { ++emulator::fibers[emulator::running].groups; }
template <int N> static inline void cn_wait_groups() {
  emulator::Fiber& f = emulator::fibers[emulator::running];
  int kept = 0;
  for (int k = 0; k < f.waiting; ++k)
    if (f.copies[k].group < f.groups - N) emulator::land(f.copies[k]);
    else f.copies[kept++] = f.copies[k];
  f.waiting = kept;
}

static inline void cn_load_matrices(unsigned (&r)[4], const void* row) {
  struct Mine { const char* row; unsigned* r; } mine = {(const char*)row, r};
  static const char step = 0;
  if ((size_t)row % 16) emulator::stop("a misaligned row of a matrix");
  emulator::together<32>(&step, &mine, [](void** all) {
    for (int m = 0; m < 32; m += 8) {  // eight rows that a device reads at once, from all banks
      unsigned chunks = 0;
      for (int k = m; k < m + 8; ++k) chunks |= 1u << ((size_t)((Mine*)all[k])->row / 16 & 7);
      if (chunks != 255) emulator::fail("rows of a matrix lie in the same bank of shared memory");
    }
    for (int k = 0; k < 32; ++k)
      for (int m = 0; m < 4; ++m)
        memcpy(((Mine*)all[k])->r + m, ((Mine*)all[8 * m + k / 4])->row + 4 * (k % 4), 4);
  });
}

static inline unsigned cn_tf32(unsigned bits) {
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;
  return bits & 0xffffe000u;
}

// c[16][8] += a[16][N] b[N][8]: a lane has N / 4 elements of a row of a at a time, read by `get`
template <int N, class Get> static inline void cn_multiply(float (&c)[4], const unsigned (&a)[4],
                                                           unsigned b0, unsigned b1, Get) {
  struct Mine { float* c; const unsigned* a; unsigned b[2]; } mine = {c, a, {b0, b1}};
  static const char step = 0;
  emulator::together<32>(&step, &mine, [](void** all) {
    const int each = N / 8;  // elements in a register
    float x[16][N], y[N][8];
    for (int k = 0; k < 32; ++k)
      for (int e = 0; e < each; ++e) {
        const Mine& lane = *(Mine*)all[k];
        const int at = k % 4 * each + e;
        for (int r = 0; r < 4; ++r)
          x[k / 4 + 8 * (r & 1)][at + N / 2 * (r >> 1)] = Get::element(lane.a[r], e);
        for (int r = 0; r < 2; ++r) y[at + N / 2 * r][k / 4] = Get::element(lane.b[r], e);
      }
    for (int k = 0; k < 32; ++k)
      for (int r = 0; r < 4; ++r) {
        const int row = k / 4 + 8 * (r >> 1), column = 2 * (k % 4) + (r & 1);
        float& sum = ((Mine*)all[k])->c[r];
        for (int i = 0; i < N; ++i) sum += x[row][i] * y[i][column];
      }
  });
}

#define CN_MULTIPLY(type, n, value)                                                            \
  struct cn_get_##type { static float element(unsigned bits, int e) { return value; } };       \
  static inline void cn_multiply_##type(float (&c)[4], const unsigned (&a)[4], unsigned b0,    \
                                        unsigned b1) {                                         \
    cn_multiply<n>(c, a, b0, b1, cn_get_##type());                                             \
  }
CN_MULTIPLY(tf32, 8, __uint_as_float(bits & 0xffffe000u))
CN_MULTIPLY(f16, 16, cn_from_f16(bits >> 16 * e))
CN_MULTIPLY(bf16, 16, __uint_as_float(bits >> 16 * e << 16))
