"""Every pass on the golden files, its values in f64, and what a pipeline promises."""

from __future__ import annotations

import golden
import numpy as np
import pytest

from cnnir.errors import PassError, RuntimeError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.passes import PASSES, RulePass
from cnnir.pipeline import optimise, random_inputs, relative_difference
from cnnir.text import parse


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
            for name, times in record.rewrites.items():
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
