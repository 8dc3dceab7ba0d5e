"""The passes that compose and split linear layers: their mathematics, and 300 random graphs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from linear_graphs import linear_graph

import cnnir
from cnnir.errors import PassError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.ops import OPS
from cnnir.passes import factor, windows
from cnnir.passes.windows import Window
from cnnir.pipeline import optimise, parse_pipeline
from cnnir.tensortype import TensorType
from cnnir.verify import random_inputs, relative_difference

RNG = np.random.default_rng


def conv(x: np.ndarray, w: np.ndarray, window: Window) -> np.ndarray:
    return OPS["conv"].evaluate(x, w, None, **window.attrs())


# ---------------------------------------------------------------- kernels

PAIRS = [
    (Window.of((3, 2), (2, 1), (1, 3), (1, 0, 2, 1)), Window.of((2, 3), (1, 2), (2, 1))),
    (Window.of((1, 1), (2, 3)), Window.of((3, 3), (2, 1), (1, 2), (1, 2, 0, 1))),
    (Window.of((3, 3), padding=(1,) * 4, groups=2), Window.of((2, 2), groups=4)),
    (Window.of((2, 1), groups=6), Window.of((1, 4), dilation=(1, 2), groups=4)),
    (Window.of((4, 1), dilation=(2, 1)), Window.of((1, 1), (3, 2), padding=(0,) * 4)),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_two_convolutions_as_one(first: Window, second: Window) -> None:
    rng = RNG(0)
    x = rng.standard_normal((2, 12, 14, 13))
    w = rng.standard_normal((12, 12 // first.groups, *first.kernel))
    v = rng.standard_normal((8, 12 // second.groups, *second.kernel))
    assert not windows.border_reason(first, second, x.shape[2:])
    whole = windows.composed_kernel(w, first, v, second)
    both = windows.composed(first, second)
    wanted = conv(conv(x, w, first), v, second)
    np.testing.assert_allclose(conv(x, whole, both), wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(60))
def test_the_border_rule_is_right_both_ways(seed: int) -> None:
    """Where it allows the composition, values agree; where it does not, they differ."""
    rng = RNG(seed)
    sizes = (int(rng.integers(4, 9)),)
    kernels = rng.integers(1, 4, 2)
    first, second = (
        Window.of(
            (int(k),),
            (int(rng.integers(1, 4)),),
            (int(rng.integers(1, 3)),),
            tuple(int(p) for p in rng.integers(0, 3, 2)),
        )
        for k in kernels
    )
    try:
        inner = first.sizes(sizes)
        second.sizes(inner)
    except cnnir.Error:
        pytest.skip("the kernel is larger than what it reads")
    x = rng.standard_normal((1, 2, *sizes))
    w, v = (rng.standard_normal((2, 2, *window.kernel)) for window in (first, second))
    wanted = conv(conv(x, w, first), v, second)
    whole = windows.composed_kernel(w, first, v, second)
    got = conv(x, whole, windows.composed(first, second))
    assert got.shape == wanted.shape
    if not windows.border_reason(first, second, sizes):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-11)
    elif _matters(first, second, sizes[0], inner[0], wanted.shape[2]):
        assert relative_difference(wanted, got) > 1e-6


def _matters(first: Window, second: Window, size: int, inner: int, results: int) -> bool:
    """Whether the outer kernel reads a padding zero where the inner one would reach its operand."""
    taps = itertools.product(range(results), range(second.kernel[0]))
    read = {i * second.stride[0] + u * second.dilation[0] - second.padding[0] for i, u in taps}
    outside = [j for j in read if not 0 <= j < inner]
    reached = (
        j * first.stride[0] + v * first.dilation[0] - first.padding[0]
        for j, v in itertools.product(outside, range(first.kernel[0]))
    )
    return any(0 <= position < size for position in reached)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Window.of((3, 3), padding=(1,) * 4), Window.of((1, 1))),
        (Window.of((3, 3), (2, 2), (2, 1), (2, 1, 2, 1), 2), Window.of((1, 1), (2, 2), groups=4)),
        (Window.of((5, 1), padding=(2, 0, 2, 0)), Window.of((1, 3), padding=(0, 1, 0, 1))),
    ],
)
def test_a_sum_of_convolutions_as_one(a: Window, b: Window) -> None:
    rng = RNG(1)
    x = rng.standard_normal((2, 4, 9, 8))
    both = windows.common_window(a, b, x.shape[2:])
    assert both is not None
    w, v = (rng.standard_normal((4, 4 // n.groups, *n.kernel)) for n in (a, b))
    kernel = windows.embedded(w, a, both) + windows.embedded(v, b, both)
    np.testing.assert_allclose(conv(x, kernel, both), conv(x, w, a) + conv(x, v, b), atol=1e-12)


def test_branches_of_other_strides_have_no_common_window() -> None:
    assert windows.common_window(Window.of((1,), (2,)), Window.of((1,)), (7,)) is None
    assert windows.common_window(Window.of((3,)), Window.of((1,)), (7,)) is None


# ---------------------------------------------------------------- ranks


def low_rank(rng: np.random.Generator, count: int, m: int, n: int, rank: int) -> np.ndarray:
    return rng.standard_normal((count, m, rank)) @ rng.standard_normal((count, rank, n))


@pytest.mark.parametrize(("m", "n"), [(5, 7), (90, 80), (80, 200)])
@pytest.mark.parametrize("rank", [1, 3])
def test_rank_is_found_where_it_is(m: int, n: int, rank: int) -> None:
    matrices = low_rank(RNG(2), 6, m, n, rank)
    found = factor.factors(matrices, rank, 1e-12)
    assert found is not None and found.rank == rank and found.error < 1e-12
    np.testing.assert_allclose(found.left @ found.right, matrices, atol=1e-10)
    assert factor.factors(matrices, rank - 1, 1e-12) is None


@pytest.mark.parametrize("shape", [(70, 90), (300, 200)])
def test_the_quick_proof_never_denies_a_rank(shape: tuple[int, int]) -> None:
    """Against singular values, for ranks and tolerances around the edge."""
    rng = RNG(3)
    for rank, noise in itertools.product((1, 20, 60), (0.0, 1e-9, 1e-5, 1e-2)):
        matrix = low_rank(rng, 1, *shape, rank)[0] + noise * rng.standard_normal(shape)
        s = np.linalg.svd(matrix, compute_uv=False)
        for most, tolerance in itertools.product((1, rank, rank + 5), (1e-12, 1e-6, 1e-3)):
            fits = np.linalg.norm(s[most:]) <= tolerance * np.linalg.norm(s)
            assert not (fits and factor._exceeds(matrix, most, tolerance))
    full = rng.standard_normal((400, 300))
    assert factor._exceeds(full, 150, 1e-6), "it has to be of use for what is common"


@pytest.mark.parametrize("noise", [0.0, 1e-10, 1e-7])
@pytest.mark.parametrize(("rank", "small"), [(3, True), (12, True), (60, False)])
def test_low_ranks_need_no_full_decomposition(
    rank: int, small: bool, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random columns find what singular values would; where they do not, those are taken."""
    rng, tolerance = RNG(6), 5e-7
    matrices = low_rank(rng, 3, 300, 200, rank) + noise * rng.standard_normal((3, 300, 200))
    svd, heights = np.linalg.svd, []
    whole = svd(matrices, compute_uv=False)
    monkeypatch.setattr(
        np.linalg, "svd", lambda a, **options: heights.append(a.shape[1]) or svd(a, **options)
    )
    found = factor.factors(matrices, 100, tolerance)
    assert found is not None and (heights == [16]) == (small and noise < 1e-8)
    norms = np.linalg.norm(whole, axis=1)
    left = np.linalg.norm(whole[:, found.rank :], axis=1)
    assert (left <= tolerance * norms).all()
    assert (np.linalg.norm(whole[:, found.rank - 1 :], axis=1) > tolerance * norms).any()
    error = np.linalg.norm(found.left @ found.right - matrices) / np.linalg.norm(matrices)
    assert found.error == pytest.approx(error, rel=1e-3, abs=1e-14)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 2), (2,)])
def test_kernels_split_over_any_axes(axes: tuple[int, ...]) -> None:
    rng, groups = RNG(4), 2
    taps = (3, 2, 4)
    own = [taps[a] if a in axes else 1 for a in range(3)]
    rest = [1 if a in axes else taps[a] for a in range(3)]
    v = rng.standard_normal((groups * 2, 3, *own))
    h = rng.standard_normal((4, 2, *rest))
    first, second = Window.of(tuple(own), groups=groups), Window.of(tuple(rest), groups=groups)
    w = windows.composed_kernel(v, first, h, second)
    found = factor.spatial_split(w, groups, axes, 2, 1e-12)
    assert found is not None and found.rank == 2 and found.error < 1e-12
    again = windows.composed_kernel(found.first, first, found.second, second)
    np.testing.assert_allclose(again, w, atol=1e-12)


def test_the_error_of_a_nearest_kernel_is_what_is_left() -> None:
    w = RNG(5).standard_normal((1, 1, 9, 9))
    s = np.linalg.svd(w[0, 0], compute_uv=False)
    left = np.linalg.norm(s[4:]) / np.linalg.norm(s)
    found = factor.spatial_split(w, 1, (0,), 9, left * 1.0001)
    assert found is not None and found.rank == 4
    assert found.error == pytest.approx(left, rel=1e-9)
    product = np.einsum("rcux,orxv->ocuv", found.first, found.second)
    assert np.linalg.norm(product - w) / np.linalg.norm(w) == pytest.approx(left, rel=1e-9)


def test_blocks_of_zeros() -> None:
    rng = RNG(6)
    w = rng.standard_normal((12, 2, 3, 3))
    spread = windows.ungrouped(w, 4, 1)
    assert factor.block_groups(spread, 1) == [4, 2]
    assert factor.block_groups(windows.ungrouped(w, 4, 2), 2) == [4]
    np.testing.assert_array_equal(factor.diagonal_blocks(spread, 1, 4), w)
    spread[0, -1, 1, 1] = 1e-30
    assert factor.block_groups(spread, 1) == []


# ---------------------------------------------------------------- graphs

EVERYTHING = (
    "canonical,batch_norm,pad,algebra,commute,parallel(max_cost=1e9),collapse(max_cost=1e9),"
    "grouped,separable(max_cost=1)"
)


@pytest.mark.parametrize("block", range(10))
def test_random_linear_graphs_keep_their_values(block: int) -> None:
    """By the default pipeline, and where work is no object."""
    for seed in range(30 * block, 30 * block + 30):
        graph = linear_graph(seed)
        feeds = random_inputs(graph, seed)
        wanted = evaluate(graph, feeds)
        for pipeline in ("inference", EVERYTHING):
            changed = graph.clone()
            optimise(changed, pipeline)
            for a, b in zip(wanted, evaluate(changed, feeds), strict=True):
                assert relative_difference(a, b) <= 1e-9, (seed, pipeline)


def test_the_random_graphs_are_worth_it() -> None:
    """The rules that merge and split fire many times on them."""
    fired: dict[str, int] = {}
    for seed in range(100):
        for record in optimise(linear_graph(seed), EVERYTHING):
            for name, times in record.fired.items():
                fired[name] = fired.get(name, 0) + times
    wanted = ("collapse_convolutions", "merge_branches", "collapse_concat", "split_separable")
    assert all(fired.get(name, 0) >= 3 for name in wanted), fired


def test_weights_are_never_changed_in_place() -> None:
    for seed in range(20):
        graph = linear_graph(seed)
        before = {name: array.copy() for name, array in graph.params.items()}
        optimise(graph.clone(), EVERYTHING)
        for name, array in graph.params.items():
            np.testing.assert_array_equal(array, before[name])


# ---------------------------------------------------------------- options and what is told


def gauss_graph(noise: float) -> Graph:
    """A depthwise 9x9 layer that is nearly separable."""
    g = Graph("blur")
    x = g.input(TensorType("f64", (1, 8, 16, 16)), "x")
    line = np.exp(-(np.linspace(-2, 2, 9) ** 2))
    w = np.tile(np.outer(line, line), (8, 1, 1, 1))
    w += noise * RNG(0).standard_normal(w.shape)
    g.output(g.add("conv", x, g.param("w", w), padding=(4,) * 4, groups=8), "y")
    return g


def test_lossy_splits_are_made_on_request_and_measured() -> None:
    assert not any(r.rewrites for r in optimise(gauss_graph(1e-4), "separable"))
    graph, reference = gauss_graph(1e-4), gauss_graph(1e-4)
    (record,) = optimise(graph, "separable(tolerance=1e-2)")
    assert record.fired == {"split_nearly_separable": 1}
    (told,) = record.rewrites
    assert told.rule == "split_nearly_separable" and "9x1 and 1x9" in told.reason
    assert 1e-5 < told.error < 1e-2
    feeds = random_inputs(graph, 1)
    made = relative_difference(evaluate(reference, feeds)[0], evaluate(graph, feeds)[0])
    assert record.difference == pytest.approx(made, rel=10) and 1e-6 < made < 1e-2


def test_an_exact_split_tells_what_it_saves() -> None:
    graph = gauss_graph(0.0)
    (record,) = optimise(graph, "separable")
    assert record.rewrites[0].error < 1e-13 and "of the work" in record.rewrites[0].reason
    kernels = [a.shape[2:] for a in graph.params.values()]
    assert sorted(kernels) == [(1, 9), (9, 1)]


def test_max_cost_decides() -> None:
    def bottleneck() -> Graph:
        g = Graph("m")
        x = g.input(TensorType("f32", (4, 100)), "x")
        a, b = RNG(0).standard_normal((2, 100, 10)).astype(np.float32)
        g.output(g.add("matmul", g.add("matmul", x, g.param("a", a)), g.param("b", b.T)), "y")
        return g

    (record,) = optimise(bottleneck(), "collapse")
    assert not record.rewrites and "of the work" in record.declined[0].reason
    (record,) = optimise(bottleneck(), "collapse(max_cost=100)")
    assert record.fired == {"collapse_dense": 1}


def test_whole_numbers_serve_as_fractional_options() -> None:
    (chosen,) = parse_pipeline("collapse(max_cost=2)")
    assert chosen.max_cost == 2.0 and isinstance(chosen.max_cost, float)  # type: ignore[attr-defined]
    with pytest.raises(PassError, match="wanted float"):
        parse_pipeline("collapse(max_cost='2')")
