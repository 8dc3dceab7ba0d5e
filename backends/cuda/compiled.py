"""CompiledOnly: a program for devices that are not here. It has code and a plan, and cannot run."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from cnnir.backends.base import Plan, Program
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.artifacts import FORMS, Artifacts, artifacts_of
from cnnir.backends.cuda.emit import emit
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.nvrtc import Resources
from cnnir.backends.cuda.occupancy import occupancy
from cnnir.backends.cuda.place import place
from cnnir.backends.cuda.schedule import Code, Schedule
from cnnir.backends.stored import head_of, plan_of, signature_of
from cnnir.errors import BackendError
from cnnir.signature import Signature


class CompiledOnly(Program):
    """Cubins for one architecture, and the plan of a run. It has no weights."""

    forms = FORMS

    def __init__(self, signature: Signature, plan: Plan, code: Artifacts, key: str = "") -> None:
        """key: what it is kept under in the cache of `code`; nothing where it is not, or there."""
        self.signature, self.plan, self._code, self._key = signature, plan, code, key
        started = time.perf_counter()
        self.built = code.built()
        plan.seconds["compile"] = time.perf_counter() - started

    @classmethod
    def made(
        cls, schedule: Schedule, plan: Plan, cache: DiskCache | None, key: str
    ) -> CompiledOnly:
        """The program of a schedule; completes the plan."""
        started = time.perf_counter()
        emitted = emit(schedule)
        plan.seconds["emit"] = time.perf_counter() - started
        started = time.perf_counter()
        places = place(schedule, emitted.codes)
        plan.seconds["place"] = time.perf_counter() - started
        code = artifacts_of(schedule, emitted, places, cache)
        program = cls(schedule.graph.signature(), plan, code, key)
        plan.buffers = places.buffers
        plan.arena_bytes, plan.constant_bytes = places.arena_bytes, places.constant_bytes
        plan.arena_bound, plan.code_bytes = places.arena_bound, program.built.nbytes
        plan.notes += program.built.notes
        tell_resources(plan, emitted.codes, program.built.resources, code.arch)
        return program

    @classmethod
    def recalled(cls, cache: DiskCache, key: str, arch: str) -> CompiledOnly | None:
        """The program that was kept under this key; None where there is none."""
        started = time.perf_counter()
        if (found := cache.get(key)) is None:
            return None
        try:
            head = json.loads(zlib.decompress(found))
            code = Artifacts(arch, head["texts"], head["listing"], head["launches"], cache)
            signature, plan = signature_of(head["signature"]), plan_of(head["plan"])
        except (KeyError, TypeError, ValueError, zlib.error):
            return None
        plan.seconds = {"recall": time.perf_counter() - started}
        return cls(signature, plan, code)

    def keep(self) -> None:
        code = self._code
        if self._key and code.cache is not None:
            head = head_of(self.signature, self.plan) | {
                "texts": code.texts, "listing": code.listing, "launches": code.launches,
            }  # fmt: skip
            code.cache.put(self._key, zlib.compress(json.dumps(head).encode(), 1))
            self._key = ""

    @property
    def launches(self) -> dict[str, Launch]:
        """How each function is launched."""
        return self._code.functions()

    def artifacts(self, form: str) -> dict[str, bytes]:
        return self._code.files(form) if form in FORMS else super().artifacts(form)

    def texts(self) -> dict[str, str]:
        return dict(self._code.texts)

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
