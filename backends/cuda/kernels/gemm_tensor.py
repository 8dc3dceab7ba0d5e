"""Products on tensor cores: mma.sync, fed by asynchronous copies and ldmatrix (sm_80 on).

Operands are f16 or bf16, or f32 rounded to tf32 (10 bits of mantissa); products are exact and
summed in f32. To a kernel that is a number of bytes and the name of an instruction. Tiles of x and
w lie in shared memory as rows of terms, in STAGES buffers that asynchronous copies fill ahead.
Within a row, chunks of 16 bytes are permuted by the row's number, so that the eight rows that
ldmatrix reads at once lie in different banks. A warp computes WM x WN results, 16 x 8 at an
instruction. At the end a warp puts 16 rows of sums at a time in shared memory, from where its
threads take neighbours, to store them together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.backends.cuda.kernels import gemm
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.layout import stored

CHUNK, ROW = 16, 128
"""Bytes that ldmatrix reads of a row of terms, and of the longer rows."""


@dataclass(frozen=True)
class Tile(gemm.Tile):
    """A warp computes wm x wn results; rows of terms in shared memory have 64 or 128 bytes."""

    wm: int
    wn: int
    row: int
    stages: int

    @property
    def threads(self) -> int:
        return 32 * (self.bm // self.wm) * (self.bn // self.wn)

    @property
    def shared_bytes(self) -> int:
        return self.stages * (self.bm + self.bn) * self.row

    def __str__(self) -> str:
        return f"warp {self.wm}x{self.wn}"


class TensorGemm(gemm.Gemm):
    """Operands of a dtype on tensor cores, sums in f32. size: bytes of an operand."""

    widest, fastest = 8, "depth"
    tiles = (
        Tile(128, 128, 0.7, 1, 64, 32, 64, 4),
        Tile(128, 64, 0.55, 1, 32, 32, 64, 4),
        Tile(64, 64, 0.45, 1, 32, 32, ROW, 3),
        Tile(64, 32, 0.3, 1, 32, 16, ROW, 3),
        Tile(32, 32, 0.2, 1, 16, 16, ROW, 3),
    )

    def __init__(self, dtype: str) -> None:
        self.dtype = self.rate = dtype
        self.size = 4 if dtype == "tf32" else 2
        self.storage = "" if dtype == "tf32" else dtype
        self.kind, self.order = f"gemm_{dtype}", f"{dtype}, depth fastest"

    def reject(self, spec: GemmSpec) -> str | None:
        if reason := spec.reject():
            return reason
        if not spec.packed and (spec.groups > 1 or spec.depth * self.size % CHUNK):
            return f"weights of run time in {spec.groups} groups of {spec.depth} terms"
        if spec.phase and spec.group_channels * self.size % CHUNK:
            return f"a part of the taps, {spec.group_channels} channels each: no whole chunks"
        if spec.vector(self.size) * self.size < 4:
            return f"{spec.group_channels} channels of 16 bits, copies take two at once"
        return None

    def pack(self, w: np.ndarray, spec: GemmSpec) -> np.ndarray:
        """Rows of whole chunks of 16 bytes."""
        rows = spec.depth_fastest(w, CHUNK // self.size)
        return stored(rows, self.storage) if self.storage else rounded(rows)

    def terms(self, tile: Tile) -> int:  # type: ignore[override]
        return tile.row // self.size

    def constants(self, spec: GemmSpec, tile: Tile) -> dict[str, int]:  # type: ignore[override]
        vector = spec.vector(self.size)
        row_step = tile.threads // (self.terms(tile) // vector)
        column_step = tile.threads // (tile.row // CHUNK)
        chunk = CHUNK // self.size
        return {
            "SIZE": self.size,
            "ROW": tile.row,
            "WM": tile.wm,
            "WN": tile.wn,
            "STAGES": tile.stages,
            "PACKED": int(spec.packed),
            "VX": vector,
            "CHUNK": chunk,
            "PITCH": -(-spec.whole_depth // chunk) * chunk,
            "ROW_STEP": row_step,
            "COPIES_X": -(-tile.bm // row_step),
            "COLUMN_STEP": column_step,
            "COPIES_W": -(-tile.bn // column_step),
        }

    def text(self, tile: gemm.Tile) -> str:
        return _BEFORE + self.loop() + _AFTER

    def loop(self) -> str:
        """The text that fills `sums`, by `copy(tile of terms, stage)`."""
        x, w = (_ROUNDING_X, _ROUNDING_W) if self.dtype == "tf32" else ("", "")
        filled = _LOOP.replace("{multiply}", f"cn_multiply_{self.dtype}")
        return filled.replace("{rounding_x}", x).replace("{rounding_w}", w)


def rounded(array: np.ndarray) -> np.ndarray:
    """To the nearest tf32, ties away from zero; inf and NaN as they are."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    finite = bits & 0x7F800000 != 0x7F800000
    return np.where(finite, bits + np.uint32(0x1000) & np.uint32(0xFFFFE000), bits).view(np.float32)


_ROUNDING_X = """\
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = cn_tf32(a[i][e]);
"""

_ROUNDING_W = """\
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (!PACKED) b[j][e] = cn_tf32(b[j][e]);
"""

_BEFORE = """\
extern "C" __global__ void __launch_bounds__({threads}, 1) {name}(
    {parameters}) {{
  constexpr int {constants};
  constexpr int STAGE = (BM + BN) * ROW;  // bytes
{rows}
  if (!SHARED_W) w += (long long)matrix * (GROUPS * KG * PITCH);
  w += (long long)group * (KG * PITCH);
  CN_SHARED(shared);
  const int column_w = thread / (ROW / 16), chunk_w = thread % (ROW / 16);

  auto place = [](int row, int chunk) {{  // the byte of a chunk of 16 in a tile
    return row * ROW + (ROW == 128 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 16;
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
      cn_copy<SIZE * VX>(xs + place(row, term_x / CHUNK) + term_x % CHUNK * SIZE,
                         x + (wanted ? base[i] + step : 0), wanted);
    }}
#pragma unroll
    for (int i = 0; i < COPIES_W; ++i) {{
      const int column = column_w + i * COLUMN_STEP;
      if (column >= BN) continue;
      const int depth = tile * BK + chunk_w * CHUNK, filter = tile_n * BN + column;
      const bool wanted = depth < DEPTH && filter < KG;
      const int from = wanted ? filter * PITCH + {depth_of_w} : 0;
      cn_copy<16>(ws + place(column, chunk_w), w + from, wanted);
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

"""

_LOOP = """\
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
    for (int k = 0; k < ROW / 32; ++k) {{
      unsigned a[WM / 16][4], b[WN / 16][4];
#pragma unroll
      for (int i = 0; i < WM / 16; ++i) {{
        cn_load_matrices(a[i], xs + place(row_y + i * 16 + lane % 16, 2 * k + lane / 16));
{rounding_x}      }}
#pragma unroll
      for (int j = 0; j < WN / 16; ++j) {{
        const int column = column_y + j * 16 + lane / 16 * 8 + lane % 8;
        cn_load_matrices(b[j], ws + place(column, 2 * k + lane / 8 % 2));
{rounding_w}      }}
#pragma unroll
      for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < WN / 8; ++j)
          {multiply}(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }}
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }}
"""

_AFTER = """\

  __syncthreads();  // nobody reads tiles any more
  constexpr int PITCH_Y = WN + 8, PIECES = WN / PIECE;  // of rows that meet different banks
  float* const mine = (float*)shared + warp * 16 * PITCH_Y;
#pragma unroll
  for (int i = 0; i < WM / 16; ++i) {{
#pragma unroll
    for (int j = 0; j < WN / 8; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {{
        const cn_several<float, 2> pair = {{sums[i][j][2 * h], sums[i][j][2 * h + 1]}};
        cn_write(mine + (lane / 4 + 8 * h) * PITCH_Y + j * 8 + lane % 4 * 2, pair);
      }}
    __syncwarp();
#pragma unroll
    for (int k = 0; k < PIECES / 2; ++k) {{
      const int at = 32 * k + lane, row = at / PIECES, column = at % PIECES * PIECE;
      finish(tile_m * BM + row_y + i * 16 + row, tile_n * BN + column_y + column,
             cn_read<PIECE>(mine + row * PITCH_Y + column));
    }}
    __syncwarp();
  }}
}}
"""
