"""The emit stage: a schedule and its addresses as LLVM modules.

Every kernel gets a module of its own, so that modules compile in parallel and are cached one by
one; calls with equal kernels share it. One more module holds `run`, which walks the calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.image import PackedTexts
from cnnir.backends.llvm.place import Places
from cnnir.backends.llvm.program import Call as NativeCall
from cnnir.backends.llvm.program import RunCode, emit_run
from cnnir.backends.llvm.schedule import Code, Kernel, Schedule
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.texts import Texts
from cnnir.backends.schedule import EXPRESSIONS


@dataclass
class Emitted:
    """All kernels: the text of each module by its function's name, and the code of each call."""

    texts: PackedTexts = field(default_factory=PackedTexts)
    codes: list[Code] = field(default_factory=list)


def emit(
    schedule: Schedule, cache: ObjectCache | None = None, ready: Callable[[str], object] = len
) -> Emitted:
    """Write all kernels; fills in what only the code knows (items, tile sizes) in the steps.

    cache: where texts of kernels are kept, see `texts`. ready: is given each module as soon as it
    is written.
    """
    known = Texts(cache, schedule.target)
    made: dict[Hashable, Code] = {}
    emitted = Emitted()
    for call in schedule.calls:
        if call.kernel.key not in made:
            code, text = written(call.kernel, known, schedule.target)
            made[call.kernel.key] = code
            ready(text)
            emitted.texts.add(code.name, text)
        code = made[call.kernel.key]
        step = call.step
        step.items, step.summary, step.symbol = code.items, code.summary, code.name
        emitted.codes.append(code)
    return emitted


def joined(schedule: Schedule, places: Places, codes: list[Code]) -> RunCode:
    """The module that calls the kernels, with the addresses they work on."""
    calls = []
    for call, code, after in zip(schedule.calls, codes, places.after, strict=True):
        pointers = tuple(places.sources[p] for p in (*call.reads, *call.writes))
        calls.append(NativeCall(code.name, code.items, code.scratch_bytes, pointers, after))
    return emit_run(calls, schedule.target)


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
    return code, module.taken()
