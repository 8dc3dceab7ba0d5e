static __device__ __forceinline__ cn_several<float, 4> gemm_fma_epilogue(
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

extern "C" __global__ void __launch_bounds__(256) gemm_fma(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ x,
    const float* __restrict__ w,
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
                BN = 128,
                BK = 8,
                THREADS = 256,
                TILES_N = 1,
                TILES_K = 23,
                TILES_A_SPLIT = 12,
                SPLITS = 2,
                PIECE = 4,
                TM = 8,
                TN = 8,
                VX = 4,
                VW = 4,
                PITCH = 36,
                ROW_STEP = 128,
                COPIES_X = 1,
                COPIES_W = 1,
                X_PITCH = 132;
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

  if (!SHARED_W) w += (long long)matrix * (GROUPS * WHOLE_DEPTH * PITCH);
  w += (long long)group * (WHOLE_DEPTH * PITCH);
  CN_SHARED(shared);
  float* const xs = (float*)shared;             // [2][BK][X_PITCH]
  float* const ws = xs + 2 * BK * X_PITCH;      // [2][BK][BN]
  float next_x[COPIES_X][VX], next_w[COPIES_W][VW];

  auto fetch = [&](int tile) {  // from memory to registers
    const int term = tile * BK + term_x;
    const int tap = TAPS == 1 ? 0 : term / CG, channel = TAPS == 1 ? term : term % CG;
    const int down = tap / S * DILATION_H, right = tap % S * DILATION_W;
    const int step = (down * W + right) * C + channel;

#pragma unroll
    for (int i = 0; i < COPIES_X; ++i) {
      const bool wanted = term < DEPTH && (unsigned)(top[i] + down) < (unsigned)H &&
                          (unsigned)(left[i] + right) < (unsigned)W;
      if constexpr (VX == 4) {
        float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
        if (wanted) v = *(const float4*)(x + base[i] + step);
        next_x[i][0] = v.x, next_x[i][1] = v.y, next_x[i][2] = v.z, next_x[i][3] = v.w;
      } else {
        next_x[i][0] = wanted ? x[base[i] + step] : 0.0f;
      }
    }
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {
      const int k = (thread + i * THREADS) / (BN / VW), n = (thread + i * THREADS) % (BN / VW) * VW;
      const int depth = tile * BK + k, column = tile_n * BN + n;
      const bool wanted = k < BK && depth < DEPTH && column < PITCH;
      if constexpr (VW == 4) {
        float4 v = {0.0f, 0.0f, 0.0f, 0.0f};
        if (wanted) v = *(const float4*)(w + (depth) * PITCH + column);
        next_w[i][0] = v.x, next_w[i][1] = v.y, next_w[i][2] = v.z, next_w[i][3] = v.w;
      } else {
        next_w[i][0] = wanted ? w[(depth) * PITCH + column] : 0.0f;
      }
    }
  };
  auto put = [&](int buffer) {  // from registers to shared memory
#pragma unroll
    for (int i = 0; i < COPIES_X; ++i)
      if (row_x + i * ROW_STEP < BM)
#pragma unroll
        for (int e = 0; e < VX; ++e)
          xs[(buffer * BK + term_x + e) * X_PITCH + row_x + i * ROW_STEP] = next_x[i][e];
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {
      const int k = (thread + i * THREADS) / (BN / VW), n = (thread + i * THREADS) % (BN / VW) * VW;
      float* const to = ws + (buffer * BK + k) * BN + n;
      if constexpr (VW == 4) {
        if (k < BK) *(float4*)to = float4{next_w[i][0], next_w[i][1], next_w[i][2], next_w[i][3]};
      } else {
        if (k < BK) to[0] = next_w[i][0];
      }
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
      cn_write(y + (long long)of_all * K + column, gemm_fma_epilogue(sums, of_all, column, bias));
    }
  };

  // the thread's rows and columns, in pieces of 4
  const int row_y = thread / (BN / TN) * 4, column_y = thread % (BN / TN) * 4;
  float sums[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; ++i)
#pragma unroll
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0f;
  if (first < last) {
    fetch(first);
    put(0);
  }
  __syncthreads();
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {
    const int buffer = (tile - first) & 1;
    if (tile + 1 < last) fetch(tile + 1);
#pragma unroll
    for (int k = 0; k < BK; ++k) {
      float a[TM], b[TN];
#pragma unroll
      for (int i = 0; i < TM; i += 4) {
        const float4 v = *(const float4*)(xs + (buffer * BK + k) * X_PITCH + i * (BM / TM) + row_y);
        a[i] = v.x, a[i + 1] = v.y, a[i + 2] = v.z, a[i + 3] = v.w;
      }
#pragma unroll
      for (int j = 0; j < TN; j += 4) {
        const float4 v = *(const float4*)(ws + (buffer * BK + k) * BN + j * (BN / TN) + column_y);
        b[j] = v.x, b[j + 1] = v.y, b[j + 2] = v.z, b[j + 3] = v.w;
      }
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) sums[i][j] += a[i] * b[j];
    }
    if (tile + 1 < last) put(buffer ^ 1);
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < TM; ++i)
#pragma unroll
    for (int j = 0; j < TN; j += PIECE) {
      cn_several<float, PIECE> neighbours;
#pragma unroll
      for (int e = 0; e < PIECE; ++e) neighbours.at[e] = sums[i][j + e];
      finish(tile_m * BM + i / 4 * 4 * (BM / TM) + row_y + i % 4,
             tile_n * BN + j / 4 * 4 * (BN / TN) + column_y + j % 4, neighbours);
    }
}

extern "C" __global__ void __launch_bounds__(256) gemm_fma_add(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ x,
    const float* __restrict__ w,
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
  cn_write(y + (long long)of_all * 36 + column, gemm_fma_epilogue(sums, of_all, column, bias));
}
