"""Arrays that programs keep from run to run and update in place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cnnir.tensortype import TensorType

ALIGN = 64
SLACK = 64
"""Readable bytes behind every array: kernels read whole vectors."""


class State:
    """Named arrays in one block of memory, where programs of any batch size find them.

    It starts as zeros. Who writes to an array must not do so during a run.
    """

    def __init__(self, types: Mapping[str, TensorType]) -> None:
        ends, end = [], 0
        for type in types.values():
            ends.append(end)
            end += type.nbytes + SLACK
            end += -end % ALIGN
        block = np.zeros(end + ALIGN, np.uint8)
        start = -block.ctypes.data % ALIGN
        self.arrays: dict[str, np.ndarray] = {
            name: block[start + at : start + at + type.nbytes].view(type.numpy).reshape(type.shape)
            for at, (name, type) in zip(ends, types.items(), strict=True)
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> State:
        """A state that begins with copies of these arrays."""
        state = cls({name: TensorType.of(array) for name, array in arrays.items()})
        for name, array in arrays.items():
            state.arrays[name][...] = array
        return state
