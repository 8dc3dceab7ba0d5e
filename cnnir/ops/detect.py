"""Ops whose result is as long as the data says: each gives the largest result and a count.

Types are static, so a result has room for all there could be, zeros behind the count, and a graph
output is trimmed by the count (`Graph.output(..., length=)`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.base import Cost, Op
from cnnir.ops.elementwise import is_number
from cnnir.ops.reduce import unravel
from cnnir.ops.sort import Heap
from cnnir.tensortype import TensorType

COUNT = TensorType("i64", ())


class Nms(Op):
    """Non-maximum suppression: boxes [B,N,4], scores [B,C,N] -> ([M,3] of (b, class, box), count).

    For each image and class, boxes with score > score_threshold are taken from the highest score
    down (of equal ones the first), at most max_per_class; one whose intersection over union with
    a box taken before exceeds iou_threshold is left out. A box is two opposite corners (y, x, y,
    x), or, with center_point, (x, y, width, height) about its centre.
    """

    name = "nms"

    def infer(
        boxes, scores, *, max_per_class, iou_threshold=0.0, score_threshold=None, center_point=False
    ):
        if boxes.dtype != "f32" or scores.dtype != "f32":
            raise IRError(f"element types {boxes.dtype} and {scores.dtype}, wanted f32")
        if boxes.rank != 3 or boxes.shape[2] != 4:
            raise IRError(f"boxes are {boxes}, wanted [images, boxes, 4]")
        images, count = boxes.shape[:2]
        if scores.rank != 3 or scores.shape[0] != images or scores.shape[2] != count:
            raise IRError(f"scores are {scores}, wanted [{images}, classes, {count}]")
        if type(max_per_class) is not int or max_per_class < 0:
            raise IRError(f"attribute max_per_class is {max_per_class!r}, wanted an int >= 0")
        if not is_number(iou_threshold) or not 0 <= iou_threshold <= 1:
            raise IRError(f"attribute iou_threshold is {iou_threshold!r}, wanted 0 to 1")
        if score_threshold is not None and not is_number(score_threshold):
            raise IRError(f"attribute score_threshold is {score_threshold!r}, wanted a number")
        most = images * scores.shape[1] * min(max_per_class, count)
        return TensorType("i64", (most, 3)), COUNT

    def evaluate(boxes, scores, *, max_per_class, iou_threshold, score_threshold, center_point):
        images, classes, count = scores.shape
        selected = np.zeros((images * classes * min(max_per_class, count), 3), np.int64)
        found = 0
        for b, c in np.ndindex(images, classes):
            corners, line, first = _corners(boxes[b], center_point), scores[b, c], found
            alive = ~np.isnan(line) if score_threshold is None else line > score_threshold
            for i in np.argsort(-line, kind="stable"):
                if found - first == max_per_class:
                    break
                if alive[i]:
                    selected[found] = b, c, i
                    found += 1
                    alive &= ~(_overlaps(corners[i], corners) > iou_threshold)
        return selected, np.asarray(found, np.int64)

    def procedure(
        m, outs, boxes, scores, *, max_per_class, iou_threshold, score_threshold, center_point
    ):
        images, classes, count = scores.shape
        most = min(max_per_class, count)
        _clear(m, outs[0])
        found = m.variable(m.const(0, "i64"), "i64")
        with m.loop(images if most else 0) as b, m.loop(classes) as c:
            # indices are stored negative, so that of equal scores the first box leaves first
            heap = Heap(m, count, scores.dtype, largest=False)
            size = m.variable(m.const(0, "i64"), "i64")
            with m.loop(count) as i:
                score = scores[b, c, i]
                fine = ~m.is_nan(score) if score_threshold is None else score > score_threshold
                with m.when(fine):
                    heap.put(size.value, score, -i)
                    size.set(size.value + 1)
            left, half = size.value, size.value // 2
            with m.loop(half) as i:
                heap.sift(half - 1 - i, left)
            kept, first = m.scratch(boxes.dtype, (most, 4)), found.value
            with m.loop(left) as i, m.when(found.value < first + most):
                best, last = -heap.indices[(0,)], left - 1 - i
                heap.put(0, heap.values[(last,)], heap.indices[(last,)])
                heap.sift(0, last)
                box = _corner_values(m, boxes, b, best, center_point)
                free, row = m.variable(m.const(True, "bool"), "bool"), found.value
                with m.loop(row - first) as j, m.when(free.value):
                    before = [kept[(j, k)] for k in range(4)]
                    free.set(~(_overlap(m, box, before) > iou_threshold))
                with m.when(free.value):
                    for k in range(4):
                        m.store(kept, (row - first, k), box[k])
                    for column, value in enumerate((b, c, best)):
                        m.store(outs[0], (row, column), value)
                    found.set(row + 1)
        m.store(outs[1], (), found.value)

    @staticmethod
    def cost(node: Any) -> Cost:
        """Some twenty operations for each box against each that may be taken."""
        moved, scores = Op.cost(node), node.operands[1].type
        rounds = min(node.attrs["max_per_class"], scores.shape[2])
        return Cost(20 * scores.size * max(rounds, 1), moved.read, moved.written)


def _corners(boxes: np.ndarray, center_point: bool) -> np.ndarray:
    """[N,4] as low and high corners."""
    if center_point:
        x, y, width, height = boxes.T
        sides = (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
        return np.stack(sides, axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of others; 0 where one has no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    area, areas = np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    some = (area > 0) & (areas > 0)
    return np.where(some, shared / np.where(some, area + areas - shared, 1), 0)


def _corner_values(m: Any, boxes: Any, b: Any, i: Any, center_point: bool) -> list[Any]:
    """`_corners` of one box, in the algebra."""
    p, q, r, s = (boxes[b, i, k] for k in range(4))
    if center_point:
        return [q - s / 2, p - r / 2, q + s / 2, p + r / 2]
    return [m.min(p, r), m.min(q, s), m.max(p, r), m.max(q, s)]


def _overlap(m: Any, a: list[Any], b: list[Any]) -> Any:
    """`_overlaps` of two boxes, in the algebra."""
    sides = [m.max(m.min(a[k + 2], b[k + 2]) - m.max(a[k], b[k]), 0) for k in range(2)]
    inner = sides[0] * sides[1]
    areas = [(v[2] - v[0]) * (v[3] - v[1]) for v in (a, b)]
    none = (areas[0] <= 0) | (areas[1] <= 0)
    return m.select(none, 0, inner / (areas[0] + areas[1] - inner))


class NonZero(Op):
    """Where x is not 0: ([rank, size] of indices in row-major order, one column each, count)."""

    name = "nonzero"

    def infer(x):
        if x.rank < 1:
            raise IRError(f"x is {x}, wanted a rank of at least 1")
        return TensorType("i64", (x.rank, x.size)), COUNT

    def evaluate(x):
        found = np.array(np.nonzero(x))
        result = np.zeros((x.ndim, x.size), np.int64)
        result[:, : found.shape[1]] = found
        return result, np.asarray(found.shape[1], np.int64)

    def procedure(m, outs, x):
        _clear(m, outs[0])
        found = m.variable(m.const(0, "i64"), "i64")
        with m.loop(math.prod(x.shape)) as flat:
            index = unravel(flat, x.shape)
            with m.when(m.cast(x[index], "bool")):
                column = found.value
                for axis, i in enumerate(index):
                    m.store(outs[0], (axis, column), i)
                found.set(column + 1)
        m.store(outs[1], (), found.value)


def _clear(m: Any, out: Any) -> None:
    with m.loop(out.shape[0]) as i, m.loop(out.shape[1]) as j:
        m.store(out, (i, j), m.const(0, "i64"))
