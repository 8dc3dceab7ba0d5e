"""Module: the base of all layers and nets, built-in and user-defined.

A module sets its options in `__init__` and says in `forward` what it computes, on symbolic tensors.
Weights are asked for where they are used, `self.param(name, shape)`, so their shapes follow from
the input. Modules that are attributes (or in lists and dicts that are) are its parts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnir.errors import Error, IRError, quoted
from cnnir.frontends.dsl.initialisers import Fans, Initialiser, zeros
from cnnir.frontends.dsl.params import Params
from cnnir.frontends.dsl.source import boundary, user_place
from cnnir.frontends.dsl.summary import Summary, summary
from cnnir.frontends.dsl.tensor import Tensor
from cnnir.frontends.dsl.trace import ACTIVE, Call, State, Trace, drawn, located
from cnnir.frontends.dsl.weights import load_weights, save_weights
from cnnir.ir import Graph, Value
from cnnir.tensortype import TensorType

Shape = str | TensorType | Sequence[int]


@dataclass
class Traced:
    """A net as a graph, with what a training step needs to know of it."""

    graph: Graph
    params: dict[str, Value]
    """Name -> param of the graph."""
    trainable: list[str]
    """The names that a training step changes: neither statistics nor frozen."""
    updates: dict[str, Value]
    """Name -> what a training step makes of it without a gradient: running statistics."""
    calls: dict[Any, Call]
    """Layer -> how often it is used and what it gave."""


class _Declared(type):
    """Notes how and where a module was written, before its own `__init__` runs."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        module: Any = object.__new__(cls)  # type: ignore[arg-type]
        shown = [*map(_shown, args), *(f"{k}={_shown(v)}" for k, v in kwargs.items())]
        call = re.sub(r"(\.\.\., )+(?=\.\.\.)", "", ", ".join(shown))
        module._state = State(f"{cls.__name__}({call})", user_place())
        try:
            check_arguments(cls.__name__, inspect.signature(module.__init__), args, kwargs)
            module.__init__(*args, **kwargs)
        except Error as error:
            if getattr(error, "located", False):
                raise
            raise located(type(error)(f"{cls.__name__}: {error}")) from None
        return module


def check_arguments(name: str, signature: inspect.Signature, args: Any, options: Any) -> None:
    """IRError unless arguments fit; it says how the call is written."""
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        written = re.sub(r"<function (\w+) at \w+>", r"\1", str(inspect.Signature(parameters)))
        raise IRError(f"{error}, it is written {name}{written}") from None


def _shown(argument: Any) -> str:
    """An argument as it was written, more or less: parts are `...`, functions their names."""
    if isinstance(argument, Module):
        return "..."
    named = callable(argument) and hasattr(argument, "__name__")
    return argument.__name__ if named else repr(argument)


class Module(metaclass=_Declared):
    """A layer or a whole net."""

    _state: State

    @property
    def kind(self) -> str:
        """What it is called where it has no name of its own: `conv`, `batch_norm`."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def forward(self, *xs: Any) -> Any:
        """What the module computes: a tensor, or a tuple, list or dict of them."""
        raise IRError("it has no forward(self, x), wanted one")

    def __call__(self, *xs: Any, **options: Any) -> Any:
        """`forward` on tensors; its nodes carry the module's name."""
        tensors = [x for x in (*xs, *options.values()) if isinstance(x, Tensor)]
        trace: Trace | None = tensors[0].trace if tensors else ACTIVE.get()
        if trace is None:
            given = ", ".join(type(x).__name__ for x in xs) or "nothing"
            raise located(
                IRError(f"{type(self).__name__} on {given}: wanted a symbolic tensor; "
                        "to run a net on arrays call cnnir.compile(net)")
            )  # fmt: skip
        result = trace.run(self, xs, options)
        if isinstance(result, Tensor):
            value = result.value
            passed_on = any(x.value.node is value.node for x in tensors)
            if value.name is None and value.node.kind == "op" and not passed_on:
                value.name = trace.names[self] or None
        trace.record(self, result)
        return result

    def __repr__(self) -> str:
        return self._state.call

    # ------------------------------------------------------------------ for forward

    def param(
        self,
        name: str,
        shape: Sequence[int],
        init: Initialiser = zeros,
        *,
        dtype: str = "f32",
        fans: Fans | None = None,
        trainable: bool = True,
    ) -> Tensor:
        """A weight of this module; drawn by `init` when it is first met.

        fans: how many inputs and outputs a weight connects, where the shape is not that of a
        convolution's weight [O, I, *kernel]. trainable=False: no gradient changes it.
        """
        trace = self._trace()
        return trace.param(self, name, TensorType(dtype, tuple(shape)), init, fans, trainable)

    def constant(self, array: Any) -> Tensor:
        """An array that is part of the structure, not a weight."""
        return self._trace().constant(array)

    def update(self, name: str, value: Tensor) -> None:
        """A training step is to make `value` the new array of the weight `name`."""
        trace = self._trace()
        trace.updates[trace.path(self, name)] = value.value

    def updated(self, name: str, value: Tensor) -> Tensor:
        """The weight `name`, now `value`, as the updates so far leave it."""
        trace = self._trace()
        known = trace.updates.get(trace.path(self, name))
        return value if known is None else Tensor(trace, known)

    @property
    def training(self) -> bool:
        """Whether the training form is traced and this module is not frozen."""
        return self._trace().training and not self._state.frozen

    def _trace(self) -> Trace:
        trace = ACTIVE.get()
        if trace is None:
            raise IRError("weights and modes exist inside of forward only")
        return trace

    # ------------------------------------------------------------------ parts and weights

    def children(self) -> Iterator[tuple[str, Module]]:
        """Names and modules of the direct parts."""
        for key, value in vars(self).items():
            if isinstance(value, Module):
                yield key, value
            elif isinstance(value, (list, tuple, dict)):
                pairs = value.items() if isinstance(value, dict) else enumerate(value)
                yield from ((f"{key}.{k}", v) for k, v in pairs if isinstance(v, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all its parts by path, each once."""
        seen: set[Module] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if module not in seen:
                seen.add(module)
                yield path, module
                inner = [(f"{path}.{n}" if path else n, m) for n, m in module.children()]
                stack.extend(reversed(inner))

    @property
    def params(self) -> Params:
        """The weights by name: reading gives arrays, assigning replaces them."""
        return Params(self)

    def initialise(self, seed: int = 0) -> None:
        """Draw all weights anew."""
        for path, module in self.named_modules():
            for name, p in module._state.parameters.items():
                full = ".".join(filter(None, (path, name)))
                p.array = drawn(p.init, seed, full, p.type, p.fans)

    def freeze(self, frozen: bool = True) -> Module:
        """Keep its weights from training and its parts in their inference form; itself."""
        for _, module in self.named_modules():
            module._state.frozen = frozen
        return self

    def save(self, path: str) -> None:
        """Write the weights to a .safetensors or .npz file, whole or not at all."""
        save_weights(dict(self.params), path)

    def load(self, path: str) -> Module:
        """Take the weights of a file; all names, types and shapes have to fit. Itself."""
        for name, array in load_weights(path, self.params.types()).items():
            self.params[name] = array
        return self

    # ------------------------------------------------------------------ graphs

    @boundary
    def trace(
        self,
        *shapes: Shape | Mapping[str, Shape] | None,
        training: bool = False,
        seed: int = 0,
        then: Callable[[Any, Trace], Any] | None = None,
    ) -> Traced:
        """The net as a graph for inputs of these shapes, with its weights by name.

        shapes: one an input of `forward`: (1, 3, 32, 32), "u8[1,3,32,32]", or one dict by name.
        None means those of `build`, or else of the first time. training: with batch statistics
        and dropout. seed: of the weights that do not exist yet. then: makes the outputs from what
        `forward` gave, such as a loss.
        """
        inputs = self._inputs(shapes)
        graph = Graph(type(self).__name__)
        trace = Trace(graph, {m: p for p, m in self.named_modules()}, training, seed)
        tensors = [Tensor(trace, graph.input(type, name)) for name, type in inputs.items()]
        try:
            result = self(*tensors)
            result = then(result, trace) if then else result
            for name, tensor in _outputs(result, self):
                graph.output(tensor.value, name)
        except BaseException:
            trace.undo()
            raise
        self._state.inputs = self._state.inputs or inputs
        for name, value in trace.updates.items():
            graph.output(value, f"{name} updated")
        graph.sweep()
        trainable = [
            name for name, p, module in self.params.items_of_modules()
            if p.trainable and not module._state.frozen and name in trace.params
        ]  # fmt: skip
        used = {name: value for name, value in trace.params.items() if value.node in graph.nx}
        return Traced(graph, used, trainable, trace.updates, trace.calls)

    def graph(self, *shapes: Shape | Mapping[str, Shape] | None, training: bool = False) -> Graph:
        """The net as a graph; see `trace`. Running statistics are further outputs in training."""
        return self.trace(*shapes, training=training).graph

    def build(self, *shapes: Shape | Mapping[str, Shape] | None, seed: int = 0) -> Module:
        """Check the net for these shapes and draw the weights that do not exist yet; itself."""
        inputs = self._inputs(shapes)
        self.trace(inputs, seed=seed)
        self._state.inputs = inputs
        return self

    def summary(self, *shapes: Shape | Mapping[str, Shape] | None) -> Summary:
        """A table of the layers: prints as text, and as a rich table."""
        return summary(self, self.trace(*shapes))

    def _inputs(self, shapes: Sequence[Any]) -> dict[str, TensorType]:
        """Name and type of every input."""
        if shapes in ((), (None,)):
            if self._state.inputs is None:
                raise IRError(
                    f"{type(self).__name__} does not know the shapes of its inputs yet, wanted "
                    "them once, such as net.build((1, 3, 32, 32))"
                )
            return self._state.inputs
        names, least = input_names(self)
        if len(shapes) == 1 and isinstance(shapes[0], Mapping):
            given = dict(shapes[0])
            if unknown := [n for n in given if n not in names]:
                raise IRError(f"there is no input {quoted(unknown[0])}, there are {names}")
            return {n: given[n] if isinstance(given[n], TensorType) else _type(given[n])
                    for n in names if n in given}  # fmt: skip
        if not least <= len(shapes) <= len(names):
            whole = f", such as {shapes}" if all(type(s) is int for s in shapes) else ""
            raise IRError(
                f"{type(self).__name__} takes {', '.join(names)}; "
                f"{len(shapes)} shapes are given, wanted one for each{whole}"
            )
        return {n: _type(s) for n, s in zip(names, shapes, strict=False)}


def _type(shape: Any) -> TensorType:
    if isinstance(shape, TensorType):
        return shape
    if isinstance(shape, str):
        return TensorType.parse(shape)
    try:
        return TensorType("f32", tuple(int(d) for d in shape))
    except (TypeError, ValueError):
        raise IRError(
            f"{shape!r} is no shape, wanted sizes such as (1, 3, 32, 32) or 'u8[1,3,32,32]'"
        ) from None


def input_names(module: Module) -> tuple[list[str], int]:
    """What forward calls its inputs, and how many of them it needs."""
    parameters = inspect.signature(module.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and not positional:
        return ["x"], 1
    return [p.name for p in positional], sum(p.default is p.empty for p in positional)


def _outputs(result: Any, module: Module) -> list[tuple[str, Tensor]]:
    """What forward gave, by name."""
    if isinstance(result, Tensor):
        named = [("output", result)]
    elif isinstance(result, Mapping):
        named = [(str(name), x) for name, x in result.items()]
    elif isinstance(result, (tuple, list)):
        named = [(f"output{i}", x) for i, x in enumerate(result)]
    else:
        named = [("output", result)]
    for name, x in named:
        if not isinstance(x, Tensor):
            raise IRError(
                f"forward of {type(module).__name__} gave {type(x).__name__} as {name}, "
                "wanted a tensor"
            )
    return named


def symbol(shape: Shape, name: str = "x") -> Tensor:
    """A symbolic input of its own, to try layers on: shapes are checked as you write."""
    trace = Trace(Graph("sketch"), {}, False, 0)
    return Tensor(trace, trace.graph.input(_type(shape), name))
