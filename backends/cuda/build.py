"""Texts of kernels to cubins: every text by itself, several at a time, through the disk cache."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda import nvrtc
from cnnir.backends.cuda.device import DEVICE
from cnnir.backends.cuda.nvrtc import Resources
from cnnir.backends.cuda.prelude import PRELUDE
from cnnir.backends.cuda.warpgroup import WARPGROUP, uses_warpgroups


@dataclass(frozen=True)
class Built:
    """Machine code by text, and what each function needs."""

    cubins: dict[str, bytes]
    resources: dict[str, Resources]
    """By function, as is the next."""
    owner: dict[str, str]
    """The text that a function is in."""
    notes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Of machine code."""
        return sum(map(len, self.cubins.values()))


_FORM = "registers, spills, shared"
"""What the line of resources holds."""


def whole(text: str) -> str:
    """The text of a kernel with all that it needs before it."""
    warpgroups = [WARPGROUP] if uses_warpgroups(text) else []
    return "\n".join([DEVICE, *warpgroups, PRELUDE, text])


def compiled(texts: Mapping[str, str], arch: str, cache: DiskCache | None = None) -> Built:
    """Cubins for an architecture; BackendError where NVRTC is missing or does not compile."""
    version = nvrtc.version()

    def one(text: str) -> tuple[bytes, dict[str, Resources]]:
        key = DiskCache.key_of("nvrtc", version, arch, *nvrtc.OPTIONS, _FORM, whole(text))
        if cache is not None and (found := cache.get(key)) is not None:
            return _unpacked(found)
        cubin, log = nvrtc.cubin(whole(text), arch)
        used = nvrtc.resources(log)
        if cache is not None:
            cache.put(key, _packed(cubin, used))
        return cubin, used

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = dict(zip(texts, pool.map(one, texts.values()), strict=True))
    resources = {name: r for _, used in made.values() for name, r in used.items()}
    owner = {name: text for text, (_, used) in made.items() for name in used}
    cubins = {name: cubin for name, (cubin, _) in made.items()}
    return Built(cubins, resources, owner, tuple(cache.notes()) if cache is not None else ())


def _packed(cubin: bytes, used: dict[str, Resources]) -> bytes:
    """What the cache keeps: a line of resources, then the cubin."""
    lines = {name: [r.registers, r.spilled_bytes, r.shared_bytes] for name, r in used.items()}
    return json.dumps(lines).encode() + b"\n" + cubin


def _unpacked(kept: bytes) -> tuple[bytes, dict[str, Resources]]:
    line, _, cubin = kept.partition(b"\n")
    return cubin, {name: Resources(*numbers) for name, numbers in json.loads(line).items()}
