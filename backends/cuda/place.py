"""The place stage: where every pointer of the schedule points.

Constants are packed and laid out one after another in one block. Everything else, inputs, outputs
and scratch memory too, gets an offset in one arena by liveness: a run copies inputs there, and
outputs from there. Both stay there, so that launches can be repeated. What a call may store an
error to is a word of its own, in front of the arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cnnir import memory
from cnnir.backends.base import Buffer
from cnnir.backends.cuda.layout import Plain
from cnnir.backends.cuda.schedule import Code, PackedParam, Pointer, Schedule, Slot

ALIGN = 256
"""Of every buffer, as device memory comes."""
PLAIN = Plain()
SLACK = 64
"""Readable bytes behind the end of each block."""

Place = tuple[str, int]
"""("constant" or "arena", byte offset)."""


@dataclass
class Places:
    """Where everything is; offsets in the arena count from its beginning, error words included."""

    sources: dict[Pointer, Place] = field(default_factory=dict)
    scratch: list[int] = field(default_factory=list)
    """For each call the arena offset of its scratch memory."""
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    constants: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """Packed arrays and their offsets."""
    constant_bytes: int = SLACK
    error_bytes: int = 0
    """One word a call, at the beginning of the arena."""
    arena_bytes: int = 0
    buffers: list[Buffer] = field(default_factory=list)


def place(schedule: Schedule, codes: Sequence[Code]) -> Places:
    """Addresses for every pointer of `schedule`; codes: of its calls, for their scratch memory."""
    places = Places()
    _place_constants(schedule, places)
    _place_arena(schedule, codes, places)
    return places


def _place_constants(schedule: Schedule, places: Places) -> None:
    end = 0
    for call in schedule.calls:
        for pointer in call.reads:
            if pointer in places.sources or pointer.value.node.kind != "param":
                continue
            array = schedule.graph.array(pointer.value)
            assert array is not None
            pack = pointer.pack if isinstance(pointer, PackedParam) else pointer.layout.pack
            packed = np.ascontiguousarray(pack(array))
            places.sources[pointer] = ("constant", end)
            places.buffers.append(_buffer(pointer, "constant", end, packed.nbytes))
            places.constants.append((end, packed))
            end += packed.nbytes + -packed.nbytes % ALIGN
    places.constant_bytes = end + SLACK


def _place_arena(schedule: Schedule, codes: Sequence[Code], places: Places) -> None:
    inputs = [Slot(value, PLAIN) for value in schedule.graph.inputs]
    slots = dict.fromkeys([*inputs, *schedule.slots()])
    sizes: dict[object, int] = {
        slot: slot.nbytes + (0 if slot in schedule.aliases else SLACK)
        for slot in slots
        if slot not in places.sources
    }
    scratch = [("scratch", number) for number in range(len(codes))]
    sizes |= {
        key: code.scratch_bytes + SLACK
        for key, code in zip(scratch, codes, strict=True)
        if code.scratch_bytes
    }
    loading = memory.Access(writes=tuple(inputs))
    steps = [
        memory.Access((*call.reads, key), (*call.writes, key))
        for call, key in zip(schedule.calls, scratch, strict=True)
    ]
    aliases = {inner: alias for inner, alias in schedule.aliases.items() if inner in sizes}
    outputs = [schedule.root(slot)[0] for slot in schedule.outputs]
    placement = memory.place(
        [loading, *steps], sizes, aliases=aliases, keep=[*inputs, *outputs], align=ALIGN
    )
    places.error_bytes = -(-4 * len(codes) // ALIGN) * ALIGN
    at = {key: places.error_bytes + offset for key, offset in placement.offsets.items()}
    for slot in slots:
        if slot in at:
            places.sources[slot] = ("arena", at[slot])
            first, last = placement.lives[placement.roots[slot][0]]
            buffer = _buffer(slot, "arena", at[slot], slot.nbytes)
            first, last = max(0, first - 1), min(last, len(steps)) - 1  # step 0 here loads inputs
            places.buffers.append(replace(buffer, first=first, last=last))
    places.inputs = [at[slot] for slot in inputs]
    places.outputs = [at[slot] for slot in schedule.outputs]
    places.scratch = [at.get(key, 0) for key in scratch]
    places.arena_bytes = places.error_bytes + placement.peak + SLACK


def _buffer(pointer: Pointer, space: str, offset: int, nbytes: int) -> Buffer:
    layout = str(pointer.layout) if isinstance(pointer, Slot) else str(pointer.key)
    value = pointer.value
    return Buffer(value.name or value.node.name, value.type, layout, space, offset, nbytes)
