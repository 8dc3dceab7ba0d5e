"""Making reductions fast: lanes over the reduced index, several partial results, unrolling.

The order of combination is fixed by shapes and width, so results do not depend on threads.
"""

from __future__ import annotations

from functools import reduce as accumulate

from cnnir.loops import expr as x
from cnnir.loops.analysis import ZERO, extent, loads, post_order, stride, substitute, weight
from cnnir.loops.expr import Const, Expr, Fold, Load, Reduce, Var

UNROLLED = 32
"""The most copies of a body."""
PARTIAL = 4
"""Partial vectors that are combined before they meet the running one, to hide latency."""
GROUP = 8
"""Elements of a long sum that are added pairwise before they meet the running total."""
LONG = 64
"""Turns of a loop from which on a sum has totals in between, so that rounding errors stay few."""
COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def improve(e: Reduce, lanes: int) -> Expr:
    """The same reduction, with lanes inside or without small constant loops."""
    if any(isinstance(v, Var) and v.lanes for v in e.free):
        return _unrolled(e)
    if _takes_lanes(e):
        return _with_lanes(e, lanes)
    return _unrolled(e)


def prefers_lanes_inside(values: list[Expr], lane: Var) -> bool:
    """Whether reductions read their operands in order along the reduced index, but not along
    the lane of the result."""
    found = [e for e in post_order(values) if isinstance(e, Reduce) and lane in e.free]
    if not found or not all(_takes_lanes(e) for e in found):
        return False
    return any(stride(f.args[0], lane) not in (0, 1) for e in found for f in _direct_loads(e))


def _direct_loads(e: Reduce) -> list[Load]:
    return loads((e.args[0],))


def _takes_lanes(e: Reduce) -> bool:
    """Whether the last loop is long and constant, and loads move by 0 or 1 along it."""
    var, start, stop = e.ranges[-1]
    constant = isinstance(start, Const) and isinstance(stop, Const)
    if var.lanes or not constant or extent(start, stop) < 4 or e.args[1] is not x.TRUE:
        return False
    inner = [i for i in post_order((e.args[0],)) if isinstance(i, (Reduce, Fold))]
    if any(var in i.free for i in inner):
        return False
    strides = [stride(f.args[0], var) for f in _direct_loads(e)]
    guarded = any(var in a.free for f in _direct_loads(e) for a in f.args[1:])
    return not guarded and all(s in (0, 1) for s in strides) and 1 in strides


def _with_lanes(e: Reduce, lanes: int) -> Expr:
    var, start, stop = e.ranges[-1]
    first, n = int(start.value), extent(start, stop)  # type: ignore[attr-defined]
    outer, limits = e.bound[:-1], e.args[2:-2]
    whole, left = n // lanes, n % lanes
    copies = PARTIAL if whole >= 2 * PARTIAL and weight((e.args[0],)) < 64 else 1
    parts: list[Expr] = []

    def part(begin: int, turns: int, width: int, copies: int) -> None:
        lane = Var("lane", width, lanes=True)
        turn: Expr = x.index(0)
        bound: tuple[Var, ...] = outer
        ranges = limits
        if turns > 1:
            turn = step = Var(f"{var.name}q", turns)
            bound, ranges = (*bound, step), (*ranges, x.index(0), x.index(turns))
        index = [first + begin + (turn * copies + k) * width + lane for k in range(copies)]
        bodies = [substitute((e.args[0],), {var: i})[0] for i in index]
        body = _tree(e.kind, bodies)
        ranges = (*ranges, x.index(0), x.index(width))
        parts.append(x.reduce(e.kind, (*bound, lane), (body, x.TRUE, *ranges)))

    groups = whole // copies
    if groups:
        part(0, groups, lanes, copies)
    if whole > groups * copies:
        part(groups * copies * lanes, whole - groups * copies, lanes, 1)
    if left > 1:
        part(whole * lanes, 1, left, 1)
    elif left:
        body = substitute((e.args[0],), {var: x.index(first + whole * lanes)})[0]
        parts.append(x.reduce(e.kind, outer, (body, x.TRUE, *limits)))
    return accumulate(lambda a, b: x.binary(COMBINE[e.kind], a, b), parts)


def _tree(kind: str, parts: list[Expr]) -> Expr:
    while len(parts) > 1:
        pairs = [
            x.binary(COMBINE[kind], a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)
        ]
        parts = pairs + parts[len(parts) & ~1 :]
    return parts[0]


def _unrolled(e: Reduce) -> Expr:
    """Without its innermost loops, as long as they are constant and their turns are few."""
    body, where = e.args[:2]
    bound, ranges = list(e.bound), list(e.args[2:])
    copies = 1
    bodies = [body]
    size = max(1, weight((body,)) // 8)
    while bound and where is x.TRUE:
        start, stop = ranges[-2:]
        if not (isinstance(start, Const) and isinstance(stop, Const)):
            break
        turns = extent(start, stop)
        if bound[-1].lanes or turns == 0 or copies * turns * size > UNROLLED:
            break
        var = bound.pop()
        del ranges[-2:]
        copies *= turns
        steps = range(int(start.value), int(start.value) + turns)
        bodies = [b for k in steps for b in substitute(tuple(bodies), {var: x.index(k)})]
    body = _tree(e.kind, bodies)
    if bound and copies == 1 and (grouped := _grouped(e)) is not None:
        return grouped
    return e if copies == 1 else x.reduce(e.kind, tuple(bound), (body, where, *ranges))


def _grouped(e: Reduce) -> Expr | None:
    """A long sum by groups: neighbours pairwise, then totals of groups, then the total of those.

    Quicker, as additions need not wait for each other, and closer: n additions in a row lose up
    to n/2 units in the last place.
    """
    var, start, stop = e.ranges[-1]
    body, where = e.args[:2]
    if e.kind != "sum" or where is not x.TRUE or weight((body,)) > UNROLLED:
        return None
    if not (isinstance(start, Const) and isinstance(stop, Const)):
        return None
    first, n = int(start.value), extent(start, stop)
    if n < 2 * GROUP:
        return None
    outer, limits = e.bound[:-1], e.args[2:-2]
    groups, left = divmod(n, GROUP)

    def total(begin: Expr, count: int) -> Expr:
        """The sum over `count` groups from an element on."""
        turn = Var(f"{var.name}g", count)
        index = [begin + turn * GROUP + k for k in range(GROUP)]
        bodies = [substitute((body,), {var: i})[0] for i in index]
        return x.reduce("sum", (turn,), (_tree("sum", bodies), x.TRUE, ZERO, x.index(count)))

    def over_outer(value: Expr, bound: tuple[Var, ...], ranges: tuple[Expr, ...]) -> Expr:
        return x.reduce("sum", (*outer, *bound), (value, x.TRUE, *limits, *ranges))

    parts = []
    size = max(1, round(groups**0.5)) if groups >= LONG else groups
    whole, rest = divmod(groups, size)
    block = Var(f"{var.name}b", whole)
    begin = x.index(first) + block * (size * GROUP)
    parts.append(over_outer(total(begin, size), (block,), (ZERO, x.index(whole))))
    if rest:
        parts.append(over_outer(total(x.index(first + whole * size * GROUP), rest), (), ()))
    if left:
        tail = [substitute((body,), {var: x.index(first + n - left + k)})[0] for k in range(left)]
        parts.append(over_outer(_tree("sum", tail), (), ()))
    return _tree("sum", parts)
