"""From LLVM IR to machine code in this process: check, optimise, emit an object, load it.

Sits on `target` and `cache`; knows nothing of graphs, kernels or buffers. LLVM aborts the process
on IR it cannot select and a JIT may resolve a missing symbol to address 0, so nothing reaches it
unchecked: modules are verified, intrinsics come from a list with the features each needs, inline
assembly is refused, and objects are linked against `LIBRARY` alone, never the whole process.

One engine, and one LLJIT in it, a model: its memory goes back to the system on `close`, which a
shared JIT would not do. Modules compile in parallel threads, each in an LLVM context of its own.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import llvmlite.binding as llvm
from llvmlite.binding import ffi
from llvmlite.binding.newpassmanagers import NewPassManager

from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.target import CpuTarget
from cnnir.errors import BackendError

if TYPE_CHECKING:
    import cnnir.backends.llvm.ir as ir

Source: TypeAlias = "ir.Module | str"

_MATH = """atan2 ceil cos erf exp floor fma fmod log nearbyint pow rint roundeven sin tanh
    trunc""".split()
LIBRARY = frozenset(
    ["memcpy", "memmove", "memset", "syscall", "sched_yield", "usleep", "clock_gettime"]
    + _MATH
    + [name + "f" for name in _MATH]
)
"""C functions that compiled code may call; anything else that is undefined is an error."""

_INTRINSICS = {
    "any": """abs assume bitreverse bswap canonicalize ceil copysign ctlz ctpop cttz expect fabs
        floor fma fmuladd fptosi.sat fptoui.sat fshl fshr is.fpclass lifetime masked matrix maximum
        maximumnum maxnum memcpy memmove memset minimum minimumnum minnum nearbyint prefetch ptrmask
        readcyclecounter readsteadycounter rint round roundeven sadd.sat sadd.with.overflow smax
        smin smul.with.overflow sqrt ssub.sat ssub.with.overflow trunc uadd.sat uadd.with.overflow
        launder umax umin umul.with.overflow usub.sat usub.with.overflow vector.reduce x86.sse2""",
    "avx2": "x86.avx2 x86.avx.",
    "f16c": "x86.vcvtps2ph",
    "avx512f": "x86.avx512.mask x86.avx512.max x86.avx512.min x86.avx512.sqrt x86.avx512.permvar",
    "avx512vnni": "x86.avx512.vpdpbusd x86.avx512.vpdpbusds x86.avx512.vpdpwssd",
    "avx512bf16": "x86.avx512bf16",
    "neon": "aarch64.neon aarch64.hint",
}
_ALLOWED = {prefix: feature for feature, names in _INTRINSICS.items() for prefix in names.split()}
_INLINE_ASSEMBLY = re.compile(r"\bcall\b[^\n]*\basm\b|^module asm", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Options:
    """How IR becomes code; part of the cache key."""

    level: int = 1
    """Optimisation level of passes and code generation, 0 to 3. Kernels are written as they are to
    run: level 3 takes a fifth longer, for code of the same speed (18 networks)."""
    vectorise: bool = False
    """LLVM's own loop and SLP vectorisers and unroller: kernels are written in vectors already."""


@dataclass(slots=True)
class BuildReport:
    """What compiling took: printed in plans."""

    modules: int = 0
    cached: int = 0
    """Modules whose object came from the disk cache."""
    code_bytes: int = 0
    """Machine code in the objects."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


# ---- compile: IR -> object


def check(text: str, target: CpuTarget, provided: frozenset[str] = frozenset()) -> llvm.ModuleRef:
    """The parsed, verified module; BackendError for anything LLVM might abort on or not find.

    provided: functions that other modules of the same engine define.
    """
    if "asm" in text and _INLINE_ASSEMBLY.search(text):
        raise BackendError("generated code holds inline assembly, which is not allowed")
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
    except RuntimeError as error:
        raise _invalid(error) from error
    try:
        module.verify()
        for function in module.functions:
            if function.is_declaration:
                _check_declaration(function.name, target, provided)
    except BaseException as error:
        module.close()  # by the garbage collector it may go after its context, which LLVM dies of
        if isinstance(error, RuntimeError):
            raise _invalid(error) from error
        raise
    return module


def _invalid(error: RuntimeError) -> BackendError:
    return BackendError(f"generated code is not valid LLVM IR: {error}")


def _check_declaration(name: str, target: CpuTarget, provided: frozenset[str]) -> None:
    if not name.startswith("llvm."):
        if name not in LIBRARY and name not in provided:
            raise BackendError(f"generated code calls {name}, which nothing defines")
        return
    rest = name[5:]
    for prefix, feature in _ALLOWED.items():
        if rest == prefix or rest.startswith(prefix if prefix[-1] == "." else prefix + "."):
            if feature == "any" or target.has(feature):
                return
            raise BackendError(f"intrinsic {name} needs {feature}, which the target lacks")
    raise BackendError(f"intrinsic {name} is not on the list of allowed ones")


def _machine(target: CpuTarget, options: Options) -> llvm.TargetMachine:
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=target.features,
        opt=options.level,
        reloc="pic",
        codemodel="small",
    )


def _unlocked(name: str) -> Any:
    """A function of LLVM's without llvmlite's global lock, so that modules compile in parallel.

    Right because every module here lives in an LLVM context of its own, which LLVM documents as
    enough. Should llvmlite change inside, the locked function serves, one module at a time.
    """
    locked = getattr(ffi.lib, name)
    return getattr(locked, "_cfn", locked)


def _optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine, options: Options) -> None:
    tuning = llvm.create_pipeline_tuning_options(options.level)
    tuning.loop_vectorization = tuning.slp_vectorization = options.vectorise
    tuning.loop_unrolling = tuning.loop_interleaving = options.vectorise
    builder = llvm.create_pass_builder(machine, tuning)
    passes = builder.getModulePassManager()
    try:
        _unlocked("LLVMPY_RunNewModulePassManager")(passes, module, builder)
    finally:
        # llvmlite 0.50 never frees it (its class inherits the empty _dispose first): 30 KiB a time.
        NewPassManager._dispose(passes)
        passes.detach()


def _emit(module: llvm.ModuleRef, machine: llvm.TargetMachine, is_object: bool) -> bytes:
    with ffi.OutputString() as error:
        emit = _unlocked("LLVMPY_TargetMachineEmitToMemory")
        buffer = emit(machine, module, int(is_object), error)
        if not buffer:
            raise BackendError(f"LLVM cannot generate code: {error}")
    try:
        start = ffi.lib.LLVMPY_GetBufferStart(buffer)
        return ctypes.string_at(start, ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _compile(
    text: str, target: CpuTarget, options: Options, provided: frozenset[str], form: str
) -> bytes:
    module = check(text, target, provided)
    machine = _machine(target, options)
    try:
        module.triple, module.data_layout = target.triple, str(machine.target_data)
        _optimise(module, machine, options)
        return str(module).encode() if form == "ir" else _emit(module, machine, form == "object")
    finally:
        module.close()
        machine.close()


def render(
    source: Source,
    target: CpuTarget,
    form: str,
    options: Options = Options(),
    provided: Iterable[str] = (),
) -> bytes:
    """The module for inspection: "ir" (optimised text), "assembly" (.s) or "object" (.o)."""
    if form not in ("ir", "assembly", "object"):
        raise BackendError(f"no form {form!r} of code; there are ir, assembly, object")
    return _compile(str(source), target, options, frozenset(provided), form)


def code_size(binary: bytes) -> int:
    """Bytes of machine code in an object."""
    parsed = llvm.ObjectFileRef.from_data(binary)
    return sum(section.size() for section in parsed.sections() if section.is_text())


# ---- load: objects -> addresses


@lru_cache(maxsize=1)
def _library() -> dict[str, int]:
    """Addresses of the functions of `LIBRARY` that this system has."""
    process = ctypes.CDLL(None)
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    found = {}
    for name in sorted(LIBRARY):
        function = getattr(process, name, None) or getattr(libm, name, None)
        if function is not None:
            found[name] = ctypes.cast(function, ctypes.c_void_p).value or 0
    return {name: address for name, address in found.items() if address}


class Engine:
    """The loaded code of one model: `address(name)` until `close()`.

    exports: the functions whose addresses are wanted; each must be defined in one of the objects.
    """

    def __init__(self, objects: Sequence[bytes], exports: Sequence[str], target: CpuTarget) -> None:
        self.report = BuildReport(modules=len(objects))
        machine = _machine(target, Options())
        library = llvm.JITLibraryBuilder()
        for binary in objects:
            library.add_object_img(binary)
        for name in exports:
            library.export_symbol(name)
        for name, address in _library().items():
            library.import_symbol(name, address)
        self._jit = llvm.create_lljit_compiler(machine, use_jit_link=True, suppress_errors=True)
        try:
            self._code = library.link(self._jit, "cnnir")
        except RuntimeError as error:
            self._jit.close()
            raise BackendError(f"compiled code cannot be loaded: {error}") from error
        self._names = frozenset(exports)

    def address(self, name: str) -> int:
        """Where an exported function is; valid until `close`."""
        if self.closed:
            raise BackendError("the compiled code has been closed")
        if name not in self._names or not self._code[name]:
            raise BackendError(f"compiled code exports no function {name}")
        return int(self._code[name])

    @property
    def closed(self) -> bool:
        """Whether the code is gone."""
        return self._jit.closed

    def close(self) -> None:
        """Unload the code; nothing may be running in it."""
        if not self.closed:
            self._code.close()
            self._jit.close()


_Made: TypeAlias = tuple[bytes, bool]
"""An object, and whether it was in the cache."""


class Compilation:
    """Compiles modules while others are still being written; a context, which waits for threads.

    jobs: modules compiled at a time; None takes the target's cores. The caller compiles too, once
    it has nothing to add any more: until then it has a core to itself, and a thread less leaves
    memory behind. The objects, and so all results, are the same for every number.
    """

    def __init__(
        self,
        target: CpuTarget,
        cache: ObjectCache | None = None,
        options: Options = Options(),
        jobs: int | None = None,
    ) -> None:
        self._target, self._cache, self._options = target, cache, options
        self._start = time.perf_counter()
        self._jobs = jobs or target.cores
        self._pool = ThreadPoolExecutor(max(1, self._jobs - 1))
        self._waiting: deque[tuple[Future[_Made], str, frozenset[str]]] = deque()
        self._results: list[Future[_Made]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)

    def add(self, text: str, provided: Iterable[str] = ()) -> None:
        """Begin with a module; provided: functions of others that it may call."""
        self._results.append(Future())
        self._waiting.append((self._results[-1], text, frozenset(provided)))
        self._pool.submit(self._next)

    def objects(self) -> tuple[list[bytes], BuildReport]:
        """The objects of all modules, in order; BackendError for the first that is not right."""
        while self._jobs > 1 and self._next():
            pass
        results = [result.result() for result in self._results]
        objects = [made for made, _ in results]
        cached = sum(was_cached for _, was_cached in results)
        size = sum(code_size(made) for made in objects)
        notes = self._cache.notes() if self._cache else []
        seconds = time.perf_counter() - self._start
        return objects, BuildReport(len(objects), cached, size, seconds, notes)

    def _next(self) -> bool:
        """Compile what waits longest; False where nothing does."""
        try:
            result, text, provided = self._waiting.popleft()
        except IndexError:
            return False
        try:
            result.set_result(self._binary(text, provided))
        except BaseException as error:
            result.set_exception(error)
            if not isinstance(error, Exception):
                raise  # the user interrupts
        return True

    def _binary(self, text: str, provided: frozenset[str]) -> _Made:
        cache = self._cache
        key = cache.key(text, self._target, self._options) if cache else ""
        if cache and (stored := cache.get(key)) is not None:
            return stored, True
        made = _compile(text, self._target, self._options, provided, "object")
        if cache:
            cache.put(key, made)
        return made, False


def build(
    sources: Sequence[Source],
    exports: Sequence[str],
    target: CpuTarget,
    cache: ObjectCache | None = None,
    options: Options = Options(),
    jobs: int | None = None,
) -> Engine:
    """Compile modules, which may call each other's functions, and load them together."""
    texts = [str(source) for source in sources]
    provided = frozenset(name for text in texts for name in _defined(text))
    with Compilation(target, cache, options, jobs) as compilation:
        for text in texts:
            compilation.add(text, provided)
        objects, report = compilation.objects()
    engine = Engine(objects, exports, target)
    engine.report = report
    return engine


def _defined(text: str) -> list[str]:
    return re.findall(r"^define [^@\n]*@\"?([^\s\"(]+)", text, re.MULTILINE)
