"""The CUDA backend: a Graph becomes CUDA C, machine code, and one CUDA graph of launches.

Four stages, a file each: `plan` (kernels and layouts), `emit` (CUDA C), `place` (addresses) and
`load` (machine code and a Program). Tuned kernels are in `kernels/`; everything else is printed
from the op's element definition by `printer`. What runs the kernels is a `Machine`: a GPU
(`driver.py`) or this processor (`emulator.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from cnnir.backends.base import Plan, Program
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda import nvrtc
from cnnir.backends.cuda.compiled import CompiledOnly
from cnnir.backends.cuda.driver import Gpu
from cnnir.backends.cuda.emit import emit
from cnnir.backends.cuda.listing import kernel_texts, print_graph
from cnnir.backends.cuda.load import CudaProgram
from cnnir.backends.cuda.machine import Machine
from cnnir.backends.cuda.place import place
from cnnir.backends.cuda.plan import plan
from cnnir.backends.cuda.schedule import Schedule
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.tuning import Tuning
from cnnir.errors import BackendError
from cnnir.ir import Graph

__all__ = ["OPTIMISE", "build", "build_on", "kernel_texts", "print_graph"]

OPTIMISE = True
"""Passes run before this backend sees a graph."""

REMEMBERS = True
"""What is compiled for devices that are not here is kept; other programs are made anew in every
process, of cubins that are kept."""


def build(
    graph: Callable[[], Graph],
    threads: int | None = None,
    arch: str | None = None,
    precision: str = "default",
    cache: str | os.PathLike[str] | bool | None = None,
    tune: bool = False,
    identity: str | None = None,
) -> Program:
    """A program for a graph of fixed shapes, on the device at hand.

    graph: makes it. threads: of no meaning here. arch: compile for devices of this architecture,
    such as sm_90a, without any being here; the program cannot run then. precision: "exact",
    "tf32", "f16", "bf16" or "default", which is tf32, see CudaTarget. cache: where cubins are
    kept; False for nowhere, None for the user's cache folder. tune: go by the times of the best few
    tiles of each product, measured once on a device of this kind and kept in the cache, instead of
    predictions. identity: what a program without a device is found by, if one was kept (`keep`),
    see `cnnir.identity`; None for one that is not kept.
    Raises BackendError where packages, the driver or a device are missing.
    """
    kept = DiskCache.default(cache)
    if arch is None:
        return build_on(graph(), Gpu(cache=kept), precision, kept, tune)
    if tune:
        raise BackendError(f"tune=True measures on a device; cuda:{arch} is compiled without one")
    target, key = CudaTarget(arch, precision), ""
    if kept is not None and identity:
        options = (identity, arch, target.precision, nvrtc.version())
        key = DiskCache.key_of("cuda program", *options)
        if (recalled := CompiledOnly.recalled(kept, key, arch)) is not None:
            return recalled
    started = time.perf_counter()
    schedule = plan(graph(), target)
    described = _described(schedule)
    described.seconds["plan"] = time.perf_counter() - started
    return CompiledOnly.made(schedule, described, kept, key)


def build_on(
    graph: Graph,
    machine: Machine,
    precision: str = "default",
    cache: DiskCache | None = None,
    tune: bool = False,
) -> CudaProgram:
    """A program on a machine, which becomes its own."""
    target = machine.target(precision)
    started = time.perf_counter()
    tuning = Tuning(graph, machine, target, cache) if tune else None
    schedule = plan(graph, target, tuning)
    if tuning is not None and tuning.measure():
        schedule = plan(graph, target, tuning)
    described = _described(schedule)
    described.seconds["plan"] = time.perf_counter() - started
    started = time.perf_counter()
    emitted = emit(schedule)
    described.seconds["emit"] = time.perf_counter() - started
    started = time.perf_counter()
    places = place(schedule, emitted.codes)
    described.seconds["place"] = time.perf_counter() - started
    return CudaProgram(schedule, emitted, places, described, machine)


def _described(schedule: Schedule) -> Plan:
    steps = [call.step for call in schedule.calls]
    serials = [node.serial for node in schedule.graph.order()]
    return Plan(schedule.target.name, steps, notes=schedule.notes, serials=serials)
