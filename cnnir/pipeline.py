"""Runs passes on a graph: verifies and times each, counts what it did, keeps texts, checks values.

A pipeline is written as text: "inference" is a named one, "fold,cse,fuse(max_nodes=8)" lists
passes with options, "inference,-fuse" leaves one out. What the passes do is in `passes/`.
"""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from cnnir.errors import Error, IRError, PassError
from cnnir.evaluate import evaluate
from cnnir.ir import Graph
from cnnir.passes import PASSES, PIPELINES, Pass
from cnnir.rewrite import Accepted, Declined
from cnnir.tensortype import TensorType, is_float


@dataclass(slots=True)
class PassRecord:
    """What one pass of a run did."""

    name: str
    options: str
    """The pass as pipeline text, with its options."""
    seconds: float
    """Time in the pass itself, without verifying and checking."""
    rewrites: dict[str, int] = field(default_factory=dict)
    """How often each rule fired."""
    nodes_before: int = 0
    nodes_after: int = 0
    """Op nodes; inputs and params are not counted."""
    declined: list[Declined] = field(default_factory=list)
    """Candidates that were left alone, with the reason."""
    accepted: list[Accepted] = field(default_factory=list)
    """Rewrites that come with a reason or an error."""
    text: str | None = None
    """The graph after the pass, where snapshots were asked for."""
    difference: float | None = None
    """Largest relative change of an output, where a check was asked for."""

    @property
    def total(self) -> int:
        """All rewrites."""
        return sum(self.rewrites.values())


def optimise(
    graph: Graph,
    passes: str | Sequence[Pass] | None = None,
    *,
    check: bool = False,
    snapshots: bool = False,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> list[PassRecord]:
    """Run passes on a graph, in place; a record of each.

    passes: pipeline text, or the passes themselves; None is "inference".
    check: evaluate the graph before and after each pass in f64 on random inputs and raise
        PassError where an output differs by more than `tolerance` of its largest number. (New
        weights are rounded to the model's element type, so a small difference is normal.)
    snapshots: keep the text of the graph after each pass.

    A pass that is lossy, because its options ask for it, is never refused: its record says by how
    much the outputs change, with and without `check`.
    The graph is verified after each pass; PassError names the pass that broke it.
    """
    chosen = parse_pipeline(passes or "inference") if isinstance(passes, str | None) else passes
    feeds = random_inputs(graph, seed) if check or any(step.lossy for step in chosen) else []
    wanted = _evaluated(graph, feeds, "before the first pass") if check else None
    records = []
    for step in chosen:
        before = graph.clone() if check or step.lossy else None
        record = _run(graph, step)
        if before is not None:
            if _same(before, graph):
                record.difference = 0.0
            else:
                if wanted is None:
                    wanted = _evaluated(before, feeds, f"before pass {step}")
                got = _evaluated(graph, feeds, f"after pass {step}")
                allowed = math.inf if step.lossy else tolerance
                record.difference = _difference(graph, step, wanted, got, allowed)
                wanted = got if check else None
        if snapshots:
            record.text = graph.text()
        records.append(record)
    return records


def _run(graph: Graph, step: Pass) -> PassRecord:
    """One pass, verified."""
    before = _op_nodes(graph)
    outputs = _outputs(graph)
    start = time.perf_counter()
    try:
        outcome = step.run(graph)
    except Error as error:
        raise PassError(f"pass {step}: {error}") from error
    seconds = time.perf_counter() - start
    try:
        graph.verify()
    except IRError as error:
        raise PassError(f"pass {step} broke the graph: {error}") from error
    if outputs != _outputs(graph):
        raise PassError(f"pass {step} changed the outputs of the graph")
    after = _op_nodes(graph)
    told = (outcome.declined, outcome.accepted)
    return PassRecord(step.name, str(step), seconds, outcome.fired, before, after, *told)


def _outputs(graph: Graph) -> tuple[Any, ...]:
    """What no pass may change: names, types, trims and states of the outputs."""
    kept = dict(graph.trims), dict(graph.carried)
    return list(graph.output_names), [v.type for v in graph.outputs], *kept


def _same(before: Graph, after: Graph) -> bool:
    """Whether text and arrays are the same, so that values need no comparing."""
    kept = before.params.keys() == after.params.keys()
    kept = kept and all(array is after.params[name] for name, array in before.params.items())
    return kept and before.text() == after.text()


def _op_nodes(graph: Graph) -> int:
    return sum(node.op is not None for node in graph.nx)


# ---------------------------------------------------------------- the text of a pipeline


def parse_pipeline(text: str) -> list[Pass]:
    """The passes that pipeline text names, in order; PassError where it cannot be read."""
    passes: list[Pass] = []
    try:
        items = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError:
        raise PassError(f"{text!r} is not a pipeline; wanted such as fold,cse,fuse") from None
    assert isinstance(items, ast.List)
    for item in items.elts:
        match item:
            case ast.Name(id=name) if name in PIPELINES:
                passes += PIPELINES[name]
            case ast.Name(id=name):
                passes.append(_pass(name, {}))
            case ast.Call(func=ast.Name(id=name), args=[], keywords=given):
                options = {str(k.arg): _literal(k.value, text) for k in given}
                passes.append(_pass(name, options))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if name in PASSES:
                passes = [p for p in passes if p.name != name]
            case _:
                raise PassError(f"{ast.unparse(item)!r} is no pass; {_known()}")
    return passes


def _pass(name: str, options: dict[str, Any]) -> Pass:
    if name not in PASSES:
        raise PassError(f"there is no pass {name!r}; {_known()}")
    kind = PASSES[name]
    defaults = {f.name: getattr(kind, f.name) for f in fields(kind)}  # type: ignore[arg-type]
    for option, value in list(options.items()):
        if option not in defaults:
            has = ", ".join(defaults) or "none"
            raise PassError(f"pass {name} has no option {option!r}; it has {has}")
        if type(value) is int and type(defaults[option]) is float:
            options[option] = float(value)
        elif type(value) is not type(defaults[option]):
            wanted = type(defaults[option]).__name__
            raise PassError(f"option {option} of pass {name} is {value!r}, wanted {wanted}")
    return kind(**options)


def _known() -> str:
    return f"there are {', '.join(sorted(PASSES))} and the pipelines {', '.join(PIPELINES)}"


def _literal(node: ast.expr, text: str) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise PassError(f"{ast.unparse(node)!r} in {text!r} is no number or string") from None


# ---------------------------------------------------------------- the check of values


def random_inputs(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    """Arrays for all inputs: normal floats, and 0 or 1 for integers, which index most things."""
    rng = np.random.default_rng(seed)
    return [_random(value.type, rng) for value in graph.inputs]


def _random(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    if is_float(type.dtype):
        return rng.standard_normal(type.shape).astype(type.numpy)
    return rng.integers(0, 2, type.shape).astype(type.numpy)


def _evaluated(graph: Graph, feeds: list[np.ndarray], when: str) -> list[np.ndarray]:
    try:
        return evaluate(graph, feeds, dtype="f64")
    except Error as error:
        raise PassError(f"values cannot be checked {when}: {error}") from error


def _difference(
    graph: Graph, step: Pass, wanted: list[np.ndarray], got: list[np.ndarray], tolerance: float
) -> float:
    """The largest relative difference of an output; PassError beyond the tolerance."""
    worst = 0.0
    for name, a, b in zip(graph.output_names, wanted, got, strict=True):
        difference = relative_difference(a, b)
        if not difference <= tolerance:
            raise PassError(
                f"pass {step} changed output {name!r} by {difference:.3g} of its largest number, "
                f"allowed are {tolerance:g}"
            )
        worst = max(worst, difference)
    return worst


def relative_difference(wanted: np.ndarray, got: np.ndarray) -> float:
    """The largest difference, over the largest finite magnitude; inf where specials differ."""
    a, b = np.asarray(wanted, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    largest = np.abs(a[finite]).max(initial=0.0)
    error = np.abs(a[finite] - b[finite]).max(initial=0.0)
    return float(error / largest) if largest else float(error)
