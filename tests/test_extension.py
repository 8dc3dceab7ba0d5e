"""A user's own ops and a user's own rule, declared in this file alone, work everywhere.

In the text form, the evaluator, the kernel language, native code, CUDA text, the pipeline and its
history. Nothing of cnnir is told about them anywhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from cnnir import OPS, Elementwise, Graph, Node, Op, TensorType, Value, compile, evaluate, parse
from cnnir.passes import PASSES, rule_pass
from cnnir.pipeline import optimise
from cnnir.report import history, operators
from cnnir.rewrite import RULES, rule

TEXT = """\
graph @mine(%x: f32[2,5,7]) {
  param @w : f32[5,1]
  %0 = hard_shrink(%x) {limit=0.25} : f32[2,5,7]
  %1 = mul(%0, @w) : f32[2,5,7]
  %2 = roll(%1) {axis=2, shift=3} : f32[2,5,7]
  %y = roll(%2) {axis=2, shift=-5} : f32[2,5,7]
  return %y
}"""


def declare() -> None:
    """What a user writes: two ops, a rule, and a pass that applies it."""

    class HardShrink(Elementwise):
        """y = x where |x| > limit, else 0."""

        name = "hard_shrink"

        def scalar(m, x, *, limit=0.5):
            return m.select(m.abs(x) > limit, x, 0.0)

    class Roll(Op):
        """x turned along `axis`: y[i] = x[(i - shift) mod n]."""

        name = "roll"

        def infer(x, *, axis, shift):
            return x

        def evaluate(x, *, axis, shift):
            return np.roll(x, shift, axis)

        def element(m, at, x, *, axis, shift):
            turned = (at[axis] - shift) % x.shape[axis]
            return x[(*at[:axis], turned, *at[axis + 1 :])]

    @rule("roll")
    def roll_of_roll(g, node):
        """roll(roll(x, a), b) => roll(x, a + b)  [same axis]"""
        match node:
            case Node("roll", (Value(Node("roll", (x,)) as first),)):
                axis, shift = node.attrs["axis"], node.attrs["shift"]
                if first.attrs["axis"] == axis:
                    return g.add("roll", x, axis=axis, shift=first.attrs["shift"] + shift)
        return None

    rule_pass("merge_rolls", roll_of_roll)


@pytest.fixture(scope="module", autouse=True)
def declared() -> Iterator[None]:
    """Declared for this module only: other tests count ops, passes and rules."""
    before = [(registry, set(registry)) for registry in (OPS, PASSES, RULES)]
    declare()
    yield
    for registry, names in before:
        for name in set(registry) - names:
            del registry[name]


@pytest.fixture
def graph() -> Graph:
    return parse(TEXT)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((2, 5, 7)).astype(np.float32)


def expected(graph: Graph, x: np.ndarray) -> np.ndarray:
    """By hand, in numpy."""
    shrunk = np.where(np.abs(x) > 0.25, x, 0)
    return np.roll(shrunk * graph.params["w"], 3 - 5, 2)


def test_text(graph: Graph) -> None:
    assert graph.text() == TEXT
    graph.verify()


def test_evaluate(graph: Graph, x: np.ndarray) -> None:
    np.testing.assert_array_equal(evaluate(graph, [x])[0], expected(graph, x))


def test_pipeline_and_history(graph: Graph, x: np.ndarray) -> None:
    wanted = expected(graph, x)
    records = optimise(graph, "merge_rolls,dead", verify=True, snapshots=True)
    assert [n.attrs["shift"] for n in graph.order() if n.name == "roll"] == [-2]
    np.testing.assert_array_equal(evaluate(graph, [x])[0], wanted)
    rows = history.history_rows(records)
    assert rows[0]["pass"] == "merge_rolls" and rows[0]["fired"] == {"roll_of_roll": 1}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("passes", [None, "merge_rolls,dead", "none"])
def test_cpu_code(graph: Graph, x: np.ndarray, threads: int, passes: str | None) -> None:
    exe = compile(graph, threads=threads, passes=passes)
    np.testing.assert_allclose(exe(x), expected(graph, x), rtol=1e-6)
    assert {step.kernel for step in exe.plan.steps} == {"loops"}
    exe.close()


def test_fusion_takes_the_elementwise_op(graph: Graph) -> None:
    optimise(graph)
    fused = [n for n in graph.order() if n.name == "fused"]
    inner = {n.name for node in fused for n in node.attrs["body"].order()}
    assert "hard_shrink" in inner


def test_documentation() -> None:
    assert "y = x where |x| > limit" in operators.operator_text("hard_shrink")
    assert "roll(x, *, axis, shift)" in operators.operator_text("roll")


def test_errors_name_the_op() -> None:
    g = Graph()
    value = g.input(TensorType("f32", (3,)), "x")
    with pytest.raises(Exception, match="roll: missing attribute"):
        g.add("roll", value, axis=0)


def test_cuda_text(graph: Graph) -> None:
    text = importlib.import_module("cnnir.backends.cuda").print_graph(graph)
    assert "__global__" in text and "0.25" in text
