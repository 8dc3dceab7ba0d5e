"""Threads that take several neighbouring lanes each, so that memory moves up to 16 bytes at a time.

What such a thread reads of neighbours is read at once, before a loop over its lanes, and so is a
reduction over such reads: its totals are an array. The loop is unrolled, so that arrays are
registers. `neighbours` says how many lanes the memory that a loop touches allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cnnir.backends.cuda import operations as ops
from cnnir.backends.cuda.expressions import Expressions, bare
from cnnir.loops import expr as x
from cnnir.loops.analysis import post_order, stride
from cnnir.loops.expr import Expr, Var
from cnnir.loops.statements import For, Store
from cnnir.tensortype import TensorType

BYTES, MOST = 16, 8
"""What a thread moves at once: bytes, and elements at most."""


def neighbours(loop: For) -> int:
    """Lanes of a vector loop that a thread can take together: 8, 4, 2 or 1.

    All that is read and written for a lane must lie beside what is for the next, at addresses that
    are multiples of what is moved.
    """
    lane, stores = loop.var, [s for s in loop.body if isinstance(s, Store)]
    if len(stores) < len(loop.body):
        return 1
    moved = [(s.buffer, s.offset) for s in stores]
    for e in post_order(s.value for s in stores):
        if isinstance(e, x.Load) and lane in e.free:
            moved.append((e.buffer, e.args[0]))
            if not _plain_condition(e, lane):
                return 1
        elif isinstance(e, x.Checked) or (isinstance(e, x.Fold) and lane in e.free):
            return 1
        elif isinstance(e, x.Reduce) and not _for_all_lanes(e, lane):
            return 1
    widest = max(TensorType(b.storage, ()).numpy.itemsize for b, _ in moved)
    extent = (lane.hi or 0) + 1
    for n in (8, 4, 2):
        fits = n * widest <= BYTES and extent % n == 0
        if fits and all(_together(offset, lane, n) for _, offset in moved):
            return n
    return 1


def _together(offset: Expr, lane: Var, n: int) -> bool:
    """Whether lanes k * n ... k * n + n - 1 lie side by side at a multiple of n."""
    return stride(offset, lane) == 1 and x.modulo(offset - lane, n) is x.index(0)


def _plain_condition(e: x.Load, lane: Var) -> bool:
    return len(e.args) == 1 or (lane not in e.args[1].free and isinstance(e.args[2], x.Const))


def _for_all_lanes(e: x.Reduce, lane: Var) -> bool:
    """Whether the loops of a reduction are the same for all lanes, and nobody else's."""
    return not any(var.lanes for var in e.bound) and not any(lane in a.free for a in e.args[1:])


@contextmanager
def several(
    values: Expressions, lane: Var, first: str, n: int, roots: Iterable[Expr]
) -> Iterator[None]:
    """A block for each of the n lanes from `first` on: `e` counts them.

    Of what the roots need, reads of neighbours and reductions stand before the block.
    """
    before: dict[Expr, str] = {}
    with at_first(values, lane, first):
        for found in _outermost(roots, lane):
            if isinstance(found, x.Reduce):
                before[found] = _totals(values, lane, first, n, found)
            elif _plain_condition(found, lane) and _together(found.args[0], lane, n):
                before[found] = _elements(values, n, found)
    values.line("#pragma unroll")
    with values.block(f"for (int e = 0; e < {n}; ++e)"):
        values.define(lane, f"({first} + e)")
        for known, text in before.items():
            values.define(known, text)
        yield


@contextmanager
def at_first(values: Expressions, lane: Var, first: str) -> Iterator[None]:
    """Here the lane is the first of several; what is named of it is not known afterwards."""
    known = set(values.scopes[-1])
    values.define(lane, first)
    yield
    scope = values.scopes[-1]
    for e in [e for e in scope if e not in known and lane in e.free]:
        del scope[e]


def _outermost(roots: Iterable[Expr], lane: Var) -> Iterator[x.Load | x.Reduce]:
    """Reads and reductions that differ by lane, but for what is inside other reductions."""
    stack, seen = list(roots), set()
    while stack:
        e = stack.pop()
        if e in seen or lane not in e.free:
            continue
        seen.add(e)
        if isinstance(e, x.Reduce) and _for_all_lanes(e, lane):
            yield e
        else:
            if isinstance(e, x.Load):
                yield e
            stack += () if isinstance(e, (x.Reduce, x.Fold)) else reversed(e.args)


def _elements(values: Expressions, n: int, e: x.Load) -> str:
    """Reads n neighbours; the text of element `e` of them."""
    dtype, name = e.buffer.storage, values.fresh()
    read = f"cn_read<{n}>({values.pointers[e.buffer]} + {values.index(e.args[0])})"
    if len(e.args) == 1:
        values.line(f"const auto {name} = {read};")
        return ops.from_storage(dtype, f"{name}.at[e]")
    condition, inside = values.value(e.args[1]), values.fresh()
    values.line(f"const bool {inside} = {bare(condition)};")
    values.line(f"cn_several<{ops.storage_type(dtype)}, {n}> {name} = {{}};")
    values.line(f"if ({inside}) {name} = {read};")
    other = e.args[2]
    assert isinstance(other, x.Const)
    element = ops.from_storage(dtype, f"{name}.at[e]")
    return f"({inside} ? {element} : {ops.constant(other.value, other.dtype)})"


def _totals(values: Expressions, lane: Var, first: str, n: int, e: x.Reduce) -> str:
    """A reduction for all lanes at once; the text of total `e`."""
    total = values.fresh()
    values.line(f"cn_several<{ops.value_type(e.dtype)}, {n}> {total};")
    identity = ops.constant(x.identity(e.kind, e.args[0]).value, e.dtype)
    values.line("#pragma unroll")
    values.line(f"for (int e = 0; e < {n}; ++e) {total}.at[e] = {bare(identity)};")
    with _loops(values, e.ranges, e.args[1]), several(values, lane, first, n, [e.args[0]]):
        value = values.value(e.args[0])
        added = ops.combine(e.kind, e.dtype, f"{total}.at[e]", value)
        values.line(f"{total}.at[e] = {bare(added)};")
    return f"{total}.at[e]"


@contextmanager
def _loops(
    values: Expressions, ranges: list[tuple[Var, Expr, Expr]], where: Expr
) -> Iterator[None]:
    """Loops over ranges, inside a condition at the last."""
    if ranges:
        with values.loop(*ranges[0]), _loops(values, ranges[1:], where):
            yield
    elif where is not x.TRUE:
        with values.block(f"if ({bare(values.value(where))})"):
            yield
    else:
        yield
