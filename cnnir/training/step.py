"""Step: a net with its loss and its optimiser, compiled into one program a batch size.

It knows batches and numbers. Epochs, data and files are the trainer's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.backends.base import checked_input
from cnnir.compile import Specialisation, recipe
from cnnir.errors import InputError
from cnnir.frontends.dsl.module import Module, input_names
from cnnir.recompute import Choice
from cnnir.tensortype import TensorType
from cnnir.training.clip import Clip
from cnnir.training.graph import SEED, Objective, StepGraph, evaluation_graph, training_graph
from cnnir.training.labels import LabelCheck
from cnnir.training.loss_scaling import SCALE, LossScaling
from cnnir.training.optimizers import Groups, Optimizer
from cnnir.training.weights import Weights

Arrays = Sequence[np.ndarray]
Types = dict[str, TensorType]


@dataclass
class Compiled:
    """A program and how its inputs are fed."""

    described: StepGraph
    made: Specialisation
    data: list[str]
    """Inputs that are given: the net's and the targets."""
    fed: list[str]
    """All inputs that come with each call, in the graph's order: also numbers and the seed."""
    types: dict[str, TensorType]
    shown: list[str]
    labels: LabelCheck


class Step:
    """Training steps on batches of any size; weights and slots stay where they are between them.

    optimizer: one for all weights, or several by patterns of names ({"head.*": SGD(0.1)}). loss:
    a function of tensors or a name, see `cnnir.nn`. metrics: what else is computed, such as
    "accuracy". regularisers: terms of the loss by patterns of names. clip: of gradients, such as
    `clip_norm(1.0)`. scaling: of the loss; with precision="f16" it is LossScaling() if nothing is
    said. seed: of dropout. recompute: see `cnnir.gradient`. options: of `compile`, such as
    `threads`.
    """

    def __init__(
        self,
        net: Module,
        loss: Any,
        optimizer: Optimizer | Groups | None,
        *,
        metrics: Any = (),
        regularisers: Mapping[str, Callable] | None = None,
        clip: Clip | None = None,
        scaling: LossScaling | None = None,
        seed: int = 0,
        recompute: Choice | None = None,
        target: str = "cpu",
        **options: Any,
    ) -> None:
        self.net, self.objective = net, Objective.of(loss, metrics, regularisers)
        self.groups: Groups = _groups(optimizer)
        self.clip, self.seed, self.recompute = clip, seed, recompute
        if scaling is None and options.get("precision") == "f16":
            scaling = LossScaling()
        self.scaling = scaling
        self.number = 0
        """Steps that are done."""
        self.weights: Weights | None = None
        self._compile = recipe(target, **options)
        self._known: dict[tuple[Any, ...], Compiled] = {}
        self._flags: list[bool] = []
        self._constants: list[np.ndarray] = []

    def __call__(self, inputs: Arrays, targets: Arrays, epoch: float = 0.0) -> dict[str, float]:
        """One step; the loss and the metrics of the batch, before the weights changed.

        epoch: how many are over, for learning rates that depend on it. Raises InputError for a
        batch that does not fit, or for labels that are no class, before anything changes.
        """
        compiled = self.compiled(inputs, targets)
        numbers = self._numbers(compiled, epoch)
        results = self._advance(compiled, [*inputs, *targets], numbers)
        self.number += 1
        return dict(zip(compiled.shown, map(float, results), strict=True))

    @property
    def loss_scale(self) -> float | None:
        """What the next step multiplies the loss by; None without scaling."""
        if self.scaling is None:
            return None
        held = self.weights.read()[SCALE] if self.weights is not None else 0.0
        return float(held) or self.scaling.initial

    def rates(self, epoch: float) -> dict[str, float]:
        """The learning rate of every group."""
        return {p: o.rate(epoch) for p, o in self.groups.items() if o is not None}

    def compiled(self, inputs: Arrays, targets: Arrays) -> Compiled:
        """The program for batches of these types, compiled when it is first asked for."""
        return self._get("train", inputs, targets, self._train)

    def evaluate(self, inputs: Arrays, targets: Arrays) -> dict[str, float]:
        """The loss and the metrics of a batch in the net's inference form; nothing changes."""
        self.follow()
        compiled = self._get("evaluate", inputs, targets, self._evaluate)
        results = self._run(compiled, [*inputs, *targets])
        return dict(zip(compiled.shown, map(float, results), strict=True))

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """What the net gives for a batch in its inference form, by name."""
        self.follow()
        compiled = self._get("predict", inputs, (), self._evaluate)
        return dict(zip(compiled.shown, self._run(compiled, inputs), strict=True))

    def follow(self) -> None:
        """Forget programs of before parts of the net were frozen, or frozen weights changed."""
        held = self.weights.types if self.weights is not None else {}
        flags = [module._state.frozen for _, module in self.net.named_modules()]
        constants = [a for name, a in self.net.params.items() if name not in held]
        same = flags == self._flags and len(constants) == len(self._constants)
        if not same or any(a is not b for a, b in zip(constants, self._constants, strict=True)):
            self._known.clear()
        self._flags, self._constants = flags, constants

    # ------------------------------------------------------------------ compiling

    def _get(
        self, kind: str, inputs: Arrays, targets: Arrays,
        build: Callable[[Types, Types], StepGraph],
    ) -> Compiled:  # fmt: skip
        key = (kind, *((a.dtype, a.shape) for a in (*inputs, *targets)))
        if key not in self._known:
            given, wanted = self._typed(inputs, targets)
            described = build(given, wanted)
            self._known[key] = self._made(described, list(given), list(wanted))
        return self._known[key]

    def _typed(self, inputs: Arrays, targets: Arrays) -> tuple[Types, Types]:
        names, least = input_names(self.net)
        if not least <= len(inputs) <= len(names):
            raise InputError(
                f"{type(self.net).__name__} takes {', '.join(names)}; {len(inputs)} are given"
            )
        labels = ["target"] if len(targets) == 1 else [f"target{i}" for i in range(len(targets))]
        typed = [TensorType.of(a) for a in (*inputs, *targets)]
        count = len(inputs)
        return (
            dict(zip(names, typed[:count], strict=False)),
            dict(zip(labels, typed[count:], strict=True)),
        )

    def _train(self, inputs: Types, targets: Types) -> StepGraph:
        return self._hold(training_graph(
            self.net, self.objective, self.groups, inputs, targets,
            clip=self.clip, scaling=self.scaling, recompute=self.recompute,
        ))  # fmt: skip

    def _hold(self, described: StepGraph) -> StepGraph:
        """Have arrays for the weights and slots of a step's graph."""
        names = {*described.weights, *described.slots}
        if self.weights is None or names != set(self.weights.types):
            self.weights = Weights(self.net, described.weights, described.slots, self.weights)
            self._known.clear()  # of before these weights were inputs
        return described

    def _evaluate(self, inputs: Types, targets: Types) -> StepGraph:
        held = self.weights.types if self.weights is not None else {}
        objective = self.objective if targets else None
        return evaluation_graph(self.net, objective, inputs, targets, list(held))

    def _made(self, described: StepGraph, inputs: list[str], targets: list[str]) -> Compiled:
        graph = described.graph
        labels = LabelCheck(graph, targets)
        held = {*described.weights, *described.slots}
        types = {v.name or "": v.type for v in graph.inputs if v.name not in held}
        shown = [n for i, n in enumerate(graph.output_names) if i not in graph.carried]
        made = self._compile(graph)
        return Compiled(described, made, [*inputs, *targets], list(types), types, shown, labels)

    # ------------------------------------------------------------------ running

    def _advance(
        self, compiled: Compiled, given: Arrays, more: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """A run that takes weights from the state and leaves there what the graph carries over.

        more: inputs beside the data.
        """
        assert self.weights is not None
        arrays = {**_checked(compiled, given), **more}
        self.weights.refresh()
        fed = [arrays[name] for name in compiled.fed]
        return compiled.made.program.advance(fed, self.weights.state)

    def _run(self, compiled: Compiled, given: Arrays) -> list[np.ndarray]:
        arrays = list(_checked(compiled, given).values())
        if self.weights is None:
            return compiled.made.program.run(arrays)
        self.weights.refresh()
        return compiled.made.program.advance(arrays, self.weights.state)

    def _numbers(self, compiled: Compiled, epoch: float) -> dict[str, np.ndarray]:
        """The inputs of the step that are single numbers."""
        found: dict[str, dict[str, float]] = {}
        arrays = {}
        for name, (pattern, number) in compiled.described.numbers.items():
            if pattern not in found:
                optimizer = self.groups[pattern]
                assert optimizer is not None
                found[pattern] = optimizer.numbers(self.number + 1, optimizer.rate(epoch))
            arrays[name] = np.array(found[pattern][number], np.float32)
        if SEED in compiled.types:
            arrays[SEED] = np.array((self.seed * 0x9E3779B1 + self.number) % 2**32, np.uint32)
        return arrays


def _groups(optimizer: Any) -> Groups:
    groups = {"*": optimizer} if isinstance(optimizer, Optimizer) else optimizer
    good = isinstance(groups, Mapping) and all(
        isinstance(pattern, str) and (o is None or isinstance(o, Optimizer))
        for pattern, o in groups.items()
    )
    if not good or not groups:
        raise InputError(
            f"optimizer is {optimizer!r}, wanted one such as SGD(0.1), or several by patterns of "
            "names: {'head.*': SGD(0.1), '*': SGD(0.01)}"
        )
    return groups


def _checked(compiled: Compiled, given: Arrays) -> dict[str, np.ndarray]:
    """The arrays by name, as programs take them; labels looked at."""
    named = dict(zip(compiled.data, given, strict=True))
    compiled.labels.check(named)
    return {n: checked_input(n, array, compiled.types[n]) for n, array in named.items()}
