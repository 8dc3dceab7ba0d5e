"""CpuTarget: the processor that code is generated for, and what plans may know about it.

The bottom of the LLVM backend. Code is compiled for the host with its CPU name and its feature
list both given, because a CPU name alone implies features that a virtual machine may mask.
A target may be narrower than the host ("avx2" on an AVX-512 machine), never wider.

`prefer-vector-width` needs no care: it steers LLVM's vectorisers, which are off, and explicit
512-bit vectors stay 512 bits wide as long as no function carries `min-legal-vector-width`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from cnnir.errors import BackendError

FEATURES_VARIABLE = "CNNIR_CPU_FEATURES"

_AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_AVX2 = ("avx2", "fma", "f16c", "bmi2")
_BEYOND_AVX2 = ("avx512", "avx10", "amx")
_SSE2_BASE = frozenset({"64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"})
_IMPLIED = {  # switching the left off takes with it what starts like the right
    "avx512f": ("avx512", "avx10", "amx-avx512"),
    "avx2": ("avx512", "avx10", "amx-avx512", "avxvnni", "avxifma", "avxneconvert", "vaes"),
    "avx": ("avx", "amx-avx512", "fma", "f16c", "vaes", "vpclmulqdq", "xop"),
}
_LEVELS = {"avx512": _AVX512 + _AVX2, "avx2": _AVX2, "sse2": ("sse2",)}


HALVING = ("znver4",)
"""Processors, by LLVM's name, that carry out a 512-bit operation as two of 256 bits."""


@dataclass(frozen=True, slots=True)
class CpuTarget:
    """A CPU as LLVM names it, and the sizes that plans depend on."""

    triple: str
    cpu: str
    features: str
    """LLVM's feature list, complete: what is on, then what is off, each sorted by name."""
    lanes: int
    """Vector width V in f32 lanes: 16, 8 or 4."""
    cores: int = 1
    """Cores this process may use."""
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 8 << 20

    def has(self, feature: str) -> bool:
        """Whether LLVM may use a feature, by its LLVM name."""
        return f"+{feature}" in self.features.split(",")

    @property
    def x86(self) -> bool:
        """Whether this is an x86-64 processor."""
        return self.triple.startswith("x86_64")

    @property
    def f16c(self) -> bool:
        """Whether f16 <-> f32 conversion is an instruction; else it must be done on the bits."""
        return self.has("f16c") if self.x86 else True

    @property
    def fma(self) -> bool:
        """Whether a fused multiply-add is an instruction; else `llvm.fma` is a library call."""
        return self.has("fma") if self.x86 else True

    @property
    def halved(self) -> int:
        """Lanes of vectors that take twice as long as half of them; 0 where none do."""
        return 16 if self.lanes == 16 and self.cpu in HALVING else 0

    @property
    def fmas(self) -> int:
        """Fused multiply-adds of whole vectors that begin in a cycle, as predictions assume."""
        return 1 if self.halved else 2

    @property
    def registers(self) -> int:
        """Architectural vector registers."""
        return 32 if self.has("avx512vl") or not self.x86 else 16

    @property
    def name(self) -> str:
        """Short description, such as `cpu sapphirerapids, 16 lanes`."""
        return f"cpu {self.cpu}, {self.lanes} lanes"

    @staticmethod
    def host(features: str | None = None) -> CpuTarget:
        """This machine, or a narrower version of it.

        features: "avx512", "avx2", "sse2", or a list in LLVM's form ("-avx512f,-amx-tile");
        None reads CNNIR_CPU_FEATURES, and takes everything there is when that is unset too.
        BackendError when the host lacks something that is asked for.
        """
        return _narrowed(named(features), _cores())


def named(features: str | None = None) -> str:
    """The features that are asked for, by the caller or else in CNNIR_CPU_FEATURES; often none."""
    wanted = os.environ.get(FEATURES_VARIABLE, "") if features is None else features
    return wanted.strip()


@lru_cache(maxsize=16)
def _narrowed(wanted: str, cores: int) -> CpuTarget:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple, cpu = llvm.get_process_triple(), llvm.get_host_cpu_name()
    host = {name: bool(on) for name, on in llvm.get_host_cpu_features().items()}
    enabled = _enabled(wanted, host, triple.startswith("x86_64"))
    # What is off comes last: LLVM reads from left to right, and +avx512bw turns avx512f on again.
    flags = ",".join(
        sign + name
        for sign, on in (("+", True), ("-", False))
        for name in sorted(enabled)
        if enabled[name] is on
    )
    lanes = 4
    if all(enabled.get(f) for f in _AVX512):
        lanes = 16
    elif enabled.get("avx2") and enabled.get("fma"):
        lanes = 8
    l1, l2, l3 = cache_sizes()
    return CpuTarget(triple, cpu, flags, lanes, cores, l1, l2, l3)


def _enabled(wanted: str, host: dict[str, bool], x86: bool) -> dict[str, bool]:
    """The host's features with those switched off that `wanted` excludes."""
    if not wanted or wanted == "native":
        return host
    if wanted in _LEVELS:
        if not x86:
            raise BackendError(f"features {wanted!r}: an x86 level, this is {platform.machine()}")
        _demand(_LEVELS[wanted], host, wanted)
        if wanted == "avx512":
            return host
        if wanted == "avx2":
            return {f: on and not f.startswith(_BEYOND_AVX2) for f, on in host.items()}
        return {f: on and f in _SSE2_BASE for f, on in host.items()}
    enabled = dict(host)
    for flag in filter(None, (part.strip() for part in wanted.split(","))):
        if flag[0] not in "+-" or flag[1:] not in host:
            levels = ", ".join(_LEVELS)
            raise BackendError(
                f"features {wanted!r}: {flag!r} is neither one of {levels} nor +name or -name of "
                "a feature that LLVM knows on this machine"
            )
        if flag[0] == "+":
            _demand((flag[1:],), host, wanted)
        enabled[flag[1:]] = flag[0] == "+"
        if flag[0] == "-" and (prefixes := _IMPLIED.get(flag[1:])):
            enabled |= {name: False for name in enabled if name.startswith(prefixes)}
    return enabled


def _demand(names: tuple[str, ...], host: dict[str, bool], wanted: str) -> None:
    if lacking := [n for n in names if not host.get(n)]:
        raise BackendError(f"features {wanted!r}: this machine has no {', '.join(lacking)}")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def cache_sizes() -> tuple[int, int, int]:
    """Bytes of the L1 data, L2 and L3 caches, with usual sizes for what the system hides."""
    found = _darwin_caches() if sys.platform == "darwin" else _linux_caches()
    return found.get(1, 32 << 10), found.get(2, 1 << 20), found.get(3, 8 << 20)


def _linux_caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for index in sorted(root.glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            text = (index / "size").read_text().strip()
            scale = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
            size = int(text.rstrip("KMG")) * scale
        except (OSError, ValueError):
            continue  # a container may hide or empty single files; the usual size serves then
        if kind in ("Data", "Unified") and size > 0:
            sizes[level] = size
    return sizes


def _darwin_caches() -> dict[int, int]:
    libc = ctypes.CDLL(None)
    sizes: dict[int, int] = {}
    for level, name in ((1, b"hw.l1dcachesize"), (2, b"hw.l2cachesize"), (3, b"hw.l3cachesize")):
        value, length = ctypes.c_uint64(0), ctypes.c_size_t(8)
        if libc.sysctlbyname(name, ctypes.byref(value), ctypes.byref(length), None, 0) == 0:
            sizes[level] = int(value.value) or sizes.get(level - 1, 0)
    return {level: size for level, size in sizes.items() if size}
