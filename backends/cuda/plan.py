"""The plan stage: a kernel and a layout for every node, each with its reason.

Walks the graph once. Tuned kernels read and write images with channels last; what is printed from
element definitions follows its operands. A value that is needed in another layout than it was made
in is packed by a step of its own. Where the precision is of 16 bits, images, and what else products
on tensor cores read, are kept in 16 bits; inputs and outputs of the graph never are.

This stage decides; `place.py` gives addresses, `emit.py` writes code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from cnnir.backends.cuda.calls import LoopsKernel
from cnnir.backends.cuda.layout import ChannelsLast, FiltersLast, Order, Plain
from cnnir.backends.cuda.schedule import PackedParam, Pointer, Schedule, Slot
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.templates import Found, Offer, TemplateKernel, offers
from cnnir.backends.cuda.tuning import Tuning
from cnnir.backends.fused import anchor_of, described, epilogue_inputs, step_of
from cnnir.backends.planner import Planner
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout
from cnnir.loops.statements import storage_of
from cnnir.ops import Elementwise

PLAIN = Plain()


def plan(graph: Graph, target: CudaTarget, tuning: Tuning | None = None) -> Schedule:
    """Choose a kernel and layouts for every node of an optimised graph.

    tuning: what has been measured, and where to note what should be; None goes by predictions.
    """
    planner = _Planner(graph, target, tuning)
    for node in graph.order():
        if node.op is not None:
            planner.node(node)
    planner.outputs()
    return planner.schedule


class _Planner(Planner):
    def __init__(self, graph: Graph, target: CudaTarget, tuning: Tuning | None) -> None:
        super().__init__(graph, target, PLAIN)
        self.target, self.tuning = target, tuning
        self.wider: dict[tuple[Value, int, str], Value] = {}
        """Images with more channels, of zeros."""
        self.turned: dict[tuple[Value, tuple[int, ...], int, str], Value] = {}
        """Weights of run time in the order of a template."""
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
        if self.view(node):
            return
        found, rejected = self.found[node]
        if found:
            self._template(node, found[0], [*(f"{o.kind}: {o.why}" for o in found[1:]), *rejected])
        else:
            self.loops(node, rejected)

    # ---- steps that compute

    def _template(self, node: Node, offer: Offer, rejected: list[str]) -> None:
        reads: list[Pointer] = []
        for position, (value, how) in enumerate(offer.operands):
            if how == "packed":
                reads.append(PackedParam(value, offer.packing, offer.pack))
            elif how == "channels last":
                reads.append(self._images(value, offer.spec.channels, offer.template.storage))
            elif how == "images last":
                reads.append(self._images_last(value, offer.template.storage))
            elif how == "arranged":
                reads.append(self._arranged(value, offer))
            else:
                storage = offer.template.storage if position == 0 else ""
                reads.append(self.in_layout(value, Plain(storage)))
        layout = _RESULTS[offer.result](node.results[0])
        layout = replace(layout, storage=self._storage(node, layout))
        extra = epilogue_inputs(node, anchor_of(node))
        slots = [self.beside(node.operands[i], layout) for i in extra]
        kernel = TemplateKernel(offer, node, layout, tuple(extra), tuple(s.layout for s in slots))
        step = step_of(node, offer.kind, layout, rejected)
        step.reason = offer.why
        if self.tuning is not None:
            writes = [Slot(value, layout) for value in node.results]
            kernel, step.reason = self.tuning.best(kernel, [*reads, *slots, *writes])
        self.emit(kernel, [*reads, *slots], node, layout, step)

    # ---- layouts

    def loops_kernel(self, node: Node, operands: tuple[Layout, ...], result: Layout) -> LoopsKernel:
        return LoopsKernel(node, operands, result)

    def result_layout(self, node: Node) -> Layout:
        layout = self._order_of_result(node)
        return replace(layout, storage=self._storage(node, layout))

    def _storage(self, node: Node, layout: Order) -> str:
        """What the results are kept in, where that is not their type.

        What is summed over images may be too large for 16 bits, and too little to matter.
        """
        values = set(node.results)
        if {v.type.dtype for v in values} != {"f32"} or values & self.full:
            return ""
        images = isinstance(layout, ChannelsLast) and "reduce_" not in described(node)
        return self.target.storage if images or values & self.multiplied else ""

    def _order_of_result(self, node: Node) -> Plain | ChannelsLast:
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

    def param_layout(self, value: Value, beside: Layout) -> Layout:
        image = beside.lanes and value.type.rank >= 3 and value.type.shape[1] == beside.lanes
        return last_of(value) if image else PLAIN

    def row_major(self, slot: Slot) -> Layout | None:
        """Images of one pixel or one channel lie so, too."""
        if not isinstance(slot.layout, (Plain, ChannelsLast)):
            return None
        either = isinstance(slot.layout, Plain) or _in_any_order(slot.value)
        return Plain(slot.layout.storage) if either else None

    def _images(self, value: Value, channels: int, storage: str) -> Slot:
        """Images with channels last, so many of them, stored so."""
        more = channels - value.type.shape[1]
        if not more:
            return self.in_layout(value, replace(last_of(value), storage=storage))
        key, layout = (value, channels, storage), ChannelsLast(channels, storage)
        if key not in self.wider:
            self.wider[key] = self._made("pad", value, layout, padding=_behind(value, 1, more))
        return self.home[self.wider[key]]

    def _images_last(self, value: Value, storage: str) -> Slot:
        """Images with their number in the place of the channels, which are last."""
        images, _, *_ = value.type.shape
        key = (value, 0, storage)
        if key not in self.wider:
            layout = ChannelsLast(images, storage) if images > 1 else Plain(storage)
            self.wider[key] = self._made("transpose", value, layout, perm=(1, 0, 2, 3))
        return self.home[self.wider[key]]

    def _arranged(self, value: Value, offer: Offer) -> Slot:
        """Weights of run time in the order that a template wants."""
        storage, more = offer.template.storage, 0
        if offer.result == "channels last":
            more = offer.spec.channels - value.type.shape[offer.channel_axis]
        key = (value, offer.turn, more, storage)
        if key not in self.turned:
            turned = value
            if more:
                padding = _behind(value, offer.channel_axis, more)
                turned = self._made("pad", value, PLAIN, padding=padding)
            if offer.turn:
                turned = self._made("transpose", turned, Plain(storage), perm=offer.turn)
            self.turned[key] = turned
        return self.in_layout(self.turned[key], Plain(storage))

    def _made(self, op: str, value: Value, layout: Layout, **attrs: Any) -> Value:
        """What an op that moves elements makes of a value, by a step of its own."""
        graph = Graph(op)
        made: Value = graph.add(op, graph.input(value.type, "x"), **attrs)
        self.home[made] = self.copied(value, layout, value.node.sources, Slot(made, layout))
        return made

    def in_layout(self, value: Value, layout: Layout) -> Slot:
        slot, wanted = self.home.get(value), Slot(value, layout)
        if slot is not None and slot.layout != layout:
            same = storage_of(slot.layout, value.type) == storage_of(layout, value.type)
            same &= isinstance(slot.layout, (Plain, ChannelsLast))
            if same and _in_any_order(value):
                self.schedule.aliases[wanted] = (slot, 0)
                return wanted
        return super().in_layout(value, layout)


def _behind_views(values: Iterable[Value]) -> Iterator[Value]:
    """The values, and what they are other names of."""
    for value in values:
        while True:
            yield value
            op, operands = value.node.op, value.node.operands
            if op is None or not op.view or operands[0] is None:
                break
            value = operands[0]


def _behind(value: Value, axis: int, more: int) -> tuple[int, ...]:
    """The padding that gives a value more elements behind the last of an axis."""
    rank = value.type.rank
    return (0,) * (rank + axis) + (more,) + (0,) * (rank - 1 - axis)


def last_of(value: Value) -> Plain | ChannelsLast:
    """Channels last, where that is not row-major anyway."""
    type = value.type
    if type.rank < 3 or type.shape[1] == 1:
        return PLAIN
    return ChannelsLast(type.shape[1])


_RESULTS: dict[str, Callable[[Value], Order]] = {
    "channels last": last_of,
    "filters last": lambda value: FiltersLast(),
    "plain": lambda value: PLAIN,
}
"""The layout of a template's result."""


def _in_any_order(value: Value) -> bool:
    """Whether channels last or not is the same: images of one pixel or one channel."""
    shape = value.type.shape
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
