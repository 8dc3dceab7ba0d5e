"""Products in plain f32: tiles of x and w in shared memory, sums in registers.

The classic scheme: a block computes BM x BN results, a thread TM x TN of them. Terms come in tiles
of BK, in two buffers: while one is multiplied, the next is on its way from memory to registers and
from there to the other buffer, so that one barrier a tile is enough. x lies transposed in shared
memory, so that a thread reads its rows and columns as whole vectors of 4. Where there are too few
blocks for a device, the terms are split among several, whose sums a second kernel adds in order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.backends.cuda.kernels import gemm
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec

PAD = 4
"""Floats behind each row of x in shared memory: its stores then meet different banks."""


@dataclass(frozen=True)
class Tile(gemm.Tile):
    """A thread computes tm x tn results, of bk terms at a time."""

    tm: int
    tn: int
    bk: int

    @property
    def threads(self) -> int:
        return self.bm // self.tm * self.bn // self.tn

    @property
    def shared_bytes(self) -> int:
        return 4 * 2 * self.bk * (self.bm + PAD + self.bn)

    def __str__(self) -> str:
        return f"thread {self.tm}x{self.tn}"


class FmaGemm(gemm.Gemm):
    """Products and sums in f32."""

    kind, order, widest = "gemm_fma", "filters fastest", 4
    dtype, rate, fastest = "f32", "f32", "filters"
    tiles = (
        Tile(128, 128, 0.8, 1, 8, 8, 8),
        Tile(128, 64, 0.7, 1, 8, 4, 8),
        Tile(64, 64, 0.6, 1, 4, 4, 16),
        Tile(32, 64, 0.45, 1, 4, 4, 16),
        Tile(32, 32, 0.3, 1, 4, 4, 16),
    )

    def reject(self, spec: GemmSpec) -> str | None:
        several = spec.groups > 1 and not spec.packed
        return spec.reject() or ("groups of weights of run time" if several else None)

    def pack(self, w: np.ndarray, spec: GemmSpec) -> np.ndarray:
        return spec.filters_fastest(w)

    def terms(self, tile: Tile) -> int:  # type: ignore[override]
        return tile.bk

    def constants(self, spec: GemmSpec, tile: Tile) -> dict[str, int]:  # type: ignore[override]
        vx = 4 if spec.vector(4) == 4 else 1
        vw = 4 if spec.pitch % 4 == 0 else 1
        row_step = tile.threads // (tile.bk // vx)
        return {
            "TM": tile.tm,
            "TN": tile.tn,
            "VX": vx,
            "VW": vw,
            "PITCH": spec.pitch,
            "ROW_STEP": row_step,
            "COPIES_X": -(-tile.bm // row_step),
            "COPIES_W": -(-tile.bk * tile.bn // vw // tile.threads),
            "X_PITCH": tile.bm + PAD,
        }

    def text(self, tile: gemm.Tile) -> str:
        return _TEXT


_TEXT = """\
extern "C" __global__ void __launch_bounds__({threads}) {name}(
    {parameters}) {{
  constexpr int {constants};
{rows}
  if (!SHARED_W) w += (long long)matrix * (GROUPS * WHOLE_DEPTH * PITCH);
  w += (long long)group * (WHOLE_DEPTH * PITCH);
  CN_SHARED(shared);
  float* const xs = (float*)shared;             // [2][BK][X_PITCH]
  float* const ws = xs + 2 * BK * X_PITCH;      // [2][BK][BN]
  float next_x[COPIES_X][VX], next_w[COPIES_W][VW];

  auto fetch = [&](int tile) {{  // from memory to registers
{term}
#pragma unroll
    for (int i = 0; i < COPIES_X; ++i) {{
      const bool wanted = {inside};
      if constexpr (VX == 4) {{
        float4 v = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (wanted) v = *(const float4*)(x + base[i] + step);
        next_x[i][0] = v.x, next_x[i][1] = v.y, next_x[i][2] = v.z, next_x[i][3] = v.w;
      }} else {{
        next_x[i][0] = wanted ? x[base[i] + step] : 0.0f;
      }}
    }}
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {{
      const int k = (thread + i * THREADS) / (BN / VW), n = (thread + i * THREADS) % (BN / VW) * VW;
      const int depth = tile * BK + k, column = tile_n * BN + n;
      const bool wanted = k < BK && depth < DEPTH && column < PITCH;
      if constexpr (VW == 4) {{
        float4 v = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (wanted) v = *(const float4*)(w + ({depth_of_w}) * PITCH + column);
        next_w[i][0] = v.x, next_w[i][1] = v.y, next_w[i][2] = v.z, next_w[i][3] = v.w;
      }} else {{
        next_w[i][0] = wanted ? w[({depth_of_w}) * PITCH + column] : 0.0f;
      }}
    }}
  }};
  auto put = [&](int buffer) {{  // from registers to shared memory
#pragma unroll
    for (int i = 0; i < COPIES_X; ++i)
      if (row_x + i * ROW_STEP < BM)
#pragma unroll
        for (int e = 0; e < VX; ++e)
          xs[(buffer * BK + term_x + e) * X_PITCH + row_x + i * ROW_STEP] = next_x[i][e];
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {{
      const int k = (thread + i * THREADS) / (BN / VW), n = (thread + i * THREADS) % (BN / VW) * VW;
      float* const to = ws + (buffer * BK + k) * BN + n;
      if constexpr (VW == 4) {{
        if (k < BK) *(float4*)to = float4{{next_w[i][0], next_w[i][1], next_w[i][2], next_w[i][3]}};
      }} else {{
        if (k < BK) to[0] = next_w[i][0];
      }}
    }}
  }};

{results}
  // the thread's rows and columns, in pieces of 4
  const int row_y = thread / (BN / TN) * 4, column_y = thread % (BN / TN) * 4;
  float sums[TM][TN];
#pragma unroll
  for (int i = 0; i < TM; ++i)
#pragma unroll
    for (int j = 0; j < TN; ++j) sums[i][j] = 0.0f;
  if (first < last) {{
    fetch(first);
    put(0);
  }}
  __syncthreads();
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {{
    const int buffer = (tile - first) & 1;
    if (tile + 1 < last) fetch(tile + 1);
#pragma unroll
    for (int k = 0; k < BK; ++k) {{
      float a[TM], b[TN];
#pragma unroll
      for (int i = 0; i < TM; i += 4) {{
        const float4 v = *(const float4*)(xs + (buffer * BK + k) * X_PITCH + i * (BM / TM) + row_y);
        a[i] = v.x, a[i + 1] = v.y, a[i + 2] = v.z, a[i + 3] = v.w;
      }}
#pragma unroll
      for (int j = 0; j < TN; j += 4) {{
        const float4 v = *(const float4*)(ws + (buffer * BK + k) * BN + j * (BN / TN) + column_y);
        b[j] = v.x, b[j + 1] = v.y, b[j + 2] = v.z, b[j + 3] = v.w;
      }}
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) sums[i][j] += a[i] * b[j];
    }}
    if (tile + 1 < last) put(buffer ^ 1);
    __syncthreads();
  }}

#pragma unroll
  for (int i = 0; i < TM; ++i)
#pragma unroll
    for (int j = 0; j < TN; j += PIECE) {{
      cn_several<float, PIECE> neighbours;
#pragma unroll
      for (int e = 0; e < PIECE; ++e) neighbours.at[e] = sums[i][j + e];
      finish(tile_m * BM + i / 4 * 4 * (BM / TM) + row_y + i % 4,
             tile_n * BN + j / 4 * 4 * (BN / TN) + column_y + j % 4, neighbours);
    }}
}}
"""
