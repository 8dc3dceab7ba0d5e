"""Arrays of a device that come from others, as inputs, and that go to others, as outputs.

Both ways by DLPack or `__cuda_array_interface__`, which PyTorch, CuPy, JAX and Numba know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.backends.arrays import CUDA, device_of
from cnnir.backends.cuda import dlpack
from cnnir.backends.cuda.machine import Block, Machine
from cnnir.errors import InputError
from cnnir.tensortype import TensorType


@dataclass(frozen=True)
class Foreign:
    """A row-major input in the memory of the device, which belongs to somebody else."""

    address: int
    type: TensorType
    owner: Any
    """Kept until the run is over."""
    stream: int | None = None
    """Where work may still be under way that makes it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""
        return self.type.shape

    def copy_to(self, address: int, machine: Machine) -> None:
        """Copy it inside the device, behind what makes it."""
        if self.stream is not None:
            machine.after(self.stream)
        machine.copy(address, self.address, self.type.nbytes)


def foreign(name: str, given: Any, type: TensorType, machine: Machine) -> Foreign | None:
    """An input that lies in the memory of the machine's device; None for one of the host.

    Raises InputError for another device, element type or shape, or for strides.
    """
    place = device_of(given)
    if place is None or place[0] != CUDA or machine.device[0] != CUDA:
        return None
    stream = None
    if hasattr(given, "__dlpack__"):
        if place != machine.device:
            raise InputError(
                f"input {name!r} lies on CUDA device {place[1]}, the model on {machine.device[1]}"
            )
        try:
            owner = given.__dlpack__(stream=machine.queue)  # which waits for what makes it
            found = dlpack.read(owner)
        except Exception as error:  # owners have no common class for a refusal
            raise InputError(f"input {name!r} cannot be read by DLPack: {error}") from error
    else:
        interface, owner = given.__cuda_array_interface__, given
        found, stream = _described(name, interface), interface.get("stream")
    _check(name, found, type)
    return Foreign(found.address, type, owner, stream)


def _described(name: str, interface: dict[str, Any]) -> dlpack.Described:
    """What a `__cuda_array_interface__` says; its strides count bytes."""
    if interface.get("mask") is not None:
        raise InputError(f"input {name!r} has a mask, wanted an array without")
    dtype, strides = np.dtype(interface["typestr"]), interface.get("strides")
    counted = None if strides is None else tuple(s // dtype.itemsize for s in strides)
    return dlpack.Described(interface["data"][0], dtype, tuple(interface["shape"]), counted)


def _check(name: str, found: dlpack.Described, type: TensorType) -> None:
    if found.dtype != type.numpy:
        raise InputError(
            f"input {name!r}: dtype {found.dtype}, wanted {type.numpy.name}; nothing is converted"
        )
    if found.shape != type.shape:
        raise InputError(f"input {name!r}: shape {found.shape}, wanted {type.shape}")
    step = 1
    for size, stride in zip(reversed(found.shape), reversed(found.strides or ()), strict=False):
        if size != 1 and stride != step and 0 not in found.shape:
            raise InputError(
                f"input {name!r} has strides {found.strides}, wanted row-major order, such as "
                "x.contiguous() or ascontiguousarray(x) give"
            )
        step *= size


class DeviceArray:
    """An output in the memory of a device, complete, row-major, and nobody else's.

    `torch.from_dlpack(y)` and `cupy.from_dlpack(y)` read it where it is; `numpy.asarray(y)` copies
    it to the host. The memory goes when neither this object nor what was made of it is left.
    """

    def __init__(self, block: Block, type: TensorType, device: tuple[int, int]) -> None:
        self._block, self.type, self._device = block, type, device
        self.shape, self.dtype = type.shape, type.numpy

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._device[0] != CUDA or self.dtype.kind not in "fiub":
            raise AttributeError("__cuda_array_interface__")
        return {
            "version": 3, "shape": self.shape, "typestr": self.dtype.str, "strides": None,
            "data": (self._block.address, False), "stream": None,
        }  # fmt: skip

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule; nothing is to be waited for in any stream, as the run is over."""
        if copy or (dl_device is not None and tuple(dl_device) != self._device):
            raise BufferError("a DeviceArray gives its own memory only; numpy.asarray copies it")
        return dlpack.capsule(self._block.address, self.type, self._device, self._block)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("what lies on a device cannot be read without a copy")
        array = np.empty(self.shape, self.type.numpy)
        self._block.read(array)
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f"<{self.type} on {'CUDA' if self._device[0] == CUDA else 'emulated'} device>"
