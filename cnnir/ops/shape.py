"""Ops that move elements and compute nothing: reshape, transpose, concat, slice, pad and others."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op, broadcast_index, broadcast_shapes
from cnnir.ops.boundary import folded
from cnnir.ops.derivative import reduce_to, total
from cnnir.ops.elementwise import is_number
from cnnir.ops.reduce import check_axis, unravel


class _Movement(Op, abstract=True):
    """Shared by all: no arithmetic, every result element written once."""

    @staticmethod
    def cost(node: Any) -> Cost:
        """No operations; the bytes of the result are read and written."""
        written = sum(v.type.nbytes for v in node.results)
        return Cost(0, written, written)


def _integers(name: str, value: Any, count: int, least: int | None = None) -> None:
    """IRError unless an attribute is a tuple of `count` integers (>= least)."""
    wanted = f"wanted {count} integers" + ("" if least is None else f" >= {least}")
    if not isinstance(value, tuple) or len(value) != count:
        raise IRError(f"attribute {name} is {value!r}, {wanted}")
    if any(type(v) is not int or (least is not None and v < least) for v in value):
        raise IRError(f"attribute {name} is {value!r}, {wanted}")


class Reshape(_Movement):
    """The same elements in row-major order under another shape."""

    name = "reshape"
    view = True

    def infer(x, *, shape):
        if not isinstance(shape, tuple):
            raise IRError(f"attribute shape is {shape!r}, wanted a tuple")
        _integers("shape", shape, len(shape), 0)
        if math.prod(shape) != x.size:
            raise IRError(f"shape {list(shape)} has {math.prod(shape)} elements, x has {x.size}")
        return x.with_shape(shape)

    def evaluate(x, *, shape):
        return x.reshape(shape)

    def element(m, at, x, *, shape):
        flat = 0
        for i, extent in zip(at, shape, strict=True):
            flat = flat * extent + i
        return x[unravel(flat, x.shape)]

    def vjp(g, node, dy):
        return (g.add("reshape", dy, shape=node.operands[0].type.shape),)


class Transpose(_Movement):
    """Axes in another order: axis a of y is axis perm[a] of x."""

    name = "transpose"

    def infer(x, *, perm):
        if not isinstance(perm, tuple) or sorted(perm) != list(range(x.rank)):
            raise IRError(
                f"attribute perm is {perm!r}, wanted the axes 0 to {x.rank - 1} once each"
            )
        return x.with_shape(tuple(x.shape[p] for p in perm))

    def evaluate(x, *, perm):
        return x.transpose(perm)

    def element(m, at, x, *, perm):
        index: list[Any] = [None] * len(perm)
        for i, p in zip(at, perm, strict=True):
            index[p] = i
        return x[tuple(index)]

    def vjp(g, node, dy):
        perm = node.attrs["perm"]
        return (g.add("transpose", dy, perm=tuple(perm.index(a) for a in range(len(perm)))),)


class Concat(_Movement):
    """Operands one behind the other along `axis`; all other axes are equal."""

    name = "concat"

    def infer(*xs, axis):
        if not xs:
            raise IRError("no operands, wanted at least one")
        first = xs[0]
        check_axis(axis, first.rank)
        for x in xs:
            if x.dtype != first.dtype or x.rank != first.rank:
                raise IRError(f"operands {first} and {x}, wanted one element type and rank")
            sizes = enumerate(zip(first.shape, x.shape, strict=True))
            if any(a != axis and p != q for a, (p, q) in sizes):
                raise IRError(
                    f"operands {first} and {x} differ in more than axis {axis}, "
                    "wanted all other dimensions equal"
                )
        total = sum(x.shape[axis] for x in xs)
        return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))

    def evaluate(*xs, axis):
        return np.concatenate(xs, axis)

    def element(m, at, *xs, axis):
        parts = [(x, x.shape[axis]) for x in xs if x.shape[axis]] or [(xs[0], 0)]
        start, value = 0, None
        for number, (x, extent) in enumerate(parts):
            i = at[axis] - start
            inside = True if len(parts) == 1 else m.all(i >= 0, i < extent)
            got = x.get((*at[:axis], i, *at[axis + 1 :]), inside=inside, other=0)
            value = got if number == 0 else m.select(at[axis] < start, value, got)
            start += extent
        return value

    def vjp(g, node, dy):
        axis, start, parts = node.attrs["axis"], 0, []
        for x in node.operands:
            parts.append(_part(g, dy, axis, start, x.type.shape[axis]))
            start += x.type.shape[axis]
        return tuple(parts)


class Slice(_Movement):
    """y[i...] = x[starts + i*steps ...], `sizes` elements of each axis. Steps may be negative."""

    name = "slice"

    def infer(x, *, starts, sizes, steps):
        _integers("starts", starts, x.rank, 0)
        _integers("sizes", sizes, x.rank, 0)
        _integers("steps", steps, x.rank)
        for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
            last = start + (size - 1) * step
            if step == 0 or (size and not (start < x.shape[axis] and 0 <= last < x.shape[axis])):
                raise IRError(
                    f"axis {axis}: {size} elements from {start} by {step} leave "
                    f"0 to {x.shape[axis] - 1}"
                )
        return x.with_shape(sizes)

    def evaluate(x, *, starts, sizes, steps):
        index = [
            np.arange(start, start + size * step, step)[:size]
            for start, size, step in zip(starts, sizes, steps, strict=True)
        ]
        return x[np.ix_(*index)] if index else x

    def element(m, at, x, *, starts, sizes, steps):
        return x[tuple(start + i * step for start, i, step in zip(starts, at, steps, strict=True))]

    def vjp(g, node, dy):
        x, attrs = node.operands[0].type, node.attrs
        begins, ends = [], []
        for axis in range(x.rank):
            start, size, step = (attrs[n][axis] for n in ("starts", "sizes", "steps"))
            dy = dy if step > 0 else _backwards(g, dy, axis)
            dy = _spaced(g, dy, axis, abs(step))
            begins.append(min(start, start + (size - 1) * step) if size else 0)
            ends.append(x.shape[axis] - begins[-1] - dy.type.shape[axis])
        if not any(begins) and not any(ends):
            return (dy,)
        return (g.add("pad", dy, padding=(*begins, *ends)),)


class Pad(_Movement):
    """x with more elements before and behind each axis: padding is begins, then ends.

    mode "constant" adds `value`, "edge" repeats the outermost element, "reflect" mirrors without
    repeating it, "wrap" continues from the other end.
    """

    name = "pad"

    def infer(x, *, padding, mode="constant", value=0):
        _integers("padding", padding, 2 * x.rank, 0)
        if mode not in ("constant", "edge", "reflect", "wrap"):
            raise IRError(f"attribute mode is {mode!r}, wanted constant, edge, reflect or wrap")
        if not is_number(value) and not isinstance(value, bool):
            raise IRError(f"attribute value is {value!r}, wanted a number")
        for axis, size in enumerate(x.shape):
            most = max(padding[axis], padding[x.rank + axis])
            if most and mode != "constant" and size == 0:
                raise IRError(f"axis {axis} is empty, there is nothing to pad it with")
            if mode == "reflect" and most >= max(size, 1):
                raise IRError(f"axis {axis}: reflect padding {most}, wanted less than {size}")
        return x.with_shape(
            tuple(s + padding[a] + padding[x.rank + a] for a, s in enumerate(x.shape))
        )

    def evaluate(x, *, padding, mode, value):
        rank = x.ndim
        if not rank:
            return x  # which np.pad does not take
        amounts = [(padding[a], padding[rank + a]) for a in range(rank)]
        if mode == "constant":
            return np.pad(x, amounts, constant_values=np.asarray(value).astype(x.dtype))
        return np.pad(x, amounts, mode=mode)

    def element(m, at, x, *, padding, mode, value):
        rank = len(x.shape)
        index, conditions = [], []
        for axis, (i, size) in enumerate(zip(at, x.shape, strict=True)):
            begin, end = padding[axis], padding[rank + axis]
            i = i - begin
            if begin or end:
                if mode == "constant":
                    conditions += [i >= 0, i < size]
                else:
                    i = folded(m, mode, i, size)
            index.append(i)
        if not conditions:
            return x[tuple(index)]
        return x.get(tuple(index), inside=m.all(*conditions), other=value)

    def vjp(g, node, dy):
        (x,), padding = node.operands, node.attrs["padding"]
        for axis, size in enumerate(x.type.shape):
            begin, end = padding[axis], padding[x.type.rank + axis]
            if not begin and not end:
                continue
            kept = _part(g, dy, axis, begin, size)
            if node.attrs["mode"] == "constant":
                dy = kept
                continue
            reads = np.pad(np.arange(size), (begin, end), mode=node.attrs["mode"])
            runs = [*_runs(reads[:begin], 0), *_runs(reads[begin + size :], begin + size)]
            parts = (_added(g, dy, axis, run, size) for run in runs)
            dy = total(g, kept, *parts)
        return (dy,)


class Expand(_Movement):
    """x broadcast to `shape`, by numpy's rule."""

    name = "expand"

    def infer(x, *, shape):
        if not isinstance(shape, tuple):
            raise IRError(f"attribute shape is {shape!r}, wanted a tuple")
        _integers("shape", shape, len(shape), 0)
        if broadcast_shapes(x.shape, shape) != shape:
            raise IRError(f"{x} does not broadcast to {list(shape)}")
        return x.with_shape(shape)

    def evaluate(x, *, shape):
        return np.broadcast_to(x, shape)

    def element(m, at, x, *, shape):
        return x[broadcast_index(at, x.shape)]

    def vjp(g, node, dy):
        return (reduce_to(g, dy, node.operands[0].type.shape),)


class Tile(_Movement):
    """x repeated along each axis: y[i...] = x[i mod size ...]."""

    name = "tile"

    def infer(x, *, repeats):
        _integers("repeats", repeats, x.rank, 0)
        return x.with_shape(tuple(s * r for s, r in zip(x.shape, repeats, strict=True)))

    def evaluate(x, *, repeats):
        return np.tile(x, repeats)

    def element(m, at, x, *, repeats):
        axes = zip(at, x.shape, repeats, strict=True)
        return x[tuple(i if r == 1 else i % max(1, size) for i, size, r in axes)]

    def vjp(g, node, dy):
        # the repeats as axes of their own, before each axis of x
        (x,), repeats = node.operands, node.attrs["repeats"]
        pairs = zip(repeats, x.type.shape, strict=True)
        split = g.add("reshape", dy, shape=tuple(n for pair in pairs for n in pair))
        axes = tuple(range(0, 2 * len(repeats), 2))
        return (g.add("reduce_sum", split, axes=axes, keepdims=False),)


class Trilu(_Movement):
    """The upper or lower triangle of the last two axes, zeros elsewhere.

    upper keeps x[..., i, j] where j >= i + k, lower where j <= i + k.
    """

    name = "trilu"

    def infer(x, *, k=0, upper=True):
        if x.rank < 2:
            raise IRError(f"rank is {x.rank}, wanted at least 2")
        if type(k) is not int or not isinstance(upper, bool):
            raise IRError(f"attributes are k={k!r}, upper={upper!r}, wanted an int and a bool")
        return x

    def evaluate(x, *, k, upper):
        return np.triu(x, k) if upper else np.tril(x, k)

    def element(m, at, x, *, k, upper):
        i, j = at[-2:]
        kept = j >= i + k if upper else j <= i + k
        return x.get(at, inside=kept, other=0)

    def vjp(g, node, dy):
        return (g.add("trilu", dy, **node.attrs),)


# ---------------------------------------------------------------- parts of axes, for the vjps


def _part(g: Any, x: Any, axis: int, start: int, size: int, step: int = 1) -> Any:
    """`size` elements of one axis."""
    shape, ones = x.type.shape, (1,) * x.type.rank
    starts = tuple(start if a == axis and size else 0 for a in range(len(shape)))
    sizes = (*shape[:axis], size, *shape[axis + 1 :])
    steps = (*ones[:axis], step, *ones[axis + 1 :])
    return g.add("slice", x, starts=starts, sizes=sizes, steps=steps)


def _backwards(g: Any, x: Any, axis: int) -> Any:
    size = x.type.shape[axis]
    return x if size < 2 else _part(g, x, axis, size - 1, size, -1)


def _placed(g: Any, x: Any, axis: int, start: int, extent: int) -> Any:
    """x from `start` on, in zeros of that extent."""
    padding = [0] * (2 * x.type.rank)
    padding[axis], padding[x.type.rank + axis] = start, extent - start - x.type.shape[axis]
    return g.add("pad", x, padding=tuple(padding))


def _spaced(g: Any, x: Any, axis: int, step: int) -> Any:
    """x with step - 1 zeros between its elements along an axis."""
    shape, size = x.type.shape, x.type.shape[axis]
    if step == 1 or size < 2:
        return x
    x = g.add("reshape", x, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))
    x = _placed(g, x, axis + 1, 0, step)
    x = g.add("reshape", x, shape=(*shape[:axis], size * step, *shape[axis + 1 :]))
    return _part(g, x, axis, 0, (size - 1) * step + 1)


def _runs(reads: np.ndarray, start: int) -> list[tuple[int, int, int, int]]:
    """Where padding reads, in pieces of one step (1, 0 or -1): (from, elements, read, step)."""
    found, k = [], 0
    while k < len(reads):
        step = int(reads[k + 1] - reads[k]) if k + 1 < len(reads) else 0
        step = step if abs(step) <= 1 else 0
        stop = k + 1
        while stop < len(reads) and reads[stop] - reads[stop - 1] == step:
            stop += 1
        found.append((start + k, stop - k, int(reads[k]), step))
        k = stop
    return found


def _added(g: Any, dy: Any, axis: int, run: tuple[int, int, int, int], extent: int) -> Any:
    """The cotangents of a piece of the padding, where the padding was read from."""
    start, count, read, step = run
    part = _part(g, dy, axis, start, count)
    if step == 0 and count > 1:
        part = g.add("reduce_sum", part, axes=(axis,))
    if step < 0:
        part, read = _backwards(g, part, axis), read - count + 1
    return _placed(g, part, axis, read, extent)
