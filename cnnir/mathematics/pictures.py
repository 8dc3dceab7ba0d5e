"""Pictures of operators and of nets as maps, by matplotlib (extra `plot`): each gives a Figure.

`figure.savefig("matrix.png")` writes one; notebooks show them. Nothing here opens a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import InputError, UnsupportedError
from cnnir.mathematics.operators import AffineOperator, graph_of
from cnnir.mathematics.regions import Piecewise
from cnnir.mathematics.spectrum import eigenvalues

try:
    from matplotlib.figure import Figure
except ImportError:  # an optional dependency
    raise UnsupportedError("pictures need matplotlib: pip install 'cnnir[plot]'") from None


def matrix(operator: AffineOperator) -> Figure:
    """The entries of an operator's matrix: blue below 0, red above, white where there is none."""
    dense = operator.matrix.toarray()
    largest = np.abs(dense).max(initial=0) or 1
    figure = Figure((5, 5 * max(0.3, dense.shape[0] / dense.shape[1])), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(dense, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_title(operator.structure.name, fontsize=10)
    axes.set(xlabel="input", ylabel="output")
    figure.colorbar(shown, shrink=0.7)
    return figure


def eigenvalue_map(source: Any, *shapes: Any) -> Figure:
    """The eigenvalues of a periodic convolution of one channel: in the complex plane, and their
    absolute values over the frequencies, 0 in the middle."""
    values = eigenvalues(source, *shapes)
    if values.ndim != 3 or values.shape[2] != 1:
        raise InputError(f"eigenvalues {list(values.shape)}, wanted an image of one channel")
    figure = Figure((9, 4), layout="constrained")
    plane, frequencies = figure.subplots(1, 2)
    plane.axhline(0, color="#9aa5b1", lw=0.6)
    plane.axvline(0, color="#9aa5b1", lw=0.6)
    plane.plot(values.real.ravel(), values.imag.ravel(), ".", color="#1f4e79", ms=4)
    reach = 1.1 * float(np.abs(values).max()) or 1.0
    plane.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    plane.set(xlim=(-reach, reach), ylim=(-reach, reach))
    height, width = values.shape[:2]
    left, top = -(width // 2) - 0.5, -(height // 2) - 0.5
    sides = (left, left + width, top + height, top)
    shown = frequencies.imshow(np.fft.fftshift(np.abs(values[..., 0])), cmap="magma", extent=sides)
    frequencies.set(xlabel="frequency along the rows", ylabel="frequency along the columns")
    figure.colorbar(shown, shrink=0.8, label="absolute value")
    return figure


def linear_regions(source: Any, low: float = -3, high: float = 3, points: int = 200) -> Figure:
    """The linear regions of a net of two inputs, [1, 2] -> [1, outputs], each in a colour, and the
    lines on which its first output is constant."""
    net = Piecewise(graph_of(source, ((1, 2),)))
    if net.input.type.shape != (1, 2):
        raise InputError(f"the net's input is {net.input.type}, wanted [1, 2]")
    line = np.linspace(low, high, points)
    colour, value = np.empty((points, points)), np.empty((points, points))
    known: dict[bytes, float] = {}
    rng = np.random.default_rng(0)
    for row, y in enumerate(line):
        for column, x in enumerate(line):
            point = np.array([[x, y]])
            pieces = net.pattern(point).values()
            key = b"".join(np.packbits(p).tobytes() for several in pieces for p in several)
            colour[row, column] = known.setdefault(key, rng.random())
            value[row, column] = net(point).flat[0]
    figure = Figure((5, 5), layout="constrained")
    axes = figure.subplots()
    sides = (low, high, low, high)
    axes.imshow(colour, cmap="Pastel1", extent=sides, origin="lower", interpolation="nearest")
    axes.contour(line, line, value, 12, colors="#1f4e79", linewidths=0.7)
    axes.set_title(f"{len(known)} regions met by {points} x {points} points", fontsize=10)
    axes.set(xlabel="first input", ylabel="second input")
    return figure
