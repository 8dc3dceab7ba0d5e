static __device__ __forceinline__ cn_several<float, 4> wgmma_f16_epilogue(
    const cn_several<float, 4>& sums,
    int row,
    int column,
    const float* __restrict__ bias) {
  cn_several<float, 4> out;
  const auto biases = cn_read<4>(bias + column);
  #pragma unroll
  for (int e = 0; e < 4; ++e) {
    const float v0 = sums.at[e] + biases.at[e];
    out.at[e] = v0;
  }
  return out;
}

extern "C" __global__ void __launch_bounds__(256, 1) wgmma_f16(
    int* error,
    unsigned char* scratch,
    const unsigned short* __restrict__ x,
    const unsigned short* __restrict__ w,
    const float* __restrict__ bias,
    float* __restrict__ y) {
  constexpr int ROWS = 143,
                H = 11,
                W = 13,
                C = 20,
                CG = 20,
                K = 36,
                KG = 36,
                TAPS = 9,
                S = 3,
                OUT_H = 11,
                OUT_W = 13,
                STRIDE_H = 1,
                STRIDE_W = 1,
                DILATION_H = 1,
                DILATION_W = 1,
                TOP = 1,
                LEFT = 1,
                DEPTH = 180,
                WHOLE_DEPTH = 180,
                GROUPS = 1,
                BATCH = 1,
                SHARED_X = 0,
                SHARED_W = 0,
                IMAGES = 1,
                BM = 128,
                BN = 256,
                BK = 64,
                THREADS = 256,
                TILES_N = 1,
                TILES_K = 3,
                TILES_A_SPLIT = 2,
                SPLITS = 2,
                PIECE = 4,
                SIZE = 2,
                ROW = 128,
                WM = 16,
                WN = 256,
                STAGES = 4,
                PACKED = 1,
                VX = 4,
                CHUNK = 8,
                PITCH = 184,
                ROW_STEP = 16,
                COPIES_X = 8,
                COLUMN_STEP = 32,
                COPIES_W = 8;
  constexpr int STAGE = (BM + BN) * ROW;  // bytes
  const int tile_n = blockIdx.x % TILES_N, tile_m = blockIdx.x / TILES_N;
  const int group = blockIdx.y % GROUPS, matrix = blockIdx.y / GROUPS;
  const int first = blockIdx.z * TILES_A_SPLIT;
  const int last = first + TILES_A_SPLIT < TILES_K ? first + TILES_A_SPLIT : TILES_K;
  if (!SHARED_X) x += (long long)matrix * (IMAGES * H * W * C);
  const int thread = threadIdx.x;
  const int row_x = thread / (BK / VX), term_x = thread % (BK / VX) * VX;
  int base[COPIES_X], top[COPIES_X], left[COPIES_X];
#pragma unroll
  for (int i = 0; i < COPIES_X; ++i) {
    const int row = tile_m * BM + row_x + i * ROW_STEP;
    const bool real = row < ROWS && row_x + i * ROW_STEP < BM;
    const int image = real ? row / (OUT_H * OUT_W) : 0, position = row % (OUT_H * OUT_W);
    const int y_top = real ? position / OUT_W * STRIDE_H - TOP : 0;
    left[i] = position % OUT_W * STRIDE_W - LEFT;
    base[i] = ((image * H + y_top) * W + left[i]) * C + group * CG;
    top[i] = real ? y_top : -(1 << 24);  // no tap of it is inside
  }

  if (!SHARED_W) w += (long long)matrix * (GROUPS * KG * PITCH);
  w += (long long)group * (KG * PITCH);
  CN_SHARED(shared);
  const int column_w = thread / (ROW / 16), chunk_w = thread % (ROW / 16);

  auto place = [](int row, int chunk) {  // the byte of a chunk of 16 in a tile
    return row * ROW + (ROW == 128 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 16;
  };
  auto copy = [&](int tile, int stage) {
    unsigned char* const xs = shared + stage * STAGE;
    unsigned char* const ws = xs + BM * ROW;
    const int term = tile * BK + term_x;
    const int tap = TAPS == 1 ? 0 : term / CG, channel = TAPS == 1 ? term : term % CG;
    const int down = tap / S * DILATION_H, right = tap % S * DILATION_W;
    const int step = (down * W + right) * C + channel;

#pragma unroll
    for (int i = 0; i < COPIES_X; ++i) {
      const int row = row_x + i * ROW_STEP;
      if (row >= BM) continue;
      const bool wanted = term < DEPTH && (unsigned)(top[i] + down) < (unsigned)H &&
                          (unsigned)(left[i] + right) < (unsigned)W;
      cn_copy<SIZE * VX>(xs + place(row, term_x / CHUNK) + term_x % CHUNK * SIZE,
                         x + (wanted ? base[i] + step : 0), wanted);
    }
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {
      const int column = column_w + i * COLUMN_STEP;
      if (column >= BN) continue;
      const int depth = tile * BK + chunk_w * CHUNK, filter = tile_n * BN + column;
      const bool wanted = depth < DEPTH && filter < KG;
      const int from = wanted ? filter * PITCH + depth : 0;
      cn_copy<16>(ws + place(column, chunk_w), w + from, wanted);
    }
  };

  auto finish = [&](int row, int in_group, const cn_several<float, PIECE>& sums) {
    if (row >= ROWS || in_group >= KG) return;  // all of a piece is in the group, or nothing
    const int column = group * KG + in_group;
    if constexpr (SPLITS > 1) {
      const long long part = ((long long)blockIdx.z * BATCH + matrix) * ROWS + row;
      cn_write((float*)scratch + part * K + column, sums);
    } else {
      const int of_all = matrix * ROWS + row;
      cn_write(y + (long long)of_all * K + column, wgmma_f16_epilogue(sums, of_all, column, bias));
    }
  };

  const int lane = thread % 32, warp = thread / 32;
  const int row_y = warp % (BM / WM) * WM, column_y = warp / (BM / WM) * WN;
  float sums[WM / 16][WN / 8][4];
#pragma unroll
  for (int i = 0; i < WM / 16; ++i)
#pragma unroll
    for (int j = 0; j < WN / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;

  constexpr int AHEAD = STAGES - 2;  // tiles; another is multiplied, and one more may still be
#pragma unroll
  for (int s = 0; s < AHEAD; ++s) {
    if (first + s < last) copy(first + s, s);
    cn_end_group();
  }
  int stage = 0, filled = AHEAD;
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {
    cn_wait_groups<AHEAD - 1>();  // the oldest tile has arrived, for this thread
    cn_show_copies();
    __syncthreads();  // it has for all, and nobody multiplies what is filled next any more
    const unsigned char* const xs = shared + stage * STAGE + warp / 4 * 64 * ROW;
    const unsigned char* const ws = shared + stage * STAGE + BM * ROW;
    cn_begin_products();
#pragma unroll
    for (int k = 0; k < ROW / 32; ++k)
      cn_products_f16<BN>(sums[0], cn_rows(xs + 32 * k), cn_rows(ws + 32 * k));
    cn_end_products();
    cn_wait_products<1>();  // the tile before this one has been multiplied
    if (tile + AHEAD < last) copy(tile + AHEAD, filled);
    cn_end_group();
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }
  cn_wait_products<0>();

  __syncthreads();  // nobody reads tiles any more
  constexpr int PITCH_Y = WN + 8, PIECES = WN / PIECE;  // of rows that meet different banks
  float* const mine = (float*)shared + warp * 16 * PITCH_Y;
#pragma unroll
  for (int i = 0; i < WM / 16; ++i) {
#pragma unroll
    for (int j = 0; j < WN / 8; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const cn_several<float, 2> pair = {sums[i][j][2 * h], sums[i][j][2 * h + 1]};
        cn_write(mine + (lane / 4 + 8 * h) * PITCH_Y + j * 8 + lane % 4 * 2, pair);
      }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < PIECES / 2; ++k) {
      const int at = 32 * k + lane, row = at / PIECES, column = at % PIECES * PIECE;
      finish(tile_m * BM + row_y + i * 16 + row, tile_n * BN + column_y + column,
             cn_read<PIECE>(mine + row * PITCH_Y + column));
    }
    __syncwarp();
  }
}

extern "C" __global__ void __launch_bounds__(256) wgmma_f16_add(
    int* error,
    unsigned char* scratch,
    const unsigned short* __restrict__ x,
    const unsigned short* __restrict__ w,
    const float* __restrict__ bias,
    float* __restrict__ y) {
  const long long at = ((long long)blockIdx.x * 256 + threadIdx.x) * 4;
  if (at >= 5148) return;
  const int row = (int)(at / 36), column = (int)(at % 36);
  const float* const parts = (const float*)scratch;
  auto sums = cn_read<4>(parts + at);
#pragma unroll
  for (int k = 1; k < 2; ++k) {
    const auto more = cn_read<4>(parts + k * 5148LL + at);
#pragma unroll
    for (int e = 0; e < 4; ++e) sums.at[e] += more.at[e];
  }
  const int of_all = row;
  cn_write(y + (long long)of_all * 36 + column, wgmma_f16_epilogue(sums, of_all, column, bias));
}
