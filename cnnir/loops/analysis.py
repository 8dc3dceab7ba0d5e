"""Walking, rewriting and reading expressions: substitution, conditions as bounds, strides, weight.

Nothing here recurses on the depth of an expression, which may be thousands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cnnir.loops.expr import (
    TRUE,
    Call,
    Const,
    Expr,
    Fold,
    Load,
    Reduce,
    Var,
    const,
    floordiv,
    linear,
    split,
)


def post_order(roots: Iterable[Expr], skip: Iterable[Expr] = ()) -> Iterator[Expr]:
    """Every expression that the roots are built from, operands first, each once."""
    seen = set(skip)
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        e, expanded = stack.pop()
        if expanded:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args) if a not in seen)


def substitute(roots: tuple[Expr, ...], values: Mapping[Expr, Expr]) -> tuple[Expr, ...]:
    """The expressions with variables or symbols replaced, in normal form again."""
    changed = frozenset(values)
    done: dict[Expr, Expr] = dict(values)
    stack = [(root, False) for root in roots]
    while stack:
        e, expanded = stack.pop()
        if e in done:
            continue
        if e.free.isdisjoint(changed):
            done[e] = e
        elif expanded:
            done[e] = e.with_args(tuple(done[a] for a in e.args))
        else:
            stack.append((e, True))
            stack.extend((a, False) for a in e.args)
    return tuple(done[root] for root in roots)


def conjuncts(condition: Expr) -> list[Expr]:
    """The conditions that must all hold; none for a condition that is always true."""
    found, stack = [], [condition]
    while stack:
        e = stack.pop()
        if isinstance(e, Call) and e.op == "and" and e.dtype == "bool":
            stack.extend(reversed(e.args))
        elif e is not TRUE:
            found.append(e)
    return list(dict.fromkeys(found))


def conjunction(conditions: Iterable[Expr]) -> Expr:
    """All of the conditions."""
    total: Expr = TRUE
    for condition in conditions:
        total = total & condition
    return total


def non_negative(condition: Expr) -> Expr | None:
    """An i64 expression that is >= 0 exactly where the condition holds; None for others."""
    if not (isinstance(condition, Call) and condition.op in ("lt", "le")):
        return None
    a, b = condition.args
    if a.dtype != "i64":
        return None
    return b - a if condition.op == "le" else b - a - 1


def limits(condition: Expr, var: Var) -> tuple[Expr | None, Expr | None] | None:
    """(start, stop) of the var's values that satisfy a condition linear in it; None for others.

    One of the two is None: a condition bounds from one side.
    """
    slack = non_negative(condition)
    if slack is None:
        return None
    terms, constant = split(slack)
    k = terms.pop(var, 0)
    rest = linear(terms, constant)
    if k == 0 or var in rest.free:
        return None
    if k > 0:
        return floordiv(k - 1 - rest, k), None
    return None, floordiv(rest, -k) + 1


def interior(conditions: Iterable[Expr], var: Var) -> tuple[int, int]:
    """[start, stop) of the var's values for which the conditions on it hold for all others."""
    assert var.lo is not None and var.hi is not None
    start, stop = var.lo, var.hi + 1
    for condition in conditions:
        if var not in condition.free:
            continue
        found = limits(condition, var)
        if found is None:
            continue
        low, high = found
        if low is not None:
            start = stop if low.hi is None else max(start, low.hi)
        if high is not None:
            stop = start if high.lo is None else min(stop, high.lo)
    return start, max(start, stop)


def stride(offset: Expr, var: Var) -> int | None:
    """How far the offset moves when the var does; None when it does not move evenly."""
    if var not in offset.free:
        return 0
    terms, _ = split(offset)
    k = terms.pop(var, 0)
    return None if any(var in atom.free for atom in terms) else k


def loads(roots: Iterable[Expr]) -> list[Load]:
    """Every load, each once."""
    return [e for e in post_order(roots) if isinstance(e, Load)]


def extent(start: Expr, stop: Expr) -> int:
    """The most turns of a loop."""
    if isinstance(start, Const) and isinstance(stop, Const):
        return max(0, int(stop.value) - int(start.value))
    low = start.lo if start.lo is not None else 0
    high = stop.hi if stop.hi is not None else low
    return max(0, high - low)


COSTLY = {"exp": 10, "log": 10, "tanh": 15, "erf": 15, "sin": 15, "cos": 15, "pow": 40, "div": 4}


def weight(roots: Iterable[Expr], known: Iterable[Expr] = ()) -> int:
    """Roughly how many operations one evaluation takes, when some values are known already."""
    memo: dict[Expr, int] = {}
    total = 0
    for e in post_order(roots, known):
        own = COSTLY.get(e.op, 1) if isinstance(e, Call) else 1
        if isinstance(e, Reduce):
            turns = 1
            for _, start, stop in e.ranges:
                turns *= extent(start, stop)
            own = turns * (1 + sum(memo.get(a, 0) for a in _body(e)))
        elif isinstance(e, Fold):
            turns = 1
            for var in e.bound:
                turns *= (var.hi or 0) - (var.lo or 0) + 1
            own = turns * (1 + sum(memo.get(a, 0) for a in _body(e)))
        memo[e] = own if e.dtype != "i64" or isinstance(e, (Reduce, Fold, Load)) else 0
        total += memo[e]
    return total


def _body(loop: Reduce | Fold) -> list[Expr]:
    """What is evaluated in each turn of the loop."""
    bound = frozenset(loop.bound)
    return [e for e in post_order(loop.args) if not e.free.isdisjoint(bound)]


ZERO = const(0, "i64")
