"""Emulator: this processor in place of a GPU. The kernels are the same text, compiled by the
system's C++ compiler after `emulator.h`, which says how threads, barriers, warps and shared memory
are done there. Slow: meant for tests, for learning, and for machines without a GPU.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cnnir.backends.arrays import HOST
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Binary, Block, Task
from cnnir.backends.cuda.prelude import PRELUDE
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.warpgroup import uses_warpgroups
from cnnir.errors import BackendError

HEADER = Path(__file__).with_name("emulator.h")
WARPGROUP_HEADER = Path(__file__).with_name("emulator_warpgroup.h")
COMPILERS = ("g++", "clang++", "c++")
OPTIONS = ("-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC")
TOGETHER = re.compile(
    r"__syncthreads|cn_warp_|cn_load_matrices|cn_multiply|cn_copy|CN_SHARED|__syncwarp|cn_exchange"
)
"""What threads do together; a kernel without any of it can do one thread after another."""


class Emulator:
    """Runs kernels on this processor. Memory is full of NaN at first.

    last_first: which thread of a block runs as far ahead as barriers allow, the last or the first.
    early: asynchronous copies happen at once; otherwise as late as their wait allows.
    arch: whose kernels it runs, such as sm_90a for those of warpgroups.
    """

    def __init__(
        self,
        cache: DiskCache | None = None,
        last_first: bool = False,
        early: bool = False,
        arch: str = "sm_80",
    ) -> None:
        self._cache, self._schedule = cache, (int(last_first), int(early))
        self._arch = arch
        self._faults: list[str] = []
        self.memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.name = "emulated"
        self.place: Hashable = "emulated"
        self.device, self.queue = (HOST, 0), 0

    def target(self, precision: str) -> CudaTarget:
        return CudaTarget(self._arch, precision, processors=4, emulated=True)

    def another(self) -> Emulator:
        last_first, early = map(bool, self._schedule)
        return Emulator(self._cache, last_first, early, self._arch)

    def load(self, texts: Mapping[str, str], launches: Mapping[str, Launch]) -> Binary:
        if not launches:
            return Binary({}, {}, 0)
        entries = [
            f"CN_ENTRY({name}, {int(bool(TOGETHER.search(text)))})"
            for name in launches
            for text in texts.values()
            if f" {name}(" in text
        ]
        headers = [HEADER]
        if any(uses_warpgroups(text) for text in texts.values()):
            headers.append(WARPGROUP_HEADER)
        before = [header.read_text("utf-8") for header in headers]
        source = "\n".join([*before, PRELUDE, *texts.values(), *entries, ""])
        binary = _binary(source, self._cache)
        library = _loaded(binary)
        library.cn_schedule(*self._schedule)
        functions = {}
        for name in launches:
            functions[name] = library[f"launch_{name}"]
            functions[name].restype = ctypes.c_char_p
        return Binary(functions, {}, len(binary))

    def allocate(self, nbytes: int) -> Block:
        raw = np.full(nbytes + 256, 0xFF, np.uint8)
        shift = -raw.ctypes.data % 256

        def read(array: np.ndarray) -> None:
            array.reshape(-1).view(np.uint8)[:] = raw[shift : shift + array.nbytes]

        return Block(raw.ctypes.data + shift, nbytes, read)

    def staging(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes, np.uint8)

    def upload(self, address: int, array: np.ndarray) -> None:
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        ctypes.memmove(to, source, nbytes)

    def clear(self, address: int, nbytes: int) -> None:
        ctypes.memset(address, 0, nbytes)

    def after(self, stream: int) -> None:
        return

    def record(self, tasks: Sequence[Task]) -> Callable[[], None]:
        def run() -> None:
            for task in tasks:
                self._launch(task)

        return run

    def seconds(self, tasks: Sequence[Task]) -> list[float]:
        spans = []
        for task in tasks:
            started = time.perf_counter()
            self._launch(task)
            spans.append(time.perf_counter() - started)
        return spans

    def wait(self) -> None:
        if self._faults:
            fault, self._faults = self._faults[0], []
            raise BackendError(f"an emulated kernel went wrong: {fault}")

    def close(self) -> None:
        return

    def _launch(self, task: Task) -> None:
        launch = task.launch
        sizes = (ctypes.c_uint * 7)(*launch.grid, *launch.block, launch.shared_bytes)
        arguments = (ctypes.c_void_p * len(task.arguments))(*task.arguments)
        if fault := task.function(sizes, arguments):
            self._faults.append(fault.decode())


def compiler() -> str:
    """The system's C++ compiler; BackendError where there is none."""
    found = next((path for c in COMPILERS if (path := shutil.which(c))), None)
    if found is None:
        raise BackendError(f"cuda-emu needs a C++ compiler: none of {', '.join(COMPILERS)} is here")
    return found


def _binary(source: str, cache: DiskCache | None) -> bytes:
    path = compiler()
    key = DiskCache.key_of("emulator", path, *OPTIONS, source)
    if cache is not None and (found := cache.get(key)) is not None:
        return found
    with TemporaryDirectory() as folder:
        text, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        text.write_text(source, "utf-8")
        done = subprocess.run(
            [path, *OPTIONS, "-o", str(library), str(text)], capture_output=True, text=True
        )
        if done.returncode:
            raise BackendError(f"{path} does not compile the kernels: {done.stderr[:2000]}")
        made = library.read_bytes()
    if cache is not None:
        cache.put(key, made)
    return made


def _loaded(binary: bytes) -> Any:
    """The library, open; its file need not stay."""
    with TemporaryDirectory() as folder:
        library = Path(folder, "kernels.so")
        library.write_bytes(binary)
        return ctypes.CDLL(str(library))
