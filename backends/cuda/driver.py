"""Gpu: a CUDA device through the driver's API, as `cuda.bindings.driver` has it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda.bindings import bindings
from cnnir.backends.cuda.build import compiled
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Binary, Task
from cnnir.backends.cuda.target import CudaTarget
from cnnir.errors import BackendError

SHARED_LIMIT = 48 << 10
"""Bytes of shared memory that a function has without asking for more."""


class Gpu:
    """One device, with a stream of its own in the process's primary context."""

    def __init__(self, ordinal: int = 0, cache: DiskCache | None = None) -> None:
        self._driver, self._cache = _driver(), cache
        self._modules: list[Any] = []
        self._graphs: list[Any] = []
        self._pinned: list[Any] = []
        device = self._ask("cuDeviceGet", ordinal)
        self._device = device
        self._context = self._ask("cuDevicePrimaryCtxRetain", device)
        self._enter()
        self._stream = self._ask("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING
        self.memory = int(self._ask("cuDeviceTotalMem", device))
        self.name = self._ask("cuDeviceGetName", 100, device).split(b"\0")[0].decode()
        self.processors = self._attribute("MULTIPROCESSOR_COUNT")
        major = self._attribute("COMPUTE_CAPABILITY_MAJOR")
        self.arch = f"sm_{major}{self._attribute('COMPUTE_CAPABILITY_MINOR')}"

    def target(self, precision: str) -> CudaTarget:
        return CudaTarget(self.arch, precision, self.processors)

    # ---- code

    def load(self, texts: Mapping[str, str], launches: Mapping[str, Launch]) -> Binary:
        built = compiled(texts, self.arch, self._cache)
        self._enter()
        functions = {}
        owner = {name: self._module(cubin) for name, cubin in built.cubins.items()}
        for name, launch in launches.items():
            module = next(m for text, m in owner.items() if name.startswith(text))
            function = self._ask("cuModuleGetFunction", module, name.encode())
            if launch.shared_bytes > SHARED_LIMIT:
                kind = self._driver.CUfunction_attribute
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

    def allocate(self, nbytes: int) -> int:
        self._enter()
        return int(self._ask("cuMemAlloc", nbytes))

    def free(self, address: int) -> None:
        self._enter()
        self._ask("cuMemFree", address)

    def staging(self, nbytes: int) -> np.ndarray:
        self._enter()
        nbytes = max(1, nbytes)
        address = int(self._ask("cuMemAllocHost", nbytes))
        self._pinned.append(address)
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def upload(self, address: int, array: np.ndarray) -> None:
        self._enter()
        if array.nbytes:
            source = array.ctypes.data
            self._ask("cuMemcpyHtoDAsync", address, source, array.nbytes, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        self._enter()
        if array.nbytes:
            self._ask("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)

    def clear(self, address: int, nbytes: int) -> None:
        self._enter()
        if nbytes:
            self._ask("cuMemsetD8Async", address, 0, nbytes, self._stream)

    # ---- work

    def record(self, tasks: Sequence[Task]) -> Callable[[], None]:
        self._enter()
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._ask("cuStreamBeginCapture", self._stream, mode)
        for task in tasks:
            self._launch(task)
        graph = self._ask("cuStreamEndCapture", self._stream)
        ready = self._ask("cuGraphInstantiate", graph, 0)
        self._ask("cuGraphDestroy", graph)
        self._ask("cuGraphUpload", ready, self._stream)
        self._graphs.append(ready)

        def run() -> None:
            self._enter()
            self._ask("cuGraphLaunch", ready, self._stream)

        return run

    def seconds(self, tasks: Sequence[Task]) -> list[float]:
        def marked() -> Any:
            event = self._ask("cuEventCreate", 0)
            self._ask("cuEventRecord", event, self._stream)
            return event

        self._enter()
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
        self._enter()
        self._ask("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        self._enter()
        for graph in self._graphs:
            self._ask("cuGraphExecDestroy", graph)
        for module in self._modules:
            self._ask("cuModuleUnload", module)
        for address in self._pinned:
            self._ask("cuMemFreeHost", address)
        self._ask("cuStreamDestroy", self._stream)
        self._ask("cuDevicePrimaryCtxRelease", self._device)

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

    def _attribute(self, name: str) -> int:
        kind = self._driver.CUdevice_attribute
        which = getattr(kind, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._ask("cuDeviceGetAttribute", which, self._device))

    def _enter(self) -> None:
        """The context belongs to a thread; any thread may call."""
        self._ask("cuCtxSetCurrent", self._context)

    def _ask(self, function: str, *arguments: Any) -> Any:
        return asked(self._driver, function, *arguments)


def asked(driver: Any, function: str, *arguments: Any) -> Any:
    """What a function of the driver returns beside its status; BackendError where it fails."""
    status, *values = getattr(driver, function)(*arguments)
    if int(status) != 0:
        raise BackendError(f"the CUDA driver: {function} fails with {status.name}")
    return values[0] if len(values) == 1 else tuple(values)


_LOADING = threading.Lock()


def _driver() -> Any:
    """The driver's bindings, initialised; BackendError that says what is missing."""
    with _LOADING:
        driver = bindings("driver", "target cuda")
        try:
            count = asked(driver, "cuInit", 0) or asked(driver, "cuDeviceGetCount")
        except BackendError as error:
            raise BackendError(f"target cuda finds no device that works: {error}") from error
        except Exception as error:  # the bindings have no common class for a missing library
            raise BackendError(
                "target cuda needs NVIDIA's driver (libcuda), which is not installed here; "
                "cuda:sm_90 and the like compile without one, cuda-emu runs without one"
            ) from error
        if not count:
            raise BackendError("target cuda finds a driver, but no device")
        return driver
