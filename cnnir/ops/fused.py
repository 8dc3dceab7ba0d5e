"""The fused op: a small graph run as one kernel, the only mechanism of fusion."""

from __future__ import annotations

from typing import Any

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.tensortype import TensorType


class Fused(Op):
    """The values of `body`'s outputs when its inputs are the operands.

    The body holds at most one anchor (a convolution, matmul, pool or reduction) with elementwise
    ops before and after it. Evaluators run the body; backends make one kernel of it.
    """

    name = "fused"

    def infer(*xs: TensorType, body: Any) -> TensorType | tuple[TensorType, ...]:
        wanted = [v.type for v in body.inputs]
        if list(xs) != wanted:
            raise IRError(f"the body takes ({', '.join(map(str, wanted))})")
        types = tuple(v.type for v in body.outputs)
        return types[0] if len(types) == 1 else types

    @staticmethod
    def cost(node: Any) -> Cost:
        """The body's operations; only the operands and results of the whole are moved."""
        inner = [n.op.cost(n) for n in node.attrs["body"].order() if n.op is not None]
        moved = Op.cost(node)
        work = sum(inner, Cost())
        return Cost(work.flops, moved.read, moved.written, work.multiply_adds)
