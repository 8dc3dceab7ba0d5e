"""Local rewriting: the `@rule` decorator and the driver that applies rules until none fires.

A rule is a function of a graph and a node. Its patterns are Python's `match` statements:

    @rule("relu")
    def relu_of_relu(g, node):
        \"\"\"relu(relu(x)) => relu(x)\"\"\"
        match node:
            case Node("relu", (Value(Node("relu")) as inner,)):
                return inner

It returns what replaces the node (a Value, or a tuple of them for a node of several results), None
where the pattern does not match, or `decline(node, "why not")` where it nearly does. A rule adds
nodes with `g.add` and leaves everything else to the driver: replacing, removing what became dead,
provenance, counting. `accept(node, value, "why")` returns the value with a reason, and with the
error that was made where the rule is lossy. Passes over whole graphs are in `passes/`, running them
in `pipeline.py`.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from cnnir.errors import IRError, PassError
from cnnir.ir import Graph, Node, Value


@dataclass(frozen=True, slots=True)
class Declined:
    """An obvious candidate that a rule left alone, and why."""

    node: str
    sources: tuple[str, ...]
    reason: str
    rule: str = ""


def decline(node: Node, reason: str) -> Declined:
    """What a rule returns to leave a candidate alone and say why; it shows in reports."""
    return Declined(repr(node), node.sources, reason)


def called(node: Node) -> str:
    """The node as reasons name it: the first source node it came from, or else its op."""
    return node.sources[0] if node.sources else node.name


def other_uses(g: Graph, *values: Value, by: Node) -> str:
    """Why the first of these that others need too is not `by`'s alone to change."""
    value = next((v for v in values if not g.sole_user(v)), values[0])
    who = called(value.node)
    if g.is_output(value):
        return f"{who} is an output of the graph"
    others = [called(user) for user, _ in g.users(value) if user is not by]
    if not others:
        return f"{called(by)} reads {who} twice"
    return f"{who} has a second reader, {others[0]}" + (
        f", and {len(others) - 1} more" if len(others) > 1 else ""
    )


@dataclass(frozen=True, slots=True)
class Accepted:
    """A result of which something is to be told: why it pays, and what error it makes."""

    values: tuple[Value, ...]
    reason: str
    error: float = 0.0


def accept(
    node: Node, result: Value | tuple[Value, ...], reason: str, error: float = 0.0
) -> Accepted:
    """What a rule returns in place of a bare result to say why; it shows in reports.

    error: of the new weights, relative to the old ones; 0 unless the rule is lossy.
    """
    return Accepted(result if isinstance(result, tuple) else (result,), reason, error)


Result = Value | tuple[Value, ...] | Accepted | Declined | None
Kind = Literal["exact", "reassociating", "lossy"]
"""exact: the same values bit by bit. reassociating: the same in real numbers, rounded otherwise.
lossy: other values, within a tolerance that has to be asked for; reassociating without one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A local rewrite: the ops it looks at (none means all) and the function that does it."""

    name: str
    ops: tuple[str, ...]
    function: Callable[..., Result]
    doc: str
    kind: Kind = "exact"
    takes_options: bool = False
    """Whether the function has a third parameter, for the pass that runs it and its options."""

    def __call__(self, g: Graph, node: Node, options: Any = None) -> Result:
        return self.function(g, node, options) if self.takes_options else self.function(g, node)


RULES: dict[str, Rule] = {}
"""Every rule that was declared, by name."""


def rule(*ops: str, kind: Kind = "exact") -> Callable[[Callable[..., Result]], Rule]:
    """Declare a rule for nodes of these ops (no op: of any).

    Its docstring says `before => after  [condition]`, `kind` what it does to the values. Names are
    unique. A function of three parameters gets the pass that runs it as the third: its options.
    """

    def declare(function: Callable[..., Result]) -> Rule:
        name = function.__name__
        if name in RULES:
            raise IRError(f"there are two rules named {name!r}")
        if kind not in get_args(Kind):
            raise IRError(f"rule {name}: kind is {kind!r}, wanted one of {get_args(Kind)}")
        options = len(inspect.signature(function).parameters) > 2
        doc = inspect.cleandoc(function.__doc__ or "")
        RULES[name] = Rule(name, ops, function, doc, kind, options)
        return RULES[name]

    return declare


@dataclass(slots=True)
class Rewrite:
    """One firing of a rule: what it took away, what it made, and why."""

    rule: str
    kind: Kind
    node: str
    """The node that was replaced, with its operands' types."""
    sources: tuple[str, ...]
    """Source nodes of all that went."""
    gone: tuple[int, ...] = ()
    """Serials of the nodes that went."""
    made: tuple[int, ...] = ()
    """Serials of the nodes that were built for it; none where a value that was there took over."""
    reason: str = ""
    error: float = 0.0
    """Of the new weights, relative to the old ones; 0 unless the rule is lossy."""
    difference: float | None = None
    """How much the replaced values changed, where that was verified: see `relative_difference`."""

    @property
    def where(self) -> str:
        """The node with the source nodes it came from."""
        return self.node + (f" from {', '.join(self.sources)}" if self.sources else "")


@dataclass(slots=True)
class Outcome:
    """What a pass did, firing by firing, and what it left alone."""

    rewrites: list[Rewrite] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)

    def record(self, rule: str, gone: Sequence[Node], made: Sequence[Node] = ()) -> Rewrite:
        """Add an exact firing that puts `made` in the place of `gone`, whose last gives the name.

        For passes that are no rules; the driver does it for rules.
        """
        serials = tuple(n.serial for n in gone), tuple(n.serial for n in made)
        self.rewrites.append(Rewrite(rule, "exact", repr(gone[-1]), unite(gone), *serials))
        return self.rewrites[-1]

    @property
    def fired(self) -> dict[str, int]:
        """How often each rule fired."""
        return dict(Counter(rewrite.rule for rewrite in self.rewrites))


Observer = Callable[[Graph, Rewrite, Sequence[Value], Sequence[Value]], None]
"""What is told of a rewrite just before it is made, while old and new values are both there."""

_observers: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Inside, `observer` is called before each rewrite; what it raises ends the pass."""
    token = _observers.set((*_observers.get(), observer))
    try:
        yield
    finally:
        _observers.reset(token)


def replace_values(g: Graph, rewrite: Rewrite, old: Sequence[Value], new: Sequence[Value]) -> None:
    """The one way in which passes put values in the place of others: observers see it."""
    for observer in _observers.get():
        observer(g, rewrite, old, new)
    for before, after in zip(old, new, strict=True):
        g.replace(before, after)


def unite(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The sources of several nodes, each once."""
    return tuple(dict.fromkeys(source for node in nodes for source in node.sources))


def rewrite(
    g: Graph, rules: Sequence[Rule], budget: int | None = None, options: Any = None
) -> Outcome:
    """Apply rules to a graph, in place, until none fires any more.

    Of the rules for an op the earlier ones are tried first; one that asks for options gets
    `options`, the pass. Raises PassError, naming the rule, when a rule fails or the budget of
    firings (20 a node by default) is used up.
    """
    g.sweep()
    driver = _Driver(g, rules, 20 * len(g.nx) + 100 if budget is None else budget, options)
    while driver.round():
        pass
    g.sweep()
    return driver.outcome


class _Driver:
    def __init__(self, g: Graph, rules: Sequence[Rule], budget: int, options: Any) -> None:
        self.g, self.budget, self.options = g, budget, options
        self.outcome = Outcome()
        self.general = [r for r in rules if not r.ops]
        self.by_op: dict[str, list[Rule]] = {}
        for name in dict.fromkeys(op for r in rules for op in r.ops):
            self.by_op[name] = [r for r in rules if name in r.ops or not r.ops]
        self.known: set[Node] = set()

    def round(self) -> bool:
        """Look at every node once, and at what changes meanwhile; whether a rule fired.

        A worklist alone can miss a node whose operand lost another user far away, so rounds are
        repeated until one is quiet. What that last one declines is what stays declined.
        """
        before = len(self.outcome.rewrites)
        self.outcome.declined.clear()
        order = self.g.order()
        self.known = set(order)
        work = order[::-1]
        waiting = set(order)
        while work:
            node = work.pop()
            waiting.discard(node)
            if node.op is not None and node in self.g.nx:
                # operands on top, so that a user is seen after what it uses
                again = [n for n in self._visit(node) if n not in waiting]
                waiting.update(again)
                work.extend(again)
        return len(self.outcome.rewrites) > before

    def _visit(self, node: Node) -> list[Node]:
        """Try the rules on a node; the nodes that are worth another look."""
        for candidate in self.by_op.get(node.name, self.general):
            size = len(self.g.nx)
            try:
                result = candidate(self.g, node, self.options)
            except (IRError, ArithmeticError, LookupError, ValueError) as error:
                raise PassError(f"rule {candidate.name} at {_where(node)}: {error}") from error
            if result is None or isinstance(result, Declined):
                if result is not None:
                    self.outcome.declined.append(replace(result, rule=candidate.name))
                if len(self.g.nx) != size:  # it built something and thought better of it
                    self.g.sweep()
                continue
            return self._replace(candidate, node, result)
        return []

    def _replace(
        self, fired: Rule, node: Node, result: Value | tuple[Value, ...] | Accepted
    ) -> list[Node]:
        told = result if isinstance(result, Accepted) else accept(node, result, "")
        where = f"rule {fired.name} at {_where(node)}"
        if len(self.outcome.rewrites) >= self.budget:
            raise PassError(f"{where}: no end after {self.budget} rewrites")
        if len(told.values) != len(node.results):
            raise PassError(f"{where}: wanted {len(node.results)} values, got {len(told.values)}")
        users = [user for value in node.results for user, _ in self.g.users(value)]
        fresh = self._fresh(told.values)
        rewrite = Rewrite(fired.name, fired.kind, repr(node), node.sources)
        rewrite.reason, rewrite.error = told.reason, told.error
        rewrite.made = tuple(n.serial for n in fresh)
        try:
            replace_values(self.g, rewrite, node.results, told.values)
        except IRError as error:
            raise PassError(f"{where}: {error}") from None
        gone = self.g.prune([node])[::-1]
        rewrite.gone, rewrite.sources = tuple(n.serial for n in gone), unite([*gone, node])
        self.outcome.rewrites.append(rewrite)
        _inherit(gone, fresh, told.values, users)
        return list(dict.fromkeys([*reversed(users), *reversed(fresh)]))

    def _fresh(self, values: tuple[Value, ...]) -> list[Node]:
        """The nodes that the rule built for its result, operands first."""
        found: list[Node] = []
        stack = [value.node for value in values]
        while stack:
            node = stack.pop()
            if node not in self.known:
                self.known.add(node)
                found.append(node)
                stack.extend(v.node for v in node.operands if v is not None)
        return found[::-1]


def _inherit(
    gone: list[Node], fresh: list[Node], values: tuple[Value, ...], users: list[Node]
) -> None:
    """What was built comes from all that it replaced; so does a value that takes over.

    An input or a param that takes over computes nothing: those who read it now come from what went.
    """
    heirs = fresh or [value.node for value in values if value.node.op is not None]
    for heir in heirs or users or [value.node for value in values]:
        heir.sources = unite([heir, *gone])


def _where(node: Node) -> str:
    return repr(node) + (f" from {', '.join(node.sources)}" if node.sources else "")
