"""What a pass is: a small dataclass whose fields are its options, registered under its name.

A pass changes the graph that it is given and says what it did. `RulePass` applies a set of rules;
other passes walk the whole graph. Which passes run, in what order, is in `__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from cnnir.errors import PassError
from cnnir.ir import Graph
from cnnir.rewrite import Outcome, Rule, rewrite

PASSES: dict[str, type[Pass]] = {}
"""Every pass there is, by name."""


class Pass(ABC):
    """Base of all passes. A subclass is a frozen dataclass with a `name` and a `run`."""

    name: ClassVar[str] = ""

    @property
    def lossy(self) -> bool:
        """Whether it may change values by more than rounding, because its options ask for that."""
        return False

    def __init_subclass__(cls, abstract: bool = False) -> None:
        if abstract:
            return
        if cls.name in PASSES:
            other = PASSES[cls.name].__module__
            raise PassError(f"pass {cls.name!r} is declared in {other} and in {cls.__module__}")
        PASSES[cls.name] = cls

    @abstractmethod
    def run(self, g: Graph) -> Outcome:
        """Change the graph, in place."""

    def __str__(self) -> str:
        """The pass as pipeline text has it: options that are not the default in parentheses."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        changed = [f"{k}={v!r}" for k, v in given.items() if v != getattr(type(self), k)]
        return self.name + (f"({', '.join(changed)})" if changed else "")


class RulePass(Pass, abstract=True):
    """A pass that applies `rules` until none fires."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    def run(self, g: Graph) -> Outcome:
        """Rewrite the graph, in place."""
        return rewrite(g, self.rules, options=self)


def rule_pass(name: str, *rules: Rule) -> type[Pass]:
    """Make and register a pass of rules in one line: `rule_pass("tidy", my_rule)`."""
    doc = "\n".join(rule.doc for rule in rules)
    body: dict[str, Any] = {"name": name, "rules": rules, "__doc__": doc}
    return dataclass(frozen=True)(type(name, (RulePass,), body))
