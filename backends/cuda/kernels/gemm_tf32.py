"""Products in tf32 on tensor cores: mma.sync, fed by asynchronous copies and ldmatrix (sm_80 on).

Operands are rounded to 10 bits of mantissa, products are exact and summed in f32. Tiles of x and w
lie in shared memory as rows of terms, in STAGES buffers that asynchronous copies fill ahead. Within
a row, chunks of 16 bytes are permuted by the row's number, so that the eight rows that ldmatrix
reads at once lie in different banks. A warp computes WM x WN results, 16 x 8 at an instruction.
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

KIND, ORDER = "gemm_tf32", "tf32, depth fastest"


@dataclass(frozen=True)
class Tile:
    """What a block computes, and a warp of it. `share` is the part of peak that it can reach."""

    bm: int
    bn: int
    bk: int
    """Terms: 16 or 32."""
    wm: int
    wn: int
    stages: int
    share: float
    splits: int = 1

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * (self.bm // self.wm) * (self.bn // self.wn)

    @property
    def shared_bytes(self) -> int:
        """Of all buffers."""
        return 4 * self.stages * (self.bm + self.bn) * self.bk


TILES = (
    Tile(128, 128, 16, 64, 32, 4, 0.7),
    Tile(128, 64, 16, 32, 32, 4, 0.55),
    Tile(64, 64, 32, 32, 32, 3, 0.45),
    Tile(64, 32, 32, 32, 16, 3, 0.3),
    Tile(32, 32, 32, 16, 16, 3, 0.2),
)


def reject(spec: GemmSpec) -> str | None:
    """Why this template cannot serve, or None."""
    return None if spec.packed else "the second operand is known only at run time"


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
    across = -(-spec.group_filters // tile.bn) * spec.groups * spec.batch
    blocks = across * -(-spec.rows // tile.bm)
    return target.gemm_seconds(
        spec.flops, blocks, tile.bm * tile.bn, spec.depth, tile.splits, tile.share, True
    )


def pack(w: np.ndarray, spec: GemmSpec) -> np.ndarray:
    """Weights [f, c, *kernel] as the kernel reads them: in tf32, rows of whole chunks of 4."""
    return rounded(spec.depth_fastest(w, 4))


def rounded(array: np.ndarray) -> np.ndarray:
    """To the nearest tf32, ties away from zero; inf and NaN as they are."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    finite = bits & 0x7F800000 != 0x7F800000
    return np.where(finite, bits + np.uint32(0x1000) & np.uint32(0xFFFFE000), bits).view(np.float32)


def emit(name: str, spec: GemmSpec, tile: Tile, epilogue: Epilogue) -> Code:
    """The kernel, and the one that adds what was split."""
    tiles_n, tiles_m = -(-spec.group_filters // tile.bn), -(-spec.rows // tile.bm)
    tiles_k = -(-spec.depth // tile.bk)
    row_step = tile.threads // (tile.bk // spec.vector())
    column_step = tile.threads // (tile.bk // 4)
    values = spec.constants() | {
        "BM": tile.bm,
        "BN": tile.bn,
        "BK": tile.bk,
        "WM": tile.wm,
        "WN": tile.wn,
        "STAGES": tile.stages,
        "TILES_N": tiles_n,
        "TILES_K": tiles_k,
        "TILES_A_SPLIT": -(-tiles_k // tile.splits),
        "SPLITS": tile.splits,
        "VX": spec.vector(),
        "PIECE": 2,
        "PITCH": -(-spec.depth // 4) * 4,
        "ROW_STEP": row_step,
        "COPIES_X": -(-tile.bm // row_step),
        "COLUMN_STEP": column_step,
        "COPIES_W": -(-tile.bn // column_step),
    }
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
    launches = [(name, Launch(grid, (tile.threads, 1, 1), tile.shared_bytes))]
    texts, scratch = [epilogue.function(name), text], 0
    if tile.splits > 1:
        more, launch, scratch = adding(name, spec, tile.splits, parameters, epilogue)
        texts.append(more)
        launches.append((f"{name}_add", launch))
    split = f", depth in {tile.splits}" if tile.splits > 1 else ""
    summary = f"{tile.bm}x{tile.bn}x{tile.bk}, warp {tile.wm}x{tile.wn}{split}"
    return Code("\n".join(texts), tuple(launches), scratch, (), summary)


_TEXT = """\
extern "C" __global__ void __launch_bounds__({threads}, 1) {name}(
    {parameters}) {{
  constexpr int {constants};
  constexpr int ROW = 4 * BK, STAGE = (BM + BN) * ROW;  // bytes
{rows}
  w += (long long)group * (KG * PITCH);
  CN_SHARED(shared);
  const int column_w = thread / (BK / 4), chunk_w = thread % (BK / 4);

  auto place = [](int row, int chunk) {{  // the byte of a chunk of 16 in a tile
    return row * ROW + (BK == 32 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 16;
  }};
  auto copy = [&](int tile, int stage) {{
    unsigned char* const xs = shared + stage * STAGE;
    unsigned char* const ws = xs + BM * ROW;
{term}
#pragma unroll
    for (int i = 0; i < COPIES_X; ++i) {{
      const int row = row_x + i * ROW_STEP;
      if (row >= BM) continue;
      const bool wanted = {inside};
      cn_copy<4 * VX>(xs + place(row, term_x / 4) + term_x % 4 * 4,
                      x + (wanted ? base[i] + step : 0), wanted);
    }}
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {{
      const int column = column_w + i * COLUMN_STEP;
      if (column >= BN) continue;
      const int at = tile * BK + chunk_w * 4, filter = tile_n * BN + column;
      const bool wanted = at < PITCH && filter < KG;
      cn_copy<16>(ws + place(column, chunk_w), w + (wanted ? filter * PITCH + at : 0), wanted);
    }}
  }};

{results}
  const int lane = thread % 32, warp = thread / 32;
  const int row_y = warp % (BM / WM) * WM, column_y = warp / (BM / WM) * WN;
  float sums[WM / 16][WN / 8][4];
#pragma unroll
  for (int i = 0; i < WM / 16; ++i)
#pragma unroll
    for (int j = 0; j < WN / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[i][j][e] = 0.0f;

#pragma unroll
  for (int s = 0; s < STAGES - 1; ++s) {{
    if (first + s < last) copy(first + s, s);
    cn_end_group();
  }}
  int stage = 0, filled = STAGES - 1;
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {{
    cn_wait_groups<STAGES - 2>();  // the oldest tile has arrived, for this thread
    __syncthreads();               // for all; and nobody reads what is filled next any more
    if (tile + STAGES - 1 < last) copy(tile + STAGES - 1, filled);
    cn_end_group();
    const unsigned char* const xs = shared + stage * STAGE;
    const unsigned char* const ws = xs + BM * ROW;
#pragma unroll
    for (int k = 0; k < BK / 8; ++k) {{
      unsigned a[WM / 16][4], b[WN / 16][4];
#pragma unroll
      for (int i = 0; i < WM / 16; ++i) {{
        cn_load_matrices(a[i], xs + place(row_y + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = cn_tf32(a[i][e]);
      }}
#pragma unroll
      for (int j = 0; j < WN / 16; ++j) {{
        const int column = column_y + j * 16 + lane / 16 * 8 + lane % 8;
        cn_load_matrices(b[j], ws + place(column, 2 * k + lane / 8 % 2));
      }}
#pragma unroll
      for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < WN / 8; ++j)
          cn_multiply(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }}
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }}

#pragma unroll
  for (int i = 0; i < WM / 16; ++i)
#pragma unroll
    for (int j = 0; j < WN / 8; ++j) {{
      const int row = tile_m * BM + row_y + i * 16 + lane / 4;
      const int column = tile_n * BN + column_y + j * 8 + lane % 4 * 2;
      finish(row, column, {{sums[i][j][0], sums[i][j][1]}});
      finish(row + 8, column, {{sums[i][j][2], sums[i][j][3]}});
    }}
}}
"""
