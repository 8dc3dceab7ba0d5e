"""Resident: the arrays of a State in a machine's memory, where programs update them in place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cnnir.backends.cuda.machine import Machine
from cnnir.backends.cuda.place import ALIGN
from cnnir.tensortype import TensorType


class Resident:
    """One block of memory with every array, in the order of their names."""

    def __init__(self, machine: Machine, types: Mapping[str, TensorType]) -> None:
        self._machine, self.place = machine, machine.place
        offsets, end = [], 0
        for type in types.values():
            offsets.append(end)
            end += type.nbytes + ALIGN + -type.nbytes % ALIGN
        self._block = machine.allocate(end)
        self.addresses = {
            name: self._block.address + offset for name, offset in zip(types, offsets, strict=True)
        }

    def push(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy all arrays to the machine."""
        for name, array in arrays.items():
            self._machine.upload(self.addresses[name], array)
        self._machine.wait()

    def fetch(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Copy all arrays from the machine."""
        for name, array in arrays.items():
            self._machine.download(array, self.addresses[name])
        self._machine.wait()
