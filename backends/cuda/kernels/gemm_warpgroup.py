"""Products on tensor cores that four warps ask for together: wgmma (sm_90a).

Tiles of x and w come to shared memory as in `gemm_tensor.py`, whose permutation of chunks is the
128-byte swizzle that wgmma knows. From there the tensor cores read them by themselves, while the
threads go on: one tile is multiplied as the copies for another are issued. What asynchronous copies
brought is shown to the tensor cores by a fence. tf32 is left to mma.sync: wgmma would cut x off
where mma.sync's operands are rounded on their way, and the error would add up from layer to layer.
"""

from __future__ import annotations

from cnnir.backends.cuda.kernels.gemm_tensor import ROW, TensorGemm, Tile

STAGES = 4


def _tile(bm: int, bn: int, share: float) -> Tile:
    """A warp has 16 of its warpgroup's 64 rows, and all columns."""
    return Tile(bm, bn, share, 1, 16, bn, ROW, STAGES)


class WarpgroupGemm(TensorGemm):
    """Operands of 16 bits on tensor cores of sm_90a, sums in f32."""

    tiles = (
        _tile(128, 256, 0.75),
        _tile(128, 128, 0.7),
        _tile(128, 64, 0.5),
        _tile(64, 128, 0.5),
        _tile(64, 64, 0.35),
    )

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype)
        self.kind, self.rate = f"wgmma_{dtype}", f"wgmma {dtype}"

    def loop(self) -> str:
        return _LOOP.replace("{multiply}", f"cn_products_{self.dtype}<BN>")


_LOOP = """\
  constexpr int AHEAD = STAGES - 2;  // tiles; another is multiplied, and one more may still be
#pragma unroll
  for (int s = 0; s < AHEAD; ++s) {{
    if (first + s < last) copy(first + s, s);
    cn_end_group();
  }}
  int stage = 0, filled = AHEAD;
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {{
    cn_wait_groups<AHEAD - 1>();  // the oldest tile has arrived, for this thread
    cn_show_copies();
    __syncthreads();  // it has for all, and nobody multiplies what is filled next any more
    const unsigned char* const xs = shared + stage * STAGE + warp / 4 * 64 * ROW;
    const unsigned char* const ws = shared + stage * STAGE + BM * ROW;
    cn_begin_products();
#pragma unroll
    for (int k = 0; k < ROW / 32; ++k)
      {multiply}(sums[0], cn_rows(xs + 32 * k), cn_rows(ws + 32 * k));
    cn_end_products();
    cn_wait_products<1>();  // the tile before this one has been multiplied
    if (tile + AHEAD < last) copy(tile + AHEAD, filled);
    cn_end_group();
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }}
  cn_wait_products<0>();
"""
