"""Constant weights, transformed and packed for Winograd convolution, see winograd.py.

What is known only at run time goes through winograd_pack.py instead.
"""

from __future__ import annotations

import numpy as np

from cnnir.backends.llvm.kernels.spec import ConvSpec, shares, storage
from cnnir.backends.llvm.kernels.winograd_tiling import Geometry, Tiling


def packed_size(spec: ConvSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    g = Geometry(spec, tiling)
    return g.products * spec.out_blocks * spec.lanes * g.channels


def pack(
    weights: np.ndarray, spec: ConvSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[O,C,*kernel], transformed, in the order in which the kernel reads it.

    [chunk][product][tile of blocks][tap of depth][channel][block in the tile][V]; filters beyond
    the last are zero. Tile by tile, in f64: a tile is some megabytes.
    """
    g, lanes, channels = Geometry(spec, tiling), spec.lanes, Geometry(spec, tiling).channels
    rows, columns = (t.taps for t in g.transforms)
    taps = weights.reshape(spec.filters, -1, g.depth.taps, rows.shape[1], columns.shape[1])
    filters = taps.swapaxes(1, 2).reshape(spec.filters, channels, *taps.shape[3:])
    packed = storage(out, packed_size(spec, tiling))
    first = 0
    for chunk in packed.reshape(g.chunks, g.products, -1):
        position = 0
        for count in shares(tiling.chunk, tiling.blocks):
            size = channels * count * lanes
            tile = filters[first * lanes : (first + count) * lanes]
            chunk[:, position : position + size] = _transformed(tile, rows, columns, count * lanes)
            position, first = position + size, first + count
    return packed


def _transformed(
    filters: np.ndarray, rows: np.ndarray, columns: np.ndarray, width: int
) -> np.ndarray:
    """rows x w x columns^T for w[O,C,*kernel]: [product][channel, filter], `width` filters."""
    count, channels, *taps = filters.shape
    w = np.zeros((*taps, channels, width))
    w[..., :count] = filters.transpose(2, 3, 1, 0)
    half = _combined(columns, w.swapaxes(0, 1))
    return _combined(rows, half.swapaxes(0, 1)).reshape(len(rows) * len(columns), -1)


def _combined(matrix: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """matrix x parts, along the first axis.

    One product and one sum after another, since a library's matrix product may round differently
    for other widths, and so for other numbers of threads.
    """
    sums = np.zeros((len(matrix), *parts.shape[1:]))
    term = np.empty(parts.shape[1:])
    for row, total in zip(matrix, sums, strict=True):
        for factor, part in zip(row, parts, strict=True):
            if factor:
                total += np.multiply(part, factor, out=term)
    return sums
