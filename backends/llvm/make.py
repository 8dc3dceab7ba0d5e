"""The stages one after another: a graph is planned, placed, emitted and compiled into an Image."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping
from typing import Any

from cnnir.backends.base import Plan
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.emit import emit
from cnnir.backends.llvm.engine import compiled
from cnnir.backends.llvm.image import Image, packed
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
    started = time.perf_counter()
    signature, serials = graph.signature(), [node.serial for node in graph.order()]
    target = host if options["features"] else fitted(graph, host)
    schedule = _planned(graph, target, options, cache)
    steps = [call.step for call in schedule.calls]
    described = Plan(target.name, steps, notes=schedule.notes, serials=serials)
    described.seconds["plan"] = time.perf_counter() - started
    started = time.perf_counter()
    places = place(schedule)
    _give_back()  # the compiler is about to want as much
    described.seconds["place"] = time.perf_counter() - started
    started = time.perf_counter()
    code = emit(schedule, places, cache)
    described.seconds["emit"] = time.perf_counter() - started
    objects, report = compiled(code.modules, target, cache)
    _give_back()
    described.seconds["compile"] = report.seconds
    described.buffers = places.buffers
    described.arena_bytes, described.arena_bound = places.arena_bytes, places.arena_bound
    described.constant_bytes = places.constants.nbytes
    described.code_bytes = report.code_bytes
    described.notes += report.notes
    texts = packed(code.kernels)
    return Image(signature, described, code.run, code.errors, objects, texts, places.constants)


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


def _give_back() -> None:
    """Return free memory to the system, where the C library (glibc) would keep it otherwise.

    A hundred megabytes of ResNet-50's process, of weights in their first form and of the compiler.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(ctypes.c_size_t(0))
