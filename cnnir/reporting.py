"""What a report needs, gathered: passes gone through once more, kernels listed, times measured.

Between the executable, which calls it, and `report.html`, which shows it. It reaches the CUDA
backend by name, for the C of a graph's kernels; no GPU is needed for that.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import replace
from typing import Any

from cnnir.backends.base import Plan, Program
from cnnir.errors import Error, InputError, RuntimeError
from cnnir.ir import Graph
from cnnir.report.html import Subject, page
from cnnir.report.roofline import Level, Roofline
from cnnir.verify import random_inputs

__all__ = ["page", "subject"]

FEWEST, MOST = 5, 200
"""Measured runs."""


def subject(
    made: Any, imported: Graph, recipe: Any, seconds: float, title: str | None = None
) -> Subject:
    """What is known of a program and its graph (`made` has both), which a recipe made.

    seconds: about how long to measure; 0 for not at all.
    """
    graph = imported.clone()
    records = recipe.optimise(graph, snapshots=True)
    graph = records[-1].graph if records else graph
    listing = getattr(recipe.backend, "listing", None)
    told = Subject(
        title=title or imported.name,
        imported=imported,
        records=records,
        plan=_renamed(made.program.plan, made.graph, graph),
        threads=recipe.options["threads"] or 1,
        nodes=_node_texts(graph, listing, recipe.options),
    )
    if listing is not None:
        told = replace(told, texts=_kernel_texts(made.program.texts(), listing, recipe.options))
    return _timed(told, made, listing, recipe.options, seconds) if seconds else told


def _timed(
    told: Subject, made: Any, listing: Any, options: dict[str, Any], seconds: float
) -> Subject:
    """With the machine's limits, where the backend can tell them, and the times of some runs."""
    if listing is not None:
        threads, peak, rates = listing.limits(options)
        machine = Roofline(peak, [Level(name, *rate) for name, rate in rates.items()])
        told = replace(told, threads=threads, machine=machine)
    try:
        return replace(told, runs=_runs(made.program, made.graph, seconds))
    except (InputError, RuntimeError) as error:  # no profile; or random indices are out of range
        notes = [*told.plan.notes, f"times were not measured: {error}"]
        return replace(told, plan=replace(told.plan, notes=notes))


def _renamed(plan: Plan, planned: Graph, told: Graph) -> Plan:
    """The plan with steps that name nodes of another graph: the same, in the same order."""
    twins = {a.serial: b.serial for a, b in zip(planned.order(), told.order(), strict=True)}
    steps = [replace(step, serial=twins.get(step.serial, -1)) for step in plan.steps]
    return replace(plan, steps=steps)


def _kernel_texts(
    texts: dict[str, str], listing: Any, options: dict[str, Any]
) -> dict[str, dict[str, str]]:
    assembly = listing.assembly(texts, options)
    return {s: {"LLVM IR": text, "assembly": assembly[s]} for s, text in texts.items()}


def _node_texts(graph: Graph, listing: Any, options: dict[str, Any]) -> dict[int, dict[str, str]]:
    """Loops and CUDA C by node; without the latter where that backend cannot print the graph."""
    found = {"loops": {} if listing is None else listing.loops(graph, options)}
    try:
        found["CUDA C"] = importlib.import_module("cnnir.backends.cuda").kernel_texts(graph)
    except Error:
        found["CUDA C"] = {}
    serials = {serial for texts in found.values() for serial in texts}
    return {s: {kind: texts[s] for kind, texts in found.items() if s in texts} for s in serials}


def _runs(program: Program, graph: Graph, seconds: float) -> list[list[float]]:
    """Seconds of each step in several runs on random inputs, after two to warm up."""
    arrays = random_inputs(graph)
    for _ in range(2):
        program.profile(arrays)
    runs: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(runs) < FEWEST or (len(runs) < MOST and time.perf_counter() < end):
        runs.append(program.profile(arrays))
    return runs
