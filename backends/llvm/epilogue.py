"""What follows the anchor of a fused node, spliced into a tuned kernel before its stores.

The rest of the body becomes an expression over the anchor's result (the accumulator) and loads of
the other operands at the same index; it is printed for one vector of results at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels.spec import Epilogue, Place
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.values import Values
from cnnir.errors import BackendError
from cnnir.ir import Node
from cnnir.loops import Buffer, ElementAlgebra, Layout
from cnnir.loops import expr as x
from cnnir.loops.elements import Elements
from cnnir.loops.expr import Expr, Symbol, Var


def epilogue_of(
    node: Node,
    anchor: Node,
    positions: Sequence[int],
    layouts: Sequence[Layout],
    result: Layout,
    first: int,
    target: CpuTarget,
) -> Epilogue | None:
    """What a template calls with each vector of anchor results; None where nothing follows.

    positions, layouts: the operands of `node` that the epilogue reads, and how they lie; their
    pointers come in this order from the builder's pointer `first` on.
    """
    if node is anchor:
        return None
    return _Splice(node, anchor, positions, layouts, result, first, target)


class _Splice:
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
        self.target, self.first = target, first
        type = node.results[0].type
        self.blocked, self.rows = bool(result.lanes), type.shape[-2]
        buffers: list[Buffer | None] = [None] * len(node.operands)
        for position, layout in zip(positions, layouts, strict=True):
            value = node.operands[position]
            assert value is not None
            buffers[position] = Buffer(f"x{position}", value.type, layout)
        self.buffers = [b for b in buffers if b is not None]
        self.accumulator = Symbol("accumulator", "f32")
        self.lane = Var("lane", target.lanes, lanes=True)
        self.coordinates, at = _index(type.shape, result, self.lane)
        algebra = ElementAlgebra()
        elements = Elements(node, algebra, buffers, {anchor.results[0]: self.accumulator})
        self.value: Expr = elements.at(at)[0]
        if algebra.errors:
            raise BackendError(f"{node!r}: an epilogue cannot check indices")
        self.real: Expr | None = None
        """Where set, the condition that a lane is a channel and not padding: a row-major operand
        has nothing to read for the others."""
        if (
            result.lanes
            and type.shape[1] % result.lanes
            and not all(b.layout.lanes or b.type.size == 1 for b in self.buffers)
        ):
            self.real = at[1] < type.shape[1]
        self.here = result.offset(type.shape, at) - self.lane
        """Where the vector lies in the result, and in every operand that is laid out alike."""

    def __call__(self, b: Builder, vector: ir.Value, place: Place) -> ir.Value:
        pointers = b.pointers[self.first : self.first + len(self.buffers)]
        values = Values(b.ir, self.target, dict(zip(self.buffers, pointers, strict=True)))
        told = place.coordinates()
        if not self.blocked:  # matrix, row, column
            told = (b.add(b.mul(told[0], self.rows), told[1]), told[2])
        for variable, value in zip(self.coordinates, told, strict=True):
            values.define(variable, b.value(value))
        values.define(self.here, b.value(place.offset))
        values.define(self.accumulator, vector)
        with values.lanes(self.lane):
            if place.count < self.target.lanes:
                values.mask = values.ops.first_lanes(place.count, self.target.lanes)
            if self.real is not None:
                values.mask = values.value(self.real)
            return values.ops.spread(values.value(self.value), self.target.lanes)


def _index(
    shape: tuple[int, ...], layout: Layout, lane: Var
) -> tuple[list[Expr], tuple[Expr, ...]]:
    """The variables that a template tells (see `Place`), and the result index in terms of them."""
    if layout.lanes:
        n, channels, *sizes = shape
        block = Var("block", -(-channels // layout.lanes))
        position: list[Expr] = [Var(f"i{k}", size) for k, size in enumerate(sizes)]
        image = Var("n", n)
        return [block, image, *position], (image, layout.lanes * block + lane, *position)
    rows = 1
    for size in shape[:-1]:
        rows *= size
    row, column = Var("row", rows), Var("column", shape[-1])
    index: list[Expr] = []
    flat: Expr = row
    for size in reversed(shape[:-1]):
        index.insert(0, x.modulo(flat, size))
        flat = x.floordiv(flat, size)
    return [row, column], (*index, column + lane)
