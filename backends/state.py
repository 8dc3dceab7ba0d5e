"""Arrays that programs keep from run to run and update in place."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Literal, Protocol

import numpy as np

from cnnir.tensortype import TensorType

ALIGN = 64
SLACK = 64
"""Readable bytes behind every array: kernels read whole vectors."""


class Elsewhere(Protocol):
    """The arrays of a state in the memory of a device."""

    place: Hashable
    """Which memory that is."""

    def push(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take all arrays over."""

    def fetch(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write them into these."""


class State:
    """Named arrays in one block of memory, where programs of any batch size find them.

    It starts as zeros. Programs on a device update arrays there, which come back when they are
    asked for. Who reads or writes must not do so during a run.
    """

    def __init__(self, types: Mapping[str, TensorType]) -> None:
        self.types = dict(types)
        ends, end = [], 0
        for type in types.values():
            ends.append(end)
            end += type.nbytes + SLACK
            end += -end % ALIGN
        block = np.zeros(end + ALIGN, np.uint8)
        start = -block.ctypes.data % ALIGN
        self._arrays: dict[str, np.ndarray] = {
            name: block[start + at : start + at + type.nbytes].view(type.numpy).reshape(type.shape)
            for at, (name, type) in zip(ends, types.items(), strict=True)
        }
        self._elsewhere: Elsewhere | None = None
        self._newest: Literal["here", "there", "both"] = "here"

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> State:
        """A state that begins with copies of these arrays."""
        state = cls({name: TensorType.of(array) for name, array in arrays.items()})
        state.write(arrays)
        return state

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays as they are now, to read."""
        if self._newest == "there":
            assert self._elsewhere is not None
            self._elsewhere.fetch(self._arrays)
            self._newest = "both"
        return self._arrays

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the arrays of these names."""
        mine = self.here()
        for name, array in arrays.items():
            mine[name][...] = array

    def here(self) -> Mapping[str, np.ndarray]:
        """The arrays, for a program of this process to write to."""
        arrays = self.arrays
        self._newest = "here"
        return arrays

    def there(self, place: Hashable, make: Callable[[], Elsewhere], writes: bool) -> Elsewhere:
        """The arrays as they are now in the memory of a device, made there where they are not.

        writes: a program there is about to update them.
        """
        if self._elsewhere is None or self._elsewhere.place != place:
            self.here()
            self._elsewhere = make()
        if self._newest == "here":
            self._elsewhere.push(self._arrays)
            self._newest = "both"
        if writes:
            self._newest = "there"
        return self._elsewhere
