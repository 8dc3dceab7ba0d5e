"""ONNX operators whose result is as long as the data says: NonMaxSuppression and NonZero.

On constants the result is a constant, unless that is much work. Otherwise it may only be an output
of the graph: the IR computes the largest result and how much of it counts (see
`cnnir/ops/detect.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.evaluate import evaluate_node
from cnnir.frontends.onnx_builder import FOLDED_FLOPS, Builder, onnx_op
from cnnir.ir import Value


@onnx_op("NonZero")
def non_zero(b: Builder, x: Value) -> Value:
    """The indices of the elements that are not 0, a column each."""
    b.check_bytes((max(x.type.rank, 1), x.type.size), 8)
    return _as_long_as_known(b, "nonzero", 1, x if x.type.rank else b.reshape(x, (1,)))


@onnx_op("NonMaxSuppression")
def non_max_suppression(
    b: Builder,
    boxes: Value,
    scores: Value,
    limit: Value | None = None,
    overlap: Value | None = None,
    threshold: Value | None = None,
    *,
    center_point_box: int = 0,
) -> Value:
    """The best boxes of each class that do not overlap: rows of (batch, class, box)."""
    most = 0 if limit is None else max(0, b.whole(limit, "max_output_boxes_per_class"))
    iou = 0.0 if overlap is None else b.number(overlap, "iou_threshold")
    least = None if threshold is None else b.number(threshold, "score_threshold")
    return _as_long_as_known(
        b,
        "nms",
        0,
        boxes,
        scores,
        max_per_class=most,
        iou_threshold=float(iou),
        score_threshold=None if least is None else float(least),
        center_point=bool(center_point_box),
    )


def _as_long_as_known(b: Builder, op: str, axis: int, *operands: Value, **attributes: Any) -> Value:
    result, count = b.graph.add(op, *operands, **attributes)
    b.check_type(result.type)
    arrays = [b.graph.array(v) for v in operands]
    if any(a is None for a in arrays) or result.node.op.cost(result.node).flops > FOLDED_FLOPS:
        b.lengths[result] = count, axis
        return result
    found, length = evaluate_node(result.node, arrays)
    return b.constant(np.take(found, range(int(length)), axis))
