"""CUDA C that all products share: which elements of x a thread copies, and where results go.

The text knows the constants of `GemmSpec` and of a tile: BM rows, BN columns, BK terms, COPIES_X
rows a thread, ROW_STEP rows apart, each time VX channels from term `term_x` of the tile on; SPLITS
parts of every sum, TILES_K tiles of terms, TILES_A_SPLIT of them in a part; PIECE neighbouring sums
that a thread has. `{stored}` is the expression of a result from sums[e].
"""

from __future__ import annotations

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec

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

RESULTS = """\
  auto finish = [&](int row, int in_group, const float (&sums)[PIECE]) {{
    if (row >= ROWS) return;
    const int column = group * KG + in_group;
    float out[PIECE];
#pragma unroll
    for (int e = 0; e < PIECE; ++e) {{
      if (in_group + e >= KG) continue;
      if constexpr (SPLITS > 1) out[e] = sums[e];
      else out[e] = {stored};
    }}
    float* to = y + (long long)(matrix * ROWS + row) * K + column;
    if constexpr (SPLITS > 1) {{
      const long long part = ((long long)blockIdx.z * BATCH + matrix) * ROWS + row;
      to = (float*)scratch + part * K + column;
    }}
    if constexpr (KG % PIECE != 0) {{
#pragma unroll
      for (int e = 0; e < PIECE; ++e)
        if (in_group + e < KG) to[e] = out[e];
    }} else if constexpr (PIECE == 4) {{
      if (in_group < KG) *(float4*)to = float4{{out[0], out[1], out[2], out[3]}};
    }} else {{
      if (in_group < KG) *(float2*)to = float2{{out[0], out[1]}};
    }}
  }};
"""


def signature(spec: GemmSpec, epilogue: Epilogue) -> list[str]:
    """The parameters of all kernels of a product."""
    return [
        *("int* error", "unsigned char* scratch"),
        *("const float* __restrict__ x", "const float* __restrict__ w"),
        *["const float* __restrict__ bias"] * spec.bias,
        *epilogue.parameters,
        "float* __restrict__ y",
    ]


def results(name: str, spec: GemmSpec, epilogue: Epilogue) -> str:
    """`finish(row, column in the group, sums)`."""
    value = "sums[e] + bias[column + e]" if spec.bias else "sums[e]"
    stored = epilogue.call(name, value, "matrix * ROWS + row", "column + e")
    return RESULTS.format(stored=stored)


def constants(values: dict[str, int]) -> str:
    """A declaration of constants."""
    return ",\n                ".join(f"{name} = {value}" for name, value in values.items())
