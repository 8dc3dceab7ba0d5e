"""What follows the anchor of a fused node, as a device function that a tuned kernel calls.

The rest of the body becomes an expression over the anchor's result (the sum and a bias) and loads
of the other operands at the same index. To a kernel a result is rows and columns, one after
another, as its layout says: positions and channels of images with channels last, leading axes and
the last axis of row-major arrays. The function takes some neighbouring columns at once and gives
what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnnir.backends.cuda import operations as ops
from cnnir.backends.cuda.expressions import Expressions, bare
from cnnir.backends.cuda.layout import Order
from cnnir.backends.cuda.several import BYTES, several
from cnnir.errors import BackendError
from cnnir.ir import Node
from cnnir.loops import Buffer, ElementAlgebra, Layout
from cnnir.loops.elements import Elements
from cnnir.loops.expr import Expr, Symbol, Var
from cnnir.loops.statements import storage_of
from cnnir.tensortype import TensorType


class Epilogue:
    """positions, layouts: the operands of `node` that are read after `anchor`, and how they lie.

    bias: whether each column has a number that is added to its sums first.
    """

    def __init__(
        self,
        node: Node,
        anchor: Node,
        positions: Sequence[int],
        layouts: Sequence[Layout],
        result: Order,
        bias: bool = False,
    ) -> None:
        self.shape, self.result, self.bias = node.results[0].type.shape, result, bias
        self.stored = storage_of(result, node.results[0].type)
        self.columns = result.columns(self.shape)
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
        at = result.element(self.shape, self.row, self.column)
        self.value: Expr = self.sum if node is anchor else elements.at(at)[0]
        if algebra.errors:
            raise BackendError(f"{node!r}: an epilogue cannot check indices")

    @property
    def together(self) -> int:
        """Neighbouring results that can be stored at once."""
        return BYTES // TensorType(self.stored, ()).numpy.itemsize

    @property
    def parameters(self) -> list[str]:
        """Of the kernel: pointers to the bias and the operands."""
        bias = ["const float* __restrict__ bias"] * self.bias
        return bias + [
            f"const {ops.storage_type(b.storage)}* __restrict__ {b.name}" for b in self.buffers
        ]

    def call(self, name: str, sums: str, row: str, column: str) -> str:
        """The expression that calls the function."""
        given = [sums, row, column, *["bias"] * self.bias, *(b.name for b in self.buffers)]
        return f"{name}_epilogue({', '.join(given)})"

    def function(self, name: str, n: int) -> str:
        """The text of `name_epilogue(sums, row, column, pointers)` for n columns at a time."""
        values = Expressions({b: b.name for b in self.buffers})
        values.define(self.row, "row")
        result = f"cn_several<{ops.storage_type(self.stored)}, {n}>"
        values.line(f"{result} out;")
        if self.bias:
            values.line(f"const auto biases = cn_read<{n}>(bias + column);")
        with several(values, self.column, "column", n, [self.value]):
            values.define(self.sum, "sums.at[e]")
            if self.bias:
                values.variable(self.sum, "sums.at[e] + biases.at[e]")
            stored = ops.to_storage(self.stored, values.value(self.value))
            values.line(f"out.at[e] = {bare(stored)};")
        values.line("return out;")
        parameters = [f"const cn_several<float, {n}>& sums", "int row", "int column"]
        parameters += self.parameters
        head = f"static __device__ __forceinline__ {result} {name}_epilogue(\n    "
        return "\n".join([head + ",\n    ".join(parameters) + ") {", *values.lines, "}", ""])
