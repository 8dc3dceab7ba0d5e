"""The plan stage: a kernel and a layout for every node, each with its reason.

Walks the graph once. Tuned kernels want activations in channel blocks (`Blocked`); everything else
follows its operands where it can work lane by lane, and is row-major (`Plain`) where it cannot. A
value that is needed in another layout than it was made in is packed by a step of its own.

This stage decides; `place.py` gives addresses, `emit.py` writes code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cnnir.backends.fused import (
    anchor_of,
    copy_node,
    described,
    epilogue_inputs,
    outer_values,
    step_of,
)
from cnnir.backends.llvm.calls import LoopsKernel, TemplateKernel
from cnnir.backends.llvm.deferred import deferred
from cnnir.backends.llvm.flattened import read_in_blocks
from cnnir.backends.llvm.kernels.spec import Target
from cnnir.backends.llvm.lanes import channels_come_second, first_block, keeps_lanes
from cnnir.backends.llvm.layout import Blocked, Padded, Plain
from cnnir.backends.llvm.offers import Offer, Work, offers, variants
from cnnir.backends.llvm.packing import Packed, PackKernel, origin
from cnnir.backends.llvm.pooled import pool_behind, pooled, with_pool
from cnnir.backends.llvm.rearranged import (
    Channel,
    ChannelsKernel,
    moves_channels,
    runs,
    sources,
    spec_of,
    waiting,
)
from cnnir.backends.llvm.reasons import by_measuring, by_prediction
from cnnir.backends.llvm.schedule import PackedParam, Pointer, Schedule, Slot
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.trial import Candidate
from cnnir.backends.llvm.tuning import Tuning
from cnnir.backends.planner import Planner
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout


def plan(
    graph: Graph,
    target: CpuTarget,
    threads: int = 1,
    exact: bool = False,
    tuning: Tuning | None = None,
) -> Schedule:
    """Choose a kernel and layouts for every node of an optimised graph.

    threads: what work is cut for; results do not depend on it. exact: see Target. tuning: what has
    been measured, and where to note what should be; None goes by predictions.
    """
    planner = _Planner(graph, target, threads, exact, tuning)
    for node in graph.order():
        if node.op is not None:
            planner.node(node)
    planner.outputs()
    return planner.schedule


class _Planner(Planner):
    def __init__(
        self, graph: Graph, target: CpuTarget, threads: int, exact: bool, tuning: Tuning | None
    ) -> None:
        super().__init__(graph, target, Plain())
        self.lanes, self.tuning = target.lanes, tuning
        self.machine = Target(
            registers=target.registers,
            l1=target.l1,
            l2=target.l2,
            fmas=target.fmas,
            halved=target.halved,
            threads=threads,
            exact=exact,
        )
        self.blocked = Blocked(target.lanes)
        self.images: dict[Value, Value] = {}
        """Rows that are not made, and the images in blocks that are read in their place."""
        self.apart: dict[Node, list[str]] = {}
        """Why pools are not computed by the convolution before them."""
        self.deferred = deferred(graph)
        """Nodes that get no step unless somebody needs their result as it is."""
        self.waiting = waiting(graph, target.lanes) - self.deferred
        """The same, of nodes that only move channels: who reads them reads what is in `moved`."""
        self.moved: dict[Value, list[Channel]] = {}
        """Where the channels of their results come from."""

    def node(self, node: Node) -> None:
        """Plan one node."""
        if node in self.deferred or node.results[0] in self.home:  # a pool may be computed
            return
        if node in self.waiting and self._waits(node):
            return
        work = self._work(node)
        first = next((v for v in work.operands if v in self.home), None)
        plain = first is None or self.home[first].layout == self.plain
        found, rejected = offers(work, plain, self.machine, self.lanes)
        if not found:
            if self._rearranged(node):
                return
            self._needed(node.operands)
            if not any(way(node) for way in (self.view, self._flat, self._slice, self._concat)):
                self.loops(node, rejected)
            return
        rejected += self.apart.get(node, [])
        pool = pool_behind(work)
        if pool is not None:
            both = pooled(work, pool, found, plain, self.machine, self.lanes)
            if isinstance(both, str):
                self.apart[pool] = [f"in the store of {described(node)}: {both}"]
                pool = None
            else:
                found = both
        self._template(work, found, rejected, pool)

    def _needed(self, values: Sequence[Value | None]) -> None:
        """Plan what was deferred and is wanted as it is."""
        for value in values:
            if value is None or not (value.node in self.deferred or value.node in self.waiting):
                continue
            self.deferred.discard(value.node)
            self.waiting.discard(value.node)
            self.moved.pop(value, None)
            self.node(value.node)

    # ---- steps that only say where things are

    def _flat(self, node: Node) -> bool:
        """Rows that dense layers read from blocks of channels are not made."""
        images = node.operands[0] if node.operands else None
        if images not in self.home or self.home[images].layout != self.blocked:
            return False
        if not read_in_blocks(self.graph, node):
            return False
        self.images[node.results[0]] = images
        return True

    def row_major(self, slot: Slot) -> Layout | None:
        """Whole blocks of single pixels lie so, too: of one image, or a single block."""
        if slot.layout == self.plain:
            return self.plain
        images, channels, *sizes = slot.value.type.shape
        whole = channels % self.lanes == 0 and all(size == 1 for size in sizes)
        return self.plain if whole and (images == 1 or channels == self.lanes) else None

    def _slice(self, node: Node) -> bool:
        """Blocks of channels of all images follow each other: another name for some of them."""
        operand = node.operands[0] if node.name == "slice" else None
        slot = self.home.get(operand) if operand is not None else None
        if slot is None or slot.layout != self.blocked:
            return False
        first = first_block(node, self.lanes)
        if first is None:
            return False
        images, _, *sizes = slot.value.type.shape
        block = Blocked(self.lanes).size((images, self.lanes, *sizes))
        result = Slot(node.results[0], self.blocked)
        offset = first * block * slot.value.type.numpy.itemsize
        self.schedule.aliases[result] = (slot, offset)
        self.home[result.value] = result
        return True

    def _concat(self, node: Node) -> bool:
        """Whole blocks of channels that follow each other: producers write in place."""
        if node.name != "concat" or node.attrs["axis"] != 1 or not self._blocks_result(node):
            return False
        result = Slot(node.results[0], self.blocked)
        self.home[result.value] = result
        offset = 0
        for operand in node.operands:
            assert operand is not None
            slot = self.home.get(operand)
            if slot is None or not self._movable(slot):
                slot = self.copied(operand, self.blocked, node.sources)
            self.schedule.aliases[slot] = (result, offset)
            offset += slot.nbytes
        return True

    def _movable(self, slot: Slot) -> bool:
        """Whether a slot may be placed inside another one."""
        made = slot.value.node.kind == "op" and slot.layout == self.blocked
        return made and slot not in self.schedule.aliases

    # ---- steps that compute

    def _waits(self, node: Node) -> bool:
        """Whether others read through a node; it says where its channels come from."""
        if not moves_channels(node, self.lanes):
            return True  # the inside of a shuffle
        found = sources(node, self.moved)
        if self._in_blocks({value for value, _ in found}) <= 0:
            return False
        self.moved[node.results[0]] = found
        return True

    def _rearranged(self, node: Node) -> bool:
        """Channels of tensors that are in blocks, for the most part, are put together."""
        cut = node.name == "slice" and node.operands[0] in self.moved
        if not (cut or moves_channels(node, self.lanes)):
            return False
        values, parts = runs(sources(node, self.moved))
        if self._in_blocks(values) <= 0:
            return False
        self._needed(values)
        reads: list[Pointer] = [self.in_layout(value, self.blocked) for value in values]
        step = step_of(node, "channels", self.blocked, [])
        step.reason = "its channels are no whole blocks of what they come from"
        spec = spec_of(node, parts, self.lanes)
        self.emit(ChannelsKernel(spec, node), reads, node, self.blocked, step)
        return True

    def _work(self, node: Node) -> Work:
        anchor = anchor_of(node)
        outer = outer_values(node)
        operands = [v if v is None else outer.get(v, v) for v in anchor.operands]
        images = self.images.get(operands[0]) if operands and operands[0] else None
        if images is not None:
            operands[0] = images
        return Work(self.graph, node, anchor, tuple(operands), images is not None)

    def _template(
        self, work: Work, found: list[Offer], rejected: list[str], pool: Node | None
    ) -> None:
        """A step for the best offer; it computes the pool behind the node too, where there is."""
        node, last = work.node, pool or work.node
        layout = self.blocked if found[0].blocked else self.plain
        extra = epilogue_inputs(node, work.anchor)
        slots = tuple(self._epilogue_operand(node.operands[i], layout) for i in extra)

        def candidate(offer: Offer) -> Candidate:
            reads = [self._operand(work, position, how, offer) for position, how in offer.operands]
            if offer.then is not None:
                reads, offer = self._first(work, offer, reads), offer.then
            kernel = TemplateKernel(offer, node, work.anchor, layout, tuple(extra), slots)
            writes = (Slot(value, layout) for value in last.results)
            return Candidate(kernel, (*reads, *slots, *writes))

        rivals = [] if self.tuning is None else variants(found, self.machine)
        if self.tuning is None or len(rivals) < 2 or self._takes_steps(work, found[0]):
            chosen, reason, slower = candidate(found[0]), *by_prediction(found)
        else:
            chosen, times = self.tuning.best([candidate(offer) for offer in rivals])
            reason, slower = by_measuring(times)
        step = step_of(node, chosen.kernel.kind, layout, [*slower, *rejected])
        step.reason = reason
        if pool is not None:
            step = with_pool(step, pool)
        reads = list(chosen.pointers[: len(chosen.pointers) - len(last.results)])
        self.emit(chosen.kernel, reads, last, layout, step)

    def _takes_steps(self, work: Work, offer: Offer) -> bool:
        """Whether an offer is more than one step, so that a trial of its kernel says little."""
        packed = [work.operands[i] for i, how in offer.operands if how == "packed"]
        return offer.then is not None or any(self._at_run_time(v) for v in packed if v is not None)

    def _at_run_time(self, value: Value) -> bool:
        return value in self.home or value.node in self.deferred

    def _first(self, work: Work, offer: Offer, reads: list[Pointer]) -> list[Pointer]:
        """The first of two kernels: what the second one reads."""
        partial = Slot(work.node.results[0], Packed(repr(offer.spec), offer.floats))
        kernel = TemplateKernel(offer, work.anchor, work.anchor, partial.layout, (), ())
        step = step_of(work.node, offer.kind, partial.layout, [])
        step.reason = f"predicted {offer.seconds * 1e6:.0f} us on one core, with what follows"
        self.schedule.add(kernel, reads, [partial], step)
        return [partial]

    def _operand(self, work: Work, position: int, how: str, offer: Offer) -> Pointer:
        value = work.operands[position]
        assert value is not None
        if how == "packed":
            return self._packed(value, offer, work.node)
        if how == "padded" and value not in self.home:
            return Slot(value, Padded(self.lanes))
        if how == "padded":
            how = "plain"  # what lies behind its end are pad lanes
        if how == "pooled":  # of a max_pool_index, what it looked at
            index, how = value.node, "blocked"
            assert index.operands[0] is not None
            value = index.operands[0]
        return self.in_layout(value, self.plain if how == "plain" else self.blocked)

    def _packed(self, value: Value, offer: Offer, node: Node) -> Pointer:
        """Weights in the order of a template: of a param once, of another value in every run."""
        if not self._at_run_time(value):
            key = (offer.kind, repr(offer.spec), repr(offer.tiling))
            return PackedParam(value, key, offer.pack, offer.packed_bytes)
        source, addresses = origin(value, self.home.__contains__)
        kernel = PackKernel(offer, node, addresses, self.lanes)
        slot = Slot(source, kernel.layout)
        if not self.made(slot):
            step = step_of(copy_node(value.type), "pack", slot.layout, [])
            step.op, step.sources = f"weights of {offer.kind}", node.sources
            step.reason = "weights known only at run time, in the order in which they are read"
            self.schedule.add(kernel, [self.in_layout(source, self.plain)], [slot], step)
        return slot

    # ---- layouts

    def loops_kernel(self, node: Node, operands: tuple[Layout, ...], result: Layout) -> LoopsKernel:
        return LoopsKernel(node, operands, result, self.lanes)

    def result_layout(self, node: Node) -> Layout:
        return self.blocked if self._blocks_result(node) else self.plain

    def _blocks_result(self, node: Node) -> bool:
        """Whether to make a result in blocks: it can be, and most of its operands' bytes are."""
        types = [v.type for v in node.results]
        if any(t.rank < 3 or t.dtype != "f32" for t in types):
            return False
        if channels_come_second(node) and self._reads_plain(node):
            return True
        if not keeps_lanes(node, self.lanes):
            return False
        return self._in_blocks(node.operands) > 0

    def _in_blocks(self, values: Iterable[Value | None]) -> int:
        """How many more bytes of what is there are in blocks than are not."""
        slots = [self.home[value] for value in values if value in self.home]
        return sum(s.nbytes if s.layout == self.blocked else -s.nbytes for s in slots)

    def _reads_plain(self, node: Node) -> bool:
        slots = [self.home.get(value) for value in node.operands if value is not None]
        return all(slot is not None and slot.layout == self.plain for slot in slots)

    def param_layout(self, value: Value, beside: Layout) -> Layout:
        per_channel = value.type.rank >= 2 and value.type.shape[1] > 1
        fits = beside == self.blocked and per_channel and value.type.dtype == "f32"
        return self.blocked if fits else self.plain

    def _epilogue_operand(self, value: Value | None, layout: Layout) -> Slot:
        """An operand that a template's epilogue reads lane by lane: in blocks as the result is."""
        slot = self.beside(value, layout)
        type = slot.value.type
        if layout == self.blocked and slot.layout == self.plain and slot.value in self.home:
            if type.rank >= 3 and type.shape[1] > 1:
                return self.in_layout(slot.value, layout)
        return slot
