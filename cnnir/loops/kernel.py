"""Kernel: one function of the loop language.

A kernel computes one work item of `items`; items are independent of one another, so that any
thread may do any of them. Vector loops say that their lanes may run at once; a printer for
threads may map them to threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from cnnir.loops.expr import Var
from cnnir.loops.statements import Buffer, Statement
from cnnir.loops.text import block_text


@dataclass(eq=False, slots=True)
class Kernel:
    """One kernel: for each work item in [0, items), run the body."""

    name: str
    buffers: list[Buffer]
    """Operands, then results: the pointers a caller passes."""
    scratch: list[Buffer]
    item: Var
    items: int
    body: list[Statement]
    lanes: int
    errors: tuple[str, ...] = ()
    """What index was out of range, for the codes first_code, first_code + 1, ..."""
    first_code: int = 1
    summary: str = ""

    @property
    def scratch_bytes(self) -> int:
        """Thread-private memory it needs, 64-byte aligned."""
        return max(
            (-(-(b.byte + b.size * b.type.numpy.itemsize) // 64) * 64 for b in self.scratch),
            default=0,
        )

    def text(self) -> str:
        """The kernel as a loop program, to read."""
        parameters = ", ".join(f"{b.name}: {b.type} {b.layout}" for b in self.buffers)
        lines = [f"kernel {self.name}({parameters}) for item in {self.items} {{"]
        lines += [f"  scratch {b.name}: {b.type}" for b in self.scratch]
        return "\n".join([*lines, *block_text(self.body, self.item), "}"])

    __str__ = text
