"""Tikhonov regularisers: stencils against Kronecker sums, gradients, the grid's spacing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.mathematics import gradient_matrix, kernels, laplacian_matrix
from cnnir.training import SGD, Step

RNG = np.random.default_rng(7)
MATRICES: dict[str, Callable[..., Any]] = {
    "gradient": gradient_matrix, "laplacian": laplacian_matrix,
}  # fmt: skip


def value_and_slope(w: np.ndarray, term: Callable[[nn.Tensor], nn.Tensor]) -> list[np.ndarray]:
    """What a regulariser gives for a weight, and its gradient, in f64."""
    sketch = nn.symbol("f64" + str(list(w.shape)).replace(" ", ""))
    sketch.graph.output(term(sketch).value, "y")
    return cnnir.evaluate(cnnir.gradient(sketch.graph, "y", "x"), [w], "f64")


@pytest.mark.parametrize("operator", ["gradient", "laplacian"])
@pytest.mark.parametrize("boundary", ["zero", "replicate", "circular"])
@pytest.mark.parametrize("sizes", [(7,), (5, 4), (3, 5, 4)], ids=str)
def test_stencils_agree_with_kronecker_sums(
    operator: str, boundary: str, sizes: tuple[int, ...]
) -> None:
    h, w = 0.3, RNG.standard_normal((3, 2, *sizes))
    matrix = MATRICES[operator](sizes, h, boundary)
    columns = w.reshape(6, -1).T
    wanted = h ** len(sizes) / 2 * ((matrix @ columns) ** 2).sum()
    slope = h ** len(sizes) * (matrix.T @ (matrix @ columns)).T.reshape(w.shape)
    for given in (operator, matrix):
        found, by_w = value_and_slope(
            w, lambda t, g=given: nn.tikhonov(t, g, spacing=h, boundary=boundary)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
        np.testing.assert_allclose(by_w, slope, atol=1e-12 * np.abs(slope).max())


@pytest.mark.parametrize("boundary", ["zero", "replicate", "circular"])
def test_the_laplacian_is_the_gradient_twice_and_a_convolution(boundary: str) -> None:
    sizes = (6, 5)
    gradient, laplacian = (f(sizes, 0.5, boundary) for f in MATRICES.values())
    np.testing.assert_allclose((gradient.T @ gradient + laplacian).toarray(), 0, atol=1e-13)
    layer = nn.Conv(1, 3, padding=1, boundary=boundary, bias=False).build((1, 1, *sizes))
    layer.params["weight"] = kernels.laplacian(spacing=0.5)[None, None]
    wanted = cnnir.as_matrix(layer).matrix
    np.testing.assert_allclose(laplacian.toarray(), wanted.toarray(), atol=1e-12)


def test_eigenvalues_are_those_of_the_textbook() -> None:
    """-(4 / h^2) sin^2 of k pi / (2 (n + 1)), k pi / (2 n) and k pi / n."""
    n, h = 9, 0.25
    angles = {
        "zero": np.arange(1, n + 1) * np.pi / (2 * (n + 1)),
        "replicate": np.arange(n) * np.pi / (2 * n),
        "circular": np.arange(n) * np.pi / n,
    }
    for boundary, angle in angles.items():
        found = np.linalg.eigvalsh(laplacian_matrix((n,), h, boundary).toarray())
        wanted = np.sort(-4 / h**2 * np.sin(angle) ** 2)
        np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_the_spacing_makes_it_an_integral() -> None:
    """The same function on finer grids: its energy stays, while the plain sum grows without end."""

    def energy(points: int, operator: str) -> float:
        h = 1 / (points + 1)
        x = np.arange(1, points + 1) * h
        w = np.outer(np.sin(np.pi * x), np.sin(2 * np.pi * x))[None, None]
        return float(value_and_slope(w, lambda t: nn.tikhonov(t, operator, spacing=h))[0])

    exact = {"identity": 1 / 8, "gradient": 5 * np.pi**2 / 8, "laplacian": 25 * np.pi**4 / 8}
    for operator, wanted in exact.items():
        errors = [abs(energy(points, operator) - wanted) / wanted for points in (15, 31, 63)]
        assert errors[-1] < 2e-3
        assert operator == "identity" or errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_images_of_a_dense_layer() -> None:
    w = RNG.standard_normal((2 * 5 * 4, 3))
    found, slope = value_and_slope(w, lambda t: nn.tikhonov(t, "laplacian", sizes=(5, 4)))
    images = w.T.reshape(6, 20)
    wanted = ((images @ laplacian_matrix((5, 4)).toarray()) ** 2).sum() / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert slope.shape == w.shape


def test_training_with_one_makes_filters_smooth() -> None:
    """The step's update is that of the matrices; the filters' roughness goes down."""
    net = nn.Sequential(nn.Conv(2, 5, padding=2, bias=False)).build((4, 1, 8, 8))
    before = np.asarray(net.params["conv1.weight"], np.float64)
    x = np.zeros((4, 1, 8, 8), np.float32)
    step = Step(
        net, "squared_error", SGD(0.01),
        regularisers={"*.weight": lambda w: 0.5 * nn.tikhonov(w, "laplacian", spacing=0.5)},
    )  # fmt: skip
    step([x], [np.zeros((4, 2, 8, 8), np.float32)])
    laplacian = laplacian_matrix((5, 5), 0.5)
    slope = 0.5 * 0.25 * (laplacian.T @ (laplacian @ before.reshape(2, 25).T)).T
    wanted = before - 0.01 * slope.reshape(before.shape)
    np.testing.assert_allclose(net.params["conv1.weight"], wanted, atol=1e-5)


def test_what_is_no_grid_or_operator_is_refused() -> None:
    w = RNG.standard_normal((6, 2))
    for term, said in (
        (lambda t: nn.tikhonov(t), "wanted filters"),
        (lambda t: nn.tikhonov(t, sizes=(4,)), "a multiple of 4 inputs"),
        (lambda t: nn.tikhonov(t, "curl", sizes=(6,)), "wanted identity, gradient, laplacian"),
        (lambda t: nn.tikhonov(t, np.eye(5), sizes=(6,)), r"wanted \[rows, 6\]"),
        (lambda t: nn.tikhonov(t, spacing=0, sizes=(6,)), "a number above 0"),
        (lambda t: nn.tikhonov(t, boundary="reflect", sizes=(6,)), "wanted a number above 0, and"),
    ):  # fmt: skip
        with pytest.raises(cnnir.IRError, match=said):
            value_and_slope(w, term)
    with pytest.raises(cnnir.InputError, match="wanted zero, replicate or circular"):
        laplacian_matrix((4,), boundary="reflect")
