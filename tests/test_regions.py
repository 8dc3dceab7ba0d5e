"""Nets as piecewise-affine maps, and what symmetries their layers keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cnnir
from cnnir import nn
from cnnir.mathematics import kernels

RNG = np.random.default_rng(3)


def piecewise_net() -> nn.Module:
    """A net with every kind of piece that layers have."""
    return nn.Sequential(
        nn.Conv(3, 3, padding=1, bias_init=nn.normal(0.3)), nn.LeakyReLU(0.1), nn.MaxPool(3, 2, 1),
        nn.Conv(4, 3, bias_init=nn.normal(0.3)), nn.ReLU6(), nn.Flatten(), nn.Dense(6),
        nn.HardTanh(), lambda x: nn.maximum(x[:, :3], x[:, 3:]), nn.Dense(2),
    )  # fmt: skip


def test_local_affine_is_the_net_on_its_region_and_not_beyond() -> None:
    net = piecewise_net().build((1, 1, 9, 8))
    graph = net.graph()
    beyond = 0
    for _ in range(20):
        x = RNG.standard_normal((1, 1, 9, 8))
        here = cnnir.local_affine(graph, x)
        for _ in range(5):
            direction = RNG.standard_normal(x.shape)
            least = here.distance(direction)
            inside = x + RNG.random() * least * direction
            (wanted,) = cnnir.evaluate(graph, [inside], "f64")
            np.testing.assert_allclose(here(inside), wanted, rtol=1e-10, atol=1e-12)
            past = here.net.pattern(x + 1.0001 * least * direction)
            assert not all(
                np.array_equal(a, b)
                for k in here.pattern for a, b in zip(here.pattern[k], past[k], strict=True)
            )  # fmt: skip
            (there,) = cnnir.evaluate(graph, [x + 20 * least * direction], "f64")
            beyond += np.abs(here(x + 20 * least * direction) - there).max() > 1e-9
    assert beyond > 50


def test_regions_of_a_plane_net_agree_with_brute_force() -> None:
    net = nn.Sequential(
        nn.Dense(7, bias_init=nn.normal(1)), nn.ReLU(), nn.Dense(5, bias_init=nn.normal(1)),
        nn.ReLU(), nn.Dense(1),
    ).build((1, 2))  # fmt: skip
    a, b = np.array([[-4.0, -3.0]]), np.array([[5.0, 2.0]])
    borders = cnnir.regions_on_segment(net, a, b)
    weights = [np.asarray(w, np.float64) for w in net.params.values()]

    def units(t: np.ndarray) -> np.ndarray:
        x = a + t[:, None] * (b - a)
        first = x @ weights[0] + weights[1]
        second = np.maximum(first, 0) @ weights[2] + weights[3]
        return np.hstack([first, second]) > 0

    t = np.linspace(0, 1, 200_001)
    changes = t[1:][(units(t)[1:] != units(t)[:-1]).any(1)]
    assert len(borders) == len(changes) > 3
    np.testing.assert_allclose(borders, changes, atol=1e-5)


def plane_net(*sizes: int, seed: int = 0) -> tuple[nn.Module, Any]:
    """A net of two inputs, and which of its relus are on, by numpy: points [N,2] -> [N,units]."""
    layers = [layer for n in sizes for layer in (nn.Dense(n, bias_init=nn.normal(1)), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Dense(2)).build((1, 2), seed=seed)
    weights = [np.asarray(w, np.float64) for w in net.params.values()]

    def on(x: np.ndarray) -> np.ndarray:
        found = []
        for w, b in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = np.maximum(x @ w + b, 0)
            found.append(x > 0)
        return np.hstack(found)

    return net, on


@pytest.mark.parametrize(("sizes", "seed"), [((7, 5), 0), ((9,), 1), ((4, 4, 4), 2)])
def test_all_regions_of_a_plane_agree_with_brute_force(sizes: tuple[int, ...], seed: int) -> None:
    """They cover the box, each has a pattern of its own, and a fine grid meets no other."""
    net, on = plane_net(*sizes, seed=seed)
    regions = cnnir.plane_regions(net, -3, 3)
    assert sum(r.area for r in regions) == pytest.approx(36, rel=1e-10)
    middles = np.array([r.corners.mean(0) for r in regions])
    patterns = {tuple(p) for p in on(middles)}
    assert len(patterns) == len(regions) > 10
    line = np.linspace(-3, 3, 401)
    grid = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    met = {tuple(p) for p in np.unique(on(grid), axis=0)}
    assert met <= patterns and len(met) > 0.8 * len(patterns)
    graph = net.graph()
    for region in regions:
        inside = RNG.dirichlet(np.ones(len(region.corners))) @ region.corners
        (wanted,) = cnnir.evaluate(graph, [inside[None]], "f64")
        np.testing.assert_allclose(region.matrix @ inside + region.shift, wanted[0], atol=1e-6)


def test_lines_cut_a_plane_into_as_many_pieces_as_steiner_counted() -> None:
    """n lines, no three through a point: 1 + n + n (n - 1) / 2 (J. Steiner, 1826)."""
    net, _ = plane_net(6, seed=5)
    assert len(cnnir.plane_regions(net, -1000, 1000)) == 1 + 6 + 15


def test_a_plane_through_images() -> None:
    net = nn.Sequential(
        nn.Conv(2, 3, bias_init=nn.normal(0.3)), nn.ReLU(), nn.MaxPool(2), nn.Flatten(), nn.Dense(1)
    ).build((1, 1, 6, 6))  # fmt: skip
    plane = tuple(RNG.standard_normal((3, 1, 1, 6, 6)))
    regions = cnnir.plane_regions(net, -1, 1, plane)
    assert sum(r.area for r in regions) == pytest.approx(4, rel=1e-9)
    a, b = (plane[0] + k * plane[1] for k in (-0.9, 0.9))
    crossed = len(cnnir.regions_on_segment(net, a, b)) + 1
    assert crossed == sum(_met(r.corners, 0.9) for r in regions) > 5
    with pytest.raises(cnnir.InputError, match="wanted the lower end first"):
        cnnir.plane_regions(net, 1, -1, plane)
    with pytest.raises(cnnir.InputError, match=r"x has shape \[1, 2\], wanted"):
        cnnir.plane_regions(net.graph(), -1, 1)


def _met(corners: np.ndarray, reach: float) -> bool:
    """Whether a polygon is met by the points (s, 0) with |s| < reach."""
    at = []
    for (s, t), (after, beyond) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if (t < 0) != (beyond < 0):
            at.append(s + t / (t - beyond) * (after - s))
    return bool(at) and min(at) < reach and max(at) > -reach


def test_nets_that_are_not_piecewise_linear_are_refused() -> None:
    net = nn.Sequential(nn.Conv(2, 3), nn.GELU())
    with pytest.raises(cnnir.InputError, match="gelu1 is not piecewise linear; wanted affine"):
        cnnir.local_affine(net, np.zeros((1, 1, 5, 5)))
    linear = nn.Dense(2).build((1, 3))
    with pytest.raises(cnnir.InputError, match=r"x has shape \[3\], wanted \[1, 3\]"):
        cnnir.local_affine(linear.graph(), np.zeros(3))


# ---------------------------------------------------------------- equivariance


def results(found: Any) -> list[str]:
    return [row.result for row in found.rows] + [found.output.result]


def test_translation_equivariance_is_kept_and_broken_where_it_should_be() -> None:
    def net(boundary: str) -> nn.Module:
        return nn.Sequential(
            nn.Conv(3, 3, padding=1, boundary=boundary), nn.ReLU(), nn.MaxPool(2),
            nn.Conv(2, 3, padding=1, boundary=boundary), nn.GlobalAvgPool(),
        ).build((1, 1, 32, 32))  # fmt: skip

    whole = cnnir.equivariance(net("circular"), (2, 4))
    assert results(whole) == ["equivariant"] * 4 + ["invariant"] * 2
    zero = cnnir.equivariance(net("zero"), (2, 4))
    assert [r.result for r in zero.rows] == [
        "equivariant but for the border", "equivariant", "equivariant",
        "equivariant but for the border", "invariant",
    ]  # fmt: skip
    assert zero.output.result == "broken" and 0 < zero.output.error
    odd = cnnir.equivariance(net("circular"), (1, 0))
    assert odd.rows[2].result == "broken"
    assert odd.rows[2].reason == "one step of its result is 2 x 2 pixels, the shift is no multiple"


def test_flattening_ends_the_image() -> None:
    net = nn.Sequential(nn.Conv(2, 3, padding=1), nn.Flatten(), nn.Dense(3)).build((1, 1, 8, 8))
    found = cnnir.equivariance(net, (0, 1))
    assert results(found)[1] == "broken" and set(results(found)[2:-1]) == {"no image"}
    assert "weights of its own" in found.rows[1].reason


def fixed(kernel: np.ndarray, padding: int) -> nn.Module:
    """A convolution of one channel with this kernel."""
    layer = nn.Conv(1, kernel.shape, padding=padding, bias=False).build((1, 1, 8, 8))
    layer.params["weight"] = kernel[None, None].astype(np.float32)
    return layer


def test_symmetric_filters_keep_turns() -> None:
    symmetric = {"flip_vertical": kernels.sobel(1), "rotate_90": kernels.laplacian()}
    for name, kernel in symmetric.items():
        layer = fixed(kernel, 1)
        assert results(cnnir.equivariance(layer, name, (1, 1, 8, 8))) == ["equivariant"] * 2
    turned = cnnir.equivariance(fixed(kernels.sobel(0), 0), "rotate_90", (1, 1, 8, 8))
    assert turned.rows[0].result == "broken"
    assert "do not have this symmetry" in str(turned)


def test_why_a_turn_is_broken() -> None:
    """Strides of 2 on an even size see other pixels from the other side, whatever the weights."""
    for padding, size, result, reason in (
        (1, 16, "broken", "its windows lie on the turned image in another way"),
        (1, 15, "equivariant", ""),
        (((0, 2), (1, 1)), 15, "broken", "its windows lie"),
    ):
        layer = nn.symmetric_conv(3, stride=2, padding=padding).build((1, 1, size, size))
        (row,) = cnnir.equivariance(layer, "rotate_180").rows
        assert row.result == result and row.reason.startswith(reason)
    pool = cnnir.equivariance(nn.Sequential(nn.MaxPool(2)).build((1, 1, 7, 7)), "flip_vertical")
    assert pool.rows[0].result == "broken" and "its windows lie" in pool.rows[0].reason


@pytest.mark.parametrize("turn", ["flip_vertical", "rotate_90", "rotate_180", "transpose"])
def test_pooled_outputs_are_invariant_under_the_square_where_filters_are_symmetric(
    turn: str,
) -> None:
    net = nn.Sequential(
        nn.symmetric_conv(5), nn.ReLU(), nn.MaxPool(2), nn.symmetric_conv(3), nn.GlobalMaxPool(),
        nn.Flatten(), nn.Dense(3),
    ).build((1, 2, 12, 12))  # fmt: skip
    diagonal = turn in ("rotate_90", "transpose")
    if diagonal:  # mirror images along both axes are not yet turns: theta has to be symmetric too
        for name, theta in net.params.items():
            if name.endswith("theta"):
                half = round(theta.shape[2] ** 0.5)
                square = theta.reshape(-1, half, half)
                net.params[name] = ((square + square.swapaxes(1, 2)) / 2).reshape(theta.shape)
    assert cnnir.equivariance(net, turn).output.result == "invariant"
