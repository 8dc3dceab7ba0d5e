"""A net of affine and piecewise-linear ops is an affine map around each input.

net(x') = M x' + c for all x' in the region of x, where every relu, clip and maximum stays on its
piece. See `pieces` for what a region is, and for the source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from cnnir.errors import InputError
from cnnir.evaluate import evaluate
from cnnir.gradient import jvp
from cnnir.ir import Graph, Value
from cnnir.mathematics.operators import graph_of, jacobian, sole_input, sole_output
from cnnir.mathematics.pieces import LEADS, constant_array, margins, piecewise_nodes

_STEP = 1e-9
"""How far beyond a border, as a share of the segment, the next region is looked for."""
_MOST_REGIONS = 1_000_000


@dataclass(frozen=True)
class LocalAffine:
    """The map net(x') = matrix x' + shift on the region of a point."""

    matrix: Any
    """M, a scipy.sparse.csr_array of f64 [outputs, inputs]."""
    shift: np.ndarray
    """c, f64, of the output's shape."""
    pattern: dict[str, list[np.ndarray]]
    """Node of the model -> which piece each of its elements is on: the signs of its margins, and
    for a maximum where the winner is."""
    net: Piecewise
    point: np.ndarray

    def __call__(self, x: Any) -> np.ndarray:
        """M x + c, for an array of the input's shape."""
        linear = self.matrix @ np.asarray(x, np.float64).ravel()
        return linear.reshape(self.shift.shape) + self.shift

    def distance(self, direction: Any) -> float:
        """How far the region goes: the least t >= 0 at which point + t * direction leaves it."""
        return self.net.distance(self.point, np.asarray(direction, np.float64))


def local_affine(source: Any, x: Any) -> LocalAffine:
    """The affine map that a net is around x, an array of its input's shape.

    source: a graph, net or ONNX model of affine ops, relus, clips, maxima and max-pools. Raises
    InputError, naming the node, for any other.
    """
    x = np.asarray(x, np.float64)
    net = Piecewise(graph_of(source, (x.shape,)))
    net.check(x)
    matrix = jacobian(net.graph, x)
    y = net(x)
    shift = y - (matrix @ x.ravel()).reshape(y.shape)
    return LocalAffine(matrix, shift, net.pattern(x), net, x)


def regions_on_segment(source: Any, a: Any, b: Any) -> list[float]:
    """Where a net changes its piece on the way from a to b: the shares of the way, ascending.

    Their number plus 1 is the number of regions that the segment goes through. Raises as
    `local_affine` does.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    net = Piecewise(graph_of(source, (a.shape,)))
    net.check(a)
    net.check(b)
    borders: list[float] = []
    at = 0.0
    while len(borders) < _MOST_REGIONS:
        at += net.distance(a + at * (b - a), b - a)
        if at >= 1:
            return borders
        borders.append(at)
        at += _STEP
    raise InputError(f"the segment crosses more than {_MOST_REGIONS} regions")


class Piecewise:
    """A piecewise-linear graph, with all that its pieces depend on as outputs."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.input = graph, sole_input(graph)
        sole_output(graph)
        probe = graph.clone()
        self.nodes = piecewise_nodes(probe)
        self._constants: dict[Value, np.ndarray] = {}
        self._seen: list[Value] = []
        varied = nx.descendants(probe.nx, sole_input(probe).node) | {sole_input(probe).node}
        for value in dict.fromkeys(v for n in self.nodes for v in n.operands if v is not None):
            if value.node in varied:
                self._seen.append(value)
            else:
                self._constants[value] = constant_array(probe, value)
        probe.outputs, probe.trims = list(self._seen), {}
        probe.output_names = [f"z{k}" for k in range(len(self._seen))]
        self._probe = probe
        self._slopes = jvp(probe, self.input.name, outputs=False) if self._seen else probe

    def check(self, x: np.ndarray) -> None:
        """InputError unless x has the input's shape."""
        if x.shape != self.input.type.shape:
            raise InputError(f"x has shape {list(x.shape)}, wanted {list(self.input.type.shape)}")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """What the net gives, in f64."""
        return evaluate(self.graph, [x], "f64")[0]

    def pattern(self, x: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The piece of every element of every piecewise node, by the names of the nodes."""
        found: dict[str, list[np.ndarray]] = {}
        arrays = self._arrays(x)
        for k, node in enumerate(self.nodes):
            z = [arrays[v] for v in node.operands if v is not None]
            name = ", ".join(node.sources) or node.results[0].name or f"{node.name} {k}"
            pieces = [np.isposinf(m) if node.name in LEADS else m > 0 for m in margins(node, z, z)]
            found[name if name not in found else f"{name} {k}"] = pieces
        return found

    def key(self, x: np.ndarray) -> bytes:
        """The same for all points of a region, and another for those of any other."""
        several = self.pattern(x).values()
        return b"".join(np.packbits(p).tobytes() for pieces in several for p in pieces)

    def distance(self, x: np.ndarray, direction: np.ndarray) -> float:
        """The least t >= 0 at which a margin of x + t * direction changes its sign."""
        now, above, (slope,) = self.margins(x, direction)
        crossing = np.where(above, slope < 0, slope > 0)
        return float((-now[crossing] / slope[crossing]).min(initial=math.inf))

    def margins(
        self, x: np.ndarray, *directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """All finite margins at x, whether each is above 0 on this piece, and how fast they change
        along the directions."""
        here = self._arrays(x)
        moved = [self._arrays(x, direction) for direction in directions]
        values: list[list[np.ndarray]] = [[] for _ in range(1 + len(directions))]
        above = []
        for node in self.nodes:
            operands = [v for v in node.operands if v is not None]
            z = [here[v] for v in operands]
            ahead = [[here[v] + m[v] if v in self._seen else here[v] for v in operands]
                     for m in moved]  # fmt: skip
            lines = zip(*(margins(node, z, at) for at in (z, *ahead)), strict=True)
            for now, *then in lines:
                finite = np.isfinite(np.stack([now, *then])).all(0)
                values[0].append(now[finite])
                above.append((now[finite] > 0) | (node.name in LEADS))
                for found, line in zip(values[1:], then, strict=True):
                    found.append(line[finite] - now[finite])
        flat = [np.concatenate([np.zeros(0), *several]) for several in values]
        return flat[0], np.concatenate([np.zeros(0, bool), *above]), flat[1:]

    def _arrays(self, x: np.ndarray, direction: np.ndarray | None = None) -> Any:
        """Value -> its array at x, or its slope along a direction there; with the constants."""
        if direction is None:
            found = evaluate(self._probe, [x], "f64")
        else:
            found = evaluate(self._slopes, [x, direction], "f64")
        return self._constants | dict(zip(self._seen, found, strict=True))
