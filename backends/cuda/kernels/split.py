"""Sums whose terms several blocks share: how many, and the kernel that adds their parts in order.

The order is fixed by shapes, so the same bits come out in every run.
"""

from __future__ import annotations

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gather import row_of_all
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.target import CudaTarget

THREADS = 256
MOST = 16
"""Parts of a sum at most."""
LEAST_TILES = 4
"""Tiles of terms that a part has at least."""


def most_splits(spec: GemmSpec, bm: int, bn: int, bk: int, target: CudaTarget) -> list[int]:
    """Numbers of parts worth considering: more only where a device would not be full."""
    across = -(-spec.group_filters // bn) * spec.groups * spec.batch
    blocks = across * -(-spec.rows // bm)
    tiles = -(-spec.depth // bk)
    useful = min(MOST, tiles // LEAST_TILES, 2 * target.processors // blocks)
    return [1, *(n for n in (2, 3, 4, 6, 8, 12, 16) if n <= useful)]


def adding(
    name: str,
    spec: GemmSpec,
    splits: int,
    parameters: list[str],
    epilogue: Epilogue,
    piece: int,
) -> tuple[str, Launch, int]:
    """(text of name_add, its launch, bytes of scratch memory for the parts).

    piece: neighbouring results that a thread adds up.
    """
    size = spec.batch * spec.rows * spec.filters
    text = _TEXT.format(
        name=name,
        parameters=",\n    ".join(parameters),
        threads=THREADS,
        size=size,
        columns=spec.filters,
        splits=splits,
        piece=piece,
        of_all=row_of_all(spec, "row"),
        stored=epilogue.call(name, "sums", "of_all", "column"),
    )
    launch = Launch((-(-size // piece // THREADS), 1, 1), (THREADS, 1, 1))
    return text, launch, 4 * size * splits


_TEXT = """\
extern "C" __global__ void __launch_bounds__({threads}) {name}_add(
    {parameters}) {{
  const long long at = ((long long)blockIdx.x * {threads} + threadIdx.x) * {piece};
  if (at >= {size}) return;
  const int row = (int)(at / {columns}), column = (int)(at % {columns});
  const float* const parts = (const float*)scratch;
  auto sums = cn_read<{piece}>(parts + at);
#pragma unroll
  for (int k = 1; k < {splits}; ++k) {{
    const auto more = cn_read<{piece}>(parts + k * {size}LL + at);
#pragma unroll
    for (int e = 0; e < {piece}; ++e) sums.at[e] += more.at[e];
  }}
  const int of_all = {of_all};
  cn_write(y + (long long)of_all * {columns} + column, {stored});
}}
"""
