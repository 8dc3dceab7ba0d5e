"""What planners of all backends do alike: know where values are, print kernels, copy, end.

A planner walks the graph once and fills a Schedule. Which templates serve a node, and which layout
suits it, is the backend's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from cnnir.backends.base import Step
from cnnir.backends.carry import carry
from cnnir.backends.fused import copy_node, described, step_of
from cnnir.backends.schedule import Pointer, Schedule, Slot
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout


class Planner(ABC):
    """A schedule in the making. `plain` is the row-major layout of the backend."""

    def __init__(self, graph: Graph, target: Any, plain: Layout) -> None:
        self.graph, self.plain = graph, plain
        self.schedule = Schedule(graph, target)
        self.home = {v: Slot(v, plain) for v in graph.inputs}
        """Where each value was made."""
        self.copies = 0

    @abstractmethod
    def loops_kernel(self, node: Node, operands: tuple[Layout, ...], result: Layout) -> Any:
        """The kernel that is printed from the op's element definition, of kind "loops"."""

    @abstractmethod
    def result_layout(self, node: Node) -> Layout:
        """In which layout to make the results of a printed kernel."""

    @abstractmethod
    def param_layout(self, value: Value, beside: Layout) -> Layout:
        """In which layout a kernel whose result has layout `beside` reads a param."""

    @abstractmethod
    def row_major(self, slot: Slot) -> Layout | None:
        """The row-major layout that has the bytes of a slot; None where none has."""

    # ---- steps

    def view(self, node: Node) -> bool:
        """A reshape of row-major bytes is another name for them."""
        assert node.op is not None
        operand = node.operands[0] if node.operands else None
        if not node.op.view or operand not in self.home:
            return False
        slot = self.home[operand]
        if (layout := self.row_major(slot)) is None:
            return False
        result = Slot(node.results[0], layout)
        self.schedule.aliases[result] = (slot, 0)
        self.home[result.value] = result
        return True

    def loops(self, node: Node, rejected: list[str]) -> None:
        """A step that is printed, and why no template serves."""
        layout = self.result_layout(node)
        reads = [self.beside(v, layout) for v in node.operands if v is not None]
        kernel = self.loops_kernel(node, tuple(r.layout for r in reads), layout)
        step = step_of(node, "loops", layout, rejected)
        step.reason = "printed from the op's element definition"
        if rejected:
            sources = ", ".join(node.sources) or described(node)
            self.schedule.notes.append(f"{sources}: no tuned kernel ({'; '.join(rejected)})")
        self.emit(kernel, list(reads), node, layout, step)

    def emit(
        self, kernel: Any, reads: list[Pointer], node: Node, layout: Layout, step: Step
    ) -> None:
        """A call that makes all results of a node."""
        writes = [Slot(value, layout) for value in node.results]
        self.home.update((slot.value, slot) for slot in writes)
        self.schedule.add(kernel, reads, writes, step)

    # ---- layouts

    def beside(self, value: Value | None, layout: Layout) -> Slot:
        """An operand of a kernel whose result has `layout`: as it is, params as suits best."""
        assert value is not None
        return self.home.get(value) or Slot(value, self.param_layout(value, layout))

    def in_layout(self, value: Value, layout: Layout) -> Slot:
        """The value in a layout, packed by a step of its own where it was made in another."""
        if value not in self.home:
            return Slot(value, layout)
        slot, wanted = self.home[value], Slot(value, layout)
        if slot.layout == layout:
            return slot
        if self.made(wanted):
            return wanted
        return self.copied(value, layout, value.node.sources, wanted)

    def made(self, slot: Slot) -> bool:
        """Whether a call writes it."""
        return any(slot in call.writes for call in self.schedule.calls)

    def copied(
        self, value: Value, layout: Layout, sources: tuple[str, ...], into: Slot | None = None
    ) -> Slot:
        """A copy of a value in a slot of its own, or what the node of `into` makes of it there."""
        if into is None:
            self.copies += 1
            into = Slot(value, layout, self.copies)
        read = self.beside(value, self.plain)
        node = copy_node(value.type) if into.value is value else into.value.node
        step = self._copy(node, read, into)
        step.op = "copy" if read.layout == layout else f"{read.layout} to {layout}"
        step.reason = "the value is needed in another place or layout"
        step.sources, step.serial = sources, value.node.serial
        return into

    def _copy(self, node: Node, read: Slot, into: Slot) -> Step:
        """The step of a call that copies one slot into another."""
        step = step_of(node, "pack", into.layout, [])
        self.schedule.add(
            self.loops_kernel(node, (read.layout,), into.layout), [read], [into], step
        )
        return step

    # ---- the end

    def outputs(self) -> None:
        """Every output row-major, in a buffer of its own, or where its input was."""
        aliases = self.schedule.aliases
        # an output is addressed as a whole, so nothing may have a name for its part
        taken = {outer for inner, (outer, _) in aliases.items() if inner.nbytes != outer.nbytes}
        for position, value in enumerate(self.graph.outputs):
            if value.node.kind == "input" and self._stays(position, value):
                self.schedule.outputs.append(self.home[value])
                continue
            slot = self.in_layout(value, self.plain)
            root, _ = self.schedule.root(slot)
            if root in taken or root.value.node.kind != "op" or root.nbytes != slot.nbytes:
                slot = root = self.copied(value, self.plain, value.node.sources)
            taken.add(root)
            self.schedule.outputs.append(slot)
        carry(self.schedule, self.plain, self._moved)

    def _stays(self, position: int, value: Value) -> bool:
        """Whether an output is the very input that it is carried to."""
        carried = self.graph.carried
        return position in carried and self.graph.inputs[carried[position]] is value

    def _moved(self, made: Slot, into: Slot) -> None:
        """A copy of one slot into another, which is there already."""
        step = self._copy(copy_node(made.value.type), made, into)
        step.op, step.sources = "carry", made.value.node.sources
        step.reason = "what it replaces is read after it is known, or by the kernel that makes it"
