"""What FFT convolution multiplies with, packed once: transformed weights, and tables of factors."""

from __future__ import annotations

import numpy as np

from cnnir.backends.llvm.kernels.fft_tiling import Geometry, Tiling
from cnnir.backends.llvm.kernels.spec import ConvSpec, shares, storage


def packed_size(spec: ConvSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes: transformed weights, and the transforms' tables."""
    g = Geometry(spec, tiling)
    return g.weights + g.corrections + sum(g.tables)


def pack(
    weights: np.ndarray, spec: ConvSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """The conjugate values of w[O,C,*kernel], as they are multiplied, and the factors behind them.

    [filters of a block][V rows][column][channel of the group][filter][real, imaginary][V]; divided
    by what the transforms multiply with. In f64. The taps of corrected results come next.
    """
    g = Geometry(spec, tiling)
    packed = storage(out, packed_size(spec, tiling))
    filters = weights.reshape(spec.filters, g.channels, *spec.kernel)
    first = 0
    for count in shares(tiling.chunk, g.block) * (spec.filters // tiling.chunk):
        block = filters[first : first + count].astype(np.float64)
        values = np.stack([_transformed(w, g) for w in block.reshape(-1, *spec.kernel)])
        values = values.reshape(count, g.channels, -1, 2, spec.lanes).transpose(2, 1, 0, 3, 4)
        start = first * g.channels * 2 * spec.lanes * g.vectors
        packed[start : start + values.size].reshape(values.shape)[...] = values
        first += count
    tables = [transform.table for transform in g.transforms]
    if g.twisted:
        tables.insert(0, _lanes_last(_twist(g).T, spec.lanes).reshape(-1))
    packed[g.weights :] = np.concatenate([_last_taps(filters, g), *tables])
    return packed


def _twist(g: Geometry) -> np.ndarray:
    """What makes a row of values of the first axis, x^columns = exp(2 pi i phase), a cyclic one."""
    phases, columns = g.transforms[0].phases[-1], g.tiling.columns
    return np.exp(2j * np.pi * phases[:, None] * np.arange(columns) / columns)


def _last_taps(filters: np.ndarray, g: Geometry) -> np.ndarray:
    """The last columns of w[O,C,*kernel], from the last one on: conjugate values of the first axis.

    [filter][V rows][column][channel of the group][real, imaginary][V], flat.
    """
    if not g.short:
        return np.zeros(0)
    axis, scales, lanes = g.axes[-1], g.transforms[0].scales[:, None], g.spec.lanes
    columns = range(axis.span(1) - 1, axis.span(1) - 1 - g.short, -axis.dilation)
    kernels = filters.reshape(-1, *g.spec.kernel).astype(np.float64)
    values = [_lanes_last(_along_first(w, g)[:, columns].conj() * scales, lanes) for w in kernels]
    split = np.stack(values).reshape(g.spec.filters, g.channels, -1, len(columns), 2, lanes)
    return split.transpose(0, 2, 3, 1, 4, 5).reshape(-1)


def _along_first(taps: np.ndarray, g: Geometry) -> np.ndarray:
    """The values of a kernel along the first axis: [row, column], rows in the transform's order."""
    real = np.zeros(g.sides)
    real[tuple(slice(None, axis.span(1), axis.dilation) for axis in g.axes)] = taps
    real = real.reshape(-1, g.tiling.columns)
    seen = real[: np.flatnonzero(real.any(1)).max(initial=0) + 1]
    turns = g.transforms[0].phases[-1][:, None] * np.arange(len(seen))
    found: np.ndarray = np.exp(2j * np.pi * turns) @ seen
    return found


def _transformed(taps: np.ndarray, g: Geometry) -> np.ndarray:
    """The conjugate values of a kernel in the orders of the transforms, V rows together."""
    half = _along_first(taps, g)
    if g.twisted:
        half = half * _twist(g)
    values = np.fft.fft(half.conj(), axis=1)[:, g.transforms[1].order]
    values *= g.transforms[0].scales[:, None] / g.tiling.columns
    return _lanes_last(values, g.spec.lanes)


def _lanes_last(values: np.ndarray, lanes: int) -> np.ndarray:
    """[rows, columns] of complex numbers as [V rows][column][real, imaginary][V]."""
    whole = np.pad(values, ((0, -len(values) % lanes), (0, 0)))
    split = whole.reshape(-1, lanes, values.shape[1]).transpose(0, 2, 1)
    return np.stack([split.real, split.imag], 2)
