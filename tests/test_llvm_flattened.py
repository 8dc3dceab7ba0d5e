"""Dense layers that read images in blocks of channels: the kernel, and when the plan does so."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from kernel_harness import LANES, TARGETS, Guarded, run_kernel, to_blocked

import cnnir
import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.kernels import matmul
from cnnir.backends.llvm.target import CpuTarget


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    ("rows", "channels", "sizes", "columns"),
    [(1, 16, (5, 5), 120), (3, 19, (3, 2), 10), (7, 3, (1, 4), 33), (2, 32, (1, 1), 5)],
)
def test_rows_that_are_images_in_blocks(lanes, rows, channels, sizes, columns) -> None:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((rows, channels, *sizes), dtype=np.float32)
    depth = images[0].size
    weights = rng.standard_normal((depth, columns), dtype=np.float32)
    spec = matmul.MatmulSpec(rows, columns, depth, lanes=lanes, channels=channels)
    tiling = matmul.choose(spec, TARGETS[lanes])
    packed, data = matmul.pack(weights, spec, tiling), to_blocked(images, lanes)
    operands = [Guarded(a.shape, a) for a in (data, packed)]
    y = Guarded((rows, columns))
    run_kernel(matmul.emit(ir.Module(), "kernel", spec, tiling), operands, y)
    wanted = images.reshape(rows, -1).astype(np.float64) @ weights
    assert abs(y.array - wanted).max() < 1e-5 * abs(wanted).max()


def test_weights_are_not_copied_on_the_way_to_their_place() -> None:
    """Those of VGG-16's first dense layer are 400 MB."""
    spec = matmul.MatmulSpec(1, 256, 64 * 49, lanes=8, channels=64)
    tiling = matmul.choose(spec, TARGETS[8])
    weights = np.random.default_rng(0).standard_normal((64 * 49, 256), dtype=np.float32)
    out = np.empty(matmul.packed_size(spec, tiling), np.float32)
    tracemalloc.start()
    try:
        matmul.pack(weights, spec, tiling, out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < weights.nbytes / 4
    np.testing.assert_array_equal(out, matmul.pack(weights, spec, tiling))


def net(images: int, filters: int, tail: str, shape: str = "") -> str:
    """A convolution, its images as rows, and `tail`, which makes %y."""
    depth = 20 * filters
    return f"""\
graph @net(%x: f32[{images},3,6,7]) {{
  param @w : f32[{filters},3,3,3]
  param @u : f32[{depth},11]
  param @v : f32[{depth},5]
  param @b : f32[1,11]
  %0 = conv(%x, @w) : f32[{images},{filters},4,5]
  %1 = relu(%0) : f32[{images},{filters},4,5]
  %r = reshape(%1) {{shape=({shape or f"{images}, {depth}"})}} : f32[{shape or f"{images},{depth}"}]
{tail}
}}"""


def dense(n: int) -> str:
    return (
        f"  %2 = matmul(%r, @u) : f32[{n},11]\n  %3 = add(%2, @b) : f32[{n},11]\n"
        f"  %y = relu(%3) : f32[{n},11]\n  return %y"
    )


def heads(n: int) -> str:
    return (
        f"  %y = matmul(%r, @u) : f32[{n},11]\n  %2 = matmul(%r, @v) : f32[{n},5]\n"
        f"  %z = tanh(%2) : f32[{n},5]\n  return %y, %z"
    )


def plan_and_check(text: str, **options) -> list:
    graph = cnnir.parse(text, seed=4)
    exe = cnnir.compile(graph, **options)
    x = np.random.default_rng(5).standard_normal(graph.inputs[0].type.shape).astype(np.float32)
    wanted = cnnir.evaluate(graph, [x], dtype="f64")
    for y, want in zip(exe.run({"x": x}).values(), wanted, strict=True):
        assert abs(y - want).max() < 1e-4 * abs(want).max()
    return exe.plan.steps


@pytest.mark.parametrize("features", ["", "avx2", "sse2"])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("filters", [5, 16, 35])
@pytest.mark.parametrize("tail", [dense, heads])
def test_dense_layers_read_blocks(tail, filters: int, images: int, features: str) -> None:
    try:
        CpuTarget.host(features)
    except cnnir.BackendError as error:
        pytest.skip(str(error))
    steps = plan_and_check(net(images, filters, tail(images)), features=features)
    assert not any("reshape" in s.op or s.kernel == "pack" for s in steps)
    assert sum("rows in blocks of channels" in s.summary for s in steps) == 1 + (tail is heads)


ELSEWHERE = {
    "output": "  %y = matmul(%r, @u) : f32[2,11]\n  return %y, %r",
    "another reader": (
        "  %2 = matmul(%r, @u) : f32[2,11]\n"
        "  %s = reduce_sum(%r) {axes=(1,), keepdims=True} : f32[2,1]\n"
        "  %y = mul(%2, %s) : f32[2,11]\n  return %y"
    ),
    "in front": (
        "  %2 = softmax(%r) {axis=1} : f32[2,320]\n  %y = matmul(%2, @u) : f32[2,11]\n  return %y"
    ),
    "second operand": (
        "  %t = transpose(%r) {perm=(1, 0)} : f32[320,2]\n  %y = matmul(%r, %t) : f32[2,2]\n"
        "  return %y"
    ),
}


@pytest.mark.parametrize("tail", ELSEWHERE.values(), ids=ELSEWHERE)
def test_rows_that_others_read_are_made(tail: str) -> None:
    steps = plan_and_check(net(2, 16, tail))
    assert not any("rows in blocks" in s.summary for s in steps)


def test_a_reshape_into_other_rows_is_made() -> None:
    text = net(2, 16, "  %y = matmul(%r, @q) : f32[32,4]\n  return %y", shape="32,20")
    steps = plan_and_check(text.replace("  %0", "  param @q : f32[20,4]\n  %0", 1))
    assert not any("rows in blocks" in s.summary for s in steps)
