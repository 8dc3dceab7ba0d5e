"""CompiledOnly: a program for devices that are not here. It has code and a plan, and cannot run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from cnnir.backends.base import Plan, Program
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.artifacts import FORMS, Artifacts
from cnnir.backends.cuda.build import compiled
from cnnir.backends.cuda.emit import emit
from cnnir.backends.cuda.nvrtc import Resources
from cnnir.backends.cuda.occupancy import occupancy
from cnnir.backends.cuda.place import place
from cnnir.backends.cuda.schedule import Code, Schedule
from cnnir.errors import BackendError


class CompiledOnly(Program):
    """Cubins for one architecture, and the plan of a run."""

    forms = FORMS

    def __init__(self, schedule: Schedule, plan: Plan, cache: DiskCache | None) -> None:
        self.signature, self.plan = schedule.graph.signature(), plan
        started = time.perf_counter()
        self.emitted = emit(schedule)
        plan.seconds["emit"] = time.perf_counter() - started
        started = time.perf_counter()
        places = place(schedule, self.emitted.codes)
        self._artifacts = Artifacts(schedule, self.emitted, places, cache)
        plan.seconds["place"] = time.perf_counter() - started
        started = time.perf_counter()
        self.built = compiled(self.emitted.texts, schedule.target.arch, cache)
        plan.seconds["compile"] = time.perf_counter() - started
        plan.buffers = places.buffers
        plan.arena_bytes, plan.constant_bytes = places.arena_bytes, places.constant_bytes
        plan.code_bytes = self.built.nbytes
        plan.notes += self.built.notes
        tell_resources(plan, self.emitted.codes, self.built.resources, schedule.target.arch)

    def artifacts(self, form: str) -> dict[str, bytes]:
        return self._artifacts.files(form) if form in FORMS else super().artifacts(form)

    def texts(self) -> dict[str, str]:
        return dict(self.emitted.texts)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise BackendError(
            f"the program was compiled for {self.plan.target} only; to run it, compile for "
            "target cuda where the device is, or for cuda-emu"
        )


def tell_resources(
    plan: Plan, codes: Sequence[Code], resources: Mapping[str, Resources], arch: str
) -> None:
    """Add to every step what ptxas said and the occupancy, and a note on each that spills."""
    for step, code in zip(plan.steps, codes, strict=True):
        for name, launch in code.launches:
            if (used := resources.get(name)) is None:
                continue
            step.summary += f", {launch.threads} threads of {used}"
            if fill := occupancy(launch, used, arch):
                step.summary += f", {fill}"
            if used.spilled_bytes:
                names = ", ".join(step.sources) or step.op
                plan.notes.append(f"{names}: {step.kernel} spills {used.spilled_bytes} bytes")
