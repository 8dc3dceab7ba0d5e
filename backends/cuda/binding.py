"""Binding: the launches of a program on inputs and outputs in certain places, ready to be run.

Between `load`, which has code, constants and the arena on a machine, and its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cnnir.backends.cuda.emit import Emitted
from cnnir.backends.cuda.exchange import DeviceArray, Foreign
from cnnir.backends.cuda.machine import Block, Machine, Task
from cnnir.backends.cuda.place import ALIGN, Places
from cnnir.backends.cuda.schedule import Schedule
from cnnir.signature import Signature

Given = np.ndarray | Foreign
"""What an input may be: of the host, or of a device."""


@dataclass(frozen=True)
class Loaded:
    """All of a program that stays on a machine."""

    machine: Machine
    signature: Signature
    schedule: Schedule
    emitted: Emitted
    places: Places
    functions: Mapping[str, Any]
    constants: Block
    arena: Block


class Binding:
    """A run on the inputs that lie at given addresses, and on copies of all others.

    home: input -> address, of a state; outputs carried to those stay there. The others are copied
    to and from memory that is made here.
    """

    def __init__(self, loaded: Loaded, home: Mapping[int, int]) -> None:
        self._loaded, self._machine = loaded, loaded.machine
        ports, carried = loaded.signature, loaded.signature.carried
        self._given = [k for k in range(len(ports.inputs)) if k not in home]
        self._shown = [k for k in range(len(ports.outputs)) if carried.get(k) not in home]
        offsets, end = {}, 0
        for k in self._given:
            offsets[k], end = end, end + _padded(ports.inputs[k].type.nbytes)
        self._inputs = self._machine.allocate(end)
        self._addresses = {k: self._inputs.address + at for k, at in offsets.items()} | dict(home)
        self.tasks = self._made_tasks()
        self._run = self._machine.record(self.tasks)
        self._checks = any(code.errors for code in loaded.emitted.codes)
        self._stage()

    def start(self, arrays: Sequence[Given]) -> None:
        """Bring the inputs of a run to where it reads them."""
        machine = self._machine
        for array, staged, k in zip(arrays, self._staged_inputs, self._given, strict=True):
            if isinstance(array, Foreign):
                array.copy_to(self._addresses[k], machine)
            else:
                np.copyto(staged, array)
                machine.upload(self._addresses[k], staged)
        if self._checks:
            machine.clear(self._loaded.arena.address, self._loaded.places.error_bytes)

    def run(self) -> None:
        """Launch everything."""
        self._run()

    def results(self) -> list[np.ndarray]:
        """The outputs of the run in arrays of their own, once it is over."""
        for staged, k in zip(self._staged_outputs, self._shown, strict=True):
            self._machine.download(staged, self._output(k))
        self.finish()
        return [staged.copy() for staged in self._staged_outputs]

    def device_results(self) -> list[DeviceArray]:
        """The outputs of the run in memory of their own on the machine, once it is over."""
        made = []
        for k in self._shown:
            type = self._loaded.signature.outputs[k].type
            block = self._machine.allocate(type.nbytes)
            self._machine.copy(block.address, self._output(k), type.nbytes)
            made.append(DeviceArray(block, type, self._machine.device))
        self.finish()
        return made

    def finish(self) -> None:
        """Wait until the run is over; BadIndex where an index was wrong."""
        if self._checks:
            self._machine.download(self._errors, self._loaded.arena.address)
        self._machine.wait()
        if self._checks and self._errors.any():
            number = int(np.flatnonzero(self._errors)[0])
            raise BadIndex(number, int(self._errors[number]) - 1)

    # ---- places

    def _output(self, number: int) -> int:
        space, at = self._loaded.places.outputs[number]
        return self._addresses[at] if space == "input" else self._loaded.arena.address + at

    def _made_tasks(self) -> list[Task]:
        loaded, tasks = self._loaded, []
        arena, constants = loaded.arena.address, loaded.constants.address
        address: dict[str, Callable[[int], int]] = {
            "constant": constants.__add__, "arena": arena.__add__,
            "input": self._addresses.__getitem__,
        }  # fmt: skip
        calls = zip(loaded.schedule.calls, loaded.emitted.codes, strict=True)
        for number, (call, code) in enumerate(calls):
            pointers = [loaded.places.sources[p] for p in (*call.reads, *call.writes)]
            arguments = (
                arena + 4 * number,
                arena + loaded.places.scratch[number],
                *(address[space](at) for space, at in pointers),
            )
            for name, launch in code.launches:
                tasks.append(Task(loaded.functions[name], launch, arguments, number))
        return tasks

    def _stage(self) -> None:
        """Arrays in memory that is copied quickly: the inputs, the outputs, the error words."""
        ports = self._loaded.signature
        inputs = [ports.inputs[k].type for k in self._given]
        outputs = [ports.outputs[k].type for k in self._shown]
        kinds = [(type.numpy, type.shape) for type in (*inputs, *outputs)]
        kinds.append((np.dtype(np.int32), (len(self._loaded.schedule.calls),)))
        sizes = [dtype.itemsize * prod(shape) for dtype, shape in kinds]
        block = self._machine.staging(sum(map(_padded, sizes)))
        arrays, at = [], 0
        for (dtype, shape), size in zip(kinds, sizes, strict=True):
            arrays.append(block[at : at + size].view(dtype).reshape(shape))
            at += _padded(size)
        self._staged_inputs, self._staged_outputs = arrays[: len(inputs)], arrays[len(inputs) : -1]
        self._errors = arrays[-1]


class BadIndex(Exception):
    """An index was out of range: the first call that found one, and which of its index words."""

    def __init__(self, call: int, word: int) -> None:
        super().__init__(call, word)
        self.call, self.word = call, word


def _padded(nbytes: int) -> int:
    """With slack behind it, so that a kernel may read a little over the end."""
    return nbytes + ALIGN + -nbytes % ALIGN
