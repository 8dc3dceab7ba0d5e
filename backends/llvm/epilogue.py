"""epilogue_of: the work of a fused node behind its anchor, as a function the templates call.

A template computes a vector of the anchor's result and calls the epilogue with it and its place;
what comes back is what is stored. The expression is built once, from the same element definitions
as every other kernel, and printed at each call.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ir

from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.spec import Epilogue, Place
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.values import Values
from cnnir.errors import BackendError
from cnnir.ir import Graph, Node
from cnnir.loops import Buffer, ElementAlgebra, Layout
from cnnir.loops import expr as x
from cnnir.loops.analysis import loads, post_order, stride
from cnnir.loops.elements import Elements
from cnnir.loops.expr import Expr


def epilogue_of(
    node: Node,
    anchor: Node,
    positions: Sequence[int],
    layouts: Sequence[Layout],
    result: Layout,
    first: int,
    target: CpuTarget,
) -> Epilogue | None:
    """What a fused node does after its anchor; None when that is nothing.

    positions: the operands of the node that the epilogue reads, whose layouts follow; their
    pointers are `builder.pointers[first:]`, in this order. result: the layout of the result.
    """
    body = node.attrs.get("body")
    if not isinstance(body, Graph) or body.outputs == list(anchor.results[:1]):
        return None
    return _Epilogue(node, anchor, positions, layouts, result, first, target)


class _Epilogue:
    def __init__(
        self,
        node: Node,
        anchor: Node,
        positions: Sequence[int],
        layouts: Sequence[Layout],
        result: Layout,
        first: int,
        target: CpuTarget,
    ) -> None:
        self.first, self.target = first, target
        (value,) = node.results
        self.shape, self.layout = value.type.shape, result
        operands: list[Buffer | None] = [None] * len(node.operands)
        for position, layout in zip(positions, layouts, strict=True):
            operand = node.operands[position]
            assert operand is not None
            operands[position] = Buffer(f"x{position}", operand.type, layout)
        self.buffers = [operands[position] for position in positions]
        if anchor.results[0].type.shape != self.shape:
            raise BackendError(f"{node!r}: the epilogue changes the shape of {anchor!r}")
        self.given = x.Symbol("given", "f32")
        self.lane = x.Var("lane", result.lanes or target.lanes, lanes=True)
        self.steps, at = self._index()
        elements = Elements(node, ElementAlgebra(), operands, {anchor.results[0]: self.given})
        (made,) = elements.at(at)
        whole = x.index(Buffer("y", value.type, result).offset(at))
        self.near = whole - self.lane
        self.expr = self._guarded(made, at)
        used = post_order((self.expr,), skip=(whole,))
        self.needs_steps = any(step in self.steps for step in used if isinstance(step, x.Var))

    def _index(self) -> tuple[list[x.Var], tuple[Expr, ...]]:
        """Variables for the coordinates that a place tells, and the index of a lane."""
        if not self.layout.lanes:
            steps = [x.Var(f"i{k}", extent) for k, extent in enumerate(self.shape)]
            return steps, (*steps[:-1], steps[-1] + self.lane)
        width = self.layout.lanes
        n, channels, *sizes = self.shape
        extents = [n, -(-channels // width), *sizes]
        steps = [x.Var(f"i{k}", extent) for k, extent in enumerate(extents)]
        return steps, (steps[0], width * steps[1] + self.lane, *steps[2:])

    def _guarded(self, made: Expr, at: tuple[Expr, ...]) -> Expr:
        """Lanes behind the last channel read nothing where that would be out of bounds."""
        width = self.layout.lanes
        if not width or self.shape[1] % width == 0:
            return made
        real = at[1] < self.shape[1]
        stand_ins: dict[Expr, Expr] = {}
        for found in loads((made,)):
            offset = found.args[0]
            blocked = found.buffer.layout.lanes == width and stride(offset, self.lane) == 1
            if self.lane in offset.free and not blocked:
                stand_ins[found] = found.with_args((offset, real, x.const(0, found.dtype)))
        if not stand_ins:
            return made
        return _replaced(made, stand_ins)

    def __call__(self, b: Builder, vector: ir.Value, place: Place) -> ir.Value:
        pointers = {
            buffer: pointer
            for buffer, pointer in zip(self.buffers, b.pointers[self.first :], strict=False)
            if buffer is not None
        }
        values = Values(b.ir, self.target, pointers, b.error)
        with values.lanes(self.lane):
            values.define(self.given, vector)
            values.define(self.near, b.value(place.offset))
            if place.count < vector.type.count:
                values.mask = values.ops.first_lanes(place.count, vector.type.count)
            if self.needs_steps:
                for step, at in zip(self.steps, self._coordinates(b, place), strict=True):
                    values.define(step, b.value(at))
            return values.ops.spread(values.value(self.expr), vector.type.count)

    def _coordinates(self, b: Builder, place: Place) -> list[Index]:
        """One coordinate for each step."""
        told = list(place.coordinates())
        if self.layout.lanes or len(told) == len(self.steps):
            return told
        # a matrix product tells (matrix, row, column); the matrix counts all leading axes
        *leading, row, column = told
        if len(self.shape) == 2:
            return [row, column]
        return [*b.unflatten(leading[0], self.shape[:-2]), row, column]


def _replaced(root: Expr, stand_ins: dict[Expr, Expr]) -> Expr:
    """The expression with some of its parts replaced."""
    done: dict[Expr, Expr] = {}
    for e in post_order((root,)):
        args = tuple(done[a] for a in e.args)
        done[e] = stand_ins[e] if e in stand_ins else e.with_args(args)
    return done[root]



