"""Planning and placing: layouts, values written inside others, outputs; checked by running."""

import numpy as np
import pytest

import cnnir
from cnnir.backends.llvm.kernels.microkernel import tile_cycles
from cnnir.backends.llvm.target import CpuTarget

CONCATS = """\
graph @g(%x: f32[1,16,5,7]) {
  param @w : f32[32,16,3,3]
  param @v : f32[16,96,1,1]
  %a = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,32,5,7]
  %b = relu(%a) : f32[1,32,5,7]
  %c = concat(%b, %a, %b) {axis=1} : f32[1,96,5,7]
  %d = conv(%c, @v) : f32[1,16,5,7]
  %e = concat(%x, %d, %x) {axis=1} : f32[1,48,5,7]
  %m = reduce_mean(%b) {axes=(2, 3)} : f32[1,32,1,1]
  %r = reshape(%m) {shape=(1, 32)} : f32[1,32]
  %q = concat(%m, %m) {axis=1} : f32[1,64,1,1]
  return %e, %a, %r, %q, %r, %x as ['e', 'a', 'r', 'q', 'r again', 'x again']
}"""
"""A value twice in a concat, as operand and output, viewed, returned twice; an input returned."""

SLICES = """\
graph @g(%x: f32[1,20,5,7]) {
  param @w : f32[72,20,3,3]
  param @v : f32[16,32,1,1]
  %a = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,72,5,7]
  %b = relu(%a) : f32[1,72,5,7]
  %c = slice(%b) {starts=(0, 16, 0, 0), sizes=(1, 56, 5, 7), steps=(1, 1, 1, 1)} : f32[1,56,5,7]
  %d = slice(%c) {starts=(0, 0, 0, 0), sizes=(1, 32, 5, 7), steps=(1, 1, 1, 1)} : f32[1,32,5,7]
  %e = conv(%d, @v) : f32[1,16,5,7]
  %f = concat(%d, %e, %c) {axis=1} : f32[1,104,5,7]
  %h = slice(%b) {starts=(0, 8, 0, 0), sizes=(1, 24, 5, 7), steps=(1, 1, 1, 1)} : f32[1,24,5,7]
  %i = tanh(%h) : f32[1,24,5,7]
  %j = slice(%b) {starts=(0, 71, 0, 0), sizes=(1, 16, 5, 7), steps=(1, -1, 1, 1)} : f32[1,16,5,7]
  %k = slice(%b) {starts=(0, 64, 0, 1), sizes=(1, 8, 5, 6), steps=(1, 1, 1, 1)} : f32[1,8,5,6]
  %p = slice(%b) {starts=(0, 32, 0, 0), sizes=(1, 10, 5, 7), steps=(1, 1, 1, 1)} : f32[1,10,5,7]
  param @u : f32[16,10,3,3]
  %q = conv(%p, @u) {padding=(1, 1, 1, 1)} : f32[1,16,5,7]
  %m = reduce_mean(%b) {axes=(2, 3)} : f32[1,72,1,1]
  %n = slice(%m) {starts=(0, 48, 0, 0), sizes=(1, 16, 1, 1), steps=(1, 1, 1, 1)} : f32[1,16,1,1]
  %o = reshape(%n) {shape=(1, 16)} : f32[1,16]
  %r = reshape(%m) {shape=(1, 72)} : f32[1,72]
  return %f, %i, %j, %k, %o, %r, %c, %n, %q as ['f', 'i', 'j', 'k', 'o', 'r', 'c', 'n', 'q']
}"""
"""Slices of blocks and others: of a slice, in a concat, viewed, returned."""

POOLED = """\
graph @g(%x: f32[1,16,5,7]) {
  %a = max_pool(%x) {kernel=(5, 7)} : f32[1,16,1,1]
  %b = avg_pool(%x) {kernel=(5, 7)} : f32[1,16,1,1]
  param @w : f32[16,16,1,1]
  %c = conv(%a, @w) : f32[1,16,1,1]
  %d = conv(%b, @w) : f32[1,16,1,1]
  %e = concat(%c, %d) {axis=1} : f32[1,32,1,1]
  %y = reshape(%e) {shape=(1, 32)} : f32[1,32]
  return %y
}"""
"""A concat whose bytes are an output's."""

RESIDUAL = """\
graph @g(%x: f32[1,20,5,7], %z: f32[1,20,5,7], %s: f32[20,5,7]) {
  param @w : f32[20,20,3,3]
  %a = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,20,5,7]
  %b = add(%a, %z) : f32[1,20,5,7]
  %y = mul(%b, %s) : f32[1,20,5,7]
  return %y
}"""
"""Row-major operands in an epilogue whose last block has lanes that are no channels."""


TEXTS = {"concats": CONCATS, "slices": SLICES, "pooled": POOLED, "residual": RESIDUAL}


def of_images(text: str, count: int) -> str:
    """The text of a graph on one image, for `count` of them."""
    text = text.replace("f32[1,", f"f32[{count},").replace("shape=(1,", f"shape=({count},")
    return text.replace("sizes=(1,", f"sizes=({count},")


@pytest.mark.parametrize("features", ["", "avx512", "avx2", "sse2"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_programs_agree_with_the_evaluator(
    text: str, images: int, threads: int, features: str
) -> None:
    try:
        CpuTarget.host(features)
    except cnnir.BackendError as error:
        pytest.skip(str(error))
    graph = cnnir.parse(of_images(text, images), seed=5)
    rng = np.random.default_rng(6)
    feeds = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    wanted = cnnir.evaluate(graph, feeds, dtype="f64")
    for precision, bound in (("exact", 1e-5), ("default", 1e-4)):
        exe = cnnir.compile(graph, threads=threads, features=features, precision=precision)
        for y, want in zip(exe.run(feeds).values(), wanted, strict=True):
            assert np.abs(y - want).max() <= bound * np.abs(want).max()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_arena_is_near_the_least_that_can_be(text: str) -> None:
    plan = cnnir.compile(cnnir.parse(text)).plan
    live = max((b.nbytes for b in plan.buffers if b.space == "arena"), default=0)
    assert live <= plan.arena_bound <= plan.arena_bytes <= 1.1 * plan.arena_bound


@pytest.mark.parametrize("images", [1, 3])
def test_whole_blocks_are_concatenated_in_place(images: int) -> None:
    text = (
        "graph @fire(%x: f32[1,16,5,7]) {\n  param @w : f32[32,16,1,1]\n"
        "  param @v : f32[16,16,1,1]\n  %a = conv(%x, @w) : f32[1,32,5,7]\n"
        "  %b = conv(%x, @v) : f32[1,16,5,7]\n  %c = concat(%a, %b) {axis=1} : f32[1,48,5,7]\n"
        "  %y = reduce_mean(%c) {axes=(2, 3)} : f32[1,48,1,1]\n  return %y\n}"
    )
    graph = cnnir.parse(of_images(text, images))
    plan = cnnir.compile(graph, features="sse2" if CpuTarget.host().x86 else None).plan
    assert not any(step.op == "concat" for step in plan.steps)
    at = {b.name: b for b in plan.buffers if b.space == "arena"}
    assert at["a"].offset == at["c"].offset
    assert at["b"].offset == at["a"].offset + at["a"].nbytes


@pytest.mark.parametrize("images", [1, 3])
def test_a_slice_of_blocks_is_no_step(images: int) -> None:
    graph = cnnir.parse(of_images(SLICES, images))
    plan = cnnir.compile(graph, features="sse2" if CpuTarget.host().x86 else None).plan
    assert [step.result.shape[1] for step in plan.steps if step.op == "slice"] == [16, 8]
    places = {(b.name, b.offset, b.nbytes) for b in plan.buffers if b.space == "arena"}
    start, block = next((b.offset, b.nbytes // 18) for b in plan.buffers if b.name == "b")
    for name, first, blocks in (("c", 4, 14), ("d", 4, 8), ("h", 2, 6), ("p", 8, 3)):
        assert (name, start + first * block, blocks * block) in places


def test_siblings_are_one_step_and_their_parts_none() -> None:
    text = """\
graph @reduce(%x: f32[2,24,5,7]) {
  param @w : f32[20,24,1,1]
  param @v : f32[16,24,1,1]
  param @u : f32[8,20,3,3]
  param @t : f32[8,16,5,5]
  %0 = conv(%x, @w) : f32[2,20,5,7]
  %1 = relu(%0) : f32[2,20,5,7]
  %2 = conv(%x, @v) : f32[2,16,5,7]
  %3 = relu(%2) : f32[2,16,5,7]
  %4 = conv(%1, @u) {padding=(1, 1, 1, 1)} : f32[2,8,5,7]
  %5 = conv(%3, @t) {padding=(2, 2, 2, 2)} : f32[2,8,5,7]
  %y = sub(%4, %5) : f32[2,8,5,7]
  return %y
}"""
    graph = cnnir.parse(text, seed=2)
    exe = cnnir.compile(graph)
    assert [s.op for s in exe.plan.steps if s.kernel == "direct_conv"].count("conv + relu") == 1
    assert not any(step.op == "slice" for step in exe.plan.steps)
    x = np.random.default_rng(3).standard_normal((2, 24, 5, 7)).astype(np.float32)
    wanted = cnnir.evaluate(graph, [x], dtype="f64")[0]
    assert np.abs(exe(x) - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("features", ["sse2", "avx2", None])
@pytest.mark.parametrize("channels", [7, 20, 32])
def test_channels_that_come_second_are_put_in_blocks(channels: int, features: str | None) -> None:
    """As after a dense layer over channels that lie last: no packing step is left."""
    text = f"""\
graph @g(%x: f32[2,5,3,9], %r: f32[2,{channels},5,3]) {{
  param @d : f32[9,{channels}]
  param @w : f32[24,{channels},3,3]
  %0 = matmul(%x, @d) : f32[2,5,3,{channels}]
  %1 = transpose(%0) {{perm=(0, 3, 1, 2)}} : f32[2,{channels},5,3]
  %2 = conv(%1, @w) {{padding=(1, 1, 1, 1)}} : f32[2,24,5,3]
  %3 = add(%1, %r) : f32[2,{channels},5,3]
  return %2, %3
}}"""
    graph = cnnir.parse(text, seed=2)
    exe = cnnir.compile(graph, threads=2, features=features)
    (moved,) = (step for step in exe.plan.steps if step.op == "transpose")
    assert str(moved.layout).startswith("blocked")
    rng = np.random.default_rng(channels)
    feeds = [rng.standard_normal(v.type.shape, np.float32) for v in graph.inputs]
    for found, wanted in zip(exe(*feeds), cnnir.evaluate(graph, feeds, dtype="f64"), strict=True):
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_a_kernel_that_is_not_tuned_is_told() -> None:
    graph = cnnir.parse(
        "graph @g(%x: f32[2,1,3,4], %y: f32[1,5,4,6]) {\n"
        "  %z = matmul(%x, %y) : f32[2,5,3,6]\n  return %z\n}"
    )
    plan = cnnir.compile(graph, passes="none").plan
    assert any("no tuned kernel" in note and "broadcast" in note for note in plan.notes)
    assert "no tuned kernel" in str(plan)


def test_what_needs_blocks_pays_for_packing_the_image() -> None:
    """A 3x3 layer on a row-major image of three channels: Winograd would have it packed first."""
    graph = cnnir.parse(
        """\
graph @g(%x: f32[1,3,128,128]) {
  param @w : f32[32,3,3,3]
  %y = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,32,128,128]
  return %y
}""",
        seed=3,
    )
    exe = cnnir.compile(graph, threads=1, cache=False)
    first, *_ = exe.plan.steps
    assert first.kernel == "direct_conv" and first.op == "conv"
    assert any(line.startswith("winograd: predicted") for line in first.rejected)
    x = np.random.default_rng(0).standard_normal((1, 3, 128, 128), dtype=np.float32)
    (want,) = cnnir.evaluate(graph, [x], dtype="f64")
    assert np.abs(exe(x) - want).max() <= 1e-6 * np.abs(want).max()
    exe.close()


@pytest.mark.parametrize(("lanes", "fmas", "even"), [(16, 1, True), (8, 2, False)])
def test_tiles_are_bound_by_products_or_by_loads(lanes: int, fmas: int, even: bool) -> None:
    """One product a cycle hides all loads; at two, many pixels of one block are mostly loads."""
    costs = [tile_cycles(blocks, 12 // blocks, 1000, lanes, fmas) for blocks in (1, 2, 3)]
    assert (max(costs) < 1.02 * min(costs)) == even
    assert costs[0] == max(costs)
