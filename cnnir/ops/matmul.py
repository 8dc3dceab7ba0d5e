"""Matrix product, batched and broadcasting. Fully connected layers are matmul and add."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op, broadcast_index, broadcast_shapes
from cnnir.ops.derivative import reduce_to
from cnnir.ops.elementwise import common_dtype
from cnnir.tensortype import TensorType


class MatMul(Op):
    """The matrix product of the last two axes; the axes before them broadcast.

    z[..., i, j] = sum_k x[..., i, k] * y[..., k, j]; 0 where there is no k. Integers wrap.
    """

    name = "matmul"

    def infer(x, y):
        dtype = common_dtype(("float", "int"), x, y)
        if x.rank < 2 or y.rank < 2:
            raise IRError(f"ranks are {x.rank} and {y.rank}, wanted at least 2")
        if x.shape[-1] != y.shape[-2]:
            raise IRError(
                f"{x.shape[-1]} columns meet {y.shape[-2]} rows, wanted the same number of both"
            )
        batch = broadcast_shapes(x.shape[:-2], y.shape[:-2])
        return TensorType(dtype, (*batch, x.shape[-2], y.shape[-1]))

    def evaluate(x, y):
        with np.errstate(all="ignore"):
            return np.matmul(x, y)

    def element(m, at, x, y):
        *batch, i, j = at
        rows = broadcast_index(tuple(batch), x.shape[:-2])
        columns = broadcast_index(tuple(batch), y.shape[:-2])
        return m.reduce("sum", (x.shape[-1],), lambda k: x[(*rows, i, k)] * y[(*columns, k, j)])

    def vjp(g, node, dy):
        x, y = node.operands
        dx = g.add("matmul", dy, _swapped(g, y))
        dz = g.add("matmul", _swapped(g, x), dy)
        return reduce_to(g, dx, x.type.shape), reduce_to(g, dz, y.type.shape)

    @staticmethod
    def cost(node: Any) -> Cost:
        """A multiplication and an addition for each k of each result element."""
        moved = Op.cost(node)
        inner = node.operands[0].type.shape[-1]
        return moved.of_products(inner * node.results[0].type.size)


def _swapped(g: Any, x: Any) -> Any:
    """The matrices of x transposed."""
    rank = x.type.rank
    return g.add("transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))
