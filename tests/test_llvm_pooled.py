"""Pooling in a convolution's store: the kernels, when the plan takes it, and what it says else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import LANES, TARGETS, TOLERANCE, conv_error, sampled, spatial
from kernel_references import conv_reference
from onnx import TensorProto, helper, numpy_helper

import cnnir
import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels import direct_conv, winograd
from cnnir.backends.llvm.kernels.pooling import Pooling
from cnnir.backends.llvm.kernels.spec import ConvSpec, Split
from cnnir.backends.llvm.target import CpuTarget
from cnnir.provenance import trails

# ---- kernels


def pooled_reference(x, w, bias, spec):
    """The convolution's results, all of them, then windows one by one."""
    whole = conv_reference(x, w, bias, replace(spec, pool=None))
    combine = np.max if spec.pool.kind == "max" else np.mean
    y = np.empty((*whole.shape[:2], *spec.y_sizes))
    for at in np.ndindex(*spec.y_sizes):
        sides = zip(at, spec.pool.window, strict=True)
        seen = whole[(..., *(slice(i * n, i * n + n) for i, n in sides))]
        y[(..., *at)] = combine(seen, axis=tuple(range(2, whole.ndim)))
    return y


def pooled_sample(template, ranks):
    def sample(pick):
        rank = pick(ranks)
        sizes, kernel, stride, dilation, padding = spatial(pick, rank)
        if template is winograd:
            kernel, stride, dilation = pick(((3,) * rank, (5,) * rank)), (1,) * rank, (1,) * rank
        spec = ConvSpec(
            batch=pick((1, 2)),
            channels=pick((1, 3, 8, 19)),
            filters=pick((5, 16, 33)),
            sizes=sizes,
            kernel=kernel,
            stride=stride,
            dilation=dilation,
            padding=padding,
            plain=template is direct_conv and pick((True, False)),
            bias=pick((True, False)),
            lanes=pick(LANES),
            pool=Pooling(pick(("max", "average")), tuple(pick((1, 2, 2, 3)) for _ in range(rank))),
        )
        return spec, template.reject(spec)

    return sample


@pytest.mark.parametrize("seed", range(3))
def test_direct_convolution_pools_over_random_shapes(seed: int) -> None:
    for spec in sampled(12, seed, pooled_sample(direct_conv, (1, 2))):
        assert conv_error(direct_conv, spec, reference=pooled_reference) < TOLERANCE, spec


@pytest.mark.parametrize("seed", range(3))
def test_winograd_pools_over_random_shapes(seed: int) -> None:
    for spec in sampled(8, seed, pooled_sample(winograd, (1, 2))):
        assert conv_error(winograd, spec, reference=pooled_reference) < 1e-4, spec


def test_every_tiling_offered_holds_whole_windows() -> None:
    for spec in sampled(40, 9, pooled_sample(direct_conv, (1, 2))):
        tiling = direct_conv.choose(spec, TARGETS[spec.lanes])
        high, wide = spec.pool.sides[1:] if len(spec.sizes) == 2 else (spec.pool.window[0], 1)
        assert tiling.rows % high == 0 and tiling.columns % wide == 0, (spec, tiling)


@pytest.mark.parametrize(("total", "largest", "unit"), [(28, 6, 2), (30, 14, 3), (12, 12, 4)])
def test_a_split_in_units_covers_everything_once(total: int, largest: int, unit: int) -> None:
    b, split = Builder(ir.Module(), "f", 0), Split(total, largest, unit)
    starts = [split.start(b, part) for part in range(split.parts)]
    ends = [*starts[1:], total]
    sizes = [end - start for start, end in zip(starts, ends, strict=True)]
    assert starts[0] == 0 and all(0 < size <= largest and size % unit == 0 for size in sizes)
    assert sorted(sizes) == sorted(size for size, count in split.sizes() for _ in range(count))


@pytest.mark.parametrize(
    ("template", "changes", "words"),
    [
        (direct_conv, {"pool": Pooling("max", (4, 4))}, "16 results, more than"),
        (direct_conv, {"pool": Pooling("max", (11, 1))}, "no whole window"),
        (winograd, {"pool": Pooling("max", (5, 2))}, "no tile holds whole windows of 5x2"),
    ],
)
def test_templates_say_what_they_do_not_pool(template, changes, words: str) -> None:
    spec = ConvSpec(1, 16, 16, (10, 10), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    assert template.reject(replace(spec, pool=Pooling("max", (2, 2)))) is None
    assert words in template.reject(replace(spec, **changes))


# ---- plans


def net(pool: str, out: str, size: int = 23, ending: str = "return %y", kernel: int = 3) -> str:
    """conv + residual + relu, then a pool; one result column too many for windows of 2."""
    type = f"f32[2,19,{size},{size}]"
    half = kernel // 2
    return f"""\
graph @net(%x: f32[2,6,{size},{size}], %r: {type}) {{
  param @w : f32[19,6,{kernel},{kernel}]
  param @b : f32[19]
  %0 = conv(%x, @w, @b) {{padding=({half}, {half}, {half}, {half})}} : {type}
  %1 = add(%0, %r) : {type}
  %2 = relu(%1) : {type}
  %y = {pool} : f32[2,19,{out}]
  {ending}
}}"""


def agrees(graph: cnnir.Graph, exe) -> bool:
    rng = np.random.default_rng(3)
    feeds = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    wanted = cnnir.evaluate(graph, feeds, dtype="f64")
    pairs = zip(exe.run(feeds).values(), wanted, strict=True)
    return all(abs(y - want).max() <= 1e-4 * abs(want).max() for y, want in pairs)


SIDE_BY_SIDE = {
    "2x2": ("max_pool(%2) {kernel=(2, 2), stride=(2, 2)}", "11,11"),
    "average": ("avg_pool(%2) {kernel=(2, 2), stride=(2, 2)}", "11,11"),
    "3x2": ("max_pool(%2) {kernel=(3, 2), stride=(3, 2)}", "7,11"),
    "1x2": ("avg_pool(%2) {kernel=(1, 2), stride=(1, 2)}", "23,11"),
}


@pytest.mark.parametrize("features", ["", "avx2", "sse2"])
@pytest.mark.parametrize("precision", ["default", "exact"])
@pytest.mark.parametrize("pool", SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE)
def test_windows_side_by_side_are_pooled_in_the_store(pool, precision: str, features: str) -> None:
    try:
        CpuTarget.host(features)
    except cnnir.BackendError as error:
        pytest.skip(str(error))
    graph = cnnir.parse(net(*pool), seed=1)
    exe = cnnir.compile(graph, features=features, precision=precision)
    name = pool[0].split("(")[0]
    assert [s.op for s in exe.plan.steps if name in s.op] == [f"conv + add + relu + {name}"]
    assert agrees(graph, exe)


APART = {
    "overlap": ("max_pool(%2) {kernel=(3, 3), stride=(2, 2)}", "11,11", "return %y", "overlap"),
    "gaps": ("max_pool(%2) {kernel=(2, 2), stride=(3, 2)}", "8,11", "return %y", "side by side"),
    "dilated": (
        "max_pool(%2) {dilation=(2, 2), kernel=(2, 2), stride=(2, 2)}",
        *("11,11", "return %y", "side by side"),
    ),
    "padded": (
        "max_pool(%2) {kernel=(2, 2), padding=(1, 0, 0, 1), stride=(2, 2)}",
        *("12,12", "return %y", "over the edge"),
    ),
    "ceil": (
        "max_pool(%2) {ceil_mode=True, kernel=(2, 2), stride=(2, 2)}",
        *("12,12", "return %y", "over the edge"),
    ),
    "output": (
        "max_pool(%2) {kernel=(2, 2), stride=(2, 2)}",
        *("11,11", "return %y, %2", "something else reads"),
    ),
    "reader": (
        "max_pool(%2) {kernel=(2, 2), stride=(2, 2)}",
        "11,11",
        "%z = reduce_sum(%2) {axes=(2, 3), keepdims=False} : f32[2,19]\n  return %y, %z",
        "something else reads",
    ),
    "large": ("avg_pool(%2) {kernel=(5, 4), stride=(5, 4)}", "4,5", "return %y", "20 results"),
}


@pytest.mark.parametrize("case", APART.values(), ids=APART)
def test_other_pools_stay_apart_and_say_why(case) -> None:
    pool, out, ending, words = case
    graph = cnnir.parse(net(pool, out, ending=ending), seed=1)
    exe = cnnir.compile(graph)
    (step,) = [s for s in exe.plan.steps if s.kernel == "pool"]
    said = [reason for reason in step.rejected if reason.startswith("in the store of conv")]
    assert len(said) == 1 and words in said[0]
    assert agrees(graph, exe)


def test_a_pool_of_what_is_no_convolution_says_nothing() -> None:
    text = "graph @p(%x: f32[1,16,8,8]) {\n  %0 = max_pool(%x) {kernel=(3, 3)} : f32[1,16,6,6]\n"
    text += "  %y = max_pool(%0) {kernel=(2, 2), stride=(2, 2)} : f32[1,16,3,3]\n  return %y\n}"
    exe = cnnir.compile(cnnir.parse(text), passes="")
    assert not any("in the store" in reason for s in exe.plan.steps for reason in s.rejected)


def test_threads_give_the_same_bits() -> None:
    graph = cnnir.parse(net(*SIDE_BY_SIDE["2x2"], size=61).replace("11,11", "30,30"), seed=1)
    rng = np.random.default_rng(3)
    feeds = [rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs]
    one, two = (cnnir.compile(graph, threads=n)(*feeds) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_nan_is_the_largest_in_its_window_alone() -> None:
    graph = cnnir.parse(net(*SIDE_BY_SIDE["2x2"], kernel=1), seed=1)
    x, r = (np.zeros(v.type.shape, np.float32) for v in graph.inputs)
    r[1, 18, 5, 4] = np.nan
    y = cnnir.compile(graph)(x, r)
    assert np.argwhere(np.isnan(y)).tolist() == [[1, 18, 2, 2]]


def test_the_step_is_found_from_both_nodes() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    w = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "layer"),
        helper.make_node("MaxPool", ["c"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(w, "w")])
    imported = cnnir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    )
    exe = cnnir.compile(imported)
    (number,) = [n for n, step in enumerate(exe.plan.steps) if step.op == "conv + max_pool"]
    found = {(trail.source, trail.step) for trail in trails(imported, exe.graph, exe.plan)}
    assert {("layer", number), ("pool", number)} <= found
    assert exe.plan.steps[number].sources == ("layer", "pool")
