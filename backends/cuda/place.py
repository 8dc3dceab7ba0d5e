"""The place stage: where every pointer of the schedule points.

Constants are packed and laid out one after another in one block. Inputs lie wherever a run has
them, and so do outputs that are carried to inputs. Everything else, other outputs and scratch
memory too, gets an offset in one arena by liveness; a run copies outputs from there. What a call
may store an error to is a word of its own, in front of the arena.
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
"""("constant" or "arena", byte offset), or ("input", which)."""


@dataclass
class Places:
    """Where everything is; offsets in the arena count from its beginning, error words included."""

    sources: dict[Pointer, Place] = field(default_factory=dict)
    scratch: list[int] = field(default_factory=list)
    """For each call the arena offset of its scratch memory."""
    outputs: list[Place] = field(default_factory=list)
    constants: list[tuple[int, np.ndarray]] = field(default_factory=list)
    """Packed arrays and their offsets."""
    constant_bytes: int = SLACK
    error_bytes: int = 0
    """One word a call, at the beginning of the arena."""
    arena_bytes: int = 0
    arena_bound: int = 0
    """What no placement can do without."""
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
    given = {Slot(value, PLAIN): k for k, value in enumerate(schedule.graph.inputs)}
    for slot, number in given.items():
        places.buffers.append(_buffer(slot, "input", number, slot.nbytes))
    for slot in [*given, *schedule.slots()]:
        root, shift = schedule.root(slot)
        if root in given:
            assert shift == 0
            places.sources[slot] = ("input", given[root])
    slots = [slot for slot in schedule.slots() if slot not in places.sources]
    sizes: dict[object, int] = {
        slot: slot.nbytes + (0 if slot in schedule.aliases else SLACK) for slot in slots
    }
    scratch = [("scratch", number) for number in range(len(codes))]
    sizes |= {
        key: code.scratch_bytes + SLACK
        for key, code in zip(scratch, codes, strict=True)
        if code.scratch_bytes
    }
    steps = [
        memory.Access((*call.reads, key), (*call.writes, key))
        for call, key in zip(schedule.calls, scratch, strict=True)
    ]
    aliases = {inner: alias for inner, alias in schedule.aliases.items() if inner in sizes}
    outputs = [schedule.root(slot)[0] for slot in schedule.outputs]
    placement = memory.place(steps, sizes, aliases=aliases, keep=outputs, align=ALIGN)
    places.error_bytes = -(-4 * len(codes) // ALIGN) * ALIGN
    at = {key: places.error_bytes + offset for key, offset in placement.offsets.items()}
    for slot in slots:
        places.sources[slot] = ("arena", at[slot])
        first, last = placement.lives[placement.roots[slot][0]]
        buffer = _buffer(slot, "arena", at[slot], slot.nbytes)
        places.buffers.append(replace(buffer, first=first, last=min(last, len(steps) - 1)))
    places.outputs = [places.sources[slot] for slot in schedule.outputs]
    places.scratch = [at.get(key, 0) for key in scratch]
    places.arena_bytes = places.error_bytes + placement.peak + SLACK
    places.arena_bound = places.error_bytes + placement.bound + SLACK


def _buffer(pointer: Pointer, space: str, offset: int, nbytes: int) -> Buffer:
    layout = str(pointer.layout) if isinstance(pointer, Slot) else str(pointer.key)
    value = pointer.value
    return Buffer(value.name or value.node.name, value.type, layout, space, offset, nbytes)
