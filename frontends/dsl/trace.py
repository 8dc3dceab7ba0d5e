"""The one mechanism that builds graphs: a trace holds the graph while layers run on tensors.

It knows the layer that is running (so that nodes carry its name), gives every weight one param of
the graph however often it is used, and collects what a training step has to update.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnnir.errors import Error, IRError, LimitError, UnsupportedError
from cnnir.frontends.dsl.initialisers import Fans, Initialiser, fans_of
from cnnir.frontends.dsl.source import Place, error_place
from cnnir.frontends.dsl.tensor import Tensor, as_array
from cnnir.ir import Graph, Value
from cnnir.ops import Op
from cnnir.tensortype import TensorType

ACTIVE: ContextVar[Trace | None] = ContextVar("cnnir_trace", default=None)
"""The trace whose layers are running."""

CONSTANT = "constant"
"""What params of the graph are called that are no weights."""


class Home:
    """Where training keeps a weight and updates it; what `Parameter.array` then reads."""

    def __init__(self, now: Callable[[], np.ndarray]) -> None:
        """now: gives the array that is updated, as it is at present."""
        self._now, self._copy = now, read_only(now().copy())

    def read(self) -> np.ndarray:
        """The weight as it is now, in an array that stays as it is."""
        if not np.array_equal(_bytes(self._copy), _bytes(self._now())):
            self._copy = read_only(self._now().copy())
        return self._copy


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


class Parameter:
    """A weight of a layer: its array, which nobody writes to, and how it began."""

    def __init__(self, array: np.ndarray, trainable: bool, init: Initialiser, fans: Fans) -> None:
        self.type = TensorType.of(array)
        self.trainable, self.init, self.fans = trainable, init, fans
        self._array = array
        self.home: Home | None = None

    @property
    def array(self) -> np.ndarray:
        """The weight as it is now; setting it ends what training knows of it."""
        return self._array if self.home is None else self.home.read()

    @array.setter
    def array(self, array: np.ndarray) -> None:
        self._array, self.home = array, None


@dataclass
class State:
    """What the machinery keeps about a layer, beside what its own `__init__` sets."""

    call: str
    """How it was written, such as `Conv(8, 3)`."""
    made: Place | None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    frozen: bool = False
    inputs: dict[str, TensorType] | None = None
    """Of a whole net the inputs of `build`, or else of the first trace."""


@dataclass
class Call:
    """The uses of one layer in a trace."""

    name: str
    count: int = 0
    gave: str = ""


class Trace:
    """A graph being built. `names` are those of the layers in the net that is traced."""

    def __init__(self, graph: Graph, names: dict[Any, str], training: bool, seed: int) -> None:
        self.graph, self.names, self.training, self.seed = graph, names, training, seed
        self.updates: dict[str, Value] = {}
        """Name of a parameter -> what a training step makes it."""
        self.params: dict[str, Value] = {}
        self.created: list[tuple[Any, str]] = []
        self.calls: dict[Any, Call] = {}
        self._used: dict[tuple[Any, str], Value] = {}
        self._numbers: dict[tuple[str, Any], Value] = {}
        self._stack: list[Any] = []
        self._seed: Value | None = None

    # ------------------------------------------------------------------ nodes

    def add(
        self,
        kind: str | type[Op],
        operands: Sequence[Any],
        attributes: dict[str, Any],
        like: Tensor,
    ) -> Any:
        """A node; numbers among the operands become constants of the type of `like`."""
        try:
            values = [self.lift(x, like) for x in operands]
            results = self.graph.add(kind, *values, **attributes)
        except (IRError, LimitError) as error:
            raise located(error) if not self._stack else error from None
        if isinstance(results, tuple):
            return tuple(Tensor(self, value) for value in results)
        return Tensor(self, results)

    def lift(self, x: Any, like: Tensor) -> Value | None:
        """The value of an operand."""
        if isinstance(x, Tensor):
            if x.trace is not self:
                raise IRError(f"a tensor {x.type} of another trace, wanted one made in this call")
            return x.value
        if x is None:
            return None
        array = as_array(x, like.dtype)
        if array.ndim:
            return self.graph.param(CONSTANT, array)
        key = (like.dtype, array.tobytes())
        if key not in self._numbers:
            with self.graph.provenance():
                self._numbers[key] = self.graph.param(CONSTANT, array)
        return self._numbers[key]

    def constant(self, array: np.ndarray) -> Tensor:
        """An array that belongs to the net's structure, not to its weights."""
        return Tensor(self, self.graph.param(CONSTANT, np.asarray(array)))

    # ------------------------------------------------------------------ layers

    def run(self, module: Any, xs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """`forward` of a layer; nodes and errors carry its name."""
        name = self.name_of(module)
        tensors = [x for x in (*xs, *options.values()) if isinstance(x, Tensor)]
        self._stack.append(module)
        token = ACTIVE.set(self)
        try:
            with self.graph.provenance(name or type(module).__name__):
                return module.forward(*xs, **options)
        except (IRError, LimitError, UnsupportedError) as error:
            raise located(error, name, module, tensors) from None
        finally:
            ACTIVE.reset(token)
            self._stack.pop()

    def name_of(self, module: Any) -> str:
        """The path of a layer in the net; one that is in no net is named after its kind."""
        if module not in self.names:
            parent = self.names[self._stack[-1]] if self._stack else ""
            prefix = f"{parent}.{module.kind}" if parent else module.kind
            taken, number = set(self.names.values()), 1
            while f"{prefix}{number}" in taken:
                number += 1
            for path, inner in module.named_modules(f"{prefix}{number}"):
                self.names.setdefault(inner, path)
        return self.names[module]

    def record(self, module: Any, result: Any) -> None:
        """Note that a layer was used, and what it gave."""
        call = self.calls.setdefault(module, Call(self.names[module]))
        call.count += 1
        call.gave = str(result.type) if isinstance(result, Tensor) else ""

    def path(self, module: Any, name: str) -> str:
        """The full name of something of a layer."""
        return ".".join(filter(None, (self.names[module], name)))

    # ------------------------------------------------------------------ weights

    def param(
        self,
        module: Any,
        name: str,
        type: TensorType,
        init: Initialiser,
        fans: Fans | None,
        trainable: bool,
    ) -> Tensor:
        """A weight of a layer as a tensor; drawn when it is met for the first time."""
        if (module, name) not in self._used:
            self._used[module, name] = self._param(module, name, type, init, fans, trainable)
        tensor = Tensor(self, self._used[module, name])
        if tensor.type != type:
            raise IRError(
                f"its {name} is {tensor.type} since its first use, this input wants {type}"
            )
        return tensor

    def _param(
        self,
        module: Any,
        name: str,
        type: TensorType,
        init: Initialiser,
        fans: Fans | None,
        trainable: bool,
    ) -> Value:
        full, known = self.path(module, name), module._state.parameters.get(name)
        if known is None:
            if self._stack and not self._belongs(module):
                raise IRError(
                    "it has weights but no place in the net, wanted it kept as an attribute of "
                    "its net, or in a list or dict that is one"
                )
            fans = fans or fans_of(type.shape)
            known = Parameter(drawn(init, self.seed, full, type, fans), trainable, init, fans)
            module._state.parameters[name] = known
            self.created.append((module, name))
        if full in self.graph.params:
            raise IRError(f"its {name} would be {full}, as something else is called already")
        value = self.graph.param(full, known.array)
        self.params[full] = value
        return value

    def _belongs(self, module: Any) -> bool:
        """Whether the outermost layer that is running has this one as a part."""
        return any(inner is module for _, inner in self._stack[0].named_modules())

    def undo(self) -> None:
        """Forget the weights drawn in this trace, which came to no end."""
        for module, name in self.created:
            del module._state.parameters[name]

    def salt(self, module: Any) -> np.uint32:
        """A number of its own for every use of a layer."""
        uses = self.calls[module].count if module in self.calls else 0
        return np.uint32(zlib.crc32(f"{self.names[module]} {uses}".encode()))

    def random_seed(self) -> Value:
        """The input that random numbers of a training step come from."""
        if self._seed is None:
            self._seed = self.graph.input(TensorType("u32", ()), "seed")
        return self._seed


def drawn(init: Initialiser, seed: int, name: str, type: TensorType, fans: Fans) -> np.ndarray:
    """An initial array; it depends on the seed and the weight's name alone."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    array = np.asarray(init(rng, type.shape, fans))
    if array.shape != type.shape:
        raise IRError(f"the initialiser of {name} gave {list(array.shape)}, wanted {type}")
    return read_only(array.astype(type.numpy))


def read_only(array: np.ndarray) -> np.ndarray:
    """The array, which graphs share from now on."""
    array.setflags(write=False)
    return array


def located(
    error: Error, name: str | None = None, module: Any = None, tensors: Sequence[Tensor] = ()
) -> Error:
    """The error with the layer and the user's lines, unless it has them already."""
    if getattr(error, "located", False):
        return error
    message, places = str(error), {}
    if module is not None:
        types = ", ".join(str(t.type) for t in tensors) or "nothing"
        layer = f"layer {name!r} ({type(module).__name__})" if name else type(module).__name__
        message = f"{layer} on {types}: {message}"
        if module._state.made:
            places[module._state.made] = "made at"
    if place := error_place(error):
        places.setdefault(place, "at")
    lines = "".join(f"\n  {word} {place}" for place, word in places.items())
    found = type(error)(message + lines)
    found.located = True  # type: ignore[attr-defined]
    return found
