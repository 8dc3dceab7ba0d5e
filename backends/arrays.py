"""Arrays that are not numpy's, such as PyTorch's and CuPy's: where they lie, what shape they have,
and how those of the host are read where they are. Those of a device are the device's backend's.

Source of the protocols: https://data-apis.org/array-api (`__dlpack__`) and numba's documentation
of `__cuda_array_interface__`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import InputError

HOST, CUDA, CUDA_HOST = 1, 2, 3
"""Kinds of devices, as DLPack numbers them."""
_NAMES = {CUDA: "CUDA device", 7: "Vulkan device", 8: "Metal device", 10: "ROCm device"}


def device_of(given: Any) -> tuple[int, int] | None:
    """(kind, number) of the device in whose memory an object says it lies; None if it does not."""
    if isinstance(given, np.ndarray):
        return None
    if callable(ask := getattr(given, "__dlpack_device__", None)):
        kind, number = ask()
        return int(kind), int(number)
    if hasattr(given, "__cuda_array_interface__"):
        return CUDA, 0
    return None


def shape_of(given: Any) -> tuple[int, ...]:
    """The shape of anything that can be an input, without a look at its data."""
    if isinstance(given, np.ndarray) or device_of(given) is None:
        return np.shape(given)
    if hasattr(given, "shape"):
        return tuple(map(int, given.shape))
    if hasattr(given, "__cuda_array_interface__"):
        return tuple(given.__cuda_array_interface__["shape"])
    return np.from_dlpack(given).shape


def on_host(name: str, given: Any) -> np.ndarray:
    """An input as an array of numpy, without a copy where it is one for others.

    Raises InputError for what lies on a device, or what its owner does not give.
    """
    device = device_of(given)
    if device is None:
        return np.asarray(given)
    kind, number = device
    if kind not in (HOST, CUDA_HOST):
        raise InputError(
            f"input {name!r} lies on {_NAMES.get(kind, f'a device of kind {kind}')} {number}, "
            "wanted an array of the host; target cuda takes those of its own device"
        )
    try:
        return np.from_dlpack(given)
    except Exception as error:  # owners have no common class for a refusal
        raise InputError(f"input {name!r} cannot be read by DLPack: {error}") from error
