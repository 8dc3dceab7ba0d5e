"""A CUDA driver without a GPU: the real bindings' names and signatures, the emulator's kernels.

Every call is checked to have as many arguments as the real function takes, and to come in an order
in which a driver would do it: with a context, on memory and streams that exist, launches in a
capture recorded and not run.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections import Counter
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.build import Built
from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Task
from cnnir.backends.cuda.nvrtc import Resources

CONTEXT, DEVICE = 11, 0


class FakeDriver:
    """Stands for the module cuda.bindings.driver."""

    def __init__(self, real: ModuleType) -> None:
        self.real, self.ok = real, real.CUresult.CUDA_SUCCESS
        self.entered = False
        self.retained = 0
        """How many hold the context."""
        self.memory: dict[int, np.ndarray] = {}
        self.running = threading.Lock()
        """Emulated kernels of equal text have their fibers in one place."""
        self.theirs: list[np.ndarray] = []
        """Memory that other libraries have."""
        self.streams: set[int] = set()
        self.copied: Counter[str] = Counter()
        """Bytes copied: HtoD, DtoH, DtoD."""
        self.waited: list[tuple[int, int]] = []
        """(stream, the one whose work it was told to wait for)."""
        self.functions: dict[str, Any] = {}
        self.owner: dict[str, str] = {}
        self.modules: dict[int, str] = {}
        self.parameters: dict[str, int] = {}
        """How many a function has, as machine code would know."""
        self.wide: dict[str, int] = {}
        """Shared memory that functions asked for."""
        self.graphs: dict[int, list[Any]] = {}
        self.capturing: list[Any] | None = None
        self.capturer = 0
        self.launched = 0

    def __getattr__(self, name: str) -> Any:
        given = getattr(self.real, name)
        if not name.startswith("cu"):
            return given  # enumerations
        head = re.match(rf"{name}\((.*)\)", given.__doc__)
        assert head, name
        wanted = len([p for p in head[1].split(",") if p.strip()])
        mine = getattr(self, f"do_{name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            assert len(arguments) == wanted, f"{name} takes {head[1]}"
            free = ("cuInit", "cuCtx", "cuDevice")
            assert self.entered or name.startswith(free), f"{name} without a context"
            result = mine(*arguments)
            return (self.ok,) if result is None else (self.ok, result)

        return call

    # ---- what a program does with it

    def compiled(self, texts: Mapping[str, str], arch: str, cache: DiskCache | None) -> Built:
        """In place of NVRTC: functions of the emulator."""
        assert arch == "sm_90a"
        found = {t: re.findall(r"\b(\w+)\(\n    int\* error", texts[t]) for t in texts}
        owner = {name: text for text, names in found.items() for name in names}
        functions = {name: Launch((1, 1, 1), (1, 1, 1)) for name in owner}
        self.owner |= owner
        self.functions |= Emulator().load(texts, functions).functions
        for text in texts.values():
            for name, listed in re.findall(r"\b(\w+)\(\n    (int\* error.*?)\) \{", text, re.S):
                self.parameters[name] = listed.count(",") + 1
        resources = {name: Resources(32, 0) for name in owner}
        return Built({text: text.encode() for text in texts}, resources, owner, ())

    def do_cuInit(self, flags: int) -> None:
        assert flags == 0

    def do_cuDeviceGetCount(self) -> int:
        return 1

    def do_cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def do_cuDeviceGetName(self, length: int, device: int) -> bytes:
        return b"Fake".ljust(length, b"\0")

    def do_cuDeviceTotalMem(self, device: int) -> int:
        return 1 << 30

    def do_cuDeviceGetAttribute(self, attribute: Any, device: int) -> int:
        name = attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")
        known = {"MULTIPROCESSOR_COUNT": 4, "COMPUTE_CAPABILITY_MAJOR": 9}
        return known.get(name, 0)

    def do_cuDevicePrimaryCtxRetain(self, device: int) -> int:
        self.retained += 1
        return CONTEXT

    def do_cuDevicePrimaryCtxRelease(self, device: int) -> None:
        self.retained -= 1
        assert self.retained or not (self.memory or self.graphs or self.streams)

    def do_cuCtxSetCurrent(self, context: int) -> None:
        assert context == CONTEXT
        self.entered = True

    def do_cuStreamCreate(self, flags: int) -> int:
        assert flags == 1
        self.streams.add(max(self.streams, default=11) + 1)
        return max(self.streams)

    def do_cuStreamDestroy(self, stream: int) -> None:
        self.streams.remove(stream)

    def do_cuStreamSynchronize(self, stream: int) -> None:
        assert stream in self.streams and self.capturing is None

    def do_cuStreamWaitEvent(self, stream: int, event: list[int], flags: int) -> None:
        self.waited.append((stream, event[1]))

    def do_cuModuleLoadData(self, image: int) -> int:
        self.modules[image] = ctypes.string_at(image).decode()
        return image

    def do_cuModuleUnload(self, module: int) -> None:
        assert module

    def do_cuModuleGetFunction(self, module: int, name: bytes) -> str:
        assert self.owner[name.decode()] == self.modules[module], "not in this module"
        return name.decode()

    def do_cuFuncSetAttribute(self, function: str, which: Any, value: int) -> None:
        assert which.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        self.wide[function] = value

    def do_cuMemAlloc(self, nbytes: int) -> int:
        raw = np.full(nbytes + 256, 0xFF, np.uint8)
        address = raw.ctypes.data + -raw.ctypes.data % 256
        self.memory[address] = raw
        return address

    def do_cuMemAllocHost(self, nbytes: int) -> int:
        return self.do_cuMemAlloc(nbytes)

    def do_cuMemFree(self, address: int) -> None:
        del self.memory[address]

    do_cuMemFreeHost = do_cuMemFree

    def _copy(self, kind: str, to: int, source: int, nbytes: int) -> None:
        assert self.capturing is None and nbytes > 0
        mine = {"HtoD": [to], "DtoH": [source], "DtoD": [to, source]}[kind]
        assert all(self._holds(address, nbytes) for address in mine)
        ctypes.memmove(to, source, nbytes)
        self.copied[kind] += nbytes

    def _holds(self, address: int, nbytes: int) -> bool:
        """Whether these bytes are memory that was given out."""
        blocks = ((b.ctypes.data, b.nbytes) for b in (*self.memory.values(), *self.theirs))
        return any(at <= address and address + nbytes <= at + size for at, size in blocks)

    def do_cuMemcpyHtoDAsync(self, to: int, source: int, nbytes: int, stream: int) -> None:
        assert stream in self.streams
        self._copy("HtoD", to, source, nbytes)

    def do_cuMemcpyDtoHAsync(self, to: int, source: int, nbytes: int, stream: int) -> None:
        assert stream in self.streams
        self._copy("DtoH", to, source, nbytes)

    def do_cuMemcpyDtoDAsync(self, to: int, source: int, nbytes: int, stream: int) -> None:
        assert stream in self.streams
        self._copy("DtoD", to, source, nbytes)

    def do_cuMemcpyDtoH(self, to: int, source: int, nbytes: int) -> None:
        self._copy("DtoH", to, source, nbytes)

    def do_cuMemsetD8Async(self, address: int, value: int, nbytes: int, stream: int) -> None:
        assert stream in self.streams
        ctypes.memset(address, value, nbytes)

    def do_cuLaunchKernel(self, function: str, *more: Any) -> None:
        *sizes, shared, stream, parameters, extra = more
        assert stream in self.streams and not extra
        assert shared <= max(48 << 10, self.wide.get(function, 0))
        launch = Launch(tuple(sizes[:3]), tuple(sizes[3:]), shared)
        assert launch.threads <= 1024 and min(*launch.grid, *launch.block) > 0
        pointers = ctypes.cast(parameters, ctypes.POINTER(ctypes.c_void_p))
        count = self.parameters[function]
        values = [ctypes.c_void_p.from_address(pointers[k] or 0).value for k in range(count)]
        task = Task(self.functions[function], launch, tuple(v or 0 for v in values), 0)
        if self.capturing is not None and stream == self.capturer:
            self.capturing.append(task)
        else:
            self._run([task])

    def _run(self, tasks: list[Task]) -> None:
        machine = Emulator()
        with self.running:
            machine.record(tasks)()
        machine.wait()
        self.launched += len(tasks)

    def do_cuStreamBeginCapture(self, stream: int, mode: Any) -> None:
        assert stream in self.streams and self.capturing is None
        assert mode.name == "CU_STREAM_CAPTURE_MODE_RELAXED"
        self.capturing, self.capturer = [], stream

    def do_cuStreamEndCapture(self, stream: int) -> int:
        assert self.capturing is not None and stream == self.capturer
        number = max(self.graphs, default=100) + 1
        self.graphs[number], self.capturing = self.capturing, None
        return number

    def do_cuGraphInstantiate(self, graph: int, flags: int) -> int:
        self.graphs[graph + 1000] = self.graphs[graph]
        return graph + 1000

    def do_cuGraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    do_cuGraphExecDestroy = do_cuGraphDestroy

    def do_cuGraphUpload(self, graph: int, stream: int) -> None:
        assert graph in self.graphs and stream in self.streams

    def do_cuGraphLaunch(self, graph: int, stream: int) -> None:
        assert stream in self.streams
        self._run(self.graphs[graph])

    def do_cuEventCreate(self, flags: int) -> list[int]:
        return [0, 0]

    def do_cuEventRecord(self, event: list[int], stream: int) -> None:
        event[:] = self.launched, stream

    def do_cuEventElapsedTime(self, first: list[int], last: list[int]) -> float:
        return float(last[0] - first[0])  # a launch takes a millisecond here

    def do_cuEventDestroy(self, event: list[int]) -> None:
        assert event


def fake_driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Put it in the place of the driver; skips where the bindings are not installed."""
    real = pytest.importorskip("cuda.bindings.driver", reason="cnnir[cuda] is not installed")
    fake = FakeDriver(real)
    monkeypatch.setattr("cnnir.backends.cuda.context.bindings", lambda name, what: fake)
    monkeypatch.setattr("cnnir.backends.cuda.driver.compiled", fake.compiled)
    return fake
