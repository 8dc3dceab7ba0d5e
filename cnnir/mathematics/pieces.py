"""Which ops are piecewise linear, and where their pieces meet.

A net of affine layers, relus and max-pools is an affine map on each of many regions. Which piece an
op is on is told by numbers that change sign where two pieces meet, its *margins*: z for relu(z),
z - lo and z - hi for a clip, the winner less each of the others for a maximum. Within a region the
margins are affine in the input, so where a ray leaves the region can be solved for.

Source: G. Montufar, R. Pascanu, K. Cho, Y. Bengio, On the number of linear regions of deep neural
networks, NeurIPS 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnnir.errors import InputError
from cnnir.evaluate import evaluate_node
from cnnir.ir import Graph, Node, Value
from cnnir.ops.pool import Area
from cnnir.tensortype import is_float

Arrays = Sequence[Any]


def _zero(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    return [z[0]]


def _bounds(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    bounds = [b for b in (node.attrs["lo"], node.attrs["hi"]) if math.isfinite(b)]
    return [z[0] - b for b in bounds]


def _hard_sigmoid(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    line = node.attrs["alpha"] * z[0] + node.attrs["beta"]
    return [line, line - 1]


def _pair(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    return [z[0] - z[1]]


def _window(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    """Of each window the winner at `at`, less each tap; taps in the padding never win."""
    area = Area(node.operands[0].type.shape[2:], **node.attrs)  # type: ignore[union-attr]
    now, there = area.windows(at[0], -np.inf), area.windows(z[0], -np.inf)
    return [_lead(now, there, -1, now.argmax(-1))]


def _reduction(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    """Of all that is reduced to one number the winner at `at`, less each of the others."""
    axes = node.attrs["axes"]
    axes = tuple(range(np.ndim(at[0]))) if axes is None else axes
    sign = -1 if node.name == "reduce_min" else 1
    last = [np.moveaxis(sign * a, axes, range(-len(axes), 0)) for a in (at[0], z[0])]
    now, there = (a.reshape(*a.shape[: a.ndim - len(axes)], -1) for a in last)
    return [_lead(now, there, -1, now.argmax(-1))]


def _lead(now: np.ndarray, there: np.ndarray, axis: int, winner: np.ndarray) -> np.ndarray:
    """How far `there` the winners of `now` are ahead; infinitely of what does not take part."""
    best = np.take_along_axis(there, np.expand_dims(winner, axis), axis)
    lead = np.where(np.isneginf(now), np.inf, best - np.where(np.isneginf(now), 0, there))
    np.put_along_axis(lead, np.expand_dims(winner, axis), np.inf, axis)  # it is not ahead of itself
    return lead


MARGINS: dict[str, Callable[[Node, Arrays, Arrays], list[np.ndarray]]] = {
    "relu": _zero,
    "leaky_relu": _zero,
    "prelu": _zero,
    "abs": _zero,
    "clip": _bounds,
    "hard_sigmoid": _hard_sigmoid,
    "maximum": _pair,
    "minimum": _pair,
    "max_pool": _window,
    "reduce_max": _reduction,
    "reduce_min": _reduction,
}
"""Op -> the margins of a node for its operands' arrays `z`, on the piece that it is on for `at`."""

LEADS = {"max_pool", "reduce_max", "reduce_min"}
"""Ops whose margins are leads of a winner: never negative on their piece, and 0 in a tie."""


def margins(node: Node, at: Arrays, z: Arrays) -> list[np.ndarray]:
    """The margins of a piecewise node for its operands' arrays `z`, as its piece for `at` has them.

    Their signs tell the piece. Of a maximum there is one margin more axis: the winner's lead over
    each candidate, infinite for itself and for what lies in the padding.
    """
    return MARGINS[node.name](node, at, z)


def piecewise_nodes(graph: Graph) -> list[Node]:
    """The nodes with pieces, in order; InputError where another node is not affine.

    Affine is found out, not looked up: what depends on the inputs is set at random, and
    f(2u - v) = 2 f(u) - f(v) has to hold.
    """
    found, varied = [], {v for v in graph.inputs if is_float(v.type.dtype)}
    rng = np.random.default_rng(0)
    for node in graph.order():
        if node.op is None or not varied.intersection(v for v in node.operands if v is not None):
            continue
        varied.update(node.results)
        if node.name in MARGINS:
            found.append(node)
        elif not _affine(graph, node, varied, rng):
            where = f" from {', '.join(node.sources)}" if node.sources else ""
            raise InputError(
                f"{node!r}{where} is not piecewise linear; wanted affine ops and "
                f"{', '.join(MARGINS)}, in a graph before passes have fused it"
            )
    return found


def _affine(graph: Graph, node: Node, varied: set[Value], rng: np.random.Generator) -> bool:
    """Whether a node is an affine map of those of its operands that vary."""
    if not all(is_float(v.type.dtype) for v in node.results):
        return False
    operands = [v for v in node.operands if v is not None]
    if any(v in varied and not is_float(v.type.dtype) for v in operands):
        return False
    fixed = {v: constant_array(graph, v) for v in operands if v not in varied}
    drawn = {v: rng.standard_normal((2, *v.type.shape)) for v in operands if v in varied}

    def at(a: float, b: float) -> np.ndarray:
        arrays = [
            None if v is None else fixed[v] if v in fixed else a * drawn[v][0] + b * drawn[v][1]
            for v in node.operands
        ]
        return np.concatenate([r.ravel() for r in evaluate_node(node, arrays, "f64")])

    first, second, beyond = at(1, 0), at(0, 1), at(2, -1)
    scale = max(np.abs(first).max(initial=0), np.abs(second).max(initial=0))
    return bool(np.abs(beyond - (2 * first - second)).max(initial=0) <= 1e-9 * scale)


def constant_array(graph: Graph, value: Value) -> np.ndarray:
    """The array of a value that depends on no input."""
    known: dict[Value, np.ndarray] = {}
    stack = [value.node]
    while stack:
        node = stack[-1]
        waiting = [v.node for v in node.operands if v is not None and v not in known]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if node.kind == "param":
            known[node.results[0]] = np.asarray(graph.array(node.results[0]))
        elif node.op is not None:
            arrays = [None if v is None else known[v] for v in node.operands]
            known.update(zip(node.results, evaluate_node(node, arrays, "f64"), strict=True))
        else:
            raise InputError(f"input {value.name!r} is not of a float type")
    return known[value]
