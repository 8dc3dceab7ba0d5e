"""Periodic convolutions are diagonal in the Fourier basis.

A convolution with circular boundary and stride 1 multiplies each frequency by a small matrix, its
*symbol* [output channels, input channels], which is the discrete Fourier transform of its response
to an impulse. Eigenvalues, condition number and the inverse follow frequency by frequency, in
O(N log N).

Source: P. Davis, Circulant Matrices, Wiley 1979; for images, P. C. Hansen, J. Nagy, D. O'Leary,
Deblurring Images: Matrices, Spectra, and Filtering, SIAM 2006.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import InputError
from cnnir.evaluate import evaluate
from cnnir.gradient import jvp
from cnnir.ir import Graph
from cnnir.mathematics.operators import graph_of, sole_input, sole_output
from cnnir.mathematics.pieces import piecewise_nodes

_CLOSE = 1e-9
SINGULAR = 1e-12
"""A convolution is singular where its least singular value is below this share of the largest."""


def symbol(source: Any, *shapes: Any) -> np.ndarray:
    """What a periodic convolution does to each frequency: complex [*sizes, outputs, inputs].

    source: a graph or layer [1, C, *sizes] -> [1, O, *sizes] that commutes with circular shifts.
    Raises InputError where it does not, or is not affine.
    """
    graph = graph_of(source, shapes)
    x, y = sole_input(graph).type, sole_output(graph).type
    if x.rank < 3 or x.shape[0] != 1 or y.shape[2:] != x.shape[2:] or y.shape[0] != 1:
        raise InputError(f"{x} -> {y}: wanted one image in, [1, C, *sizes], and one as large out")
    if pieces := piecewise_nodes(graph):
        raise InputError(f"{pieces[0]!r} is not affine: only affine maps have a spectrum")
    ahead = jvp(graph, sole_input(graph).name, outputs=False)
    _check_periodic(ahead, x.shape)
    found = []
    for channel in range(x.shape[1]):
        impulse = np.zeros(x.shape)
        impulse[(0, channel, *(0,) * (x.rank - 2))] = 1
        (response,) = evaluate(ahead, [np.zeros(x.shape), impulse], "f64")
        found.append(np.fft.fftn(response[0], axes=range(1, x.rank - 1)))
    return np.moveaxis(np.array(found), (1, 0), (-2, -1))


def eigenvalues(source: Any, *shapes: Any) -> np.ndarray:
    """The eigenvalues of a periodic convolution: complex [*sizes, channels].

    Entry [k, l] belongs to the frequencies k and l as numpy.fft orders them. The operator has to
    have as many output as input channels. Raises as `symbol` does.
    """
    found = _square(symbol(source, *shapes))
    return found[..., 0] if found.shape[-1] == 1 else np.linalg.eigvals(found)


def condition_number(source: Any, *shapes: Any) -> float:
    """The largest singular value of a periodic convolution over the least; inf if singular."""
    singular = np.linalg.svd(symbol(source, *shapes), compute_uv=False)
    largest, least = float(singular.max()), float(singular.min())
    return largest / least if least > SINGULAR * largest else float("inf")


def solve(source: Any, y: Any, *shapes: Any) -> np.ndarray:
    """The x with source(x) = y, for a periodic convolution, in f64; y is [1, C, *sizes].

    Raises InputError as `symbol` does, and where the convolution is singular, naming the frequency
    that it loses.
    """
    y = np.asarray(y, np.float64)
    graph = graph_of(source, shapes or (y.shape,))
    at = _square(symbol(graph))
    x, result = sole_input(graph).type, sole_output(graph).type
    if y.shape != result.shape:
        raise InputError(f"y has shape {list(y.shape)}, wanted {list(result.shape)}")
    singular = np.linalg.svd(at, compute_uv=False)
    if singular.min() <= SINGULAR * singular.max():
        lost = np.unravel_index(singular[..., -1].argmin(), at.shape[:-2])
        raise InputError(
            f"the convolution is singular: it loses frequency {tuple(int(k) for k in lost)}, "
            f"where its least singular value is {singular.min():.1e} of {singular.max():.1e}"
        )
    (shift,) = evaluate(graph, [np.zeros(x.shape)], "f64")
    axes = range(1, x.rank - 1)
    spectrum = np.moveaxis(np.fft.fftn((y - shift)[0], axes=axes), 0, -1)[..., None]
    found = np.moveaxis(np.linalg.solve(at, spectrum)[..., 0], -1, 0)
    return np.fft.ifftn(found, axes=axes).real[None]


def _check_periodic(ahead: Graph, shape: tuple[int, ...]) -> None:
    """Shifting the input round has to shift the output as far, along each axis."""
    direction = np.random.default_rng(0).standard_normal(shape)
    (there,) = evaluate(ahead, [np.zeros(shape), direction], "f64")
    for axis in range(2, len(shape)):
        moved = np.roll(direction, 1, axis)
        (result,) = evaluate(ahead, [np.zeros(shape), moved], "f64")
        if np.abs(result - np.roll(there, 1, axis)).max() > _CLOSE * np.abs(there).max(initial=0):
            raise InputError(
                f"the operator is not periodic along axis {axis}: wanted boundary 'circular' "
                "and stride 1"
            )


def _square(found: np.ndarray) -> np.ndarray:
    if found.shape[-1] != found.shape[-2]:
        raise InputError(
            f"the operator makes {found.shape[-2]} channels of {found.shape[-1]}, wanted as many"
        )
    return found
