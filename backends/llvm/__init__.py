"""The LLVM backend: a Graph becomes native code in this process.

Four stages, a file each: `plan` (kernels and layouts), `place` (addresses), `emit` (LLVM IR) and
`load` (code and a Program). Tuned kernels are in `kernels/`; everything else is printed from the
op's element definition by `printer`.
"""

from __future__ import annotations

import os
import time

from cnnir.backends.base import Plan, Program
from cnnir.backends.llvm import listing
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.load import LlvmProgram
from cnnir.backends.llvm.plan import plan
from cnnir.backends.llvm.target import CpuTarget, named
from cnnir.backends.llvm.tuning import Tuning
from cnnir.backends.llvm.width import fitted
from cnnir.errors import BackendError
from cnnir.ir import Graph

__all__ = ["OPTIMISE", "PRECISIONS", "build", "listing"]

OPTIMISE = True
"""Passes run before this backend sees a graph."""

PRECISIONS = ("default", "exact")


def build(
    graph: Graph,
    threads: int | None = None,
    features: str | None = None,
    cache: str | os.PathLike[str] | bool | None = None,
    precision: str = "default",
    tune: bool = False,
) -> Program:
    """Native code for a graph of fixed shapes.

    threads: of a run; None takes every core this process may use. features: "avx512", "avx2",
    "sse2" or LLVM's names, with the vector width that they give; None takes the host's and the
    width that suits the graph, unless CNNIR_CPU_FEATURES says otherwise. cache: where compiled
    objects are kept; False for nowhere, None for the user's cache folder, or CNNIR_CACHE.
    precision: "default" allows algorithms that round differently, within 1e-4 of the largest
    result (Winograd convolution); "exact" adds only the products of each op's definition. tune: go
    by the times of the best few kernels for each step, measured once with so many threads and kept
    in the cache, instead of predictions; so that another number of threads may take another
    algorithm, whose results differ in the last bits.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r}; there are {', '.join(PRECISIONS)}")
    started = time.perf_counter()
    target = CpuTarget.host(features)
    if not named(features):
        target = fitted(graph, target)
    threads = threads or target.cores
    objects, exact = ObjectCache.default(cache), precision == "exact"
    tuning = Tuning(graph, target, threads, exact, objects) if tune else None
    schedule = plan(graph, target, threads, exact, tuning)
    if tuning is not None and tuning.measure():
        schedule = plan(graph, target, threads, exact, tuning)
    described = Plan(target.name, [call.step for call in schedule.calls], notes=schedule.notes)
    described.seconds["plan"] = time.perf_counter() - started
    return LlvmProgram(schedule, threads, objects, described)
