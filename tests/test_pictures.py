"""Pictures of operators and of nets as maps hold what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.mathematics import kernels

pytest.importorskip("matplotlib")

from cnnir.mathematics import pictures


def filtered(kernel: np.ndarray, boundary: str, size: int) -> nn.Module:
    layer = nn.Conv(1, kernel.shape, padding="same", boundary=boundary, bias=False)
    layer.build((1, 1, size, size)).params["weight"] = kernels.as_weight(kernel)
    return layer


def test_a_matrix_is_drawn_entry_by_entry() -> None:
    operator = cnnir.as_matrix(filtered(kernels.sobel(0), "replicate", 5))
    axes = pictures.matrix(operator).axes[0]
    shown = axes.images[0]
    np.testing.assert_allclose(np.asarray(shown.get_array()), operator.matrix.toarray())
    low, high = shown.get_clim()
    assert low == -high  # white is 0
    assert axes.get_title() == operator.structure.name


def test_eigenvalues_lie_where_they_are() -> None:
    layer = filtered(kernels.sobel(0) + kernels.laplacian(), "circular", 8)
    plane, frequencies, _ = pictures.eigenvalue_map(layer).axes
    values = cnnir.eigenvalues(layer)[..., 0]
    points = plane.lines[-1].get_xydata()
    np.testing.assert_allclose(points, np.stack([values.real.ravel(), values.imag.ravel()], 1))
    sizes = np.asarray(frequencies.images[0].get_array())
    assert sizes[4, 4] == pytest.approx(abs(values[0, 0]))  # frequency 0 is in the middle
    with pytest.raises(cnnir.InputError, match="wanted an image of one channel"):
        pictures.eigenvalue_map(nn.Conv(2, 3, padding=1, boundary="circular"), (1, 2, 6, 6))


def test_linear_regions_are_the_polygons(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Dense(5, bias_init=nn.normal(1)), nn.ReLU(), nn.Dense(1)).build((1, 2))
    figure = pictures.linear_regions(net, -2, 2, points=40)
    axes = figure.axes[0]
    regions = cnnir.plane_regions(net, -2, 2)
    assert axes.get_title().startswith(f"{len(regions)} regions")
    paths = axes.collections[0].get_paths()
    for path, region in zip(paths, regions, strict=True):
        np.testing.assert_allclose(path.vertices[:-1], region.corners)
    figure.savefig(tmp_path / "regions.png")
    assert (tmp_path / "regions.png").read_bytes()[:4] == b"\x89PNG"
