"""lower(node, layouts, lanes) -> Kernel: loops around the element definition of an op.

The loops follow the result's layout: blocked results run over blocks and positions with the
channels of a block as lanes; row-major results take the innermost axis as lanes, merged with as
many axes before it as every operand allows. Outer loops become work items, in numbers that depend
on shapes alone. Loops with conditions (padding) are split so that the inside has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from cnnir.errors import IRError
from cnnir.ir import Node
from cnnir.loops import expr as x
from cnnir.loops.algebra import ElementAlgebra
from cnnir.loops.analysis import interior, loads, post_order, stride, weight
from cnnir.loops.axes import Axis, step, unflatten, whole
from cnnir.loops.elements import Elements
from cnnir.loops.expr import Call, Checked, Expr, Fold, Reduce, Var
from cnnir.loops.kernel import Kernel
from cnnir.loops.procedures import ITEM_WORK, MOST_ITEMS, lower_procedure
from cnnir.loops.reductions import improve, prefers_lanes_inside
from cnnir.loops.statements import Buffer, For, If, Layout, Let, Statement, Store


def lower(
    node: Node,
    layouts: Sequence[Layout | None],
    lanes: int,
    name: str = "kernel",
    first_code: int = 1,
    finest: bool = False,
) -> Kernel:
    """The kernel of an op or fused node.

    layouts: of the operands (None for one that is left out), then of the results. lanes: the
    vector width in f32. Codes of bad indices count from first_code on, see `Kernel.errors`.
    finest: make every step of the outer loops a work item, as machines of many threads want it.
    Raises IRError for ops that have no `element`, `scalar` or `procedure`.
    """
    operands, results = _buffers(node, layouts)
    if node.op is not None and node.op.procedure is not None and node.op.element is None:
        return lower_procedure(node, operands, results, lanes, name, first_code, finest)
    return _Lowering(node, operands, results, lanes, name, first_code, finest).kernel()


def _buffers(
    node: Node, layouts: Sequence[Layout | None]
) -> tuple[list[Buffer | None], list[Buffer]]:
    values = [*node.operands, *node.results]
    if len(layouts) != len(values):
        raise IRError(f"{node!r}: {len(layouts)} layouts for {len(values)} values")
    made: list[Buffer | None] = []
    for k, (value, layout) in enumerate(zip(values, layouts, strict=True)):
        result = k >= len(node.operands)
        label = f"y{k - len(node.operands)}" if result else f"x{k}"
        if value is None or layout is None:
            made.append(None)
        else:
            space = "result" if result else "operand"
            made.append(Buffer(label, value.type, layout, space))
    operands, results = made[: len(node.operands)], made[len(node.operands) :]
    return operands, [b for b in results if b is not None]


Index = Callable[[list[Expr], Expr | None], list[Expr]]


class _Lowering:
    """Lowers one node with `element` definitions."""

    def __init__(
        self,
        node: Node,
        operands: list[Buffer | None],
        results: list[Buffer],
        lanes: int,
        name: str,
        first_code: int,
        finest: bool,
    ) -> None:
        self.node, self.operands, self.results = node, operands, results
        self.lanes, self.name, self.finest = lanes, name, finest
        self.m = ElementAlgebra(first_code)
        self.elements = Elements(node, self.m, operands)
        self.improved: dict[Expr, Expr] = {}
        self.axes: list[Axis] = []
        self.index: Index = lambda steps, lane: []
        self.vector: int | None = None  # the axis whose regions say how many lanes there are

    def kernel(self) -> Kernel:
        """The finished kernel."""
        result = self.results[0]
        if any(
            (b.type.shape, b.layout) != (result.type.shape, result.layout) for b in self.results
        ):
            raise IRError(f"{self.node!r}: results differ in shape or layout")
        pointers = [b for b in self.operands if b is not None] + self.results
        item = Var("item", 1)
        if math.prod(result.type.shape) == 0:
            return Kernel(self.name, pointers, [], item, 0, [], self.lanes)
        body, items, item = self._nest_of_shape(result)
        return Kernel(
            self.name,
            pointers,
            [],
            item,
            items,
            body,
            self.lanes,
            tuple(self.m.errors),
            self.m.first_code,
            self._summary(),
        )

    def _summary(self) -> str:
        loops = " ".join(f"{a.name}:{a.extent}" for a in self.axes)
        return f"{loops} x {self.lanes if self.vector is not None else 1} lanes"

    # ---- choosing the loops

    def _nest_of_shape(self, result: Buffer) -> tuple[list[Statement], int, Var]:
        if result.layout.lanes and result.type.rank >= 2:
            values = self._choose_blocked(result)
        else:
            values = self._choose_plain(result)
        hoisted = self._hoisted(values)
        deepest = max(hoisted.values(), default=len(self.axes) - 1)
        items, item = self._share_out(self._total_work(values, hoisted), deepest)
        body, pending = self._nest(0, [], True, 0)
        return [*(Let(e, e) for e in pending), *body], items, item

    def _total_work(self, values: list[Expr], hoisted: dict[Expr, int]) -> int:
        """Roughly how many scalar operations the kernel does."""
        extents = [axis.extent for axis in self.axes]
        steps = math.prod(extents) * self._lanes_of_step()
        total = steps * max(1, weight(values, hoisted))
        for e, depth in hoisted.items():
            total += math.prod(extents[: depth + 1]) * weight((e,), hoisted.keys() - {e})
        return total

    def _lanes_of_step(self) -> int:
        if self.vector is None:
            return 1
        return max(n for _, _, n in self.axes[self.vector].regions)

    # `_pads_are_safe` looks at the steps of the first region, so that has to be the only one

    def _choose_blocked(self, result: Buffer) -> list[Expr]:
        """Loops over blocks, images, positions; lanes are the channels of a block."""
        n, channels, *sizes = result.type.shape
        width = result.layout.lanes
        blocks = -(-channels // width)

        def loops(merge: bool) -> list[Expr]:
            inner = [math.prod(sizes)] if merge else sizes
            self.axes = [Axis("cb", blocks, [(0, blocks, width)]), whole("n", n)]
            self.axes += [whole(f"i{k}", e) for k, e in enumerate(inner)]
            self.vector = 0

            def index(steps: list[Expr], lane: Expr | None) -> list[Expr]:
                position = unflatten(steps[2], sizes) if merge else steps[2:]
                return [steps[1], width * steps[0] + _lane(lane), *position]

            self.index = index
            return self._probe()

        values = loops(merge=len(sizes) > 1)
        if len(sizes) > 1 and self._divides(values, self.probe[2]):
            values = loops(merge=False)
        if channels % width and not self._pads_are_safe(values):
            full = channels // width
            cut = [(0, full, width), (full, blocks, channels % width)]
            self.axes[0].regions = [region for region in cut if region[0] < region[1]]
            values = self._probe()
        self._find_inside()
        return values

    def _choose_plain(self, result: Buffer) -> list[Expr]:
        """Loops over the axes, the last ones merged and vectorised."""
        shape = result.type.shape
        first = 0 if any(e > 1 for e in shape) else len(shape)
        while first < len(shape) and shape[first] == 1:
            first += 1
        for j in range(first, max(first + 1, len(shape))):
            values = self._plain_loops(shape, j, self.lanes)
            last = j >= len(shape) - 1 or math.prod(shape[j:]) == shape[j]
            if last or not self._divides(values, self.probe[-1]):
                break
        if self.lane is not None and prefers_lanes_inside(values, self.lane):
            values = self._plain_loops(shape, len(shape) - 1, 1)
        self._find_inside()
        return values

    def _plain_loops(self, shape: tuple[int, ...], j: int, width: int) -> list[Expr]:
        outer, n = shape[:j], math.prod(shape[j:])
        full, rest = divmod(n, width)
        cut = [(0, full, width), (full, full + 1, rest)]
        regions = [(a, b, k) for a, b, k in cut if a < b and k]
        self.axes = [whole(f"i{k}", e) for k, e in enumerate(outer)]
        self.axes.append(Axis("i", -(-n // width), regions))
        self.vector = len(outer) if width > 1 and n > 1 else None

        def index(steps: list[Expr], lane: Expr | None) -> list[Expr]:
            flat = width * steps[-1] + _lane(lane)
            return [*steps[:-1], *unflatten(flat, shape[j:])]

        self.index = index
        return self._probe()

    def _probe(self) -> list[Expr]:
        """The values at a step that stands for all; leaves its variables in probe and lane."""
        self.m.conditions.clear()
        self.probe = [step(a.name, *a.regions[0][:2]) for a in self.axes]
        width = self._lanes_of_step()
        self.lane = Var("lane", width, lanes=True) if width > 1 else None
        at = self.index(self.probe, self.lane)
        return list(self.elements.at(tuple(at)))

    def _find_inside(self) -> None:
        for axis, var in zip(self.axes, self.probe, strict=True):
            if isinstance(var, Var) and self.m.conditions:
                lo, hi = interior(self.m.conditions, var)
                if hi - lo < axis.extent and 2 * (hi - lo) >= axis.extent:
                    axis.inside = (lo, hi)

    @staticmethod
    def _divides(values: Iterable[Expr], step: Expr) -> bool:
        """Whether a merged loop would have to divide its index to address an operand."""
        return any(
            isinstance(e, Call) and e.op in ("floordiv", "mod") and step in e.free
            for e in post_order(values)
        )

    def _pads_are_safe(self, values: list[Expr]) -> bool:
        """Whether all reads of the lanes behind the last channel stay in their buffers."""
        lane = self.lane
        if lane is None:
            return False
        if any(isinstance(e, Checked) and lane in e.free for e in post_order(values)):
            return False
        for found in loads(values):
            offset = found.args[0]
            if lane not in offset.free:
                continue
            low, high = offset.lo, offset.hi
            if low is not None and high is not None and low >= 0 and high < found.buffer.size:
                continue
            block = found.buffer.layout.lanes
            if block != self.lanes and block != self._lanes_of_step():
                return False
            if stride(offset, lane) != 1 or x.modulo(offset - lane, block) is not x.index(0):
                return False
        return True

    # ---- building the nest

    def _share_out(self, work: int, deepest: int) -> tuple[int, Var]:
        """Give the outer axes to work items; only those down to `deepest`, the loop at whose
        start reductions are computed that all steps inside it use."""
        wanted = work if self.finest else min(MOST_ITEMS, max(1, work // ITEM_WORK))
        counts = []
        for axis in self.axes[: deepest + 1]:
            if wanted <= 1:
                break
            axis.chunk = -(-axis.extent // min(wanted, axis.extent))
            counts.append(-(-axis.extent // axis.chunk))
            wanted = -(-wanted // counts[-1])
            if axis.chunk > 1:
                break
        items = math.prod(counts)
        item = Var("item", items)
        for axis, k in zip(
            self.axes, unflatten(step("item", 0, items, item), counts), strict=False
        ):
            axis.start = k * axis.chunk
        return items, item

    def _nest(
        self, level: int, steps: list[Expr], split: bool, width: int
    ) -> tuple[list[Statement], dict[Expr, int]]:
        """The loops from `level` inwards, and what must be evaluated before them."""
        if level == len(self.axes):
            return self._leaf(steps, width)
        axis = self.axes[level]
        body: list[Statement] = []
        pending: dict[Expr, int] = {}
        for start, stop, lanes, inside in axis.pieces(split):
            var = step(axis.name, start, stop)
            inner, wanted = self._nest(
                level + 1,
                [*steps, var],
                split and inside == (axis.inside[1] > axis.inside[0]),
                lanes if level == self.vector else width,
            )
            here = [Let(e, e) for e, depth in wanted.items() if depth == level]
            pending.update((e, depth) for e, depth in wanted.items() if depth < level)
            body += self._loop(axis, var, start, stop, here + inner)
        return body, pending

    def _loop(
        self, axis: Axis, var: Expr, start: int, stop: int, body: list[Statement]
    ) -> list[Statement]:
        """One loop over the item's share of [start, stop)."""
        if axis.start is None:
            if not isinstance(var, Var):
                return body
            return [For(var, x.index(start), x.index(stop), body)]
        first = axis.start
        if axis.chunk == 1 and (start, stop) == (0, axis.extent):
            return [Let(var, first), *body] if isinstance(var, Var) else body
        low = x.binary("max", first, start)
        high = x.binary("min", first + axis.chunk, stop)
        if not isinstance(var, Var):
            return [If(low < high, body)]
        return [For(var, low, high, body)]

    def _leaf(self, steps: list[Expr], width: int) -> tuple[list[Statement], dict[Expr, int]]:
        lane = Var("lane", width, lanes=True) if width > 1 else None
        at = self.index(steps, lane)
        values = self._improved(list(self.elements.at(tuple(at))))
        stores: list[Statement] = [
            Store(b, x.index(b.offset(at)), _stored(v, b))
            for b, v in zip(self.results, values, strict=True)
        ]
        hoisted = self._hoisted(values, steps)
        if lane is None:
            return stores, hoisted
        return [For(lane, x.index(0), x.index(width), stores)], hoisted

    def _improved(self, values: list[Expr]) -> list[Expr]:
        """The values with reductions vectorised or unrolled."""
        if not any(isinstance(e, Reduce) for e in post_order(values)):
            return values
        for e in post_order(values):
            if e in self.improved:
                continue
            args = tuple(self.improved[a] for a in e.args)
            new = e if args == e.args else e.with_args(args)
            self.improved[e] = improve(new, self.lanes) if isinstance(new, Reduce) else new
        return [self.improved[v] for v in values]

    def _hoisted(self, values: list[Expr], steps: list[Expr] | None = None) -> dict[Expr, int]:
        """Reductions that some loop does not change, and the depth of the loops they need."""
        steps = self.probe if steps is None else steps
        depths: dict[Expr, int] = {step: k for k, step in enumerate(steps) if isinstance(step, Var)}
        known = frozenset(depths)
        found: dict[Expr, int] = {}
        guarded = {
            e
            for loop in post_order(values)
            if isinstance(loop, Reduce) and loop.args[1] is not x.TRUE
            for e in post_order(loop.args)
        }
        for e in post_order(values):
            if isinstance(e, (Reduce, Fold)) and e.free <= known and e not in guarded:
                found[e] = max((depths[v] for v in e.free), default=-1)
        return found


def _stored(value: Expr, buffer: Buffer) -> Expr:
    if value.dtype != buffer.dtype:
        raise IRError(f"an element definition gives {value.dtype}, wanted {buffer.type}")
    return value


def _lane(lane: Expr | None) -> Expr:
    return x.index(0) if lane is None else lane
