"""Planning and placing: layouts, values written inside others, outputs; checked by running."""

import numpy as np
import pytest

import cnnir
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

RESIDUAL = """\
graph @g(%x: f32[2,20,5,7], %z: f32[2,20,5,7], %s: f32[20,5,7]) {
  param @w : f32[20,20,3,3]
  %a = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[2,20,5,7]
  %b = add(%a, %z) : f32[2,20,5,7]
  %y = mul(%b, %s) : f32[2,20,5,7]
  return %y
}"""
"""Row-major operands in an epilogue whose last block has lanes that are no channels."""


@pytest.mark.parametrize("features", ["", "avx512", "avx2", "sse2"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("text", [CONCATS, RESIDUAL], ids=["concats", "residual"])
def test_programs_agree_with_the_evaluator(text: str, threads: int, features: str) -> None:
    try:
        CpuTarget.host(features)
    except cnnir.BackendError as error:
        pytest.skip(str(error))
    graph = cnnir.parse(text, seed=5)
    rng = np.random.default_rng(6)
    feeds = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    exe = cnnir.compile(graph, threads=threads, features=features)
    wanted = cnnir.evaluate(graph, feeds, dtype="f64")
    for y, want in zip(exe.run(feeds).values(), wanted, strict=True):
        assert np.abs(y - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("text", [CONCATS, RESIDUAL], ids=["concats", "residual"])
def test_the_arena_is_near_the_least_that_can_be(text: str) -> None:
    plan = cnnir.compile(cnnir.parse(text)).plan
    live = max(b.nbytes for b in plan.buffers if b.space == "arena")
    assert live <= plan.arena_bound <= plan.arena_bytes <= 1.1 * plan.arena_bound


def test_whole_blocks_are_concatenated_in_place() -> None:
    graph = cnnir.parse(
        "graph @fire(%x: f32[1,16,5,7]) {\n  param @w : f32[32,16,1,1]\n"
        "  param @v : f32[16,16,1,1]\n  %a = conv(%x, @w) : f32[1,32,5,7]\n"
        "  %b = conv(%x, @v) : f32[1,16,5,7]\n  %c = concat(%a, %b) {axis=1} : f32[1,48,5,7]\n"
        "  %y = reduce_mean(%c) {axes=(2, 3)} : f32[1,48,1,1]\n  return %y\n}"
    )
    plan = cnnir.compile(graph, features="sse2" if CpuTarget.host().x86 else None).plan
    assert not any(step.op == "concat" for step in plan.steps)
    at = {b.name: b for b in plan.buffers if b.space == "arena"}
    assert at["a"].offset == at["c"].offset
    assert at["b"].offset == at["a"].offset + at["a"].nbytes


def test_a_kernel_that_is_not_tuned_is_told() -> None:
    graph = cnnir.parse(
        "graph @g(%x: f32[1,12,5,5]) {\n  param @w : f32[12,6,3,3]\n"
        "  %y = conv(%x, @w) {groups=2} : f32[1,12,3,3]\n  return %y\n}"
    )
    plan = cnnir.compile(graph).plan
    assert any("no tuned kernel" in note and "6" in note for note in plan.notes)
    assert "no tuned kernel" in str(plan)
