"""Products in plain f32: tiles of x and w in shared memory, sums in registers.

The classic scheme: a block computes BM x BN results, a thread TM x TN of them. Terms come in tiles
of BK, in two buffers: while one is multiplied, the next is on its way from memory to registers and
from there to the other buffer, so that one barrier a tile is enough. x lies transposed in shared
memory, so that a thread reads its rows and columns as whole vectors of 4. Where there are too few
blocks for a device, the terms are split among several, whose sums a second kernel adds in order.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gather import INSIDE, ROWS, TERM, constants, results, signature
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.kernels.split import adding, most_splits
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import CudaTarget

KIND, ORDER = "gemm_fma", "filters fastest"
PAD = 4
"""Floats behind each row of x in shared memory: its stores then meet different banks."""


@dataclass(frozen=True)
class Tile:
    """What a block computes. `share` is the part of peak that its inner loop can reach."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    share: float
    splits: int = 1

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.bm // self.tm * self.bn // self.tn


TILES = (
    Tile(128, 128, 8, 8, 8, 0.8),
    Tile(128, 64, 8, 8, 4, 0.7),
    Tile(64, 64, 16, 4, 4, 0.6),
    Tile(32, 64, 16, 4, 4, 0.45),
    Tile(32, 32, 16, 4, 4, 0.3),
)


def choose(spec: GemmSpec, target: CudaTarget) -> tuple[Tile, float]:
    """The tile and split of least predicted time, and that time in seconds."""
    found = []
    for tile in TILES:
        for splits in most_splits(spec, tile.bm, tile.bn, tile.bk, target):
            split = Tile(**{**asdict(tile), "splits": splits})
            found.append((estimate(spec, split, target), split))
    seconds, best = min(found, key=lambda pair: pair[0])
    return best, seconds


def estimate(spec: GemmSpec, tile: Tile, target: CudaTarget) -> float:
    """Seconds, if every multiprocessor does one block after another."""
    return target.gemm_seconds(
        spec.flops,
        blocks(spec, tile),
        tile.bm * tile.bn,
        spec.depth,
        tile.splits,
        tile.share,
        False,
    )


def blocks(spec: GemmSpec, tile: Tile) -> int:
    """Of the grid, splits not counted."""
    across = -(-spec.group_filters // tile.bn)
    return across * -(-spec.rows // tile.bm) * spec.groups * spec.batch


def pack(w: np.ndarray, spec: GemmSpec) -> np.ndarray:
    """Weights [f, c, *kernel] as the kernel reads them."""
    return spec.filters_fastest(w)


def emit(name: str, spec: GemmSpec, tile: Tile, epilogue: Epilogue) -> Code:
    """The kernel, and the one that adds what was split."""
    tiles_n, tiles_m = -(-spec.group_filters // tile.bn), -(-spec.rows // tile.bm)
    tiles_k = -(-spec.depth // tile.bk)
    vx = 4 if spec.vector() == 4 else 1
    vw = 4 if spec.pitch % 4 == 0 else 1
    row_step = tile.threads // (tile.bk // vx)
    values = spec.constants() | {
        "BM": tile.bm,
        "BN": tile.bn,
        "BK": tile.bk,
        "TM": tile.tm,
        "TN": tile.tn,
        "THREADS": tile.threads,
        "TILES_N": tiles_n,
        "TILES_K": tiles_k,
        "TILES_A_SPLIT": -(-tiles_k // tile.splits),
        "SPLITS": tile.splits,
        "VX": vx,
        "VW": vw,
        "PIECE": 4,
        "PITCH": spec.pitch,
        "ROW_STEP": row_step,
        "COPIES_X": -(-tile.bm // row_step),
        "COPIES_W": -(-tile.bk * tile.bn // vw // tile.threads),
        "X_PITCH": tile.bm + PAD,
    }
    shared = 4 * 2 * tile.bk * (tile.bm + PAD + tile.bn)
    parameters = signature(spec, epilogue)
    text = _TEXT.format(
        name=name,
        threads=tile.threads,
        parameters=",\n    ".join(parameters),
        constants=constants(values),
        rows=ROWS,
        term=TERM,
        inside=INSIDE,
        results=results(name, spec, epilogue),
    )
    grid = (tiles_n * tiles_m, spec.groups * spec.batch, tile.splits)
    launches = [(name, Launch(grid, (tile.threads, 1, 1), shared))]
    texts, scratch = [epilogue.function(name), text], 0
    if tile.splits > 1:
        more, launch, scratch = adding(name, spec, tile.splits, parameters, epilogue)
        texts.append(more)
        launches.append((f"{name}_add", launch))
    split = f", depth in {tile.splits}" if tile.splits > 1 else ""
    summary = f"{tile.bm}x{tile.bn}x{tile.bk}, thread {tile.tm}x{tile.tn}{split}"
    return Code("\n".join(texts), tuple(launches), scratch, (), summary)


_TEXT = """\
extern "C" __global__ void __launch_bounds__({threads}) {name}(
    {parameters}) {{
  constexpr int {constants};
{rows}
  if (!SHARED_W) w += (long long)matrix * (GROUPS * DEPTH * PITCH);
  w += (long long)group * (DEPTH * PITCH);
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
      const int row = tile * BK + k, column = tile_n * BN + n;
      const bool wanted = k < BK && row < DEPTH && column < PITCH;
      if constexpr (VW == 4) {{
        float4 v = {{0.0f, 0.0f, 0.0f, 0.0f}};
        if (wanted) v = *(const float4*)(w + row * PITCH + column);
        next_w[i][0] = v.x, next_w[i][1] = v.y, next_w[i][2] = v.z, next_w[i][3] = v.w;
      }} else {{
        next_w[i][0] = wanted ? w[row * PITCH + column] : 0.0f;
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
    for (int j = 0; j < TN; j += 4)
      finish(tile_m * BM + i / 4 * 4 * (BM / TM) + row_y + i % 4,
             tile_n * BN + j * (BN / TN) + column_y,
             {{sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]}});
}}
"""
