"""Carried outputs: at the end of a run each lies where the input was that it is in the next one.

The last part of planning. Where the one call that makes such an output can run after all others
that read the input, it writes there at once; else a copy at the end does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from cnnir.backends.fused import read_in_place
from cnnir.backends.schedule import Call, Pointer, Schedule, Slot
from cnnir.loops import Layout


def carry(schedule: Schedule, plain: Layout, copy: Callable[[Slot, Slot], None]) -> None:
    """Settle all carried outputs; `copy` appends a call that copies one slot into another."""
    graph, late = schedule.graph, []
    for output, input in graph.carried.items():
        made, home = schedule.outputs[output], Slot(graph.inputs[input], plain)
        if made != home and not _takes_over(schedule, schedule.root(made)[0], home):
            late.append((made, home))
    for made, home in late:  # what they read lies in no home, so their order does not matter
        copy(made, home)


def _takes_over(schedule: Schedule, root: Slot, home: Slot) -> bool:
    """Have `root` computed in the place of `home`, if that is safe."""
    calls = schedule.calls
    writers = [n for n, call in enumerate(calls) if root in _roots(schedule, call.writes)]
    readers = [n for n, call in enumerate(calls) if home in _roots(schedule, call.reads)]
    if len(writers) != 1:
        return False
    at, last = writers[0], max(readers, default=-1)
    call = calls[at]
    if at in readers and (shared := _shared(schedule, call, home)):
        calls[at] = replace(call, kernel=replace(call.kernel, shared=shared))
    elif at in readers:
        return False
    if last > at:
        if any(_depend(schedule, call, other) for other in calls[at + 1 : last + 1]):
            calls[at] = call
            return False
        calls.insert(last, calls.pop(at))
    schedule.aliases[root] = (home, 0)
    return True


def _roots(schedule: Schedule, pointers: Iterable[Pointer]) -> set[Slot]:
    """Whose buffers these are."""
    return {schedule.root(p)[0] for p in pointers if isinstance(p, Slot)}


def _depend(schedule: Schedule, first: Call, second: Call) -> bool:
    """Whether two calls must stay in this order."""
    reads, writes = _roots(schedule, first.reads), _roots(schedule, first.writes)
    later_writes = _roots(schedule, second.writes)
    return bool(writes & (_roots(schedule, second.reads) | later_writes) or reads & later_writes)


def _shared(schedule: Schedule, call: Call, home: Slot) -> tuple[int, ...]:
    """The pointers of a call that may write where it reads `home`; none where it may not.

    It may when each element depends on the one in its own place alone: what is read is not
    broadcast, and an anchor does not read it.
    """
    kernel, result = call.kernel, call.writes[0]
    if kernel.kind != "loops" or result.layout != home.layout:
        return ()
    operands = [k for k, v in enumerate(kernel.node.operands) if v is not None]
    fine, shared = read_in_place(kernel.node), []
    for position, (operand, pointer) in enumerate(zip(operands, call.reads, strict=True)):
        if isinstance(pointer, Slot) and schedule.root(pointer)[0] == home:
            same = pointer.layout == result.layout and pointer.value.type == result.value.type
            if not same or operand not in fine:
                return ()
            shared.append(position)
    return (*shared, len(call.reads))
