"""Which layers of a net keep a transformation of the image, and which break it.

A layer is equivariant under T if it makes of the transformed image the transformed result. A net is
evaluated in f64 on a few random images; then each node is given the transformed operands, and what
it makes of them is compared: as a whole, and in the middle, which a border does not reach.

Source: T. Cohen, M. Welling, Group equivariant convolutional networks, ICML 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import networkx as nx
import numpy as np

from cnnir.errors import InputError
from cnnir.evaluate import evaluate, evaluate_node
from cnnir.ir import Graph, Node, Value
from cnnir.mathematics.operators import graph_of, sole_input, sole_output
from cnnir.mathematics.pieces import constant_array
from cnnir.tensortype import TensorType, is_float

Scales = dict[Value, tuple[Fraction, ...] | None]

_CLOSE = 1e-9
_IMAGES = 3

TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flip_vertical": lambda a: a[:, :, ::-1],
    "flip_horizontal": lambda a: a[..., ::-1],
    "rotate_90": lambda a: np.rot90(a, 1, (2, 3)),
    "rotate_180": lambda a: np.rot90(a, 2, (2, 3)),
    "rotate_270": lambda a: np.rot90(a, 3, (2, 3)),
    "transpose": lambda a: np.swapaxes(a, 2, 3),
}
"""The group of the square, on arrays [N, C, H, W]."""


@dataclass(frozen=True)
class Kept:
    """What one node, or a whole net, makes of the transformation."""

    name: str
    op: str
    result: str
    """"equivariant", "equivariant but for the border", "invariant", "broken", or "no image" for
    what comes after the image is gone."""
    reason: str
    error: float
    """The greatest difference over the whole result, as a share of the largest result."""


@dataclass(frozen=True)
class Equivariance:
    """The nodes of a net, in order, with what each of them keeps; prints as a table."""

    transformation: str
    rows: list[Kept]
    output: Kept
    """What the net as a whole makes of it."""

    def __str__(self) -> str:
        rows = [*self.rows, self.output]
        widths = [max(len(r.name) for r in rows), max(len(r.op) for r in rows)]
        lines = [f"under {self.transformation}:"]
        for r in rows:
            why = f": {r.reason}" if r.reason else ""
            lines.append(f"  {r.name:{widths[0]}}  {r.op:{widths[1]}}  {r.result}{why}")
        return "\n".join(lines)


def equivariance(source: Any, transformation: str | Sequence[int], *shapes: Any) -> Equivariance:
    """What each node of a net makes of a shifted, flipped or turned image.

    source: a graph, net or ONNX model with one input [N, C, *sizes]. transformation: a shift in
    pixels, one number an axis of the image, which wraps at the ends; or one of TURNS. Images
    are random with a fixed seed.
    """
    graph = graph_of(source, shapes).clone()
    x, y = sole_input(graph), sole_output(graph)
    _check(transformation, x.type)
    varied = nx.descendants(graph.nx, x.node)
    nodes = [n for n in graph.order() if n in varied and is_float(n.results[0].type.dtype)]
    graph.outputs, graph.trims = [n.results[0] for n in nodes], {}
    graph.output_names = [f"y{k}" for k in range(len(nodes))]
    rng, scales = np.random.default_rng(0), _scales(graph, x)
    tried = [
        _tried(graph, nodes, y, rng.standard_normal(x.type.shape), transformation, scales)
        for _ in range(_IMAGES)
    ]
    *rows, output = (min(several, key=_standing) for several in zip(*tried, strict=True))
    shown = transformation if isinstance(transformation, str) else f"a shift by {transformation}"
    return Equivariance(shown, rows, output)


def _tried(
    graph: Graph, nodes: list[Node], y: Value, image: np.ndarray, transformation: Any,
    scales: Scales,
) -> list[Kept]:  # fmt: skip
    """What is kept of one image: by each node, and by the whole net."""
    x = graph.inputs[0]
    values = {x: image} | dict(zip(graph.outputs, evaluate(graph, [image], "f64"), strict=True))
    layers = [node for node in nodes if node.name != "pad"]
    rows = [_row(graph, node, values, transformation, scales) for node in layers]
    moved = evaluate(graph, [_moved(image, transformation, scales[x])], "f64")
    after = {**values, **dict(zip(graph.outputs, moved, strict=True))}[y]
    expected = None if scales.get(y) is None else _moved(values[y], transformation, scales[y])
    return [*rows, Kept("the whole net", "", *_compared(values[y], after, expected, "see above"))]


def _standing(kept: Kept) -> int:
    """What one image breaks is broken, though another may look alike by chance."""
    order = ("no image", "broken", "equivariant but for the border", "equivariant", "invariant")
    return order.index(kept.result)


def _check(transformation: Any, type: TensorType) -> None:
    """InputError unless images of this type can be transformed so."""
    if type.rank < 3:
        raise InputError(f"the input is {type}, wanted an image: [N, C, *sizes]")
    if isinstance(transformation, str):
        if transformation not in TURNS or type.rank != 4:
            raise InputError(f"{transformation!r} on {type}: wanted one of {', '.join(TURNS)}")
    elif len(transformation) != type.rank - 2:
        raise InputError(f"the shift {transformation}: the image has {type.rank - 2} axes")


def _row(
    graph: Graph, node: Node, values: dict[Value, np.ndarray], transformation: Any, scales: Scales
) -> Kept:
    """What a node makes of its operands, transformed."""
    name = ", ".join(node.sources) or node.results[0].name or node.name
    if any(v in scales and scales[v] is None for v in node.operands if v is not None):
        return Kept(name, node.name, "no image", "", 0.0)
    operands = [_moved_operand(graph, v, values, transformation, scales) for v in node.operands]
    before, scale = values[node.results[0]], scales[node.results[0]]
    expected = None if scale is None else _moved(before, transformation, scale)
    if any(a is None and v is not None for a, v in zip(operands, node.operands, strict=True)):
        return Kept(name, node.name, "broken", "what it is given is not moved by whole pixels", 1.0)
    after = evaluate_node(node, operands, "f64")[0]
    reason = _reason(node, operands, transformation, scale)
    return Kept(name, node.name, *_compared(before, after, expected, reason))


def _reason(node: Node, operands: list[np.ndarray | None], transformation: Any, scale: Any) -> str:
    """Why a node breaks the transformation, if it does."""
    if scale is None:
        return "every position has weights of its own, or axes are mixed"
    if not isinstance(transformation, str):
        steps = " x ".join(map(str, scale))
        return f"one step of its result is {steps} pixels, the shift is no multiple"
    if node.name in ("conv", "conv_transpose") and operands[1] is not None:
        turned = TURNS[transformation](operands[1])
        if turned.shape != operands[1].shape or not np.allclose(turned, operands[1]):
            return "its weights do not have this symmetry"
    return "its windows lie on the turned image in another way: strides or padding are uneven"


def _moved_operand(
    graph: Graph, value: Value | None, values: dict[Value, np.ndarray], transformation: Any,
    scales: Scales,
) -> np.ndarray | None:  # fmt: skip
    """What a node gets when the image before it is transformed; None where that is not possible.

    A padding belongs to the layer that it is for: it is made again around the transformed image.
    """
    if value is None:
        return None
    if value not in values:
        return constant_array(graph, value)
    if value.node.name == "pad":
        inner = _moved_operand(graph, value.node.operands[0], values, transformation, scales)
        return None if inner is None else evaluate_node(value.node, [inner], "f64")[0]
    return _moved(values[value], transformation, scales[value])


def _compared(
    before: np.ndarray, after: np.ndarray, expected: np.ndarray | None, reason: str
) -> tuple[str, str, float]:
    """Result, reason and error of a node that makes `after`, where `expected` is wanted."""
    largest = float(np.abs(before).max(initial=0)) or 1.0
    if before.shape == after.shape:
        same = float(np.abs(after - before).max(initial=0)) / largest
        if same <= _CLOSE:
            return "invariant", "", same
    if expected is None or expected.shape != after.shape:
        return "broken", reason, 1.0
    difference = np.abs(after - expected) / largest
    error = float(difference.max(initial=0))
    if error <= _CLOSE:
        return "equivariant", "", error
    middle = _middle(difference)
    if middle.size and float(middle.max()) <= _CLOSE:
        return (
            "equivariant but for the border",
            "its padding is not what a wrapped image has",
            error,
        )
    return "broken", reason, error


def _moved(array: np.ndarray, transformation: Any, scale: Any) -> Any:
    """A transformed array; None where the shift is no whole number of its pixels."""
    if isinstance(transformation, str):
        return TURNS[transformation](array)
    steps = [Fraction(t) / s for t, s in zip(transformation, scale, strict=True)]
    if any(step.denominator != 1 for step in steps):
        return None
    return np.roll(array, [int(s) for s in steps], range(2, array.ndim))


def _middle(a: np.ndarray) -> np.ndarray:
    """The pixels in the middle of the image, as far from all ends as they get: at most an eighth
    of each axis."""
    inner = (slice((n - max(n // 8, 1)) // 2, (n + max(n // 8, 1) + 1) // 2) for n in a.shape[2:])
    return a[(slice(None), slice(None), *inner)]


def _scales(graph: Graph, x: Value) -> Scales:
    """How many pixels of the input a step in each value is, along each axis; None if it is no
    image."""
    one: tuple[Fraction, ...] = (Fraction(1),) * (x.type.rank - 2)
    scales: Scales = {x: one}
    for node in graph.order():
        known = [scales[v] for v in node.operands if v in scales]
        if node.op is None or not known:
            continue
        scale = None if None in known or len(set(known)) > 1 else known[0]
        if scale is not None and not _keeps_axes(node, x.type.rank):
            scale = None
        if scale is not None:
            factors = _factors(node)
            scale = tuple(s * f for s, f in zip(scale, factors, strict=True))
        scales.update(dict.fromkeys(node.results, scale))
    return scales


def _keeps_axes(node: Node, rank: int) -> bool:
    """Whether the result of a node is an image with the axes of its operand."""
    shapes = [v.type.shape for v in node.operands if v is not None and v.type.rank == rank]
    if node.results[0].type.rank != rank or not shapes:
        return False
    return node.name not in ("reshape", "transpose", "matmul")


def _factors(node: Node) -> list[Fraction]:
    """By how much a step in the result is longer than one in the operand, along each axis."""
    (x, *_), y = [v for v in node.operands if v is not None], node.results[0]
    axes = range(y.type.rank - 2)
    stride = node.attrs.get("stride") or (1,) * len(axes)
    if node.name == "conv_transpose":
        return [Fraction(1, stride[a]) for a in axes]
    if node.name == "resize":
        return [Fraction(x.type.shape[a + 2], y.type.shape[a + 2]) for a in axes]
    if node.name in ("conv", "max_pool", "avg_pool", "lp_pool"):
        return [Fraction(stride[a]) for a in axes]
    return [Fraction(1)] * len(axes)
