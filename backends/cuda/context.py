"""Context: the CUDA driver, asked on behalf of one device. Memory and streams are `driver.py`'s."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from cnnir.backends.cuda.bindings import bindings
from cnnir.errors import BackendError


class Context:
    """The primary context of a device, which PyTorch and CuPy use too, until nobody holds this."""

    def __init__(self, ordinal: int) -> None:
        self.driver = _driver()
        self.device = asked(self.driver, "cuDeviceGet", ordinal)
        self._handle = asked(self.driver, "cuDevicePrimaryCtxRetain", self.device)
        weakref.finalize(self, asked, self.driver, "cuDevicePrimaryCtxRelease", self.device)

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of the driver returns; it may be called by any thread."""
        asked(self.driver, "cuCtxSetCurrent", self._handle)  # which belongs to a thread
        return asked(self.driver, function, *arguments)

    def attribute(self, name: str) -> int:
        """A number of the device, such as MULTIPROCESSOR_COUNT."""
        which = getattr(self.driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.ask("cuDeviceGetAttribute", which, self.device))


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
