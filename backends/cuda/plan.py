"""The plan stage: a kernel and a layout for every node, each with its reason.

Walks the graph once. Tuned kernels read and write images with channels last; what is printed from
element definitions follows its operands. A value that is needed in another layout than it was made
in is packed by a step of its own.

This stage decides; `place.py` gives addresses, `emit.py` writes code.
"""

from __future__ import annotations

from cnnir.backends.cuda.calls import LoopsKernel
from cnnir.backends.cuda.layout import ChannelsLast, Plain
from cnnir.backends.cuda.schedule import PackedParam, Pointer, Schedule, Slot
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.templates import Offer, TemplateKernel, offers
from cnnir.backends.fused import anchor_of, epilogue_inputs, step_of
from cnnir.backends.planner import Planner
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout
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


class _Planner(Planner):
    def __init__(self, graph: Graph, target: CudaTarget) -> None:
        super().__init__(graph, target, PLAIN)
        self.target = target

    def node(self, node: Node) -> None:
        """Plan one node."""
        if self.view(node):
            return
        found, rejected = offers(self.graph, node, self.target)
        if found:
            self._template(node, found[0], [*(f"{o.kind}: {o.why}" for o in found[1:]), *rejected])
        else:
            self.loops(node, rejected)

    # ---- steps that compute

    def _template(self, node: Node, offer: Offer, rejected: list[str]) -> None:
        reads: list[Pointer] = []
        for value, how in offer.operands:
            if how == "packed":
                reads.append(PackedParam(value, offer.packing, offer.pack))
            else:
                layout = last_of(value) if how == "channels last" else PLAIN
                reads.append(self.in_layout(value, layout))
        layout = last_of(node.results[0]) if offer.channels_last else PLAIN
        extra = epilogue_inputs(node, anchor_of(node))
        slots = [self.beside(node.operands[i], layout) for i in extra]
        kernel = TemplateKernel(offer, node, layout, tuple(extra), tuple(s.layout for s in slots))
        step = step_of(node, offer.kind, layout, rejected)
        step.reason = offer.why
        self.emit(kernel, [*reads, *slots], node, layout, step)

    # ---- layouts

    def loops_kernel(self, node: Node, operands: tuple[Layout, ...], result: Layout) -> LoopsKernel:
        return LoopsKernel(node, operands, result)

    def result_layout(self, node: Node) -> Layout:
        """Channels last where most operand bytes are and the op works channel by channel."""
        types = {v.type for v in node.results}
        if len(types) != 1 or not keeps_channels(node):
            return PLAIN
        weight = 0
        for value in node.operands:
            slot = self.home.get(value) if value is not None else None
            if slot is not None:
                weight += slot.nbytes if slot.layout != PLAIN else -slot.nbytes
        return last_of(node.results[0]) if weight > 0 else PLAIN

    def param_layout(self, value: Value, beside: Layout) -> Layout:
        image = beside != PLAIN and value.type.rank >= 3 and value.type.shape[1] == beside.lanes
        return last_of(value) if image else PLAIN

    def is_plain_too(self, slot: Slot) -> bool:
        """Images of one pixel or one channel."""
        shape = slot.value.type.shape
        return len(shape) >= 2 and (shape[1] == 1 or all(size == 1 for size in shape[2:]))

    def in_layout(self, value: Value, layout: Layout) -> Slot:
        slot, wanted = self.home.get(value), Slot(value, layout)
        if slot is not None and slot.layout != layout and layout in (PLAIN, last_of(value)):
            if self.is_plain_too(slot):
                self.schedule.aliases[wanted] = (slot, 0)
                return wanted
        return super().in_layout(value, layout)


def last_of(value: Value) -> Layout:
    """Channels last, where that is not row-major anyway."""
    type = value.type
    if type.rank < 3 or type.shape[1] == 1:
        return PLAIN
    return ChannelsLast(type.shape[1])


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
