"""The plan for the page: steps with their times, texts of kernels, the arena.

What a step takes at least is `report.roofline`'s to say.
"""

from __future__ import annotations

import base64
import statistics
import zlib
from typing import Any

from cnnir.backends.base import Step
from cnnir.report.html.subject import Subject


class Texts:
    """Texts, each once, as raw deflate in base64, which a page can unpack by itself."""

    def __init__(self) -> None:
        self.packed: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Where a text is found in `packed`."""
        if text not in self._numbers:
            self._numbers[text] = len(self.packed)
            deflate = zlib.compressobj(9, wbits=-15)
            raw = deflate.compress(text.encode()) + deflate.flush()
            self.packed.append(base64.b64encode(raw).decode())
        return self._numbers[text]


def plan_data(subject: Subject, numbers: dict[int, int], texts: Texts) -> dict[str, Any]:
    """The plan; `numbers` are those of nodes by serial, texts go to `texts`."""
    plan, machine = subject.plan, subject.machine
    seconds = [statistics.median(step) for step in zip(*subject.runs, strict=True)]
    symbols = {step.symbol: step for step in plan.steps}
    return {
        "target": plan.target,
        "threads": subject.threads,
        "flops": plan.flops,
        "arena": plan.arena_bytes,
        "bound": plan.arena_bound,
        "constants": plan.constant_bytes,
        "code": plan.code_bytes,
        "compile": dict(plan.seconds),
        "notes": list(plan.notes),
        "peak": machine.peak if machine else None,
        "levels": [[level.name, level.rate] for level in machine.levels] if machine else [],
        "runs": len(subject.runs),
        "steps": [
            _step(subject, step, seconds[k] if seconds else None, numbers, texts)
            for k, step in enumerate(plan.steps)
        ],
        "kernels": {
            symbol: {kind: texts.number(text) for kind, text in subject.texts[symbol].items()}
            for symbol in symbols
            if symbol in subject.texts
        },
        "buffers": _buffers(subject),
    }


def _step(
    subject: Subject, step: Step, seconds: float | None, numbers: dict[int, int], texts: Texts
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kernel": step.kernel,
        "op": step.op,
        "node": numbers.get(step.serial),
        "symbol": step.symbol,
        "result": str(step.result),
        "layout": step.layout,
        "sources": list(step.sources),
        "reason": step.reason,
        "rejected": list(step.rejected),
        "summary": step.summary,
        "items": step.items,
        "flops": step.flops,
        "bytes": step.bytes,
        "seconds": seconds,
    }
    if step.kernel != "pack":
        own = subject.nodes.get(step.serial, {})
        row["texts"] = {kind: texts.number(text) for kind, text in own.items()}
    if subject.machine is not None:
        bound = subject.machine.bound(step, subject.plan)
        row |= {"bound": bound.seconds, "by": bound.binds}
    return row


def _buffers(subject: Subject) -> list[dict[str, Any]]:
    """What lies in the arena, without what lies inside of others."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for buffer in subject.plan.buffers:
        if buffer.space != "arena" or buffer.first < 0:
            continue
        row = {
            "name": buffer.name,
            "type": str(buffer.type),
            "layout": buffer.layout,
            "offset": buffer.offset,
            "bytes": buffer.nbytes,
            "first": buffer.first,
            "last": buffer.last,
        }
        held = found.get((buffer.offset, buffer.first))
        if held is None or held["bytes"] < buffer.nbytes:
            found[buffer.offset, buffer.first] = row
    rows = sorted(found.values(), key=lambda row: -row["bytes"])
    shown: list[dict[str, Any]] = []
    for row in rows:
        if not any(_inside(row, other) for other in shown if other["first"] == row["first"]):
            shown.append(row)
    return sorted(shown, key=lambda row: (row["first"], row["offset"]))


def _inside(row: dict[str, Any], other: dict[str, Any]) -> bool:
    begins = other["offset"] <= row["offset"]
    ends = row["offset"] + row["bytes"] <= other["offset"] + other["bytes"]
    return begins and ends and other["last"] == row["last"]
