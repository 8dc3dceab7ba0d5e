"""Convolutions of few channels a group, depthwise ones above all: sums in registers, no matrices.

A thread has V neighbouring channels of the result and TH x TW positions of it. It goes through the
rows of the image that these need, reads each pixel once, as vectors of 16 bytes, and adds it to all
sums that it belongs to. Neighbouring threads have neighbouring channels, then neighbouring
positions: what several of them read comes from the L1 cache, so that memory sees each pixel about
once. Everything is computed in f32, whatever images are stored as.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gather import constants, signature
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.operations import from_storage
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import BANDWIDTH, RATES, CudaTarget

THREADS = 128
MOST_INPUTS = 16
"""Channels of a pixel that a thread keeps."""
MOST_REGISTERS = 96
"""For sums and pixels of a row; addresses and filters come on top."""
SHARE = 0.4
"""Part of the f32 peak that the sums reach."""


@dataclass(frozen=True)
class Tile:
    """What a thread computes: channels, and rows and columns of positions."""

    channels: int
    rows: int
    columns: int

    def __str__(self) -> str:
        return f"thread {self.rows}x{self.columns}x{self.channels}"


POSITIONS = ((2, 4), (1, 4), (1, 2), (1, 1))
"""Rows and columns of a thread, best first."""


class Depthwise:
    """Images stored as f32 or, where `storage` says so, in 16 bits."""

    kind, order, dtype = "depthwise", "taps, channels, filters", "f32"
    fastest = "filters"

    def __init__(self, storage: str = "") -> None:
        self.storage, self.size = storage, 2 if storage else 4

    def reject(self, spec: GemmSpec) -> str | None:
        """Why this template cannot serve, or None."""
        if reason := spec.too_large():
            return reason
        if spec.groups == 1 or min(spec.group_channels, spec.group_filters) >= 8:
            return "groups have many channels"
        if not spec.packed:
            return "weights are known only at run time"
        if self.choose_channels(spec) is None:
            return f"groups of {spec.group_channels} channels take too many registers"
        return None

    def choose_channels(self, spec: GemmSpec) -> int | None:
        """Channels of a thread: whole groups or parts of one, up to 16 bytes."""
        each = spec.group_filters
        for v in (16 // self.size, 4, 2, 1):
            whole = spec.filters % v == 0 and (v % each == 0 or each % v == 0)
            if whole and _inputs(spec, v) <= MOST_INPUTS:
                return v
        return None

    def ranked(self, spec: GemmSpec, target: CudaTarget) -> list[tuple[Tile, float]]:
        """The one tile there is to choose."""
        return [self.choose(spec, target)]

    def choose(self, spec: GemmSpec, target: CudaTarget) -> tuple[Tile, float]:
        """As many positions as registers hold, unless too few threads remain; predicted seconds."""
        v = self.choose_channels(spec)
        assert v is not None
        fitting = [
            Tile(v, *positions)
            for positions in POSITIONS
            if self.registers(spec, Tile(v, *positions)) <= MOST_REGISTERS or positions == (1, 1)
        ]
        full = [t for t in fitting if _threads(spec, t) >= 4 * THREADS * target.processors]
        tile = (full or fitting[-1:])[0]
        moved = self.size * (spec.images * spec.channels * spec.sizes[0] * spec.sizes[1])
        moved += self.size * spec.rows * spec.filters
        blocks = -(-_threads(spec, tile) // THREADS)
        busy = min(1.0, blocks / target.processors) * target.processors
        return tile, max(moved / BANDWIDTH, spec.flops / (SHARE * RATES["f32"] * busy))

    def registers(self, spec: GemmSpec, tile: Tile) -> int:
        """Of sums and of the pixels of a row."""
        row = _span(spec, tile)[1] * _inputs(spec, tile.channels) * self.size // 4
        return tile.rows * tile.columns * tile.channels + row

    def pack(self, w: np.ndarray, spec: GemmSpec) -> np.ndarray:
        """[*kernel, channel in its group, filter] of w[f, c, *kernel]."""
        kernel = w.reshape(spec.filters, spec.group_channels, *spec.kernel)
        return np.ascontiguousarray(kernel.transpose(2, 3, 1, 0), np.float32)

    def emit(self, name: str, spec: GemmSpec, tile: Tile, epilogue: Epilogue) -> Code:
        """The kernel."""
        inputs = _inputs(spec, tile.channels)
        at_once = next(n for n in (8, 4, 2, 1) if inputs % n == 0 and n * self.size <= 16)
        rows, columns = _span(spec, tile)
        values = spec.constants() | {
            "KERNEL_H": spec.kernel[0],
            "V": tile.channels,
            "TH": tile.rows,
            "TW": tile.columns,
            "TILES_H": -(-spec.out[0] // tile.rows),
            "TILES_W": -(-spec.out[1] // tile.columns),
            "IN": inputs,
            "READ": at_once,
            "ROWS_IN": rows,
            "COLUMNS_IN": columns,
        }
        parameters = signature(epilogue, self.storage, "f32")
        pixel = "pixels[j * STRIDE_W + s * DILATION_W][k / READ].at[k % READ]"
        text = _TEXT.format(
            name=name,
            threads=THREADS,
            parameters=",\n    ".join(parameters),
            constants=constants(values),
            type="unsigned short" if self.storage else "float",
            pixel=from_storage(self.storage or "f32", pixel),
            stored=epilogue.call(name, "sums[i][j]", "row", "column"),
        )
        blocks = -(-_threads(spec, tile) // THREADS)
        launch = Launch((blocks, 1, 1), (THREADS, 1, 1))
        function = epilogue.function(name, tile.channels)
        return Code("\n".join([function, text]), ((name, launch),), summary=str(tile))


def _inputs(spec: GemmSpec, v: int) -> int:
    """Channels of a pixel that v channels of the result need."""
    return -(-v // spec.group_filters) * spec.group_channels


def _span(spec: GemmSpec, tile: Tile) -> tuple[int, int]:
    """Rows and columns of the image that the positions of a thread need."""
    return tuple(
        (positions - 1) * stride + (taps - 1) * dilation + 1
        for positions, stride, taps, dilation in zip(
            (tile.rows, tile.columns), spec.stride, spec.kernel, spec.dilation, strict=True
        )
    )  # type: ignore[return-value]


def _threads(spec: GemmSpec, tile: Tile) -> int:
    """Of the grid, without those that fill the last block."""
    positions = -(-spec.out[0] // tile.rows) * -(-spec.out[1] // tile.columns)
    return spec.images * positions * spec.filters // tile.channels


_TEXT = """\
extern "C" __global__ void __launch_bounds__({threads}) {name}(
    {parameters}) {{
  constexpr int {constants};
  const int index = blockIdx.x * {threads} + threadIdx.x, tile = index / (K / V);
  if (index >= IMAGES * TILES_H * TILES_W * (K / V)) return;
  const int column = index % (K / V) * V, channel = column / KG * CG;
  const int right = tile % TILES_W * TW, down = tile / TILES_W % TILES_H * TH;
  const int image = tile / (TILES_W * TILES_H);
  const int top = down * STRIDE_H - TOP, left = right * STRIDE_W - LEFT;
  cn_several<float, V> sums[TH][TW] = {{}};
#pragma unroll
  for (int r = 0; r < ROWS_IN; ++r) {{
    bool read = false;  // whether a position needs the row
#pragma unroll
    for (int i = 0; i < TH; ++i) {{
      const int u = r - i * STRIDE_H;
      read |= u >= 0 && u % DILATION_H == 0 && u / DILATION_H < KERNEL_H;
    }}
    if (!read) continue;
    const bool inside = (unsigned)(top + r) < (unsigned)H;
    const int start = ((image * H + top + r) * W + left) * C + channel;
    cn_several<{type}, READ> pixels[COLUMNS_IN][IN / READ] = {{}};
#pragma unroll
    for (int q = 0; q < COLUMNS_IN; ++q)
      if (inside && (unsigned)(left + q) < (unsigned)W)
#pragma unroll
        for (int k = 0; k < IN; k += READ)
          pixels[q][k / READ] = cn_read<READ>(x + start + q * C + k);
#pragma unroll
    for (int i = 0; i < TH; ++i) {{
      const int u = r - i * STRIDE_H;
      if (u < 0 || u % DILATION_H != 0 || u / DILATION_H >= KERNEL_H) continue;
#pragma unroll
      for (int s = 0; s < S; ++s)
#pragma unroll
        for (int c = 0; c < CG; ++c) {{
          const int term = (u / DILATION_H * S + s) * CG + c;
          const auto filter = cn_read<V>(w + term * K + column);
#pragma unroll
          for (int j = 0; j < TW; ++j)
#pragma unroll
            for (int v = 0; v < V; ++v) {{
              const int k = v / KG * CG + c;
              sums[i][j].at[v] += {pixel} * filter.at[v];
            }}
        }}
    }}
  }}
#pragma unroll
  for (int i = 0; i < TH; ++i)
#pragma unroll
    for (int j = 0; j < TW; ++j) {{
      if (down + i >= OUT_H || right + j >= OUT_W) continue;
      const int row = (image * OUT_H + down + i) * OUT_W + right + j;
      cn_write(y + row * K + column, {stored});
    }}
}}
"""
