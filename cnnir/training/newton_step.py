"""NewtonStep: steps of Newton-CG as three compiled programs, with the vectors between them.

One gives the loss and its gradient, one the Hessian's product with a direction, one the loss alone
to try a step; all take the weights from the same state as other steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import InputError
from cnnir.gradient import gradient
from cnnir.hessian import hvp
from cnnir.tensortype import TensorType
from cnnir.training.graph import Aim, StepGraph
from cnnir.training.newton import NewtonCG, path, search
from cnnir.training.optimizers import Groups
from cnnir.training.step import Compiled, Step, Types

Arrays = Sequence[np.ndarray]

_RADIUS = "newton~radius"
"""A slot: the radius of the trust region, 0 before the first step."""
_ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""How far losses computed in f32 are off, as a share."""


@dataclass(frozen=True)
class NewtonRecord:
    """What a step did."""

    gradient: float
    """The norm of the gradient before it."""
    products: int
    """Hessian-vector products."""
    curved: bool
    """Whether a direction of curvature 0 or less was met."""
    values: int
    """Losses that were tried."""
    length: float
    """Of the step; 0 where nothing got better."""
    radius: float
    """Of the trust region, for the next step."""


class NewtonStep(Step):
    """A `Step` whose optimiser is a NewtonCG; a batch should be all samples.

    Arguments are those of Step, without `clip` and `scaling`. `record` says what the last step did.
    """

    def __init__(self, net: Any, loss: Any, optimizer: Any, **options: Any) -> None:
        super().__init__(net, loss, optimizer, **options)
        self.newton = _newton(self.groups)
        self.record: NewtonRecord | None = None
        if self.clip is not None:
            raise InputError("NewtonCG has a trust region: wanted no clip")
        if self.scaling is not None:
            raise InputError("NewtonCG takes losses as they are: wanted no scaling, and no f16")

    def __call__(self, inputs: Arrays, targets: Arrays, epoch: float = 0.0) -> dict[str, float]:
        slopes, products, values = (
            self._get(kind, inputs, targets, build)
            for kind, build in (("train", self._train), ("product", self._products),
                                ("value", self._values))
        )  # fmt: skip
        data = [*inputs, *targets]
        numbers = self._numbers(slopes, epoch)
        results = self._advance(slopes, data, numbers)
        shown, by_weight = _split(slopes, results)
        assert self.weights is not None
        weights = _Vector({name: self.weights.state.arrays[name] for name in by_weight})
        g, w = weights.joined(by_weight), weights.joined(weights.arrays)

        def times(v: np.ndarray) -> np.ndarray:
            tangents = {f"tangent.{name}": part for name, part in weights.parts(v).items()}
            found = self._advance(products, data, {**numbers, **tangents})
            return weights.joined(dict(zip(by_weight, found, strict=True)))

        def loss(p: np.ndarray) -> float:
            weights.write(w + p)
            return float(self._advance(values, data, numbers)[0])

        held = self.weights.state.arrays[_RADIUS]
        radius = float(held) or self.newton.rate(epoch)
        before = shown.pop("objective", shown["loss"])
        way = path(g, times, radius, self.newton.iterations, self.newton.tolerance)
        found = search(way, g, loss, before, radius, _ROUNDING)
        weights.write(w + found.p)
        held[...] = found.radius
        self.number += 1
        size, far = float(np.linalg.norm(g)), float(np.linalg.norm(found.p))
        self.record = NewtonRecord(
            size, len(way.points) - 1, way.curved, found.values, far, found.radius
        )
        return shown

    # ------------------------------------------------------------------ the three graphs

    def _train(self, inputs: Types, targets: Types) -> StepGraph:
        """The loss, the metrics and the gradient; running statistics are carried."""
        aim = self._aim(inputs, targets)
        graph = gradient(aim.traced.graph, aim.of, aim.names[::-1], recompute=self.recompute)
        positions = {v.name: i for i, v in enumerate(graph.inputs)}
        for name in aim.traced.updates:
            graph.carry(graph.output_names.index(f"{name} updated"), positions[name])
        return self._hold(StepGraph(graph, aim.weights, {_RADIUS: TensorType("f32", ())}, {}))

    def _products(self, inputs: Types, targets: Types) -> StepGraph:
        aim = self._aim(inputs, targets)
        graph = hvp(aim.traced.graph, aim.of, aim.names[::-1], outputs=False)
        return StepGraph(graph, aim.weights, {}, {})

    def _values(self, inputs: Types, targets: Types) -> StepGraph:
        aim = self._aim(inputs, targets)
        graph = aim.traced.graph
        graph.outputs = [graph.outputs[graph.output_names.index(aim.of)]]
        graph.output_names = [aim.of]
        graph.sweep()
        return StepGraph(graph, aim.weights, {}, {})

    def _aim(self, inputs: Types, targets: Types) -> Aim:
        return Aim.of_net(self.net, self.objective, self.groups, inputs, targets)


def _split(compiled: Compiled, results: Arrays) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """What is shown, and the gradient by names of weights."""
    named = dict(zip(compiled.shown, results, strict=True))
    slopes = {n: a for n, a in named.items() if n.startswith("grad.")}
    shown = {n: float(a) for n, a in named.items() if n not in slopes}
    return shown, {n.removeprefix("grad."): a for n, a in slopes.items()}


class _Vector:
    """Arrays by name seen as one vector of f64."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays

    def joined(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([parts[n].ravel() for n in self.arrays], dtype=np.float64)

    def parts(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        ends = np.cumsum([a.size for a in self.arrays.values()])[:-1]
        pieces = zip(self.arrays.items(), np.split(vector, ends), strict=True)
        return {n: part.reshape(a.shape).astype(a.dtype) for (n, a), part in pieces}

    def write(self, vector: np.ndarray) -> None:
        for name, part in self.parts(vector).items():
            self.arrays[name][...] = part


def is_newton(optimizer: Any) -> bool:
    """Whether a net is to be trained by Newton's method."""
    several = optimizer.values() if isinstance(optimizer, Mapping) else [optimizer]
    return any(isinstance(one, NewtonCG) for one in several)


def _newton(groups: Groups) -> NewtonCG:
    """The one optimiser of all groups."""
    found = {one for one in groups.values() if one is not None}
    (newton, *others) = found or [None]
    if others or not isinstance(newton, NewtonCG):
        raise InputError(
            "NewtonCG works on all weights at once: wanted one, and None for what does not train"
        )
    return newton
