"""Kernels of `procedure` definitions: serial code, whose one parallel loop becomes work items."""

from __future__ import annotations

from cnnir.ir import Node
from cnnir.loops import expr as x
from cnnir.loops.algebra import ProcedureAlgebra, buffer_accessor
from cnnir.loops.analysis import weight
from cnnir.loops.expr import Var
from cnnir.loops.kernel import Kernel
from cnnir.loops.statements import Buffer, For, If, RowMajor, Statement

ITEM_WORK = 32768
"""Scalar operations of a work item, roughly: some 10 microseconds."""
MOST_ITEMS = 4096


def lower_procedure(
    node: Node,
    operands: list[Buffer | None],
    results: list[Buffer],
    lanes: int,
    name: str,
    first_code: int,
    finest: bool = False,
) -> Kernel:
    """Serial code; a single parallel loop at the top becomes the work items."""
    assert node.op is not None and node.op.procedure is not None
    m = ProcedureAlgebra(first_code, RowMajor())
    accessors = [None if b is None else buffer_accessor(m, b) for b in operands]
    node.op.procedure(m, [m.written(b) for b in results], *accessors, **node.attrs)
    body, item, items = m.body, Var("item", 1), 1
    if len(body) == 1 and isinstance(loop := body[0], For) and loop in m.parallel:
        extent = int(loop.stop.value) if isinstance(loop.stop, x.Const) else 1
        work = extent * _work(loop.body)
        wanted = extent if finest else min(MOST_ITEMS, max(1, work // ITEM_WORK))
        chunk = max(1, -(-extent // max(1, wanted)))
        items = -(-extent // chunk)
        if items > 1:
            item = Var("item", items)
            stop = x.binary("min", chunk * item + chunk, extent)
            body = [For(loop.var, chunk * item, stop, loop.body)]
        elif items == 0:
            body = []
    pointers = [b for b in operands if b is not None] + results
    return Kernel(
        name,
        pointers,
        m.scratch_buffers,
        item,
        items,
        body,
        lanes,
        tuple(m.errors),
        first_code,
        "serial",
    )


def _work(body: list[Statement]) -> int:
    """Roughly how many operations a block does."""
    total = 0
    for s in body:
        if isinstance(s, For):
            turns = max(1, (s.stop.hi or 1) - (s.start.lo or 0))
            total += min(turns, 1 << 40) * _work(s.body)
        elif isinstance(s, If):
            total += 1 + _work(s.body)
        else:
            total += 1 + weight([e for e in (getattr(s, "value", None),) if e is not None])
    return total
