"""The place stage: where every pointer of the schedule points.

Constants are packed and laid out one after another in one block; results of calls get offsets in
the arena by liveness, or are written straight into the caller's output arrays. Also finds, from the
bytes that calls really touch, which earlier call each must wait for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np

from cnnir import memory
from cnnir.backends.base import Buffer
from cnnir.backends.llvm.layout import Plain
from cnnir.backends.llvm.program import SLACK, Source
from cnnir.backends.llvm.schedule import PackedParam, Pointer, Schedule, Slot
from cnnir.backends.llvm.threads import aligned
from cnnir.errors import LimitError, quoted
from cnnir.ir import Value

ALIGN = 64


@dataclass
class Places:
    """Addresses of a schedule: `sources` says for each pointer which block it lies in and where."""

    sources: dict[Pointer, Source] = field(default_factory=dict)
    constants: np.ndarray = field(default_factory=lambda: aligned(SLACK))
    arena_bytes: int = 0
    arena_bound: int = 0
    """What no placement can do without."""
    after: list[int] = field(default_factory=list)
    """For each call the latest earlier one it waits for, -1 for none."""
    buffers: list[Buffer] = field(default_factory=list)


def place(schedule: Schedule) -> Places:
    """Addresses for every pointer of `schedule`; LimitError where memory cannot hold them."""
    places = Places()
    for number, value in enumerate(schedule.graph.inputs):
        for slot in schedule.slots():
            if slot.value is value and slot.layout == Plain() and not slot.copy:
                places.sources[slot] = ("input", number)
                places.buffers.append(_buffer(slot, "input", number))
    _place_constants(schedule, places)
    _place_results(schedule, places)
    _check_memory(places)
    return places


def _check_memory(places: Places) -> None:
    """LimitError where a run would need more memory than the machine has.

    Memory is only taken when it is touched, so without this the process would be killed in a run.
    """
    has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = places.arena_bytes + places.constants.nbytes
    if needed > has:
        largest = max(places.buffers, key=lambda b: b.nbytes)
        raise LimitError(
            f"a run needs {needed} bytes, this machine has {has}; the largest buffer is "
            f"{quoted(largest.name)}: {largest.type}, {largest.nbytes} bytes"
        )


def _place_constants(schedule: Schedule, places: Places) -> None:
    """Addresses for params, and their packed bytes; each array leaves the graph once it is packed.

    The largest come first: while it is packed, a param is there twice.
    """
    reads = dict.fromkeys(pointer for call in schedule.calls for pointer in call.reads)
    forms: dict[Value, list[Pointer]] = {}
    end = 0
    for pointer in reads:
        if pointer not in places.sources and pointer.value.node.kind == "param":
            places.sources[pointer] = ("const", end)
            places.buffers.append(_buffer(pointer, "constant", end))
            forms.setdefault(pointer.value, []).append(pointer)
            end += pointer.nbytes + -pointer.nbytes % ALIGN
    places.constants = _allocated(end + SLACK, "constants")
    for value in sorted(forms, key=lambda value: -value.type.nbytes):
        array = schedule.graph.take(value)
        for pointer in forms[value]:
            start = places.sources[pointer][1]
            _pack(pointer, array, places.constants[start : start + pointer.nbytes])


def _pack(pointer: Pointer, array: np.ndarray, into: np.ndarray) -> None:
    """Write a param to its place."""
    if isinstance(pointer, PackedParam):
        pointer.pack(array, into.view(np.float32))
    else:
        flat = np.ascontiguousarray(pointer.layout.pack(array)).reshape(-1)
        into[:] = flat.view(np.uint8)


def _allocated(nbytes: int, what: str) -> np.ndarray:
    try:
        return aligned(nbytes)
    except (MemoryError, ValueError) as error:
        raise LimitError(f"{what} need {nbytes} bytes, which this machine cannot give") from error


def _place_results(schedule: Schedule, places: Places) -> None:
    """Outputs go to the caller's arrays, carried ones to their inputs, all else into the arena."""
    roots = {slot: schedule.root(slot)[0] for slot in schedule.slots()}
    outputs = {
        schedule.root(slot)[0]: i
        for i, slot in enumerate(schedule.outputs)
        if i not in schedule.graph.carried
    }
    sizes = {
        slot: slot.nbytes + (0 if slot in schedule.aliases else SLACK)
        for slot, root in roots.items()
        if slot not in places.sources and root not in outputs and root not in places.sources
    }  # fmt: skip

    def seen(pointer: Pointer) -> Pointer:
        """What an access touches: an array of the caller stands for all its aliases."""
        if isinstance(pointer, Slot) and (roots[pointer] in outputs or pointer not in sizes):
            return roots[pointer]
        return pointer

    steps = [
        memory.Access(tuple(map(seen, call.reads)), tuple(map(seen, call.writes)))
        for call in schedule.calls
    ]
    aliases = {inner: alias for inner, alias in schedule.aliases.items() if inner in sizes}
    placement = memory.place(steps, sizes, aliases=aliases)
    places.arena_bytes, places.arena_bound = placement.peak, placement.bound
    places.after = memory.conflicts(steps, sizes, placement)
    for slot, root in roots.items():
        if root in outputs:
            places.sources[slot] = ("output", outputs[root])
            places.buffers.append(_buffer(slot, "output", outputs[root]))
        elif slot in sizes:
            places.sources[slot] = ("arena", placement.offsets[slot])
            first, last = placement.lives[placement.roots[slot][0]]
            buffer = _buffer(slot, "arena", placement.offsets[slot])
            places.buffers.append(replace(buffer, first=first, last=last))
        elif slot not in places.sources and root in places.sources:
            places.sources[slot] = places.sources[root]


def _buffer(pointer: Pointer, space: str, offset: int) -> Buffer:
    layout = str(pointer.layout) if isinstance(pointer, Slot) else str(pointer.key)
    value, nbytes = pointer.value, pointer.nbytes
    return Buffer(value.name or value.node.name, value.type, layout, space, offset, nbytes)
