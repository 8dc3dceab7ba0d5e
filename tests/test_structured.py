"""Layers of a given form: what Q says, their derivatives, and what the form promises."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from scipy import linalg, ndimage, sparse

import cnnir
from cnnir import nn
from cnnir.mathematics import cp_fit, kernels
from cnnir.training import SGD

RNG = np.random.default_rng(5)


def matrix_of(layer: nn.Module, inputs: int) -> np.ndarray:
    """K, from what the layer makes of vectors."""
    return cnnir.as_matrix(layer.graph((1, inputs))).matrix.toarray()


def theta_of(layer: Any) -> np.ndarray:
    return np.asarray(layer.params["theta"], np.float64)


@pytest.mark.parametrize(
    ("make", "shape", "wanted"),
    [
        (lambda: nn.diagonal(5), (5, 5), np.diag),
        (lambda: nn.circulant(5), (5, 5), linalg.circulant),
        (
            lambda: nn.toeplitz(3, 5), (3, 5),
            lambda t: linalg.toeplitz(t[4:], t[4::-1]),
        ),
        (
            lambda: nn.Structured(sparse.csr_array(np.arange(12.0).reshape(6, 2)), 2), (2, 3),
            lambda t: (np.arange(12.0).reshape(6, 2) @ t).reshape(2, 3),
        ),
    ],
    ids=["diagonal", "circulant", "toeplitz", "own"],
)  # fmt: skip
def test_the_matrix_is_what_q_says(make: Any, shape: tuple[int, int], wanted: Any) -> None:
    layer = make().build((2, shape[1]))
    layer.params["theta"] = RNG.standard_normal(theta_of(layer).shape)
    np.testing.assert_allclose(matrix_of(layer, shape[1]), wanted(theta_of(layer)), rtol=1e-12)


def test_antisymmetric_operators_have_imaginary_eigenvalues() -> None:
    layer = nn.antisymmetric(7).build((1, 7))
    k = matrix_of(layer, 7)
    np.testing.assert_array_equal(k, -k.T)
    assert np.count_nonzero(k) == 42 and theta_of(layer).size == 21
    np.testing.assert_allclose(np.linalg.eigvals(k).real, 0, atol=1e-12)
    s = matrix_of(nn.symmetric(6).build((1, 6)), 6)
    np.testing.assert_array_equal(s, s.T)


def test_m_matrices() -> None:
    layer = nn.MMatrix(6, margin=0.5).build((1, 6))
    layer.params["theta"] = RNG.standard_normal(30)
    k = matrix_of(layer, 6)
    assert (k[~np.eye(6, dtype=bool)] < 0).all()
    np.testing.assert_allclose(k.sum(1), 0.5, atol=1e-6)
    assert np.linalg.eigvals(k).real.min() >= 0.5 - 1e-6
    assert (np.linalg.inv(k) > 0).all()


FORMS = {
    "diagonal": lambda: nn.diagonal(6, bias=False),
    "antisymmetric": lambda: nn.antisymmetric(6, bias=False),
    "symmetric": lambda: nn.symmetric(6, bias=False),
    "toeplitz": lambda: nn.toeplitz(4, 6, bias=False),
    "circulant": lambda: nn.circulant(6, bias=False),
    "own": lambda: nn.Structured(np.random.default_rng(0).standard_normal((18, 4)), 3, bias=False),
}


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_by_theta_are_products_with_q(form: str) -> None:
    """J v = mat(Q v) x, and J' w = Q' (w x')."""
    layer = FORMS[form]()
    graph = layer.graph("f64[1,6]")
    q, x, outputs = layer.q, RNG.standard_normal((1, 6)), layer.outputs
    v, w = RNG.standard_normal(q.shape[1]), RNG.standard_normal((1, outputs))
    ahead = cnnir.jvp(graph, "theta", outputs=False)
    (slope,) = cnnir.evaluate(ahead, [x, v], "f64")
    np.testing.assert_allclose(slope[0], (q @ v).reshape(outputs, 6) @ x[0], atol=1e-12)
    back = cnnir.gradient(graph, "output", "theta", cotangents=True, outputs=False)
    (slope,) = cnnir.evaluate(back, [x, w], "f64")
    np.testing.assert_allclose(slope, q.T @ np.outer(w[0], x[0]).ravel(), atol=1e-12)


@pytest.mark.parametrize(
    "make", [lambda: nn.symmetric_conv(5, bias=False), lambda: nn.laplacian_conv(bias=False)],
    ids=["symmetric", "laplacian"],
)  # fmt: skip
def test_derivatives_of_structured_kernels(make: Any) -> None:
    """The layer of mat(Q v) is the derivative along v; back it is Q' of that by the kernel."""
    layer = make()
    graph = layer.graph("f64[1,1,7,6]")
    q, x, w = layer.q, *RNG.standard_normal((2, 1, 1, 7, 6))
    v = RNG.standard_normal((1, 1, q.shape[1]))
    (slope,) = cnnir.evaluate(cnnir.jvp(graph, "theta", outputs=False), [x, v], "f64")
    kernel = (q @ v[0, 0]).reshape(layer.kernel)
    wanted = ndimage.correlate(x[0, 0], kernel, mode="constant")
    np.testing.assert_allclose(slope[0, 0], wanted, atol=1e-12)
    back = cnnir.gradient(graph, "output", "theta", cotangents=True, outputs=False)
    (slope,) = cnnir.evaluate(back, [x, w], "f64")
    reach = layer.kernel[0] // 2
    wide = np.pad(x[0, 0], reach)
    by_tap = np.array([
        (wide[i : i + 7, j : j + 6] * w[0, 0]).sum() for i in range(layer.kernel[0])
        for j in range(layer.kernel[1])
    ])  # fmt: skip
    np.testing.assert_allclose(slope.ravel(), q.T @ by_tap, atol=1e-12)


@pytest.mark.parametrize("kind", ["array", "sparse", "few"])
def test_any_q_is_applied_as_it_is(kind: str) -> None:
    """Whether each entry needs all parameters, or few of many, or one or none."""
    q = RNG.standard_normal((12, 30))
    if kind != "array":
        q[RNG.random(q.shape) < 0.93] = 0
    layer = nn.Structured(sparse.coo_array(q) if kind == "sparse" else q, 3).build((1, 4))
    np.testing.assert_array_equal(layer.q, q)
    wanted = (q @ theta_of(layer)).reshape(3, 4)
    np.testing.assert_allclose(matrix_of(layer, 4), wanted, atol=1e-6)


def test_large_operators_never_hold_the_zeros_of_q() -> None:
    """Q of 150 units has 22,500 x 11,175 entries, 2 GB, of which one a row is not 0."""
    tracemalloc.start()
    layer = nn.antisymmetric(150, bias=False).build((1, 150))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100e6
    y = cnnir.evaluate(layer.graph(), [np.eye(150)[:1]], "f64")[0]
    np.testing.assert_allclose(y[0, 1:], -theta_of(layer)[:149], rtol=1e-6)
    with pytest.raises(cnnir.IRError, match=r"Q has shape \[3\], wanted \[entries, parameters\]"):
        nn.Structured(np.ones(3), 1)


def test_circulant_operators_have_the_spectrum_of_their_kernel() -> None:
    layer = nn.circulant(8, bias=False).build((1, 8))
    found = np.linalg.eigvals(matrix_of(layer, 8))
    wanted = np.fft.fft(theta_of(layer))
    gaps = np.abs(found[:, None] - wanted[None])
    assert gaps.min(0).max() < 1e-12 and gaps.min(1).max() < 1e-12


def test_an_m_matrix_stays_one_while_it_is_trained() -> None:
    net = nn.Sequential(nn.MMatrix(4, margin=0.2, bias=False)).build((16, 4))
    x = RNG.standard_normal((16, 4)).astype(np.float32)
    trainer = cnnir.Trainer(net, "squared_error", SGD(0.05))
    trainer.fit(x, np.roll(x, 1, 1), epochs=20, batch_size=16, show="none")
    assert trainer.history.losses[-1] < trainer.history.losses[0]
    k = matrix_of(net, 4)
    assert (k[~np.eye(4, dtype=bool)] <= 0).all() and np.linalg.eigvals(k).real.min() >= 0.2 - 1e-6
    np.testing.assert_allclose(k.sum(1), 0.2, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (5, 4, 3), (3, 4, 3, 2)], ids=str)
def test_cp_fits_find_the_rank_that_is_there(shape: tuple[int, ...]) -> None:
    for terms in (1, 2):
        factors = [RNG.standard_normal((terms, n)) for n in shape]
        exact = factors[0]
        for factor in factors[1:]:
            exact = np.einsum("r...,rj->r...j", exact, factor)
        fit = cp_fit(exact.sum(0), terms)
        assert fit.error < 1e-6 and [f.shape for f in fit.factors] == [(terms, n) for n in shape]
        np.testing.assert_allclose(fit.kernel, exact.sum(0), atol=1e-5)


def test_a_plane_fit_leaves_the_other_singular_values() -> None:
    kernel = RNG.standard_normal((7, 5))
    s = np.linalg.svd(kernel, compute_uv=False)
    for terms in range(1, 8):
        left = np.linalg.norm(s[terms:]) / np.linalg.norm(s)
        assert cp_fit(kernel, terms).error == pytest.approx(left, abs=1e-12)
    cube = RNG.standard_normal((4, 4, 4))
    errors = [cp_fit(cube, terms).error for terms in (1, 3, 6)]
    assert errors[0] > errors[1] > errors[2]
    with pytest.raises(cnnir.InputError, match="0 terms: wanted some"):
        cp_fit(kernel, 0)


def test_a_fit_goes_into_a_layer() -> None:
    fit = cp_fit(kernels.gaussian(1.2, 7), 1)
    assert fit.error < 1e-14
    layer = nn.SeparableKernelConv((7, 7), 1, bias=False).build((1, 1, 9, 9))
    for axis, factor in enumerate(fit.factors):
        layer.params[f"factor{axis}"] = factor[None]
    response = cnnir.as_matrix(layer)(_impulse((1, 1, 9, 9)))[0, 0, 1:8, 1:8]
    np.testing.assert_allclose(response, kernels.gaussian(1.2, 7), atol=1e-7)


def test_symmetric_kernels_use_each_weight_once() -> None:
    layer = nn.symmetric_conv(5, bias=False).build((1, 2, 9, 9))
    assert layer.params["theta"].shape == (2, 1, 9)
    response = cnnir.as_matrix(layer)(_impulse((1, 2, 9, 9)))[0, :, 2:7, 2:7]
    for turned in (response[:, ::-1], response[:, :, ::-1]):
        np.testing.assert_array_equal(response, turned)
    assert len(np.unique(response[0])) == 9


@pytest.mark.parametrize(("double", "parameters"), [(True, 9), (False, 13)])
def test_symmetric_kernels_are_symmetric_operators(double: bool, parameters: int) -> None:
    layer = nn.symmetric_conv(5, double=double, bias=False).build((1, 1, 6, 7))
    assert layer.params["theta"].size == parameters
    assert cnnir.as_matrix(layer).structure.symmetry == "symmetric"
    mirrored = cnnir.equivariance(layer, "flip_vertical", (1, 1, 6, 6)).output.result
    assert mirrored == ("equivariant" if double else "broken")


def test_laplacian_kernels() -> None:
    layer = nn.laplacian_conv(rank=2, bias=False, boundary="circular").build((1, 1, 8, 8))
    layer.params["theta"] = np.full((1, 1, 1), 2.0)
    x = RNG.standard_normal((1, 1, 8, 8))
    (y,) = cnnir.evaluate(layer.graph(), [x], "f64")
    np.testing.assert_allclose(y[0, 0], 2 * ndimage.laplace(x[0, 0], mode="wrap"), atol=1e-12)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_sums_of_separable_kernels_have_their_rank(terms: int) -> None:
    layer = nn.SeparableKernelConv((7, 5), terms, bias=False).build((1, 2, 15, 15))
    response = cnnir.as_matrix(layer)(_impulse((1, 2, 15, 15)))[0, :, 4:11, 5:10]
    assert [np.linalg.matrix_rank(r, tol=1e-6) for r in response] == [terms] * 2
    u, v = (np.asarray(layer.params[f"factor{a}"], np.float64) for a in (0, 1))
    kernel = np.einsum("crk,crl->ckl", u, v)
    np.testing.assert_allclose(response[:, ::-1, ::-1], kernel, atol=1e-6)


def test_the_haar_transform_is_orthogonal() -> None:
    matrix = cnnir.as_matrix(nn.HaarWavelet(), (1, 2, 4, 6)).matrix.toarray()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(48), atol=1e-7)
    constant = cnnir.as_matrix(nn.HaarWavelet(), (1, 1, 4, 4))(np.ones((1, 1, 4, 4)))
    np.testing.assert_array_equal(constant[0, :, 0, 0], [2, 0, 0, 0])


def test_rescaled_kernels_are_the_same_differential_operator() -> None:
    scaled = cnnir.mathematics.rescale_kernel
    for stencil, power in ((np.array([0, 1.0, 0]), 0), (kernels.derivative(0, 1), 1),
                           (kernels.laplacian(1), 2)):  # fmt: skip
        np.testing.assert_allclose(
            scaled(stencil[None, None], 1, 2)[0, 0], stencil / 2**power, atol=1e-15
        )
    weight = RNG.standard_normal((3, 2, 5, 3))
    np.testing.assert_allclose(scaled(scaled(weight, 1, 0.5), 0.5, 1), weight, atol=1e-10)

    def cubic(x: np.ndarray) -> np.ndarray:
        return 1 + x - 2 * x**2 + x**3

    kernel = RNG.standard_normal((1, 1, 5))
    for h in (1.0, 0.25):
        x = 0.7 + h * np.arange(-2, 3)
        value = (scaled(kernel, 1, h)[0, 0] * cubic(x)).sum()
        wanted = (kernel[0, 0] * cubic(0.7 + np.arange(-2, 3))).sum()
        assert value == pytest.approx(wanted)
    with pytest.raises(cnnir.InputError, match="odd sizes"):
        scaled(np.ones((1, 1, 4)), 1, 2)


def test_kernels_are_differential_operators() -> None:
    """w = b0 [0 1 0] + b1 [-1 0 1] / 2h + b2 [1 -2 1] / h^2, and products of these over axes."""
    h, b = 0.5, RNG.standard_normal(3)
    stencils = np.array([[0, 1, 0], [-0.5 / h, 0, 0.5 / h], [1 / h**2, -2 / h**2, 1 / h**2]])
    found = cnnir.mathematics.differential_operator((b @ stencils)[None, None], h)
    np.testing.assert_allclose(found[0, 0], b, atol=1e-13)
    plane = kernels.laplacian(2, spacing=h) + 3 * kernels.sobel(0, normalised=True) / h
    found = cnnir.mathematics.differential_operator(plane[None, None], h)[0, 0]
    wanted = np.zeros((3, 3))
    wanted[2, 0] = wanted[0, 2] = 1
    wanted[1, 0], wanted[1, 2] = 3, 3 * h**2 / 4  # the blur along the other axis
    np.testing.assert_allclose(found, wanted, atol=1e-13)


def test_wrong_forms_are_refused() -> None:
    with pytest.raises(cnnir.IRError, match="wanted a multiple of 2 outputs"):
        nn.Structured(np.ones((5, 2)), 2)
    with pytest.raises(cnnir.IRError, match=r"wanted \[N, 5\]"):
        nn.diagonal(5).build((1, 4))
    with pytest.raises(cnnir.IRError, match="wanted even sizes"):
        nn.HaarWavelet().graph((1, 1, 5, 4))
    with pytest.raises(cnnir.IRError, match="margin"):
        nn.MMatrix(3, margin=-1.0)


def _impulse(shape: tuple[int, ...]) -> np.ndarray:
    """1 in the middle of each channel."""
    x = np.zeros(shape)
    x[(slice(None), slice(None), *(n // 2 for n in shape[2:]))] = 1
    return x
