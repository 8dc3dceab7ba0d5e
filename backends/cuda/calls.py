"""Kernels printed from element definitions, which serve every op."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from cnnir.backends.cuda.printer import launch_of, print_kernel, scratch_of, share_of
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.fused import canonical
from cnnir.ir import Node
from cnnir.loops import Kernel, Layout, lower

LANES = 32
"""Lanes of vector loops: the threads of a warp, each with as many lanes as it takes at once."""


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
        return finest(self.node, layouts)


def finest(node: Node, layouts: Sequence[Layout | None]) -> Kernel:
    """The kernel of a node as devices want it: many work items, and lanes for whole warps."""
    kernel = lower(node, layouts, LANES, finest=True)
    each = share_of(kernel).each
    if each == 1 or kernel.buffers[-1].layout.lanes:
        return kernel
    wide = lower(node, layouts, LANES * each, finest=True)
    return wide if share_of(wide).each == each else kernel
