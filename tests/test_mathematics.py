"""Convolutions as linear operators against scipy: matrices, spectra, and the known kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, ndimage, signal

import cnnir
from cnnir import nn
from cnnir.mathematics import kernels

RNG = np.random.default_rng(3)


def filter_of(weight: np.ndarray, **options: Any) -> nn.Module:
    """A convolution without bias, with this weight [O, I, *kernel]."""
    layer = nn.Conv(weight.shape[0], weight.shape[2:], bias=False, **options)

    class Given(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            held = self.constant(weight.astype(x.type.numpy))
            return nn.conv(
                x, held, stride=layer.stride, padding=layer.padding, boundary=layer.boundary,
                flip=layer.flip,
            )  # fmt: skip

    return Given()


# ---------------------------------------------------------------- matrices


def test_zero_boundary_is_toeplitz() -> None:
    kernel = RNG.standard_normal(3)
    operator = cnnir.as_matrix(filter_of(kernel[None, None], padding=1), "f64[1,1,8]")
    column, row = np.zeros(8), np.zeros(8)
    column[:2], row[:2] = kernel[[1, 0]], kernel[[1, 2]]
    np.testing.assert_allclose(operator.matrix.toarray(), linalg.toeplitz(column, row), rtol=1e-14)
    assert operator.structure.levels == ("Toeplitz",)
    assert str(operator) == "[1, 1, 8] -> [1, 1, 8]: 8 x 8, 34.4% nonzero, Toeplitz"


def test_periodic_boundary_is_circulant() -> None:
    kernel = RNG.standard_normal(3)
    layer = filter_of(kernel[None, None], padding=1, boundary="circular")
    operator = cnnir.as_matrix(layer, "f64[1,1,8]")
    column = np.zeros(8)
    column[[7, 0, 1]] = kernel[::-1]
    np.testing.assert_allclose(operator.matrix.toarray(), linalg.circulant(column), rtol=1e-14)
    assert operator.structure.name == "circulant"
    values = cnnir.eigenvalues(layer, "f64[1,1,8]")[..., 0]
    np.testing.assert_allclose(values, np.fft.fft(column), atol=1e-12)


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"padding": 1}, ("Toeplitz", "Toeplitz")),
        ({"padding": 1, "boundary": "circular"}, ("circulant", "circulant")),
        ({"padding": 1, "boundary": ("circular", "zero")}, ("circulant", "Toeplitz")),
        ({"padding": 1, "boundary": "reflect"}, ("Toeplitz but for the border",) * 2),
        ({"stride": 2}, ("Toeplitz with stride 2",) * 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [(1, 1), (3, 2)])
def test_structure_of_images(
    options: dict[str, Any], levels: tuple[str, ...], channels: tuple[int, int]
) -> None:
    outputs, inputs = channels
    weight = RNG.standard_normal((outputs, inputs, 3, 3))
    operator = cnnir.as_matrix(filter_of(weight, **options), f"f64[1,{inputs},9,8]")
    assert operator.structure.levels == levels
    assert operator.structure.channels == channels
    if len(set(levels)) == 1 and levels[0].startswith("Toeplitz "):
        assert operator.structure.name == f"{levels[0]} on both levels"


def test_what_is_not_a_convolution_is_general() -> None:
    layer = nn.LocallyConnected(1, 3, padding=1, bias=False)
    assert cnnir.as_matrix(layer, (1, 1, 6, 6)).structure.levels == ("general", "general")
    assert cnnir.as_matrix(nn.Dense(5, bias=False), (1, 5)).structure.name == "general"


def test_symmetric_and_antisymmetric() -> None:
    smooth = filter_of(kernels.binomial(3)[None, None], padding=1)
    assert cnnir.as_matrix(smooth, (1, 1, 6, 6)).structure.symmetry == "symmetric"
    slope = filter_of(kernels.derivative(0, 1)[None, None], padding=1, boundary="circular")
    assert cnnir.as_matrix(slope, (1, 1, 9)).structure.symmetry == "antisymmetric"
    np.testing.assert_allclose(cnnir.eigenvalues(slope, (1, 1, 9)).real, 0, atol=1e-15)


@pytest.mark.parametrize("shape", [(1, 2, 6, 5), (1, 1, 3, 3)])
def test_matrix_and_shift_are_the_net(shape: tuple[int, ...]) -> None:
    net = nn.Sequential(
        nn.Conv(3, 3, padding=1, bias_init=nn.normal(0.5)), nn.AvgPool(2, 1), nn.BatchNorm(),
        lambda x: 2 * x + 1, nn.Flatten(), nn.Dense(4, bias_init=nn.normal(0.5)),
    ).build(shape)  # fmt: skip
    operator = cnnir.as_matrix(net)
    for _ in range(3):
        x = RNG.standard_normal(shape)
        (wanted,) = cnnir.evaluate(net.graph(), [x], "f64")
        np.testing.assert_allclose(operator(x), wanted, atol=1e-12 * np.abs(wanted).max())


def test_the_transpose_is_the_compiled_input_gradient() -> None:
    graph = nn.Conv(3, 3, 2, 1, boundary="replicate").graph((1, 2, 7, 6))
    operator = cnnir.as_matrix(graph)
    backward = cnnir.gradient(graph, "output", "x", cotangents=True, outputs=False)
    u = RNG.standard_normal(operator.output_shape).astype(np.float32)
    x = np.zeros(operator.input_shape, np.float32)
    found = cnnir.compile(backward).run({"x": x, "cotangent.output": u})["grad.x"]
    np.testing.assert_allclose(found.ravel(), operator.matrix.T @ u.ravel(), atol=1e-5)


def test_what_is_not_affine_is_refused_by_name() -> None:
    net = nn.Sequential(nn.Conv(2, 3), nn.ReLU())
    with pytest.raises(cnnir.InputError, match="relu1 is not affine; local_affine takes"):
        cnnir.as_matrix(net, (1, 1, 5, 5))
    with pytest.raises(cnnir.InputError, match="sigmoid1 is not piecewise linear"):
        cnnir.as_matrix(nn.Sequential(nn.Sigmoid()), (1, 4))


# ---------------------------------------------------------------- periodic convolutions


@given(
    rank=st.integers(1, 3), channels=st.integers(1, 3), size=st.integers(3, 5), seed=st.integers()
)
@settings(max_examples=12, deadline=None)
def test_solving_undoes_a_periodic_convolution(
    rank: int, channels: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(abs(seed))
    weight = rng.standard_normal((channels, channels, *(3,) * rank))
    layer = filter_of(weight, padding=1, boundary="circular")
    shape = (1, channels, *(size,) * rank)
    graph = layer.graph(f"f64{list(shape)}".replace(" ", ""))
    operator = cnnir.as_matrix(graph)
    condition = np.linalg.cond(operator.matrix.toarray())
    assert cnnir.condition_number(graph) == pytest.approx(condition, rel=1e-6)
    x = rng.standard_normal(shape)
    np.testing.assert_allclose(cnnir.solve(graph, operator(x)), x, atol=1e-13 * condition * 10)
    dense = np.linalg.eigvals(operator.matrix.toarray())
    fast = cnnir.eigenvalues(graph).ravel()
    np.testing.assert_allclose((fast**3).sum(), (dense**3).sum(), rtol=1e-6, atol=1e-6)
    assert np.abs(fast).max() == pytest.approx(np.abs(dense).max(), rel=1e-6)


def test_singular_convolutions_say_what_they_lose() -> None:
    edges = filter_of(kernels.laplacian()[None, None], padding=1, boundary="circular")
    assert cnnir.condition_number(edges, (1, 1, 6, 6)) == np.inf
    with pytest.raises(cnnir.InputError, match=r"singular: it loses frequency \(0, 0\)"):
        cnnir.solve(edges, np.ones((1, 1, 6, 6)))
    with pytest.raises(cnnir.InputError, match="not periodic along axis 2"):
        cnnir.eigenvalues(nn.Conv(1, 3, padding=1), (1, 1, 6, 6))


# ---------------------------------------------------------------- kernels


def test_kernels_do_to_constants_and_slopes_what_they_say() -> None:
    for blur in (kernels.box(5), kernels.binomial(5, 3), kernels.gaussian(1.3), kernels.sharpen()):
        assert blur.sum() == pytest.approx(1)
    for edges in (kernels.laplacian(3, diagonal=True), kernels.high_pass(5), kernels.sobel(0)):
        assert edges.sum() == pytest.approx(0, abs=1e-15)
    ramp = np.arange(7.0)[:, None] + np.zeros((7, 5))
    for axis, slope in ((0, 1), (1, 0)):
        found = signal.correlate(ramp, kernels.sobel(axis, normalised=True), "valid")
        np.testing.assert_allclose(found, slope, atol=1e-14)
        found = signal.correlate(ramp, kernels.derivative(axis), "valid")
        np.testing.assert_allclose(found, slope, atol=1e-14)
    squares = np.arange(7.0) ** 2 / 4
    found = signal.correlate(squares, kernels.laplacian(1, spacing=0.5), "valid")
    np.testing.assert_allclose(found, 2)


def test_kernels_agree_with_scipy() -> None:
    impulse = np.zeros((31, 31))
    impulse[15, 15] = 1
    wanted = ndimage.gaussian_filter(impulse, 2.0, truncate=4.0)
    np.testing.assert_allclose(kernels.gaussian(2.0), wanted[7:24, 7:24], atol=1e-12)
    slopes = ndimage.sobel(impulse, 0)[14:17, 14:17]
    np.testing.assert_allclose(slopes[::-1, ::-1], kernels.sobel(0))
    np.testing.assert_allclose(ndimage.laplace(impulse)[14:17, 14:17], kernels.laplacian())


@pytest.mark.parametrize("kernel", [kernels.binomial(9), kernels.gaussian(2)])
def test_separable_kernels_are_split(kernel: np.ndarray) -> None:
    weight = kernels.as_weight(kernel, 32)

    class Blur(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return nn.conv(x, self.constant(weight), groups=32, padding="same")

    exe = cnnir.compile(Blur(), shapes=(1, 32, 64, 64))
    sizes = [n.operands[1].type.shape[2:] for n in exe.graph.order() if n.name == "conv"]
    sizes += [b.operands[1].type.shape[2:] for n in exe.graph.order() if n.name == "fused"
              for b in n.attrs["body"].order() if b.name == "conv"]  # fmt: skip
    assert sorted(sizes) == sorted([(kernel.shape[0], 1), (1, kernel.shape[1])])


def test_wrong_options_are_refused() -> None:
    for wrong in (lambda: kernels.box(4), lambda: kernels.gaussian(0), lambda: kernels.sobel(2)):
        with pytest.raises(cnnir.InputError, match="wanted"):
            wrong()
