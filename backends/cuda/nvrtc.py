"""NVRTC: CUDA C to a cubin for one architecture. It needs the package, but no device or driver."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from cnnir.backends.cuda.bindings import INSTALL, bindings
from cnnir.errors import BackendError

OPTIONS = ("--std=c++17", "--ptxas-options=-v")


@dataclass(frozen=True)
class Resources:
    """What ptxas says that a function needs."""

    registers: int
    spilled_bytes: int
    """Stores to local memory for want of registers."""
    shared_bytes: int = 0
    """Shared memory of a block that the text declares itself."""

    def __str__(self) -> str:
        spilled = f", {self.spilled_bytes} bytes spilled" if self.spilled_bytes else ""
        return f"{self.registers} registers{spilled}"


def version() -> str:
    """The version of NVRTC; BackendError where it is not installed."""
    major, minor = _checked(_library().nvrtcVersion())
    return f"{major}.{minor}"


def cubin(text: str, arch: str) -> tuple[bytes, str]:
    """(machine code for a device of this architecture, what ptxas told)."""
    return _compiled(text, arch, "CUBIN")


def ptx(text: str, arch: str) -> str:
    """The virtual assembly, to read."""
    return _compiled(text, arch, "PTX")[0].rstrip(b"\0").decode()


def resources(log: str) -> dict[str, Resources]:
    """Resources by function, from what ptxas told."""
    by_name = {}
    for part in log.split("Compiling entry function ")[1:]:
        name = re.match(r"'(\w+)'", part)
        patterns = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
        counts = [re.search(pattern, part) for pattern in patterns]
        if name and counts[0]:
            by_name[name[1]] = Resources(*(int(found[1]) if found else 0 for found in counts))
    return by_name


@cache
def _library() -> Any:
    library = bindings("nvrtc", "compiling CUDA C")
    try:
        library.nvrtcVersion()  # loads the shared library
    except Exception as error:  # the bindings have no common class for a library that is missing
        raise BackendError(
            f"compiling CUDA C needs NVRTC, which does not load: {error}; {INSTALL}"
        ) from error
    return library


def _compiled(text: str, arch: str, form: str) -> tuple[bytes, str]:
    library = _library()
    program = _checked(library.nvrtcCreateProgram(text.encode(), b"cnnir.cu", 0, [], []))
    try:
        options = [f"--gpu-architecture={arch}", *OPTIONS]
        (outcome,) = library.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        log = b" " * _checked(library.nvrtcGetProgramLogSize(program))
        _checked(library.nvrtcGetProgramLog(program, log))
        told = log.rstrip(b"\0 ").decode(errors="replace")
        if outcome != library.nvrtcResult.NVRTC_SUCCESS:
            raise BackendError(f"NVRTC does not compile for {arch}: {told[:2000]}")
        made = b" " * _checked(getattr(library, f"nvrtcGet{form}Size")(program))
        _checked(getattr(library, f"nvrtcGet{form}")(program, made))
        return made, told
    finally:
        library.nvrtcDestroyProgram(program)


def _checked(answer: Any) -> Any:
    """What a call returned beside its status."""
    status, *values = answer
    if int(status) != 0:
        raise BackendError(f"NVRTC: {status!r}")
    return values[0] if len(values) == 1 else values
