"""A square of vectors, turned round in registers."""

from __future__ import annotations

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import I32, Builder


def transposed(b: Builder, rows: list[ir.Value]) -> list[ir.Value]:
    """V vectors as V others, in log2(V) rounds of shuffles: lane j of row i is lane i of row j."""
    lanes = b.lanes
    step = lanes // 2
    while step:
        made = list(rows)
        for i in range(lanes):
            if not i & step:
                low, high = rows[i], rows[i + step]
                keep = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
                move = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
                made[i], made[i + step] = _mixed(b, low, high, keep), _mixed(b, low, high, move)
        rows, step = made, step // 2
    return rows


def _mixed(b: Builder, one: ir.Value, other: ir.Value, lanes: list[int]) -> ir.Value:
    indices = ir.Constant(ir.VectorType(I32, b.lanes), lanes)
    return b.ir.shuffle_vector(one, other, indices)
