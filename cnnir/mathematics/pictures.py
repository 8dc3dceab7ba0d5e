"""Pictures of operators and of nets as maps, by matplotlib (extra `plot`): each gives a Figure.

`figure.savefig("matrix.png")` writes one; notebooks show them. Nothing here opens a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import InputError, UnsupportedError
from cnnir.mathematics.operators import AffineOperator
from cnnir.mathematics.plane import Plane, plane_regions
from cnnir.mathematics.spectrum import eigenvalues

try:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.path import Path
except ImportError:  # an optional dependency
    raise UnsupportedError("pictures need matplotlib: pip install 'cnnir[plot]'") from None


def matrix(operator: AffineOperator) -> Figure:
    """The entries of an operator's matrix: blue below 0, red above, white where there is none."""
    dense = operator.matrix.toarray()
    largest = np.abs(dense).max(initial=0) or 1
    figure = Figure((5, 5 * max(0.3, dense.shape[0] / dense.shape[1])), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(dense, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_title(operator.structure.name, fontsize=10, wrap=True)
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


def linear_regions(
    source: Any, low: float = -3, high: float = 3, points: int = 300, plane: Plane | None = None
) -> Figure:
    """The linear regions of a net of two inputs, [1, 2] -> [1, outputs], each in a colour, and the
    lines on which its first output is constant.

    plane: as of `plane_regions`, for nets of more inputs. points: for the lines, along an axis.
    """
    regions = plane_regions(source, low, high, plane)
    figure = Figure((5, 5), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["Pastel1"](np.random.default_rng(0).random(len(regions)))
    corners = [region.corners for region in regions]
    axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", lw=0.3))
    line = np.linspace(low, high, points)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    value = np.full(len(grid), np.nan)
    for region in regions:
        inside = Path(region.corners).contains_points(grid, radius=1e-9)
        value[inside] = grid[inside] @ region.matrix[0] + region.shift[0]
    height = value.reshape(points, points)
    axes.contour(line, line, height, 12, colors="#1f4e79", linewidths=0.7)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_title(f"{len(regions)} regions; lines: the first output is constant", fontsize=10)
    if plane is None:
        axes.set(xlabel="first input", ylabel="second input")
    return figure
