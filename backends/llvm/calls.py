"""The two kinds of kernel that a schedule calls: tuned templates and printed loops."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import cnnir.backends.llvm.ir as ir
from cnnir.backends.fused import canonical
from cnnir.backends.llvm.epilogue import epilogue_of
from cnnir.backends.llvm.offers import Offer
from cnnir.backends.llvm.printer import print_kernel
from cnnir.backends.llvm.schedule import Code, Slot
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Node
from cnnir.loops import Kernel, Layout, lower


@dataclass(frozen=True)
class LoopsKernel:
    """A node printed from its element definition."""

    node: Node = field(repr=False)
    operands: tuple[Layout, ...]
    result: Layout
    lanes: int
    kind: str = "loops"
    shared: tuple[int, ...] = ()
    """Pointers, operands first, that may be those of one buffer: computed in place."""

    @property
    def key(self) -> Hashable:
        layouts = tuple(map(str, (*self.operands, self.result)))
        return ("loops", canonical(self.node), layouts, self.lanes, *self.shared)

    def emit(self, module: ir.Module, name: str, target: CpuTarget) -> Code:
        kernel = self.lowered()
        print_kernel(module, kernel, target, name, self.shared)
        errors = tuple(kernel.errors)
        return Code(name, kernel.items, kernel.scratch_bytes, kernel.summary, errors)

    def lowered(self) -> Kernel:
        """The kernel in the loop language."""
        layouts: list[Layout | None] = []
        given = iter(self.operands)
        for value in self.node.operands:
            layouts.append(None if value is None else next(given))
        layouts += [self.result] * len(self.node.results)
        return lower(self.node, layouts, self.lanes)


@dataclass(frozen=True)
class TemplateKernel:
    """A tuned template with the rest of a fused body as its epilogue."""

    offer: Offer
    node: Node = field(repr=False)
    anchor: Node = field(repr=False)
    result: Layout
    extra: tuple[int, ...]
    """Operand positions of the node that the epilogue reads."""
    slots: tuple[Slot, ...]

    @property
    def kind(self) -> str:
        return self.offer.kind

    @property
    def key(self) -> Hashable:
        layouts = tuple(str(slot.layout) for slot in self.slots)
        shape = (self.offer.kind, repr(self.offer.spec), repr(self.offer.tiling))
        return (*shape, canonical(self.node) if self.node is not self.anchor else "", layouts)

    def emit(self, module: ir.Module, name: str, target: CpuTarget) -> Code:
        offer = self.offer
        layouts = [slot.layout for slot in self.slots]
        first = len(offer.operands)
        width = replace(target, lanes=offer.spec.lanes)
        epilogue = epilogue_of(
            self.node, self.anchor, self.extra, layouts, self.result, first, width
        )
        code = offer.template.emit(
            module, name, offer.spec, offer.tiling, epilogue, len(self.slots)
        )
        return Code(code.name, code.items, code.scratch_bytes, code.summary)
