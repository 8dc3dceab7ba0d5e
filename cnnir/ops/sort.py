"""The k largest or smallest elements along an axis: topk."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import filled
from cnnir.ops.elementwise import check_number, common_dtype
from cnnir.ops.reduce import check_axis, unravel
from cnnir.tensortype import compute_dtype, is_float


class TopK(Op):
    """The k largest (or smallest) elements along `axis`, and where they are.

    Results: values, indices (i64), both with k elements on the axis, best first. Of equal ones
    the one with the lower index comes first; NaN counts as the largest number. With sorted=False
    the order is not promised.
    """

    name = "topk"

    def infer(x, *, k, axis, largest=True, sorted=True):
        common_dtype(("float", "int"), x)
        check_axis(axis, x.rank)
        check_number("largest", largest, True)
        check_number("sorted", sorted, True)
        if type(k) is not int or not 0 <= k <= x.shape[axis]:
            raise IRError(f"attribute k is {k!r}, wanted one from 0 to {x.shape[axis]}")
        values = x.with_shape((*x.shape[:axis], k, *x.shape[axis + 1 :]))
        return values, values.with_dtype("i64")

    def evaluate(x, *, k, axis, largest, sorted):
        # sorting puts NaN last, and turning the line before and after keeps ties in order
        order = np.argsort(np.flip(x, axis) if largest else x, axis=axis, kind="stable")
        if largest:
            order = np.flip(x.shape[axis] - 1 - order, axis)
        order = np.take(order, range(k), axis).astype(np.int64)
        return np.take_along_axis(x, order, axis), order

    def procedure(m, outs, x, *, k, axis, largest, sorted):
        others = x.shape[:axis] + x.shape[axis + 1 :]
        if k == 0:
            return
        with m.loop(math.prod(others), parallel=True) as line:
            rest = unravel(line, others)

            def place(i: Any) -> tuple[Any, ...]:
                return (*rest[:axis], i, *rest[axis:])

            heap = Heap(m, k, x.dtype, largest)
            with m.loop(k) as i:
                heap.put(i, x[place(i)], i)
            with m.loop(k // 2) as i:
                heap.sift(k // 2 - 1 - i, k)
            with m.loop(x.shape[axis] - k) as i:
                value = x[place(i + k)]
                with m.when(heap.ahead(value, heap.values[(0,)])):
                    heap.put(0, value, i + k)
                    heap.sift(0, k)
            with m.loop(k) as i:
                last = k - 1 - i
                m.store(outs[0], place(last), heap.values[(0,)])
                m.store(outs[1], place(last), heap.indices[(0,)])
                heap.put(0, heap.values[(last,)], heap.indices[(last,)])
                heap.sift(0, last)

    def vjp(g, node, dvalues, dindices):
        (x,), (_, indices), axis = node.operands, node.results, node.attrs["axis"]
        return (g.add("scatter_elements", filled(g, x.type), indices, dvalues, axis=axis),)

    @staticmethod
    def cost(node: Any) -> Cost:
        """A comparison an element, and those of sorting the k that are kept."""
        moved, k = Op.cost(node), node.attrs["k"]
        lines = node.results[0].type.size // max(k, 1)
        kept = lines * k * max(1, k.bit_length())
        return Cost(node.operands[0].type.size + kept, moved.read, moved.written)


class Heap:
    """A binary heap in scratch whose root is the element that has to leave next."""

    def __init__(self, m: Any, size: int, dtype: str, largest: bool) -> None:
        self.m, self.depth = m, size.bit_length() - 1
        self.values = m.scratch(compute_dtype(dtype), (size,))
        self.indices = m.scratch("i64", (size,))
        self.ahead = _order(m, dtype, largest)

    def put(self, position: Any, value: Any, index: Any) -> None:
        """Store an element, in whatever order that leaves the heap."""
        self.m.store(self.values, (position,), value)
        self.m.store(self.indices, (position,), index)

    def leaves_before(self, a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
        """Whether the element a (value, index) comes behind b in the result."""
        tie = ~self.ahead(a[0], b[0]) & (b[1] < a[1])
        return self.ahead(b[0], a[0]) | tie

    def sift(self, start: Any, size: Any) -> None:
        """Move the element at `start` down to where it belongs among the first `size`."""
        m = self.m
        moving = self.values[(start,)], self.indices[(start,)]
        position = m.variable(start, "i64")
        with m.loop(self.depth):
            here = position.value
            left = 2 * here + 1
            with m.when(left < size):
                right = m.min(left + 1, size - 1)
                one = self.values[(left,)], self.indices[(left,)]
                other = self.values[(right,)], self.indices[(right,)]
                swap = self.leaves_before(other, one)
                child = m.select(swap, other[0], one[0]), m.select(swap, other[1], one[1])
                with m.when(self.leaves_before(child, moving)):
                    self.put(here, *child)
                    position.set(m.select(swap, right, left))
        self.put(position.value, *moving)


def _order(m: Any, dtype: str, largest: bool) -> Callable[[Any, Any], Any]:
    """Whether a value comes strictly before another; NaN is larger than all numbers."""

    def ahead(a: Any, b: Any) -> Any:
        large, small = (a, b) if largest else (b, a)
        if not is_float(dtype):
            return small < large
        return (small < large) | (m.is_nan(large) & ~m.is_nan(small))

    return ahead
