"""The emit stage: a schedule and its addresses as LLVM modules.

Every kernel gets a module of its own, so that modules compile in parallel and are cached one by
one; calls with equal kernels share it. One more module holds `run`, which walks the calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field

import cnnir.backends.llvm.ir as ir

from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.place import Places
from cnnir.backends.llvm.program import Call as NativeCall
from cnnir.backends.llvm.program import RunCode, emit_run
from cnnir.backends.llvm.schedule import Code, Kernel, Schedule
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.texts import Texts
from cnnir.backends.schedule import EXPRESSIONS


@dataclass
class Emitted:
    """Text of all modules; `kernels` maps each kernel's function name to its module."""

    run: RunCode
    kernels: dict[str, str] = field(default_factory=dict)
    errors: list[tuple[str, ...]] = field(default_factory=list)
    """For each call what `Code.errors` says."""

    @property
    def modules(self) -> list[str]:
        """Every module, kernels first."""
        return [*self.kernels.values(), self.run.text]


def emit(schedule: Schedule, places: Places, cache: ObjectCache | None = None) -> Emitted:
    """Write all code; fills in what only the code knows (items, tile sizes) in the steps.

    cache: where texts of kernels are kept, see `texts`.
    """
    known = Texts(cache, schedule.target)
    made: dict[Hashable, Code] = {}
    texts: dict[str, str] = {}
    calls, errors = [], []
    for call, after in zip(schedule.calls, places.after, strict=True):
        if call.kernel.key not in made:
            code, text = written(call.kernel, known, schedule.target)
            made[call.kernel.key] = code
            texts[code.name] = text
        code = made[call.kernel.key]
        step = call.step
        step.items, step.summary, step.symbol = code.items, code.summary, code.name
        pointers = tuple(places.sources[p] for p in (*call.reads, *call.writes))
        calls.append(NativeCall(code.name, code.items, code.scratch_bytes, pointers, after))
        errors.append(code.errors)
    return Emitted(emit_run(calls, schedule.target), texts, errors)


def written(kernel: Kernel, known: Texts, target: CpuTarget) -> tuple[Code, str]:
    """A kernel's code and module, as they are known, or else written and made known."""
    found = known.get(kernel)
    if found is None:
        with EXPRESSIONS:
            found = _emit_kernel(kernel, target)
        known.put(kernel, found)
    return found


def _emit_kernel(kernel: Kernel, target: CpuTarget) -> tuple[Code, str]:
    """A kernel's code and module. Its name says what it is, and is the same in every process."""
    digest = hashlib.sha256(repr(kernel.key).encode()).hexdigest()[:16]
    name = f"{kernel.kind}_{digest}"
    module = ir.Module(name)
    code = kernel.emit(module, name, target)
    return code, str(module)
