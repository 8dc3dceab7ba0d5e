"""CUDA C that both products share: which elements of x a thread copies, and where they are.

The text knows the constants of `GemmSpec` and of a tile: BM rows, BN columns, BK terms, COPIES_X
rows a thread, ROW_STEP rows apart, each time VX channels from term `term_x` of the tile on.
"""

ROWS = """\
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
"""

TERM = """\
    const int term = tile * BK + term_x;
    const int tap = TAPS == 1 ? 0 : term / CG, channel = TAPS == 1 ? term : term % CG;
    const int down = tap / S * DILATION_H, right = tap % S * DILATION_W;
    const int step = (down * W + right) * C + channel;
"""

INSIDE = """\
term < DEPTH && (unsigned)(top[i] + down) < (unsigned)H &&
                          (unsigned)(left[i] + right) < (unsigned)W"""
