"""What follows the anchor of a fused node, as a device function that a tuned kernel calls.

The rest of the body becomes an expression over the anchor's result (the sum) and loads of the other
operands at the same index. To a kernel a result is rows and columns, one after another: positions
and channels of images with channels last, leading axes and the last axis of row-major arrays.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnir.backends.cuda import operations as ops
from cnnir.backends.cuda.expressions import Expressions, bare, index_type
from cnnir.errors import BackendError
from cnnir.ir import Node
from cnnir.loops import Buffer, ElementAlgebra, Layout
from cnnir.loops import expr as x
from cnnir.loops.axes import unflatten
from cnnir.loops.elements import Elements
from cnnir.loops.expr import Expr, Symbol, Var


class Epilogue:
    """positions, layouts: the operands of `node` that are read after `anchor`, and how they lie."""

    def __init__(
        self,
        node: Node,
        anchor: Node,
        positions: Sequence[int],
        layouts: Sequence[Layout],
        result: Layout,
    ) -> None:
        self.shape, self.result = node.results[0].type.shape, result
        self.columns = self.shape[1] if result.lanes else self.shape[-1]
        buffers: list[Buffer | None] = [None] * len(node.operands)
        for position, layout in zip(positions, layouts, strict=True):
            value = node.operands[position]
            assert value is not None
            buffers[position] = Buffer(f"e{position}", value.type, layout)
        self.buffers = [b for b in buffers if b is not None]
        self.sum = Symbol("sum", "f32")
        self.row = Var("row", max(1, node.results[0].type.size // self.columns))
        self.column = Var("column", self.columns)
        algebra = ElementAlgebra()
        elements = Elements(node, algebra, buffers, {anchor.results[0]: self.sum})
        self.at = self._index()
        self.value: Expr = self.sum if node is anchor else elements.at(self.at)[0]
        if algebra.errors:
            raise BackendError(f"{node!r}: an epilogue cannot check indices")

    def _index(self) -> tuple[Expr, ...]:
        if not self.result.lanes:
            return (*unflatten(self.row, self.shape[:-1]), self.column)
        image, *position = unflatten(self.row, (self.shape[0], *self.shape[2:]))
        return (image, self.column, *position)

    @property
    def parameters(self) -> list[str]:
        """Of the kernel: pointers to the operands."""
        return [
            f"const {ops.storage_type(b.type.dtype)}* __restrict__ {b.name}" for b in self.buffers
        ]

    def call(self, name: str, value: str, row: str, column: str) -> str:
        """The expression that calls the function."""
        return (
            f"{name}_epilogue({', '.join([value, row, column, *(b.name for b in self.buffers)])})"
        )

    def function(self, name: str) -> str:
        """The text of `name_epilogue(sum, row, column, pointers)`."""
        values = Expressions({b: b.name for b in self.buffers})
        values.define(self.sum, "sum")
        values.define(self.row, "row")
        values.define(self.column, "column")
        here = x.index(self.result.offset(self.shape, self.at))
        values.line(
            f"const {index_type(here)} offset = ({index_type(here)})row * {self.columns} + column;"
        )
        values.define(here, "offset")
        values.line(f"return {bare(values.value(self.value))};")
        parameters = ["float sum", "int row", "int column", *self.parameters]
        head = f"static __device__ __forceinline__ float {name}_epilogue(\n    "
        return "\n".join([head + ",\n    ".join(parameters) + ") {", *values.lines, "}", ""])
