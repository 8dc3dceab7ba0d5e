"""The graph of a training step: forward, loss, derived backward and update, in one.

Weights that change are inputs, and what they become is carried to them (`Graph.carried`); what is
frozen stays a param, so that passes fold it. The graph is ordinary IR: it prints, verifies, is
optimised and compiled as any other, and what runs it (`step.py`) knows nothing of nets.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from cnnir.errors import Error, InputError
from cnnir.frontends.dsl.arithmetic import where
from cnnir.frontends.dsl.losses import LOSSES, METRICS
from cnnir.frontends.dsl.module import Module, Traced
from cnnir.frontends.dsl.tensor import Tensor
from cnnir.frontends.dsl.trace import Trace
from cnnir.gradient import gradient
from cnnir.ir import Graph, Value
from cnnir.recompute import Choice
from cnnir.tensortype import TensorType
from cnnir.training.clip import Clip
from cnnir.training.loss_scaling import (
    COUNT,
    SCALE,
    SLOTS,
    LossScaling,
    all_finite,
    unscaled,
)
from cnnir.training.optimizers import Groups, Optimizer

Function = Callable[..., Tensor]
"""Of what a net gave and of the targets."""

Types = Mapping[str, TensorType]


@dataclass(frozen=True)
class Objective:
    """What a net is trained for, and what is measured on the way."""

    loss: Function
    metrics: Mapping[str, Function] = field(default_factory=dict)
    regularisers: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Patterns of names -> a term of the loss, of each weight that matches and trains."""

    @classmethod
    def of(cls, loss: Any, metrics: Any = (), regularisers: Any = None) -> Objective:
        """The same of names, such as "cross_entropy" and ["accuracy"]."""
        if isinstance(metrics, str):
            metrics = [metrics]
        if not isinstance(metrics, Mapping):
            metrics = {getattr(m, "__name__", str(m)): m for m in metrics}
        if "loss" in metrics:
            raise InputError("a metric is called 'loss', wanted another name")
        found = {name: _function(m, METRICS, "metric") for name, m in metrics.items()}
        return cls(_function(loss, LOSSES, "loss"), found, dict(regularisers or {}))


def _function(given: Any, known: Mapping[str, Function], what: str) -> Function:
    if callable(given):
        return given
    if given is None:
        raise InputError(f"there is no {what}, wanted a function or one of {', '.join(known)}")
    if given not in known:
        close = ", ".join(difflib.get_close_matches(str(given), known, 3)) or ", ".join(known)
        raise InputError(f"there is no {what} {given!r}; there is {close}")
    return known[given]


@dataclass
class StepGraph:
    """The graph of a step, and what its inputs beside the data are."""

    graph: Graph
    weights: list[str]
    """Inputs that are weights of the net; of a step all that it changes."""
    slots: dict[str, TensorType]
    """Inputs that are the optimiser's, zeros in the beginning."""
    numbers: dict[str, tuple[str, str]]
    """Inputs that come with every step: (pattern of the group, the optimiser's name for it)."""


SEED = "seed"


def training_graph(
    net: Module,
    objective: Objective,
    groups: Groups,
    inputs: Types,
    targets: Types,
    *,
    clip: Clip | None = None,
    scaling: LossScaling | None = None,
    recompute: Choice | None = None,
) -> StepGraph:
    """One step of training `net`: outputs are the loss and the metrics, then what is carried.

    inputs: types by name of forward's inputs. targets: of what the loss takes beside the output.
    scaling: of the loss, for gradients in 16 bits. recompute: which forward nodes the backward pass
    computes again, see `cnnir.gradient`.

    Raises InputError where no weight trains, and the errors of tracing and of gradients.
    """
    aim = Aim.of_net(net, objective, groups, inputs, targets, scaling)
    return _Builder(aim, groups, clip, scaling).build(recompute)


@dataclass
class Aim:
    """A net in its training form with what it is trained for, before anything is derived."""

    traced: Traced
    """Its outputs are the loss and the metrics, then the objective where there are regularisers,
    then what running statistics become. Weights that change are inputs."""
    optimizers: dict[str, Optimizer]
    """Of every weight that trains."""
    names: list[str]
    """The weights that train, in the order in which forward needs them."""
    of: str
    """The output to make small: the loss, with regularisers the objective, or that scaled."""

    @classmethod
    def of_net(cls, net: Module, objective: Objective, groups: Groups, inputs: Types,
               targets: Types, scaling: LossScaling | None = None) -> Aim:  # fmt: skip
        """Trace the net for inputs and targets of these types."""
        optimizers: dict[str, Optimizer] = {}

        def outputs(result: Any, trace: Trace) -> dict[str, Tensor]:
            found = _measured(objective, result, trace, targets)
            optimizers.update(_assigned(net, trace, groups))
            of = "loss"
            if terms := _terms(objective, trace, optimizers):
                of, found["objective"] = "objective", sum(terms, found["loss"])
            if scaling:
                held = Tensor(trace, trace.graph.input(SLOTS[SCALE], SCALE))
                found["scaled"] = found[of] * scaling.scale(held).astype(found[of].dtype)
            return found

        traced = net.trace(inputs, training=True, then=outputs)
        names = _by_first_use(traced, optimizers)
        _as_inputs(traced, [*names, *traced.updates])
        of = next(n for n in ("scaled", "objective", "loss") if n in traced.graph.output_names)
        return cls(traced, optimizers, names, of)

    @property
    def weights(self) -> list[str]:
        """All that a step changes."""
        return [*self.names, *self.traced.updates]


def evaluation_graph(net: Module, objective: Objective | None, inputs: Types, targets: Types,
                     weights: Sequence[str]) -> StepGraph:  # fmt: skip
    """The net in its inference form: the loss and the metrics, or without them its outputs.

    weights: which are inputs, because a state holds them.
    """
    then = (
        (lambda result, trace: _measured(objective, result, trace, targets)) if objective else None
    )
    traced = net.trace(inputs, then=then)
    known = [name for name in weights if name in traced.params]
    _as_inputs(traced, known)
    return StepGraph(traced.graph, known, {}, {})


def _measured(objective: Objective, result: Any, trace: Trace, targets: Types) -> dict[str, Tensor]:
    """The loss and the metrics by name."""
    given = [Tensor(trace, trace.graph.input(type, name)) for name, type in targets.items()]
    found = {}
    for name, function in {"loss": objective.loss, **objective.metrics}.items():
        shown = getattr(function, "__name__", type(function).__name__)
        try:
            with trace.graph.provenance(shown):
                found[name] = function(result, *given)
        except Error as error:
            raise type(error)(f"{shown} of output {_shown(result)}: {error}") from None
        if not isinstance(found[name], Tensor):
            raise InputError(f"{shown} gave {type(found[name]).__name__}, wanted a tensor")
        if found[name].rank:
            raise InputError(
                f"{shown} gave {found[name].type}, wanted a single number, such as its mean()"
            )
    return found


def _shown(result: Any) -> str:
    return str(result.type) if isinstance(result, Tensor) else f"{type(result).__name__}"


def _terms(objective: Objective, trace: Trace, optimizers: Mapping[str, Optimizer]) -> list[Tensor]:
    """The regularisers of the weights that train."""
    terms = []
    for pattern, function in objective.regularisers.items():
        chosen = [name for name in optimizers if fnmatchcase(name, pattern)]
        _must_match(pattern, chosen, optimizers)
        terms += [function(Tensor(trace, trace.params[name])) for name in chosen]
    return terms


def _assigned(net: Module, trace: Trace, groups: Groups) -> dict[str, Optimizer]:
    """The optimiser of every weight that trains, in the net's order."""
    able = {n: m for n, p, m in net.params.items_of_modules() if p.trainable and n in trace.params}
    for pattern in groups:
        _must_match(pattern, [n for n in able if fnmatchcase(n, pattern)], able)
    chosen = {}
    for name, module in able.items():
        optimizer = next((o for p, o in groups.items() if fnmatchcase(name, p)), None)
        if optimizer is not None and not module._state.frozen:
            chosen[name] = optimizer
    if not chosen:
        raise InputError("there is nothing to train: all weights are frozen, or in no group")
    return chosen


def _must_match(pattern: str, found: Sequence[str], names: Mapping[str, Any]) -> None:
    if not found:
        close = difflib.get_close_matches(pattern, names, 3, 0.4) or list(names)[:4]
        raise InputError(
            f"no weight that trains is called {pattern!r}; there is {', '.join(close)}"
        )


def _as_inputs(traced: Traced, names: Sequence[str]) -> None:
    """Turn params of a traced net into inputs of the same names."""
    graph = traced.graph
    for name in names:
        param = traced.params[name]
        traced.params[name] = graph.input(param.type, name)
        graph.replace(param, traced.params[name])
    graph.sweep()


class _Builder:
    """From a traced net with a loss to the graph of a step."""

    def __init__(
        self, aim: Aim, groups: Groups, clip: Clip | None, scaling: LossScaling | None
    ) -> None:
        self.aim, self.groups, self.clip, self.scaling = aim, groups, clip, scaling
        self.slots: dict[str, TensorType] = {}
        self.numbers: dict[str, tuple[str, str]] = {}
        self.carried: dict[str, Tensor] = {}

    def build(self, recompute: Choice | None) -> StepGraph:
        """Differentiate, clip, update."""
        aim = self.aim
        last_first = aim.names[::-1]  # so the graph needs the least memory
        graph = gradient(aim.traced.graph, aim.of, last_first, recompute=recompute)
        trace = Trace(graph, {}, True, 0)
        found = {
            n: Tensor(trace, v) for n, v in zip(graph.output_names, graph.outputs, strict=True)
        }
        inputs = {v.name or "": Tensor(trace, v) for v in graph.inputs}
        gradients = {name: found.pop(f"grad.{name}") for name in last_first}
        updates = {name: found.pop(f"{name} updated") for name in aim.traced.updates}
        if self.scaling:
            scale = self.scaling.scale(inputs[SCALE])
            gradients = unscaled(gradients, scale)
            fine = all_finite(gradients)
        if self.clip:
            gradients = self.clip(gradients)
        shared = self._numbers(trace)
        self.carried.update(updates)
        for name, dw in gradients.items():
            with graph.provenance(f"update {name}"):
                self._update(name, inputs[name], dw, shared)
        if self.scaling:
            self._only_where(fine, trace)
            count = Tensor(trace, graph.input(SLOTS[COUNT], COUNT))
            self.carried |= self.scaling.next(scale, count, fine)
            self.slots |= SLOTS
        for name in ("objective", "scaled"):
            found.pop(name, None)
        self._outputs(graph, found)
        return StepGraph(graph, aim.weights, self.slots, self.numbers)

    def _numbers(self, trace: Trace) -> dict[str, dict[str, Tensor]]:
        """The inputs of every group's optimiser."""
        shared: dict[str, dict[str, Tensor]] = {}
        for count, (pattern, optimizer) in enumerate(self.groups.items()):
            if optimizer is None:
                continue
            shared[pattern] = {}
            for number in optimizer.numbers(1, 0.0):
                name = f"{number}.{count}" if len(self.groups) > 1 else number
                self.numbers[name] = pattern, number
                value = trace.graph.input(TensorType("f32", ()), name)
                shared[pattern][number] = Tensor(trace, value)
        return shared

    def _update(
        self, name: str, w: Tensor, dw: Tensor, shared: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        optimizer, trace = self.aim.optimizers[name], w.trace
        pattern = next(p for p in self.groups if fnmatchcase(name, p))
        numbers = {n: x if w.dtype == "f32" else x.astype(w.dtype)
                   for n, x in shared[pattern].items()}  # fmt: skip
        slots = {}
        for slot in optimizer.slots:
            full = f"{name}~{slot}"
            self.slots[full] = w.type
            slots[slot] = Tensor(trace, trace.graph.input(w.type, full))
        new, kept = optimizer.update(w, dw, slots, numbers)
        self.carried |= {f"{name}~{slot}": x for slot, x in kept.items()} | {name: new}

    def _only_where(self, fine: Tensor, trace: Trace) -> None:
        """Carry what was before unless the step is fine."""
        held = {v.name or "": Tensor(trace, v) for v in trace.graph.inputs}
        self.carried = {name: where(fine, new, held[name]) for name, new in self.carried.items()}

    def _outputs(self, graph: Graph, shown: Mapping[str, Tensor]) -> None:
        """What is shown, then what is carried, each to the input of its name."""
        graph.outputs, graph.output_names = [], []
        for name, tensor in shown.items():
            graph.output(tensor.value, name)
        positions = {v.name: i for i, v in enumerate(graph.inputs)}
        for name, tensor in self.carried.items():
            graph.output(tensor.value, f"{name} updated")
            graph.carry(len(graph.outputs) - 1, positions[name])
        graph.sweep()
        graph.verify()


def _by_first_use(traced: Traced, names: Mapping[str, Any]) -> list[str]:
    """Names of weights in the order in which forward needs them."""
    position: dict[Value, int] = {}
    for number, node in enumerate(traced.graph.order()):
        for value in node.operands:
            if value is not None:
                position.setdefault(value, number)
    return sorted(names, key=lambda name: position[traced.params[name]])
