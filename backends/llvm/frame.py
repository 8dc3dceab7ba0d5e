"""Frames: what the native code needs for one call at a time, with the data of the call put in.

Between `load`, which runs programs, and `program`, whose Context the native code reads. To ask
numpy for an address takes longer than to copy a few kilobytes, so small inputs and outputs pass
through arrays of the frame, whose addresses are in its context from the beginning; larger ones are
read and written where the caller has them.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnir.backends.llvm.program import SLACK, Context
from cnnir.backends.llvm.threads import aligned
from cnnir.backends.state import State
from cnnir.signature import Signature
from cnnir.tensortype import TensorType

PAGE = 4096
SMALL = 16 << 10
"""Bytes up to which an array passes through the frame: a copy of so much costs half of a call."""


class Frame:
    """A context with arrays of its own for small inputs and outputs; serves one call at a time."""

    def __init__(self, signature: Signature, context: Context) -> None:
        self.context = context
        self.pointer = ctypes.c_void_p(context.address)
        self._names = [port.name for port in signature.inputs]
        self._own = _own([port.type for port in signature.inputs], context.inputs)
        self._inputs = list(enumerate(self._own))
        self._state: State | None = None
        returned = [i for i in range(len(signature.outputs)) if i not in signature.carried]
        types = [port.type for port in signature.outputs]
        own = _own(types, context.outputs)
        self._outputs = [own[i] if i < len(own) else None for i in returned]
        self._large = [
            (position, types[position].shape, types[position].numpy)
            for position, small in zip(returned, self._outputs, strict=True)
            if small is None
        ]

    def bind(self, state: State | None) -> None:
        """From now on inputs of these names are in the state; the others come with each call."""
        if state is self._state:
            return
        self._state, self._inputs = state, []
        for position, (name, own) in enumerate(zip(self._names, self._own, strict=False)):
            if state is not None and name in state.arrays:
                self.context.inputs[position] = state.arrays[name].ctypes.data
            else:
                self._inputs.append((position, own))
                if own is not None:
                    self.context.inputs[position] = own.ctypes.data

    def fill(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Put the data of a call in; returns what must stay alive until `results`."""
        kept: list[np.ndarray] = []
        for position, shape, dtype in self._large:
            array = fresh(shape, dtype)
            self.context.outputs[position] = array.ctypes.data
            kept.append(array)
        for given, (position, own) in zip(arrays, self._inputs, strict=False):
            if own is not None:
                own[...] = given
            else:
                array = readable(given)
                self.context.inputs[position] = array.ctypes.data
                kept.append(array)
        return kept

    @property
    def small(self) -> bool:
        """Whether all outputs pass through the frame."""
        return not self._large

    def own_input(self, position: int) -> int:
        """The address of the frame's array for an input, 0 where it has none."""
        own = self._own[position] if position < len(self._own) else None
        return 0 if own is None else int(own.ctypes.data)

    def maker(self) -> Callable[[], Any]:
        """What makes the output of a run, or the tuple of several, where all are small."""
        if len(self._outputs) == 1:
            assert self._outputs[0] is not None
            return self._outputs[0].copy
        return lambda: tuple(self.results([]))

    def results(self, kept: list[np.ndarray]) -> list[np.ndarray]:
        """The outputs of the call that is over, in arrays that nothing else refers to."""
        large = iter(kept)
        return [next(large) if own is None else own.copy() for own in self._outputs]


def _own(types: Sequence[TensorType], addresses: np.ndarray) -> list[np.ndarray | None]:
    """An array for each small one, whose address is noted; None for each large one.

    Inputs that no kernel reads may be more than there are addresses; they are left out.
    """
    arrays: list[np.ndarray | None] = []
    for position, type in enumerate(types[: len(addresses)]):
        arrays.append(None)
        if type.nbytes <= SMALL:
            array = fresh(type.shape, type.numpy)
            addresses[position] = array.ctypes.data
            arrays[-1] = array
    return arrays


def readable(array: np.ndarray) -> np.ndarray:
    """The array, or a copy, such that the slack behind its end may be read.

    Kernels read whole vectors and may run over the end by less than SLACK bytes. That is safe
    where those bytes share a page with the last one; otherwise the array is copied.
    """
    end = array.ctypes.data + array.nbytes
    if array.nbytes and 0 < end % PAGE <= PAGE - SLACK:
        return array
    copy = fresh(array.shape, array.dtype)
    copy[...] = array
    return copy


def fresh(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array on a cache line, with slack behind it."""
    nbytes = math.prod(shape) * dtype.itemsize
    return aligned(nbytes + SLACK)[:nbytes].view(dtype).reshape(shape)
