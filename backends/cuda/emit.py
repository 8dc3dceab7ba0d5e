"""The emit stage: the kernels of a schedule as CUDA C; calls with equal kernels share one text."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field

from cnnir.backends.cuda.schedule import Code, Schedule
from cnnir.backends.schedule import EXPRESSIONS


@dataclass
class Emitted:
    """Code of every call, and the texts that it is in."""

    codes: list[Code] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    """By the name of the first function: without the prelude."""


def emit(schedule: Schedule) -> Emitted:
    """Write all code; fills in what only the code knows (blocks, tile sizes) in the steps."""
    made: dict[Hashable, Code] = {}
    emitted = Emitted()
    for call in schedule.calls:
        key = call.kernel.key
        if key not in made:
            digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
            name = f"{call.kernel.kind}_{digest}"
            with EXPRESSIONS:
                made[key] = call.kernel.emit(name, schedule.target)
            if made[key].launches:
                emitted.texts[name] = made[key].text
        code = made[key]
        call.step.items = sum(launch.blocks for _, launch in code.launches)
        call.step.summary = code.summary
        call.step.symbol = code.launches[0][0] if code.launches else ""
        emitted.codes.append(code)
    return emitted
