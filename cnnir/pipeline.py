"""Runs passes on a graph: times each, records what it did, checks invariants and, if asked, values.

A pipeline is written as text: "inference" is a named one, "fold,cse,fuse(max_nodes=8)" lists
passes with options, "inference,-fuse" leaves one out. What the passes do is in `passes/`.
"""

from __future__ import annotations

import ast
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

from cnnir.errors import Error, IRError, PassError
from cnnir.ir import Graph
from cnnir.passes import ALIASES, PASSES, PIPELINES, Pass
from cnnir.records import GraphSize, PassRecord, labelled
from cnnir.verify import Verifier


def optimise(
    graph: Graph,
    passes: str | Sequence[Pass] | None = None,
    *,
    verify: bool = False,
    snapshots: bool = False,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> list[PassRecord]:
    """Run passes on a graph, in place; a record of each.

    passes: pipeline text, or the passes themselves; None is "inference".
    verify: evaluate the graph before and after each pass, and both sides of each rewrite, in f64 on
        several random inputs, and raise PassError where an output differs by more than `tolerance`
        of its largest number. (New weights are rounded to the model's element type, so a small
        difference is normal; `widened` has no such rounding.)
    snapshots: keep the graph after each pass; params are shared with it.

    A pass that is lossy, because its options ask for it, is never refused: its record says by how
    much the outputs change, with and without `verify`.
    The invariants of the graph are checked after each pass; PassError names the pass that broke it.
    """
    chosen = parse_pipeline(passes or "inference") if isinstance(passes, str | None) else passes
    verifier = Verifier(graph, seed)
    labels = labelled([step.name for step in chosen])
    size = GraphSize.of(graph)
    records = []
    for step, label in zip(chosen, labels, strict=True):
        watched = verify or step.lossy
        with verifier.watching(str(step), rewrites=verify) if watched else nullcontext():
            record = _run(graph, step, label, size)
        if watched:
            allowed = math.inf if step.lossy else tolerance
            record.difference = verifier.compare(allowed, record.rewrites)
        if snapshots:
            record.graph = graph.clone()
        size = record.after
        records.append(record)
    return records


def _run(graph: Graph, step: Pass, label: str, size: GraphSize) -> PassRecord:
    """One pass, and whether it left a graph behind."""
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
    after, told = GraphSize.of(graph), (outcome.rewrites, outcome.declined)
    return PassRecord(step.name, str(step), label, seconds, size, after, *told)


def _outputs(graph: Graph) -> tuple[Any, ...]:
    """What no pass may change: names, types, trims and states of the outputs."""
    kept = dict(graph.trims), dict(graph.carried)
    return list(graph.output_names), [v.type for v in graph.outputs], *kept


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
            case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if named(name) in PASSES:
                passes = [p for p in passes if p.name != named(name)]
            case _:
                raise PassError(f"{ast.unparse(item)!r} is no pass; {_known()}")
    return passes


def named(name: str) -> str:
    """The name that a pass is registered under."""
    return ALIASES.get(name, name)


def _pass(name: str, options: dict[str, Any]) -> Pass:
    name = named(name)
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
