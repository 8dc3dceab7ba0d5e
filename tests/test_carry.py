"""States: outputs that are inputs of the next run, computed in the place of those."""

from __future__ import annotations

import numpy as np
import pytest

import cnnir
from cnnir.backends.base import Program
from cnnir.backends.state import State
from cnnir.verify import widened

TARGETS = ["cpu", "reference", "cuda-emu"]


def graph(text: str) -> cnnir.Graph:
    """A graph from the lines of its body, with three f32[33,5] inputs."""
    inputs = "%a: f32[33,5], %b: f32[33,5], %x: f32[33,5]"
    return cnnir.parse(f"graph @g({inputs}) {{\n{text}\n}}")


CASES = {
    "momentum": "%m = add(%b, %x) : f32[33,5]\n%w = sub(%a, %m) : f32[33,5]\n"
    "%y = mul(%a, %b) : f32[33,5]\nreturn %w, %m, %y as ['w', 'm', 'y'] carry {0: 0, 1: 1}",
    "swapped": "%y = mul(%a, %x) : f32[33,5]\n"
    "return %b, %a, %y as ['p', 'q', 'y'] carry {0: 0, 1: 1}",
    "rotated": "%s = add(%a, %x) : f32[33,5]\n%t = sub(%b, %x) : f32[33,5]\n"
    "return %t, %s, %a as ['p', 'q', 'y'] carry {0: 0, 1: 1}",
    "same value twice": "%s = add(%a, %x) : f32[33,5]\n"
    "return %s, %s, %s as ['p', 'q', 'y'] carry {0: 0, 1: 1}",
    "unchanged": "%y = add(%a, %x) : f32[33,5]\nreturn %a, %y as ['p', 'y'] carry {0: 0}",
    "the new value is used on": "%s = add(%a, %x) : f32[33,5]\n%t = tanh(%s) : f32[33,5]\n"
    "%u = mul(%t, %a) : f32[33,5]\nreturn %s, %u, %t as ['p', 'q', 'y'] carry {0: 0, 1: 1}",
    "a view's neighbours": "%q = reshape(%a) {shape=(1, 33, 5)} : f32[1,33,5]\n"
    "%m = avg_pool(%q) {kernel=(3,), padding=(1, 1)} : f32[1,33,5]\n"
    "%r = reshape(%m) {shape=(33, 5)} : f32[33,5]\nreturn %r carry {0: 0}",
    "a reduction of a view": "%q = reshape(%a) {shape=(33, 5, 1)} : f32[33,5,1]\n"
    "%z = reshape(%x) {shape=(33, 1, 5)} : f32[33,1,5]\n%p = mul(%q, %z) : f32[33,5,5]\n"
    "%r = reduce_sum(%p) {axes=(2,), keepdims=False} : f32[33,5]\n"
    "%s = sub(%a, %r) : f32[33,5]\nreturn %s carry {0: 0}",
    "through a view": "%t = transpose(%a) {perm=(1, 0)} : f32[5,33]\n"
    "%r = reshape(%t) {shape=(33, 5)} : f32[33,5]\n%s = add(%r, %x) : f32[33,5]\n"
    "return %s, %x as ['p', 'y'] carry {0: 0}",
    "a reduction": "%m = reduce_mean(%a) {axes=(0, 1), keepdims=True} : f32[1,1]\n"
    "%s = sub(%a, %m) : f32[33,5]\n%r = reduce_max(%s) {axes=(0,), keepdims=True} : f32[1,5]\n"
    "%t = add(%s, %r) : f32[33,5]\nreturn %t, %s as ['p', 'q'] carry {0: 0, 1: 1}",
    "a matmul": "%t = transpose(%x) {perm=(1, 0)} : f32[5,33]\n"
    "%m = matmul(%t, %a) : f32[5,5]\n%r = matmul(%a, %m) : f32[33,5]\n"
    "%s = sub(%a, %r) : f32[33,5]\nreturn %s, %m as ['p', 'y'] carry {0: 0}",
}


def program(graph: cnnir.Graph, target: str) -> Program:
    return cnnir.compile(graph, target)._first.program


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_a_state_advances_as_the_graph_says(case: str, target: str) -> None:
    """Three runs on a state are three evaluations, each fed with what the one before gave."""
    g = graph(CASES[case])
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((33, 5)).astype("f4") / 4 for n in "abx"}
    carried = {g.inputs[i].name or "": o for o, i in g.carried.items()}
    state = State.of({name: feeds[name] for name in carried})
    compiled = program(g, target)
    for _ in range(3):
        wanted = cnnir.evaluate(g, feeds)
        given = [feeds[n] for n in "abx" if n not in carried]
        others = compiled.advance(given, state)
        shown = [a for i, a in enumerate(wanted) if i not in g.carried]
        for got, expected in zip(others, shown, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        for name, output in carried.items():
            np.testing.assert_allclose(state.arrays[name], wanted[output], rtol=1e-5, atol=1e-6)
            feeds[name] = wanted[output]


@pytest.mark.parametrize("case", CASES)
def test_a_call_leaves_its_arrays_alone(case: str) -> None:
    g = graph(CASES[case])
    rng = np.random.default_rng(1)
    feeds = {n: rng.standard_normal((33, 5)).astype("f4") for n in "abx"}
    before = {n: a.copy() for n, a in feeds.items()}
    wanted = cnnir.evaluate(g, feeds)
    got = cnnir.compile(g).run(feeds)
    for a, b in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name in feeds:
        np.testing.assert_array_equal(feeds[name], before[name])


def _copies(case: str) -> int:
    return sum(step.op == "carry" for step in cnnir.compile(graph(CASES[case])).plan.steps)


def test_updates_of_the_own_element_are_in_place() -> None:
    """No copy, even where the old value is still wanted by a later node."""
    assert [_copies(case) for case in ("momentum", "unchanged", "through a view")] == [0, 0, 0]
    bias = (
        "%r = reduce_sum(%x) {axes=(0,), keepdims=False} : f32[5]\n"
        "%s = sub(%b, %r) : f32[5]\nreturn %s carry {0: 0}"
    )
    g = cnnir.parse(f"graph @g(%b: f32[5], %x: f32[33,5]) {{\n{bias}\n}}")
    (step,) = cnnir.compile(g).plan.steps
    assert step.op == "reduce_sum + sub"


def test_what_needs_old_elements_later_is_copied() -> None:
    assert _copies("a view's neighbours") == 1 and _copies("a reduction of a view") == 1
    assert _copies("the new value is used on") == 1 and _copies("swapped") == 1


def test_one_state_serves_programs_of_several_shapes() -> None:
    """The batch is another one, the state is the same."""
    text = (
        "graph @g(%w: f32[4], %x: f32[N,4]) {\n%s = reduce_sum(%x) {axes=(0,), "
        "keepdims=False} : f32[4]\n%v = add(%w, %s) : f32[4]\nreturn %v carry {0: 0}\n}"
    )
    state = State.of({"w": np.zeros(4, np.float32)})
    for n in (3, 1, 2, 3):
        program(cnnir.parse(text.replace("N", str(n))), "cpu").advance(
            [np.ones((n, 4), np.float32)], state
        )
    np.testing.assert_array_equal(state.arrays["w"], [9, 9, 9, 9])


def test_carried_outputs_survive_text_clone_and_widening() -> None:
    g = graph(CASES["momentum"])
    assert cnnir.parse(str(g)).carried == g.clone().carried == {0: 0, 1: 1}
    assert cnnir.parse(g.text(hints=False)).carried == g.carried == widened(g).carried


@pytest.mark.parametrize("carry", ["{0: 5}", "{3: 0}", "{0: 0, 1: 0}", "{2: 0}"])
def test_pairs_that_make_no_sense_are_refused(carry: str) -> None:
    text = "%r = reduce_sum(%x) {axes=(0,), keepdims=False} : f32[5]\nreturn %a, %b, %r"
    with pytest.raises(cnnir.ParseError):
        graph(f"{text} carry {carry}")
