"""Gpu: a CUDA device through the driver's API, as `cuda.bindings.driver` has it."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cnnir.backends.arrays import CUDA
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.build import compiled
from cnnir.backends.cuda.context import Context
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Binary, Block, Task
from cnnir.backends.cuda.target import CudaTarget

SHARED_LIMIT = 48 << 10
"""Bytes of shared memory that a function has without asking for more."""


class Gpu:
    """One device, with a stream of its own in the process's primary context."""

    def __init__(self, ordinal: int = 0, cache: DiskCache | None = None) -> None:
        self._context, self._cache, self._ordinal = Context(ordinal), cache, ordinal
        self._ask = self._context.ask
        self._stream = self._ask("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING
        self._modules: list[Any] = []
        self.close = weakref.finalize(self, _closed, self._context, self._stream, self._modules)
        self.place: Hashable = ("cuda", ordinal)
        self.device = (CUDA, ordinal)
        self.queue = int(self._stream)
        self.memory = int(self._ask("cuDeviceTotalMem", self._context.device))
        name = self._ask("cuDeviceGetName", 100, self._context.device)
        self.name = name.split(b"\0")[0].decode()
        attribute = self._context.attribute
        self.processors = attribute("MULTIPROCESSOR_COUNT")
        version = tuple(attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
        # instructions of one kind of device alone, such as wgmma, are in code for it alone
        self.arch = f"sm_{version[0]}{version[1]}{'a' if version == (9, 0) else ''}"

    def target(self, precision: str) -> CudaTarget:
        return CudaTarget(self.arch, precision, self.processors)

    def another(self) -> Gpu:
        return Gpu(self._ordinal, self._cache)

    # ---- code

    def load(self, texts: Mapping[str, str], launches: Mapping[str, Launch]) -> Binary:
        built = compiled(texts, self.arch, self._cache)
        functions = {}
        modules = {text: self._module(cubin) for text, cubin in built.cubins.items()}
        for name, launch in launches.items():
            module = modules[built.owner[name]]
            function = self._ask("cuModuleGetFunction", module, name.encode())
            if launch.shared_bytes > SHARED_LIMIT:
                kind = self._context.driver.CUfunction_attribute
                which = kind.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                self._ask("cuFuncSetAttribute", function, which, launch.shared_bytes)
            functions[name] = function
        return Binary(functions, built.resources, built.nbytes, built.notes)

    def _module(self, cubin: bytes) -> Any:
        image = np.frombuffer(cubin, np.uint8)
        module = self._ask("cuModuleLoadData", image.ctypes.data)
        self._modules.append(module)
        return module

    # ---- memory

    def allocate(self, nbytes: int) -> Block:
        ask, address = self._ask, int(self._ask("cuMemAlloc", max(1, nbytes)))

        def read(array: np.ndarray) -> None:
            ask("cuMemcpyDtoH", array.ctypes.data, address, array.nbytes)

        block = Block(address, nbytes, read)
        weakref.finalize(block, ask, "cuMemFree", address)  # waits for who still reads it
        return block

    def staging(self, nbytes: int) -> np.ndarray:
        nbytes = max(1, nbytes)
        address = int(self._ask("cuMemAllocHost", nbytes))
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        weakref.finalize(memory, self._ask, "cuMemFreeHost", address)
        return np.ctypeslib.as_array(memory)

    def upload(self, address: int, array: np.ndarray) -> None:
        if array.nbytes:
            source = array.ctypes.data
            self._ask("cuMemcpyHtoDAsync", address, source, array.nbytes, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        if array.nbytes:
            self._ask("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        if nbytes:
            self._ask("cuMemcpyDtoDAsync", to, source, nbytes, self._stream)

    def clear(self, address: int, nbytes: int) -> None:
        if nbytes:
            self._ask("cuMemsetD8Async", address, 0, nbytes, self._stream)

    # ---- work

    def after(self, stream: int) -> None:
        event = self._ask("cuEventCreate", 2)  # CU_EVENT_DISABLE_TIMING
        self._ask("cuEventRecord", event, stream)
        self._ask("cuStreamWaitEvent", self._stream, event, 0)
        self._ask("cuEventDestroy", event)  # which the driver does when it has happened

    def record(self, tasks: Sequence[Task]) -> Callable[[], None]:
        # relaxed: memory of what dies meanwhile may be given back, by this thread too
        mode = self._context.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self._ask("cuStreamBeginCapture", self._stream, mode)
        for task in tasks:
            self._launch(task)
        graph = self._ask("cuStreamEndCapture", self._stream)
        ready = self._ask("cuGraphInstantiate", graph, 0)
        self._ask("cuGraphDestroy", graph)
        self._ask("cuGraphUpload", ready, self._stream)

        def run() -> None:  # which keeps this machine, whose modules it needs
            self._ask("cuGraphLaunch", ready, self._stream)

        weakref.finalize(run, self._ask, "cuGraphExecDestroy", ready)
        return run

    def seconds(self, tasks: Sequence[Task]) -> list[float]:
        def marked() -> Any:
            event = self._ask("cuEventCreate", 0)
            self._ask("cuEventRecord", event, self._stream)
            return event

        events = [marked()]
        for task in tasks:
            self._launch(task)
            events.append(marked())
        self.wait()
        spans = [
            self._ask("cuEventElapsedTime", first, last) / 1e3 for first, last in pairwise(events)
        ]
        for event in events:
            self._ask("cuEventDestroy", event)
        return spans

    def wait(self) -> None:
        self._ask("cuStreamSynchronize", self._stream)

    def _launch(self, task: Task) -> None:
        values = [ctypes.c_void_p(argument) for argument in task.arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        launch = task.launch
        self._ask(
            "cuLaunchKernel",
            task.function,
            *launch.grid,
            *launch.block,
            launch.shared_bytes,
            self._stream,
            ctypes.addressof(pointers),
            0,
        )


def _closed(context: Context, stream: Any, modules: list[Any]) -> None:
    """Give back what a Gpu has beside memory, which others may hold."""
    context.ask("cuStreamSynchronize", stream)
    for module in modules:
        context.ask("cuModuleUnload", module)
    context.ask("cuStreamDestroy", stream)
