"""The stages: a graph is planned, its kernels are written, its weights packed, all in an Image.

LLVM compiles in threads, from the first kernel on that is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cnnir.backends.base import Plan
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.emit import emit, joined
from cnnir.backends.llvm.engine import Compilation
from cnnir.backends.llvm.image import Image
from cnnir.backends.llvm.place import place
from cnnir.backends.llvm.plan import plan
from cnnir.backends.llvm.schedule import Schedule
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.tuning import Tuning
from cnnir.backends.llvm.width import fitted
from cnnir.ir import Graph


def make(
    graph: Graph, host: CpuTarget, options: Mapping[str, Any], cache: ObjectCache | None
) -> Image:
    """Compile a graph, which is used up: the arrays of its params go as they are packed.

    options: threads, features (those asked for), precision and tune, as of `build`.
    """
    signature, serials = graph.signature(), [node.serial for node in graph.order()]
    target = host if options["features"] else fitted(graph, host)
    seconds: dict[str, float] = {}
    with _timed(seconds, "plan"):
        schedule = _planned(graph, target, options, cache)
    with Compilation(target, cache) as compilation:
        with _timed(seconds, "emit"):
            code = emit(schedule, cache, compilation.add)
        with _timed(seconds, "place"):
            places = place(schedule)
            run = joined(schedule, places, code.codes)
            compilation.add(run.text, provided=[kernel.name for kernel in code.codes])
        with _timed(seconds, "compile"):
            objects, report = compilation.objects()
    steps = [call.step for call in schedule.calls]
    described = Plan(target.name, steps, notes=schedule.notes + report.notes, serials=serials)
    described.seconds = seconds
    described.buffers = places.buffers
    described.arena_bytes, described.arena_bound = places.arena_bytes, places.arena_bound
    described.constant_bytes = places.constants.nbytes
    described.code_bytes = report.code_bytes
    errors = [code.errors for code in code.codes]
    return Image(signature, described, run, errors, objects, code.texts.finish(), places.constants)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a stage takes; compiling goes on beside others: what is left is its own."""
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def _planned(
    graph: Graph, target: CpuTarget, options: Mapping[str, Any], cache: ObjectCache | None
) -> Schedule:
    """The schedule; where it is to be tuned, made again when everything it asks for is measured."""
    threads, exact = options["threads"], options["precision"] == "exact"
    tuning = Tuning(graph, target, threads, exact, cache) if options["tune"] else None
    schedule = plan(graph, target, threads, exact, tuning)
    if tuning is not None and tuning.measure():
        schedule = plan(graph, target, threads, exact, tuning)
    return schedule
