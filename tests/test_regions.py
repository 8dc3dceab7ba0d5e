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
            past = cnnir.local_affine(graph, x + 1.0001 * least * direction)
            changed = [
                not all(np.array_equal(a, b) for a, b in zip(here.pattern[k], past.pattern[k],
                                                             strict=True))
                for k in here.pattern
            ]  # fmt: skip
            assert any(changed)
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
