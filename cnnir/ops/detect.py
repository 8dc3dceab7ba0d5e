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
        for b in range(images):
            areas = _corners(boxes[b], center_point)
            for c in range(classes):
                line = scores[b, c]
                alive = ~np.isnan(line) if score_threshold is None else line > score_threshold
                for i in np.argsort(-line, kind="stable"):
                    taken = selected[found - _taken(selected, found, b, c) : found, 2]
                    if len(taken) == max_per_class or not alive[i]:
                        continue
                    if all(_iou(areas[i], areas[j]) <= iou_threshold for j in taken):
                        selected[found] = b, c, i
                        found += 1
        return selected, np.asarray(found, np.int64)

    def procedure(
        m, outs, boxes, scores, *, max_per_class, iou_threshold, score_threshold, center_point
    ):
        images, classes, count = scores.shape
        most = min(max_per_class, count)
        _clear(m, outs[0])
        found = m.variable(m.const(0, "i64"), "i64")
        alive = m.scratch("bool", (max(count, 1),))
        with m.loop(images) as b, m.loop(classes) as c:
            with m.loop(count) as i:
                score = scores[b, c, i]
                fine = ~m.is_nan(score) if score_threshold is None else score > score_threshold
                m.store(alive, (i,), fine)
            with m.loop(most):
                best = m.variable(m.const(-1, "i64"), "i64")
                top = m.variable(m.const(0, "f32"), "f32")
                with m.loop(count) as i:
                    score = scores[b, c, i]
                    with m.when(alive[(i,)] & ((best.value < 0) | (score > top.value))):
                        best.set(i)
                        top.set(score)
                winner = best.value
                with m.when(winner >= 0):
                    row = found.value
                    for column, value in enumerate((b, c, winner)):
                        m.store(outs[0], (row, column), value)
                    found.set(row + 1)
                    mine = _expressions(m, boxes, b, winner, center_point)
                    m.store(alive, (winner,), m.const(False, "bool"))
                    with m.loop(count) as j:
                        theirs = _expressions(m, boxes, b, j, center_point)
                        with m.when(_overlap(m, mine, theirs) > iou_threshold):
                            m.store(alive, (j,), m.const(False, "bool"))
        m.store(outs[1], (), found.value)

    @staticmethod
    def cost(node: Any) -> Cost:
        """Some twenty operations for each box against each that may be taken."""
        moved, scores = Op.cost(node), node.operands[1].type
        rounds = min(node.attrs["max_per_class"], scores.shape[2])
        return Cost(20 * scores.size * max(rounds, 1), moved.read, moved.written)


def _taken(selected: np.ndarray, found: int, b: int, c: int) -> int:
    """How many of the last rows belong to this image and class."""
    rows = selected[:found]
    return int(((rows[:, 0] == b) & (rows[:, 1] == c)).sum())


def _corners(boxes: np.ndarray, center_point: bool) -> np.ndarray:
    """[N,4] as low and high corners."""
    if center_point:
        x, y, width, height = boxes.T
        first, second = (y - height / 2, x - width / 2), (y + height / 2, x + width / 2)
    else:
        first, second = (boxes[:, 0], boxes[:, 1]), (boxes[:, 2], boxes[:, 3])
    low, high = np.minimum(first, second), np.maximum(first, second)
    return np.concatenate([low, high]).T


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes given by corners; 0 where one has no area."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = np.prod(np.maximum(sides, 0))
    areas = np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])
    return 0.0 if min(areas) <= 0 else inner / (areas[0] + areas[1] - inner)


def _expressions(m: Any, boxes: Any, b: Any, i: Any, center_point: bool) -> list[Any]:
    """`_corners` of one box, in the algebra."""
    p, q, r, s = (boxes[b, i, k] for k in range(4))
    if center_point:
        first, second = (q - s / 2, p - r / 2), (q + s / 2, p + r / 2)
    else:
        first, second = (p, q), (r, s)
    low = [m.min(u, v) for u, v in zip(first, second, strict=True)]
    return low + [m.max(u, v) for u, v in zip(first, second, strict=True)]


def _overlap(m: Any, a: list[Any], b: list[Any]) -> Any:
    """`_iou` in the algebra."""
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
