"""Receptive fields: which pixels of the input an element of each value depends on.

Fields go from operands to results, node by node. Along one spatial axis of the input an element at
index i of the axis `at` sees at most the pixels

    offset + i * stride  ...  offset + i * stride + size - 1

where padding counts as pixels (so a field may begin before 0 and be larger than the image). A
window of k taps, d apart, every s pixels after p of padding makes of (size, stride, offset)

    size + (k - 1) * d * stride,    s * stride,    offset - p * stride

What enlarges is a window with a step below 1, so there figures are fractions, and bounds. Where
branches meet the field is the hull of theirs. An element that sees all positions has `at` None,
stride 0 and the image as its field. A value of an op that is not known here has no field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from cnnir.ir import Graph, Node, Value
from cnnir.ops import Elementwise

Exact = int | Fraction


@dataclass(frozen=True, slots=True)
class Span:
    """What is seen along one spatial axis of the input, as the module says."""

    size: Fraction
    stride: Fraction
    offset: Fraction
    at: int | None

    @property
    def end(self) -> Fraction:
        """Behind the last pixel that the first element sees."""
        return self.offset + self.size

    def windowed(self, reach: Exact, step: Exact, begin: Exact) -> Span:
        """Through windows that begin `begin` positions early and end `reach` positions later."""
        size, offset = self.size + reach * self.stride, self.offset - begin * self.stride
        return Span(size, self.stride * step, offset, self.at)


ZERO, ONE = Fraction(0), Fraction(1)

Field = tuple[Span, ...]
"""A span for each spatial axis of the input."""


def receptive_fields(graph: Graph) -> dict[Value, Field]:
    """The fields of all values that have one, in pixels of the first input with spatial axes."""
    image = next((v for v in graph.inputs if v.type.rank >= 3), None)
    if image is None:
        return {}
    extents = image.type.shape[2:]
    fields = {image: tuple(Span(ONE, ONE, ZERO, 2 + a) for a in range(len(extents)))}
    for node in graph.order():
        body = node.attrs.get("body")
        if isinstance(body, Graph):
            fields |= _through(body, node, fields, extents)
        elif node.op is not None:
            field = _field(node, fields, extents)
            fields |= dict.fromkeys(node.results, field) if field else {}
    return fields


def _through(
    body: Graph, node: Node, fields: dict[Value, Field], extents: tuple[int, ...]
) -> dict[Value, Field]:
    """The results of a fused node, from its body."""
    inner = {
        own: fields[outer]
        for own, outer in zip(body.inputs, node.operands, strict=True)
        if outer in fields
    }
    for part in body.order():
        if part.op is not None and (field := _field(part, inner, extents)):
            inner |= dict.fromkeys(part.results, field)
    made = zip(node.results, body.outputs, strict=True)
    return {result: inner[value] for result, value in made if value in inner}


def _field(node: Node, fields: dict[Value, Field], extents: tuple[int, ...]) -> Field | None:
    """The field of a node's results; None where it has none or is not known."""
    seen = [(v, fields[v]) for v in node.operands if v is not None and v in fields]
    if not seen:
        return None
    rank = node.results[0].type.rank
    spans = []
    for axis, extent in enumerate(extents):
        found = [_span(node, value, field[axis]) for value, field in seen]
        if any(span is None for span in found):
            return None
        hull = _hull([span for span in found if span is not None])
        spans.append(hull if hull.at is not None and hull.at < rank else _everything(extent))
    return tuple(spans)


def _everything(extent: int) -> Span:
    return Span(Fraction(extent), ZERO, ZERO, None)


def _hull(spans: list[Span]) -> Span:
    """The least span that covers all; those that see everything win."""
    first = spans[0]
    if any(span.at != first.at for span in spans):
        return replace(first, at=None)
    begin, end = min(s.offset for s in spans), max(s.end for s in spans)
    return Span(end - begin, max(s.stride for s in spans), begin, first.at)


def _span(node: Node, value: Value, span: Span) -> Span | None:
    """An operand's span as the node's results see it; `at` is None where they see all of it."""
    if span.at is None:
        return span
    mixed = replace(span, at=None)
    assert node.op is not None
    if issubclass(node.op, Elementwise):
        axis = span.at + node.results[0].type.rank - value.type.rank
        repeated = value.type.shape[span.at] < node.results[0].type.shape[axis]
        return mixed if repeated else replace(span, at=axis)
    match node.name:
        case "batch_norm" | "barrier":
            return span
        case "conv" | "conv_transpose" | "max_pool" | "max_pool_index" | "avg_pool" | "lp_pool":
            return _window(node, span, span.at) if span.at >= 2 else mixed
        case "resize":
            return _resized(node, value, span, span.at)
        case "pad":
            return span.windowed(0, 1, node.attrs["padding"][span.at])
        case "slice":
            start, step = node.attrs["starts"][span.at], node.attrs["steps"][span.at]
            return span.windowed(0, step, -start) if step > 0 else mixed
        case "transpose":
            return replace(span, at=node.attrs["perm"].index(span.at))
        case "reshape":
            return replace(span, at=_kept_axis(value, node.results[0], span.at))
        case "concat" | "softmax" | "log_softmax" | "cumsum" | "argmax" | "argmin":
            axis = node.attrs["axis"] % value.type.rank
            return mixed if axis == span.at else _without(node, span, (axis,))
        case "reduce_sum" | "reduce_mean" | "reduce_max" | "reduce_min" | "reduce_prod":
            axes = [axis % value.type.rank for axis in node.attrs["axes"]]
            return mixed if span.at in axes else _without(node, span, axes)
        case "lrn":
            return span
        case "matmul":
            first = value is node.operands[0]
            summed = value.type.rank - (1 if first else 2)
            shift = node.results[0].type.rank - value.type.rank
            return mixed if span.at == summed else replace(span, at=span.at + shift)
        case "layer_norm" | "group_norm":
            return mixed
    return None


def _per_axis(node: Node, name: str, axis: int, default: int) -> int:
    values: tuple[int, ...] = node.attrs[name]
    return values[axis - 2] if values else default


def _taps(node: Node, axis: int) -> int:
    if "kernel" in node.attrs:
        return int(node.attrs["kernel"][axis - 2])
    weights = node.operands[1]
    assert weights is not None
    return weights.type.shape[axis]


def _window(node: Node, span: Span, axis: int) -> Span:
    """Result i comes from i * step + u * spread - begin, for all taps u."""
    reach = (_taps(node, axis) - 1) * _per_axis(node, "dilation", axis, 1)
    step, begin = _per_axis(node, "stride", axis, 1), _per_axis(node, "padding", axis, 0)
    if node.name == "conv_transpose":  # i and its source change places
        return span.windowed(
            Fraction(reach, step), Fraction(1, step), Fraction(reach - begin, step)
        )
    return span.windowed(reach, step, begin)


def _resized(node: Node, value: Value, span: Span, axis: int) -> Span:
    """Interpolation reads 1, 2 or 4 neighbours; more where it averages to shrink."""
    before, after = value.type.shape[axis], node.results[0].type.shape[axis]
    if before == after:
        return span
    corners = node.attrs["coordinates"] == "align_corners" and after > 1
    ratio = Fraction(before - 1, after - 1) if corners else Fraction(before, after)
    reach = Fraction({"nearest": 1, "linear": 2, "cubic": 4}[node.attrs["mode"]])
    if node.attrs["antialias"]:
        reach *= max(ratio, ONE)
    first = (ratio - 1) / 2 if "half_pixel" in node.attrs["coordinates"] else ZERO
    early = reach / 2
    if node.attrs["mode"] == "nearest" and node.attrs["nearest"] in ("floor", "ceil"):
        early = ONE if node.attrs["nearest"] == "floor" else ZERO
    return span.windowed(reach, ratio, early - first)


def _kept_axis(before: Value, after: Value, axis: int) -> int | None:
    """Where an axis is after a reshape that leaves it whole; None where it does not."""
    old, new = before.type.shape, after.type.shape
    outside = math.prod(old[:axis])
    for place, extent in enumerate(new):
        if extent == old[axis] and math.prod(new[:place]) == outside:
            return place
    return None


def _without(node: Node, span: Span, axes: Any) -> Span:
    """Behind a reduction that drops other axes."""
    assert span.at is not None
    dropped = not node.attrs.get("keepdims", True)
    return replace(span, at=span.at - sum(a < span.at for a in axes) * dropped)
