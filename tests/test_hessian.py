"""Products with the Hessian: against differences of gradients, and its symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from gradient_nets import NETS

import cnnir
from cnnir import Graph, TensorType, evaluate, gradient, hvp


@pytest.mark.parametrize("net", NETS)
def test_against_differences_of_the_gradient(net) -> None:
    """H v = (grad(w + e v) - grad(w - e v)) / 2e, for all weights and the input together."""
    graph, feeds = net(dtype="f64")
    wrt = ["x", *graph.params]
    curved, slopes = hvp(graph, "loss", wrt, outputs=False), gradient(graph, "loss", wrt)
    rng = np.random.default_rng(2)
    v = {n: rng.uniform(-1, 1, a.shape) for n, a in {**graph.params, "x": feeds["x"]}.items()}
    found = evaluate(curved, {**feeds, **{f"tangent.{n}": v[n] for n in wrt}})
    assert curved.output_names == [f"hvp.{n}" for n in wrt]
    moved = []
    for sign in (1e-5, -1e-5):
        slopes.params = {
            n: graph.params[n] + sign * v[n] if n in v else a for n, a in slopes.params.items()
        }
        moved.append(evaluate(slopes, {**feeds, "x": feeds["x"] + sign * v["x"]})[1:])
    scale = max(np.abs(h).max() for h in found)
    for name, h, ahead, behind in zip(wrt, found, *moved, strict=True):
        np.testing.assert_allclose(h, (ahead - behind) / 2e-5, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("net", NETS)
def test_it_is_symmetric(net) -> None:
    """<u, H v> = <H u, v>, compiled as well as evaluated."""
    graph, feeds = net(dtype="f64")
    wrt = list(graph.params)
    curved = hvp(graph, "loss", wrt, outputs=False)
    rng = np.random.default_rng(3)
    u, v = ([rng.standard_normal(graph.params[n].shape) for n in wrt] for _ in range(2))

    def product(direction: list[np.ndarray]) -> list[np.ndarray]:
        named = zip(wrt, direction, strict=True)
        return evaluate(curved, {**feeds, **{f"tangent.{n}": a for n, a in named}})

    def dot(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))

    size = np.sqrt(dot(product(v), product(v)) * dot(u, u))
    assert dot(u, product(v)) == pytest.approx(dot(product(u), v), abs=1e-10 * size)


def test_a_quadratic_has_its_matrix() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 4))
    graph = Graph("quadratic")
    x = graph.input(TensorType("f64", (4, 1)), "x")
    y = graph.add("matmul", graph.param("a", a), x)
    graph.output(graph.add("reduce_sum", graph.add("mul", x, y), axes=(0, 1), keepdims=False), "f")
    curved = hvp(graph, "f", "x")
    assert curved.output_names == ["f", "grad.x", "hvp.x"]
    point, v = rng.standard_normal((2, 4, 1))
    f, slope, product = evaluate(curved, [point, v])
    np.testing.assert_allclose(f, (point.T @ a @ point)[0, 0])
    np.testing.assert_allclose(slope, (a + a.T) @ point)
    np.testing.assert_allclose(product, (a + a.T) @ v)
    compiled = cnnir.compile(curved).run({"x": point, "tangent.x": v})
    np.testing.assert_allclose(compiled["hvp.x"], product, rtol=1e-12)


def test_names_that_there_are_not() -> None:
    graph = Graph("g")
    graph.output(graph.add("exp", graph.input(TensorType("f64", ()), "x")), "y")
    with pytest.raises(cnnir.GradientError, match="there is no input or param 'z'"):
        hvp(graph, "y", "z")
