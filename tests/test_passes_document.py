"""docs/passes.md says what the code says."""

from __future__ import annotations

import passes_document
import pytest

from cnnir.passes import PASSES, RulePass
from cnnir.rewrite import RULES


def test_the_document_is_up_to_date(request: pytest.FixtureRequest) -> None:
    wanted = passes_document.text()
    if request.config.getoption("--update-golden"):
        passes_document.FILE.write_text(wanted, "utf-8")
    assert passes_document.FILE.read_text("utf-8") == wanted, "run with --update-golden"


def test_every_pass_and_rule_is_in_it_with_an_example() -> None:
    written = passes_document.FILE.read_text("utf-8")
    for name, kind in PASSES.items():
        if not kind.__module__.startswith("cnnir."):
            continue
        assert f"\n## {name}\n" in written
        if issubclass(kind, RulePass):
            for rule in kind.rules:
                section = written.split(f"\n### {rule.name}\n", 1)[1].split("\n##", 1)[0]
                assert rule.doc in section and "Before and after" in section, rule.name


def test_rules_that_change_values_are_not_called_exact() -> None:
    """Rules of the passes that compute new weights say so."""
    computing = {"batch_norm", "parallel", "collapse", "separable"}
    for name in computing:
        assert all(r.kind != "exact" for r in PASSES[name].rules)  # type: ignore[attr-defined]
    assert {r.name for r in RULES.values() if r.kind == "lossy"} == {"split_nearly_separable"}
