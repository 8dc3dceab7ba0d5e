// Stands in for the text of `warpgroup.py` on a processor, after `emulator.h`: what a warpgroup
// multiplies is added to registers as late as the wait for it allows. A device may read it any time
// from the beginning to that wait, so it must not change in between; and what asynchronous copies
// brought must have been shown by the threads that copied.
namespace emulator {

struct Product {
  unsigned long long a, b;
  void* sums[128];
  void (*run)(Product&);
  int group;
  unsigned content;
};
const int MOST_PRODUCTS = 64;
struct Products { Product all[MOST_PRODUCTS]; int waiting, groups; bool begun; };
static Products products[MOST_THREADS / 128];
static const bool begins_anew = (at_block = [] { memset(products, 0, sizeof products); }, true);

// A row of terms from the place that `rows` describes: 128 bytes, permuted by the row's number.
static const unsigned char* row_of(unsigned long long rows, int row, int byte) {
  unsigned at = (unsigned)(rows & 0x3fff) << 4;
  at += row / 8 * ((unsigned)(rows >> 32 & 0x3fff) << 4) + row % 8 * 128 + byte;
  at ^= (at >> 7 & 7) << 4;
  if (rows >> 62 != 1) fail("rows that are not permuted as products want them");
  else if (at >= (unsigned)shared_bytes) fail("a product of rows behind shared memory");
  else if (unseen[at / 16]) fail("a product of what was copied and not shown to tensor cores");
  else return shared + at;
  return shared;
}

// What a product reads, as a number that depends on all of it.
template <int N> static unsigned content(const Product& p) {
  unsigned sum = 0, word;
  for (int row = 0; row < 64 + N; ++row)
    for (int byte = 0; byte < 32; byte += 4) {
      memcpy(&word, row < 64 ? row_of(p.a, row, byte) : row_of(p.b, row - 64, byte), 4);
      sum = (sum ^ word) * 0x01000193u + 0x811c9dc5u;
    }
  return sum;
}

template <int N, class Get> static void multiply(Product& p) {
  if (content<N>(p) != p.content) fail("rows change while they are multiplied");
  float x[64][16], y[16][N];
  unsigned short bits;
  for (int k = 0; k < 16; ++k) {
    for (int i = 0; i < 64; ++i)
      memcpy(&bits, row_of(p.a, i, 2 * k), 2), x[i][k] = Get::element(bits, 0);
    for (int j = 0; j < N; ++j)
      memcpy(&bits, row_of(p.b, j, 2 * k), 2), y[k][j] = Get::element(bits, 0);
  }
  for (int t = 0; t < 128; ++t)
    for (int e = 0; e < N / 2; ++e) {
      const int row = t / 32 * 16 + t % 32 / 4 + e % 4 / 2 * 8, column = e / 4 * 8 + t % 4 * 2 + e % 2;
      float& sum = ((float*)p.sums[t])[e];
      for (int k = 0; k < 16; ++k) sum += x[row][k] * y[k][column];
    }
}

static void finish_products(int left) {  // until so many groups are under way
  Products& queue = products[running / 128];
  int kept = 0;
  for (int k = 0; k < queue.waiting; ++k) {
    Product& p = queue.all[k];
    if (p.group < queue.groups - left) p.run(p);
    else queue.all[kept++] = p;
  }
  queue.waiting = kept;
}

template <class Get, int N>
static void enqueue(float (&c)[N / 8][4], unsigned long long a, unsigned long long b) {
  struct Mine { void* c; unsigned long long a, b; } mine = {c, a, b};
  static const char step = 0;
  together<128>(&step, &mine, [](void** all) {
    Products& queue = products[running / 128];
    if (!queue.begun) fail("products without a beginning");
    if (queue.waiting == MOST_PRODUCTS) return fail("too many products under way");
    Product& p = queue.all[queue.waiting++];
    const Mine& one = *(Mine*)all[0];
    p.a = one.a, p.b = one.b, p.run = multiply<N, Get>, p.group = queue.groups;
    for (int t = 0; t < 128; ++t) {
      const Mine& mine = *(Mine*)all[t];
      p.sums[t] = mine.c;
      if (mine.a != p.a || mine.b != p.b) fail("threads of a warpgroup multiply different rows");
    }
    p.content = content<N>(p);
  });
}

}  // namespace emulator

static inline void cn_show_copies() {
  for (int k = 0; k < emulator::shared_bytes / 16; ++k)
    if (emulator::unseen[k] == emulator::running + 1) emulator::unseen[k] = 0;
}

static inline unsigned long long cn_rows(const void* p) {
  return (unsigned long long)((const unsigned char*)p - emulator::shared) >> 4 | 1ull << 16 |
         64ull << 32 | 1ull << 62;
}

static inline void cn_begin_products() {
  static const char step = 0;
  emulator::together<128>(&step, nullptr, [](void**) {
    emulator::products[emulator::running / 128].begun = true;
  });
}

static inline void cn_end_products() {
  static const char step = 0;
  emulator::together<128>(&step, nullptr, [](void**) {
    ++emulator::products[emulator::running / 128].groups;
  });
}

template <int N> static inline void cn_wait_products() {
  static const char step = 0;
  emulator::together<128>(&step, nullptr, [](void**) { emulator::finish_products(N); });
}

template <int N> static inline void cn_products_f16(float (&c)[N / 8][4], unsigned long long a,
                                                    unsigned long long b) {
  emulator::enqueue<cn_get_f16, N>(c, a, b);
}

template <int N> static inline void cn_products_bf16(float (&c)[N / 8][4], unsigned long long a,
                                                     unsigned long long b) {
  emulator::enqueue<cn_get_bf16, N>(c, a, b);
}
