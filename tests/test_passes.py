"""Every pass on the golden files, its values in f64, and what a pipeline promises."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import golden
import numpy as np
import pytest

from cnnir.errors import PassError, RuntimeError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.passes import PASSES, PIPELINES, Pass, RulePass
from cnnir.pipeline import optimise, parse_pipeline
from cnnir.rewrite import Outcome
from cnnir.tensortype import TensorType
from cnnir.text import parse
from cnnir.verify import random_inputs, relative_difference


@pytest.mark.parametrize("file", sorted(golden.FOLDER.rglob("*.ir")), ids=lambda f: f.stem)
def test_golden_text(file: golden.Path, request: pytest.FixtureRequest) -> None:
    """Parse, verify, round trip, run, verify, compare numbered text."""
    update = request.config.getoption("--update-golden")
    cases = golden.cases(file)
    for case in cases:
        graph = case.graph()
        graph.verify()
        assert parse(str(graph)).text() == str(graph)
        before = graph.text(hints=False)
        records = optimise(graph, case.pipeline)
        graph.verify()
        assert parse(str(graph)).text() == str(graph)
        if case.unchanged:
            assert graph.text(hints=False) == before, case
            reasons = [d.reason for record in records for d in record.declined]
            assert not case.reason or any(case.reason in r for r in reasons), (case, reasons)
            continue
        fired: dict[str, int] = {}
        for record in records:
            for name, times in record.fired.items():
                fired[name] = fired.get(name, 0) + times
        if update:
            case.fired, case.after = fired, graph.text()
        assert fired == case.fired and fired, case
        assert graph.text(hints=False) == parse(case.after).text(hints=False), case
    if update:
        golden.write(file, cases)


@pytest.mark.parametrize("case", golden.ALL, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("f64", 1e-9), ("f32", 2e-5)])
def test_golden_values(case: golden.Case, dtype: str, tolerance: float) -> None:
    """The same values before and after, on random weights and inputs."""
    graph = case.graph(dtype)
    feeds = random_inputs(graph, seed=3)
    try:
        wanted = evaluate(graph, feeds)
    except RuntimeError:  # then it must be so afterwards
        optimise(graph, case.pipeline)
        with pytest.raises(RuntimeError):
            evaluate(graph, feeds)
        return
    optimise(graph, case.pipeline)
    for a, b in zip(wanted, evaluate(graph, feeds), strict=True):
        assert a.dtype == b.dtype and relative_difference(a, b) <= tolerance


def test_every_rule_has_a_case_for_and_one_against() -> None:
    rules = {
        (name, rule.name)
        for name, kind in PASSES.items()
        if issubclass(kind, RulePass) and kind.__module__.startswith("cnnir.")
        for rule in kind.rules
    }
    fires = {(c.file.parent.name, name) for c in golden.ALL for name in c.fired}
    stays = {(c.file.parent.name, c.file.stem) for c in golden.ALL if c.unchanged}
    assert not rules - fires, "rules that no golden file shows firing"
    assert not rules - stays, "rules that no golden file shows staying away"


def test_rules_say_what_they_do() -> None:
    for kind in PASSES.values():
        assert kind.__doc__
        if issubclass(kind, RulePass):
            assert all("=>" in rule.doc for rule in kind.rules)


# ---------------------------------------------------------------- pipelines

BLOCK = """\
graph @block(%x: f32[1,4,5,5]) {
  param @w : f32[4,4,3,3]
  param @s : f32[4]
  param @v : f32[4]
  %0 = conv(%x, @w) {padding=(1, 1, 1, 1)} : f32[1,4,5,5]
  %1 = batch_norm(%0, @s, @s, @s, @v) : f32[1,4,5,5]
  %2 = add(%1, %x) : f32[1,4,5,5]
  %y = relu(%2) : f32[1,4,5,5]
  return %y
}"""


def block() -> Graph:
    return parse(BLOCK, params={"v": np.full(4, 0.7, np.float32)})


def test_records_of_the_default_pipeline() -> None:
    g = block()
    records = optimise(g, verify=True, snapshots=True)
    assert [r.name for r in records] == [p.name for p in PIPELINES["inference"]]
    assert [n.name for n in g.order() if n.op] == ["fused"]
    assert records[0].before.nodes == 4 and records[-1].after.nodes == 1
    for before, after in itertools.pairwise(records):
        assert before.after == after.before
    assert all(r.seconds >= 0 and r.text and r.difference is not None for r in records)
    assert records[-1].text == g.text()
    folded = next(r for r in records if r.name == "batch_norm")
    assert len(folded.rewrites) == 3 and 0 < folded.difference < 1e-6


def test_running_it_twice_changes_nothing_more() -> None:
    for case in golden.ALL:
        g = case.graph()
        optimise(g)
        text = g.text()
        assert not any(r.rewrites for r in optimise(g)), case
        assert g.text() == text


def test_a_clone_is_independent() -> None:
    g = block()
    text = g.text()
    optimise(g.clone())
    assert g.text() == text


def test_provenance_survives_the_pipeline() -> None:
    g = block()
    for node in g.order():
        if node.op:
            node.sources = (node.name,)
    optimise(g)
    assert set(g.outputs[0].node.sources) == {"conv", "batch_norm", "add", "relu"}


@pytest.mark.parametrize("text", ["fold", "fold,cse", "fuse(max_nodes=8)", "inference,-fuse", ""])
def test_pipeline_text(text: str) -> None:
    passes = parse_pipeline(text)
    again = parse_pipeline(",".join(map(str, passes)))
    assert again == passes
    assert ("fuse" in [p.name for p in passes]) == text.startswith("fuse")


def test_affine_is_another_name_of_collapse() -> None:
    (given,) = parse_pipeline("affine(max_cost=2)")
    assert given == parse_pipeline("collapse(max_cost=2.0)")[0]
    assert "collapse" not in [p.name for p in parse_pipeline("inference,-affine")]


def test_none_is_the_default_and_the_empty_one_is_empty() -> None:
    assert optimise(block(), "none") == [] == optimise(block(), [])
    assert [r.name for r in optimise(block())] == [p.name for p in PIPELINES["inference"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold,,cse", "is not a pipeline"),
        ("nothing", "there is no pass 'nothing'; there are"),
        ("fuse(size=3)", "pass fuse has no option 'size'; it has max_nodes"),
        ("fuse(max_nodes='3')", "option max_nodes of pass fuse is '3', wanted int"),
        ("fuse(max_nodes=x)", "is no number or string"),
        ("fuse(3)", "is no pass"),
        ("-nothing", "is no pass"),
        ("1", "'1' is no pass"),
    ],
)
def test_pipeline_errors(text: str, message: str) -> None:
    with pytest.raises(PassError, match=re.escape(message)):
        parse_pipeline(text)


class Broken(Pass, abstract=True):
    """Built by hand in the tests below; never registered."""

    def __init_subclass__(cls) -> None:
        pass


@dataclass(frozen=True)
class Halve(Broken):
    """Changes values: the output is halved."""

    name = "halve"

    def run(self, g: Graph) -> Outcome:
        g.replace(g.outputs[0], g.add("mul", g.inputs[0], g.constant(0.5)))
        return Outcome()


@dataclass(frozen=True)
class Rename(Broken):
    """Changes the outputs of the graph."""

    name = "rename"

    def run(self, g: Graph) -> Outcome:
        g.output_names[0] = "z"
        return Outcome()


@dataclass(frozen=True)
class Retype(Broken):
    """Leaves a graph that does not verify."""

    name = "retype"

    def run(self, g: Graph) -> Outcome:
        g.outputs[0].node.attrs["lo"] = "x"
        return Outcome()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Halve(), r"pass halve changed output 'y' by .* of its largest number, allowed are 0.0001"),
        (Rename(), "pass rename changed the outputs"),
        (Retype(), "pass retype broke the graph: clip"),
    ],
)
def test_a_broken_pass_is_named(step: Pass, message: str) -> None:
    g = Graph("m")
    x = g.input(TensorType("f32", (3,)), "x")
    g.output(g.add("clip", g.add("mul", x, x), lo=-1.0), "y")
    with pytest.raises(PassError, match=message):
        optimise(g, [step], verify=True)


def test_values_that_cannot_be_verified_are_an_error() -> None:
    g = Graph("m")
    x = g.input(TensorType("f32", (3,)), "x")
    g.output(g.add("gather", x, g.constant([9]), axis=0), "y")
    with pytest.raises(PassError, match="values cannot be verified before the first pass"):
        optimise(g, "dead", verify=True)


# ---------------------------------------------------------------- on random graphs


def random_graph(seed: int) -> Graph:
    """Elementwise ops, convolutions and reductions on one shape, with much sharing."""
    rng = np.random.default_rng(seed)
    g = Graph("random")
    shape = (1, 3, 4, 5)
    values = [g.input(TensorType("f64", shape), f"x{i}") for i in range(2)]
    for number in range(14):
        a, b = (values[rng.integers(max(0, len(values) - 5), len(values))] for _ in range(2))
        pick = rng.integers(7)
        if pick == 0:
            w = g.param(f"w{number}", rng.standard_normal((3, 3, 3, 3)) / 5)
            values.append(g.add("conv", a, w, padding=(1, 1, 1, 1)))
        elif pick == 1:
            values.append(g.add("mul", a, g.param(f"s{number}", rng.standard_normal((3, 1, 1)))))
        elif pick == 2:
            values.append(g.add("add", a, g.param(f"t{number}", rng.standard_normal((3, 1, 1)))))
        elif pick == 3:
            values.append(g.add("mul", a, g.add("sigmoid", b)))
        elif pick == 4:
            values.append(g.add("add", g.add("reduce_mean", a, axes=(2, 3)), b))
        elif pick == 5:
            turned = g.add("transpose", a, perm=(0, 2, 3, 1))
            values.append(g.add("transpose", g.add("tanh", turned), perm=(0, 3, 1, 2)))
        else:
            values.append(g.add(str(rng.choice(["add", "sub", "maximum"])), a, b))
    for number, value in enumerate(values[-2:]):
        g.output(value, f"y{number}")
    return g


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_keep_their_values(seed: int) -> None:
    g = random_graph(seed)
    g.verify()
    feeds = random_inputs(g, seed)
    wanted = evaluate(g, feeds)
    optimise(g, verify=True, tolerance=1e-9)
    assert parse(str(g)).text() == str(g)
    for a, b in zip(wanted, evaluate(g, feeds), strict=True):
        assert relative_difference(a, b) <= 1e-9
