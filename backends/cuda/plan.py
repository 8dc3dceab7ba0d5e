"""The plan stage: a kernel and a layout for every node, each with its reason.

Walks the graph once. Tuned kernels read and write images with channels last; what is printed from
element definitions follows its operands. A value that is needed in another layout than it was made
in is packed by a step of its own. Where the precision is of 16 bits, images, and what else products
on tensor cores read, are kept in 16 bits; inputs and outputs of the graph never are.

This stage decides; `place.py` gives addresses, `emit.py` writes code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from cnnir.backends.base import Step
from cnnir.backends.cuda.calls import LoopsKernel
from cnnir.backends.cuda.layout import ChannelsLast, Plain
from cnnir.backends.cuda.schedule import Kernel, PackedParam, Pointer, Schedule, Slot
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.templates import Found, Offer, TemplateKernel, offers
from cnnir.backends.fused import anchor_of, copy_node, described, epilogue_inputs, step_of
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout
from cnnir.loops.statements import storage_of
from cnnir.ops import Elementwise

PLAIN = Plain()


def plan(graph: Graph, target: CudaTarget) -> Schedule:
    """Choose a kernel and layouts for every node of an optimised graph."""
    planner = _Planner(graph, target)
    for node in graph.order():
        if node.op is not None:
            planner.node(node)
    planner.outputs()
    return planner.schedule


class _Planner:
    def __init__(self, graph: Graph, target: CudaTarget) -> None:
        self.graph, self.target = graph, target
        self.schedule = Schedule(graph, target)
        self.home = {v: Slot(v, PLAIN) for v in graph.inputs}
        """Where each value was made."""
        self.copies = 0
        self.wider: dict[Value, Value] = {}
        """Images with more channels, of zeros."""
        nodes = [node for node in graph.order() if node.op is not None]
        self.found: dict[Node, Found] = {n: offers(graph, n, target) for n in nodes}
        self.full = set(_behind_views(graph.outputs))
        """Values that keep all their bits."""
        self.multiplied = set(_behind_views(
            value for found, _ in self.found.values() for offer in found if offer.template.storage
            for value, _ in offer.operands[:1]
        ))  # fmt: skip
        """Values that tensor cores want in 16 bits."""

    def node(self, node: Node) -> None:
        """Plan one node."""
        if self._view(node):
            return
        found, rejected = self.found[node]
        if found:
            self._template(node, found[0], [*(f"{o.kind}: {o.why}" for o in found[1:]), *rejected])
        else:
            self._loops(node, rejected)

    def _view(self, node: Node) -> bool:
        """A reshape of row-major bytes is another name for them."""
        assert node.op is not None
        operand = node.operands[0] if node.operands else None
        if not node.op.view or operand not in self.home:
            return False
        slot = self.home[operand]
        if isinstance(slot.layout, ChannelsLast) and not _is_plain_too(slot):
            return False
        assert isinstance(slot.layout, (Plain, ChannelsLast))
        result = Slot(node.results[0], Plain(slot.layout.storage))
        self.schedule.aliases[result] = (slot, 0)
        self.home[result.value] = result
        return True

    # ---- steps that compute

    def _template(self, node: Node, offer: Offer, rejected: list[str]) -> None:
        reads: list[Pointer] = []
        for position, (value, how) in enumerate(offer.operands):
            if how == "packed":
                reads.append(PackedParam(value, offer.packing, offer.pack))
            elif how == "channels last":
                reads.append(self._images(value, offer.spec.channels, offer.template.storage))
            else:
                storage = offer.template.storage if position == 0 else ""
                reads.append(self._in_layout(value, Plain(storage)))
        layout = last_of(node.results[0]) if offer.channels_last else PLAIN
        layout = replace(layout, storage=self._storage(node, layout))
        extra = epilogue_inputs(node, anchor_of(node))
        slots = [self._beside(node.operands[i], layout) for i in extra]
        kernel = TemplateKernel(offer, node, layout, tuple(extra), tuple(s.layout for s in slots))
        step = step_of(node, offer.kind, layout, rejected)
        step.reason = offer.why
        self._emit(kernel, [*reads, *slots], node, layout, step)

    def _loops(self, node: Node, rejected: list[str]) -> None:
        layout = self._layout_of_result(node)
        layout = replace(layout, storage=self._storage(node, layout))
        reads = [self._beside(v, layout) for v in node.operands if v is not None]
        kernel = LoopsKernel(node, tuple(r.layout for r in reads), layout)
        step = step_of(node, "loops", layout, rejected)
        step.reason = "printed from the op's element definition"
        if rejected:
            sources = ", ".join(node.sources) or described(node)
            self.schedule.notes.append(f"{sources}: no tuned kernel ({'; '.join(rejected)})")
        self._emit(kernel, list(reads), node, layout, step)

    def _emit(
        self, kernel: Kernel, reads: list[Pointer], node: Node, layout: Layout, step: Step
    ) -> None:
        writes = [Slot(value, layout) for value in node.results]
        self.home.update((slot.value, slot) for slot in writes)
        self.schedule.add(kernel, reads, writes, step)

    # ---- layouts

    def _storage(self, node: Node, layout: Plain | ChannelsLast) -> str:
        """What the results are kept in, where that is not their type.

        What is summed over images may be too large for 16 bits, and too little to matter.
        """
        values = set(node.results)
        if {v.type.dtype for v in values} != {"f32"} or values & self.full:
            return ""
        images = isinstance(layout, ChannelsLast) and "reduce_" not in described(node)
        return self.target.storage if images or values & self.multiplied else ""

    def _layout_of_result(self, node: Node) -> Plain | ChannelsLast:
        """Channels last where most operand bytes are and the op works channel by channel."""
        types = {v.type for v in node.results}
        if len(types) != 1 or not keeps_channels(node):
            return PLAIN
        weight = 0
        for value in node.operands:
            slot = self.home.get(value) if value is not None else None
            if slot is not None:
                last = isinstance(slot.layout, ChannelsLast)
                weight += slot.nbytes if last else -slot.nbytes
        return last_of(node.results[0]) if weight > 0 else PLAIN

    def _beside(self, value: Value | None, layout: Layout) -> Slot:
        """An operand of a kernel whose result has `layout`: as it is, params as suits best."""
        assert value is not None
        if value in self.home:
            return self.home[value]
        image = layout.lanes and value.type.rank >= 3 and value.type.shape[1] == layout.lanes
        return Slot(value, last_of(value) if image else PLAIN)

    def _images(self, value: Value, channels: int, storage: str) -> Slot:
        """Images with channels last, so many of them, stored so."""
        more = channels - value.type.shape[1]
        if not more:
            return self._in_layout(value, replace(last_of(value), storage=storage))
        if value not in self.wider:
            graph = Graph("pad")
            padding = (0,) * (value.type.rank + 1) + (more,) + (0,) * (value.type.rank - 2)
            self.wider[value] = graph.add("pad", graph.input(value.type, "x"), padding=padding)
            into = Slot(self.wider[value], ChannelsLast(channels, storage))
            self._copied(value, into.layout, value.node.sources, into)
        return Slot(self.wider[value], ChannelsLast(channels, storage))

    def _in_layout(self, value: Value, layout: Layout) -> Slot:
        """The value in a layout, packed by a step of its own where it was made in another."""
        if value not in self.home:
            return Slot(value, layout)
        slot = self.home[value]
        if slot.layout == layout:
            return slot
        wanted = Slot(value, layout)
        same = storage_of(slot.layout, value.type) == storage_of(layout, value.type)
        if same and _is_plain_too(slot):
            self.schedule.aliases[wanted] = (slot, 0)
            return wanted
        made = any(wanted in call.writes for call in self.schedule.calls)
        return wanted if made else self._copied(value, layout, value.node.sources, wanted)

    def _copied(
        self, value: Value, layout: Layout, sources: tuple[str, ...], into: Slot | None = None
    ) -> Slot:
        """A copy of a value in a slot of its own."""
        if into is None:
            self.copies += 1
            into = Slot(value, layout, self.copies)
        read = self._beside(value, PLAIN)
        node = copy_node(value.type) if into.value is value else into.value.node
        step = step_of(node, "pack", layout, [])
        step.op = "copy" if read.layout == layout else f"{read.layout} to {layout}"
        step.reason = "the value is needed in another place or layout"
        step.sources, step.serial = sources, value.node.serial
        self.schedule.add(LoopsKernel(node, (read.layout,), layout), [read], [into], step)
        return into

    def outputs(self) -> None:
        """Every output row-major; one that is an input or a param as a copy in the arena."""
        for value in self.graph.outputs:
            if value.node.kind == "param":
                slot = self._copied(value, PLAIN, value.node.sources)
            else:
                slot = self._in_layout(value, PLAIN)
            self.schedule.outputs.append(slot)


def _behind_views(values: Iterable[Value]) -> Iterator[Value]:
    """The values, and what they are other names of."""
    for value in values:
        while True:
            yield value
            op, operands = value.node.op, value.node.operands
            if op is None or not op.view or operands[0] is None:
                break
            value = operands[0]


def last_of(value: Value) -> Plain | ChannelsLast:
    """Channels last, where that is not row-major anyway."""
    type = value.type
    if type.rank < 3 or type.shape[1] == 1:
        return PLAIN
    return ChannelsLast(type.shape[1])


def _is_plain_too(slot: Slot) -> bool:
    """Whether both layouts have the same bytes: images of one pixel or one channel."""
    shape = slot.value.type.shape
    return len(shape) >= 2 and (shape[1] == 1 or all(size == 1 for size in shape[2:]))


def keeps_channels(node: Node) -> bool:
    """Whether results with channels last read operands with channels last in order."""
    body = node.attrs.get("body")
    inner = [n for n in body.order() if n.op] if isinstance(body, Graph) else [node]
    return all(
        issubclass(n.op, Elementwise)
        or n.name in _CHANNEL_WISE
        or (n.name.startswith("reduce_") and n.attrs["keepdims"])
        for n in inner
        if n.op is not None
    )


_CHANNEL_WISE = {
    *("conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool", "lrn"),
    *("resize", "pad", "slice", "concat", "broadcast_to"),
}
