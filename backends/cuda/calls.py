"""Kernels printed from element definitions, which serve every op."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from cnnir.backends.cuda.printer import launch_of, print_kernel, scratch_of
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.fused import canonical
from cnnir.ir import Node
from cnnir.loops import Kernel, Layout, lower

LANES = 32
"""Lanes of vector loops: the threads of a warp."""


@dataclass(frozen=True)
class LoopsKernel:
    """A node printed from its element definition."""

    node: Node = field(repr=False)
    operands: tuple[Layout, ...]
    result: Layout
    kind: str = "loops"
    shared: tuple[int, ...] = ()
    """Pointers, operands first, that may be those of one buffer: computed in place."""

    @property
    def key(self) -> Hashable:
        layouts = tuple(map(str, (*self.operands, self.result)))
        return ("loops", canonical(self.node), layouts, *self.shared)

    def emit(self, name: str, target: CudaTarget) -> Code:
        kernel = self.lowered()
        if not kernel.items:  # an empty result needs no work
            return Code("", (), summary="empty")
        text = print_kernel(kernel, name, self.shared)
        launches = ((name, launch_of(kernel)),)
        return Code(text, launches, scratch_of(kernel), kernel.errors, kernel.summary)

    def lowered(self) -> Kernel:
        """The kernel in the loop language."""
        layouts: list[Layout | None] = []
        given = iter(self.operands)
        for value in self.node.operands:
            layouts.append(None if value is None else next(given))
        layouts += [self.result] * len(self.node.results)
        return lower(self.node, layouts, LANES, finest=True)
