"""Convolutions against scipy over random ranks, sizes, strides, modes and boundaries."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, signal

import cnnir
from cnnir import nn

MODES = {"zero": "constant", "circular": "wrap", "reflect": "mirror", "replicate": "nearest"}


class Given(nn.Module):
    """A convolution with this weight."""

    def __init__(self, weight: np.ndarray, **options: Any) -> None:
        self.weight, self.options = weight, options

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """The filtered x."""
        return nn.conv(x, self.constant(self.weight.astype(x.type.numpy)), **self.options)


def result(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """What a layer makes of [N, C, *sizes], in f64."""
    graph = layer.graph("f64" + str(list(x.shape)).replace(" ", ""))
    return cnnir.evaluate(graph, [x], "f64")[0]


def close(found: np.ndarray, wanted: np.ndarray, share: float = 1e-12) -> None:
    """They differ by at most this share of the largest number."""
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=share * np.abs(wanted).max(initial=0))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """A kernel, an image, and how they are put together."""
    rank = draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.sampled_from([1, 3, 5])] * rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return {
        "kernel": rng.standard_normal(kernel),
        "x": rng.standard_normal(draw(st.tuples(*[st.integers(5, 9 - rank)] * rank))),
        "other": rng.standard_normal(kernel),
        "stride": draw(st.tuples(*[st.integers(1, 3)] * rank)),
        "boundary": draw(st.tuples(*[st.sampled_from(list(MODES))] * rank)),
        "flip": draw(st.booleans()),
    }


@given(cases())
@settings(max_examples=60, deadline=None)
def test_strides_and_a_boundary_an_axis(case: dict[str, Any]) -> None:
    """ndimage with every stride-th result; a boundary of its own an axis by padding first."""
    kernel, x, boundary = case["kernel"], case["x"], case["boundary"]
    reach = [k // 2 for k in kernel.shape]
    layer = Given(
        kernel[None, None], stride=case["stride"], padding=[(r, r) for r in reach],
        boundary=boundary, flip=case["flip"],
    )  # fmt: skip
    wide = x
    for axis, (word, r) in enumerate(zip(boundary, reach, strict=True)):
        where = [(r, r) if a == axis else (0, 0) for a in range(x.ndim)]
        how = {"zero": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}
        wide = np.pad(wide, where, how[word])  # type: ignore[call-overload]
    of = signal.convolve if case["flip"] else signal.correlate
    taken = tuple(slice(None, None, s) for s in case["stride"])
    wanted = of(wide, kernel, "valid", method="direct")[taken]
    close(result(layer, x[None, None])[0, 0], wanted)
    if len(set(boundary)) == 1:
        of = ndimage.convolve if case["flip"] else ndimage.correlate
        close(wanted, of(x, kernel, mode=MODES[boundary[0]])[taken], 1e-13)


@given(cases(), st.sampled_from(["valid", "same"]))
@settings(max_examples=30, deadline=None)
def test_modes_by_name(case: dict[str, Any], mode: str) -> None:
    x, kernel, flip = case["x"], case["kernel"], case["flip"]
    wanted = (signal.convolve if flip else signal.correlate)(x, kernel, mode, method="direct")
    close(result(Given(kernel[None, None], padding=mode, flip=flip), x[None, None])[0, 0], wanted)


@given(cases())
@settings(max_examples=40, deadline=None)
def test_linear_and_its_own_adjoint(case: dict[str, Any]) -> None:
    """K(a x + y) = a K x + K y; K is linear in the kernel too; <K x, y> = <x, K' y>."""
    options = {
        "stride": case["stride"], "padding": 1, "boundary": case["boundary"], "flip": case["flip"],
    }  # fmt: skip
    layer, other = (Given(case[k][None, None], **options) for k in ("kernel", "other"))
    x = case["x"][None, None]
    z = np.random.default_rng(1).standard_normal(x.shape)
    if any(size + 2 < k for size, k in zip(x.shape[2:], case["kernel"].shape, strict=True)):
        return
    kx = result(layer, x)
    close(result(layer, 2 * x + z), 2 * kx + result(layer, z), 2e-12)
    both = Given(case["kernel"][None, None] + 3 * case["other"][None, None], **options)
    close(result(both, x), kx + 3 * result(other, x), 2e-12)
    graph = layer.graph("f64" + str(list(x.shape)).replace(" ", ""))
    transposed = cnnir.gradient(graph, "output", "x", cotangents=True, outputs=False)
    y = np.random.default_rng(2).standard_normal(kx.shape)
    (back,) = cnnir.evaluate(transposed, [x, y], "f64")
    size = float(np.linalg.norm(kx) * np.linalg.norm(y)) or 1.0
    assert float((kx * y).sum()) == pytest.approx(float((x * back).sum()), abs=1e-12 * size)


@given(cases(), st.integers(-4, 4))
@settings(max_examples=30, deadline=None)
def test_circular_convolutions_are_fourier_products_that_commute_and_shift(
    case: dict[str, Any], by: int
) -> None:
    x, rank = case["x"], case["x"].ndim
    kernel = np.zeros(x.shape)
    part = case["kernel"]
    kernel[tuple(slice(n) for n in part.shape)] = part

    def convolved(image: np.ndarray, by_kernel: np.ndarray) -> np.ndarray:
        border = [(k - 1, 0) for k in by_kernel.shape]
        layer = Given(by_kernel[None, None], padding=border, boundary="circular", flip=True)
        return result(layer, image[None, None])[0, 0]

    wanted = np.fft.ifftn(np.fft.fftn(x) * np.fft.fftn(kernel)).real
    close(convolved(x, kernel), wanted, 2e-12)
    close(convolved(kernel, x), wanted, 2e-12)
    axis = abs(by) % rank
    close(convolved(np.roll(x, by, axis), kernel), np.roll(wanted, by, axis), 2e-12)


@given(cases())
@settings(max_examples=30, deadline=None)
def test_up_sampling_is_a_convolution_of_the_image_with_zeros_between(case: dict[str, Any]) -> None:
    """conv_transpose against signal.convolve; sub-sampling then is its adjoint."""
    x, kernel, stride = case["x"], case["kernel"], case["stride"]

    class Up(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            weight = self.constant(kernel[None, None].astype(x.type.numpy))
            return nn.conv_transpose(x, weight, stride=stride)

    spread = np.zeros([(n - 1) * s + 1 for n, s in zip(x.shape, stride, strict=True)])
    spread[tuple(slice(None, None, s) for s in stride)] = x
    wanted = signal.convolve(spread, kernel, "full", method="direct")
    close(result(Up(), x[None, None])[0, 0], wanted)
    y = np.random.default_rng(3).standard_normal(wanted.shape)
    down = result(Given(kernel[None, None], stride=stride), y[None, None])[0, 0]
    size = float(np.linalg.norm(wanted) * np.linalg.norm(y)) or 1.0
    assert float((wanted * y).sum()) == pytest.approx(float((x * down).sum()), abs=1e-12 * size)


def test_several_channels_and_images_are_sums_over_channels() -> None:
    rng = np.random.default_rng(0)
    for rank in (1, 2, 3):
        weight = rng.standard_normal((3, 4, *(3,) * rank))
        x = rng.standard_normal((2, 4, *(6,) * rank))
        wanted = np.stack([
            [sum(signal.correlate(c, k, "same") for c, k in zip(image, w, strict=True))
             for w in weight] for image in x
        ])  # fmt: skip
        close(result(Given(weight, padding=1), x), wanted)


def test_unshared_weights_are_a_kernel_for_every_position() -> None:
    layer = nn.LocallyConnected(1, 3, bias=False).build((1, 1, 5, 6))
    matrix = cnnir.as_matrix(layer).matrix.toarray().reshape(3, 4, 5, 6)
    weight = np.asarray(layer.params["weight"], np.float64)
    assert np.count_nonzero(matrix) == 3 * 4 * 9 == weight.size
    kernels = {matrix[i, j, i : i + 3, j : j + 3].tobytes() for i in range(3) for j in range(4)}
    assert len(kernels) == 12
    assert set(np.unique(matrix)) - {0.0} == set(np.unique(weight))


def test_boundaries_that_there_are_not() -> None:
    with pytest.raises(cnnir.IRError, match="wanted zero, circular, reflect, replicate, or 2 of"):
        nn.Conv(1, 3, boundary=("zero",))


COMPILED = [
    (rank, boundary, stride)
    for rank, boundary, stride in itertools.product((1, 2, 3), MODES, (1, 2))
    if rank == 2 or stride == 1
]


@pytest.mark.parametrize(("rank", "boundary", "stride"), COMPILED)
def test_compiled_in_f32(rank: int, boundary: str, stride: int) -> None:
    rng = np.random.default_rng(rank)
    kernel, x = rng.standard_normal((5, 3, 1)[:rank]), rng.standard_normal((9, 7, 6)[:rank])
    layer = Given(
        kernel[None, None], padding=[(k // 2, k // 2) for k in kernel.shape], stride=stride,
        boundary=boundary, flip=True,
    )  # fmt: skip
    taken = (slice(None, None, stride),) * rank
    wanted = ndimage.convolve(x, kernel, mode=MODES[boundary])[taken]
    small = x.astype(np.float32)[None, None]
    close(cnnir.compile(layer, shapes=small.shape)(small)[0, 0], wanted, 1e-5)
