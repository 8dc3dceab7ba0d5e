"""What an ONNX operator's function gets to build its nodes with, and the registry of them all.

An operator is a plain function `f(b, *operands, **attributes)`: its parameters are the operator's
inputs and attributes, with the defaults of the standard. It returns the results, or fewer of them
where the rest is not supported. Nodes whose operands are all constant are evaluated right away,
which turns the arithmetic on shapes that exporters leave behind into constants.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np
from onnx import GraphProto

from cnnir.errors import LimitError, ModelError, UnsupportedError
from cnnir.evaluate import evaluate_node
from cnnir.frontends.onnx_tensors import TensorReader
from cnnir.ir import Graph, Value
from cnnir.ops import Elementwise
from cnnir.tensortype import DTYPES, TensorType

FOLDED_ELEMENTS = 1 << 20
"""Constants larger than this stay nodes (views excepted); the fold pass has the time for them."""

FOLDED_FLOPS = 1 << 27
FOLDED_OPS = frozenset(
    "argmax argmin concat cumsum expand gather gather_elements gather_nd matmul one_hot pad"
    " reduce_max reduce_mean reduce_min reduce_prod reduce_sum scatter_elements scatter_nd slice"
    " tile topk transpose trilu".split()
)
"""Besides the elementwise ones: those whose work and memory the types alone bound."""

COMPUTED_BYTES = 1 << 28
"""Constants that operators compute here, such as ranges, are no larger than this."""

LARGEST_DIMENSION = 2**48

OPEN_LENGTH = (
    "an operand is as long as data known only at run time says, which only an output of the graph "
    "may be"
)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operator:
    """A registered function, and what its signature says."""

    function: Callable[..., Any]
    least: int
    most: int
    attributes: frozenset[str]
    required: frozenset[str]
    """Attributes without a default; very old opsets do not demand all of them."""


OPERATORS: dict[str, Operator] = {}


def onnx_op(*names: str) -> Callable[[F], F]:
    """Register a function as the importer of the operators `names`.

    They are of the default domain, or have the domain and a dot in front.
    """

    def register(function: F) -> F:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        operands = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        least = sum(p.default is p.empty for p in operands)
        most = 2**31 if variadic else len(operands)
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        attributes = frozenset(p.name for p in keywords)
        required = frozenset(p.name for p in keywords if p.default is p.empty)
        for name in names:
            OPERATORS[name] = Operator(function, least, most, attributes, required)
        return function

    return register


@dataclass
class Builder:
    """Builds the nodes of one ONNX node; knows its opset and how many results it must give."""

    graph: Graph
    reader: TensorReader
    opset: int
    op: str
    outputs: tuple[bool, ...]
    """For each output of the node whether it has a name, that is, may be used."""

    inline: Callable[[GraphProto, Sequence[Value]], list[Any]]
    """Imports a sub-graph in the scope of the node; gives its outputs."""

    made: set[Value]
    """The constants that were computed here; a node's result among them takes the node's name."""

    lengths: dict[Value, tuple[Value, int]]
    """Values of which only so much counts, along an axis: they may only be graph outputs."""

    # ------------------------------------------------------------------ building

    def add(self, op: str, *operands: Value | None, **attributes: Any) -> Any:
        """Append a node of the IR; a constant where all its operands are constants."""
        if any(v in self.lengths for v in operands):
            raise UnsupportedError(OPEN_LENGTH)
        results = self.graph.add(op, *operands, **attributes)
        values = results if isinstance(results, tuple) else (results,)
        for value in values:
            self.check_type(value.type)
        if self._foldable(values, operands):
            arrays = [self.graph.array(v) for v in operands]
            folded = evaluate_node(values[0].node, arrays)
            values = tuple(self.constant(np.asarray(a, order="C")) for a in folded)
        return values if len(values) > 1 else values[0]

    def _foldable(self, values: Sequence[Value], operands: Sequence[Value | None]) -> bool:
        given = [v for v in operands if v is not None]
        if not given or any(v.node.kind != "param" for v in given):
            return False
        node = values[0].node
        assert node.op is not None
        if node.op.view:
            return True
        if not issubclass(node.op, Elementwise) and node.op.name not in FOLDED_OPS:
            return False
        # a dimension of 0 must not hide that others are huge
        elements = sum(math.prod(max(d, 1) for d in v.type.shape) for v in (*given, *values))
        return elements <= FOLDED_ELEMENTS and node.op.cost(node).flops <= FOLDED_FLOPS

    def constant(self, value: Any, dtype: str | None = None) -> Value:
        """A constant; of the given element type, or of the array's own."""
        made = self.graph.constant(value, dtype)
        self.made.add(made)
        return made

    def like(self, number: float, x: Value) -> Value:
        """A rank-0 constant of the element type of `x`."""
        return self.graph.constant(number, x.type.dtype)

    def full(self, shape: Sequence[int], number: Any, dtype: str) -> Value:
        """A constant of one repeated number; a node when it is large."""
        type = TensorType(dtype, tuple(shape))
        self.check_type(type)
        if type.size <= FOLDED_ELEMENTS:
            return self.constant(np.full(type.shape, number, DTYPES[dtype]))
        return self.graph.add("expand", self.constant(number, dtype), shape=type.shape)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """`x` in another shape; itself when it has that shape already."""
        return x if x.type.shape == tuple(shape) else self.add("reshape", x, shape=tuple(shape))

    def cast(self, x: Value, dtype: str) -> Value:
        """`x` in another element type; itself when it has that type already."""
        return x if x.type.dtype == dtype else self.add("cast", x, dtype=dtype)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """`x` with its axes permuted; itself when they stay in place."""
        same = tuple(perm) == tuple(range(x.type.rank))
        return x if same else self.add("transpose", x, perm=tuple(perm))

    # ------------------------------------------------------------------ constants

    def array(self, value: Value, what: str) -> np.ndarray:
        """The array of a constant operand; unsupported when it is known only at run time."""
        array = self.graph.array(value)
        if array is None:
            raise UnsupportedError(f"{what} given at run time, wanted a constant")
        return array

    def ints(self, value: Value, what: str) -> tuple[int, ...]:
        """A constant vector of integers."""
        array = self.array(value, what)
        if array.ndim > 1:
            self.reject(f"{what} has rank {array.ndim}, wanted a vector")
        if array.dtype.kind not in "iu":
            self.reject(f"{what} has element type {value.type.dtype}, wanted integers")
        return tuple(int(v) for v in array.reshape(-1))

    def number(self, value: Value, what: str) -> Any:
        """A constant of one element as a Python number."""
        array = self.array(value, what)
        if array.size != 1:
            self.reject(f"{what} has {array.size} elements, wanted one")
        return array.reshape(()).item() if array.dtype.kind != "V" else float(array.reshape(()))

    def whole(self, value: Value, what: str) -> int:
        """A constant of one element that is a whole number, of whatever type."""
        number = self.number(value, what)
        if number != number or abs(number) > 2**63 or number != int(number):
            self.reject(f"{what} is {number}, wanted a whole number")
        return int(number)

    # ------------------------------------------------------------------ checking

    def reject(self, message: str) -> NoReturn:
        """The model is malformed at this node."""
        raise ModelError(message)

    def require(self, condition: bool, message: str) -> None:
        """Reject the node unless the condition holds."""
        if not condition:
            raise ModelError(message)

    def choice(self, name: str, value: str, choices: Sequence[str]) -> str:
        """An attribute that must be one of the given words."""
        if value not in choices:
            self.reject(f"{name} is {value!r}, wanted one of {', '.join(choices)}")
        return value

    def axis(self, axis: int, rank: int, name: str = "axis") -> int:
        """An axis counted from the front, in the range 0 to rank - 1."""
        if not -rank <= axis < rank:
            self.reject(
                f"{name} {axis} is out of range for rank {rank}, wanted {-rank} to {rank - 1}"
            )
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int, name: str = "axes") -> tuple[int, ...]:
        """Axes counted from the front, each once, in the order given."""
        result = tuple(self.axis(axis, rank, name) for axis in axes)
        if len(set(result)) != len(result):
            self.reject(f"{name} {list(axes)} has a duplicate for rank {rank}")
        return result

    def check_type(self, type: TensorType) -> None:
        """Raise LimitError for a type too large, before anything of it is allocated."""
        limit = self.reader.max_bytes
        if type.nbytes > limit:
            raise LimitError(f"a result of type {type} is too large: it exceeds max_bytes={limit}")
        if any(d > LARGEST_DIMENSION for d in type.shape):
            raise LimitError(f"a result of type {type} has a dimension above {LARGEST_DIMENSION}")

    def check_bytes(self, shape: Sequence[int], itemsize: int) -> None:
        """The same for an array that is about to be computed here."""
        limit = min(self.reader.max_bytes, COMPUTED_BYTES)
        if math.prod(shape) * itemsize > limit:
            raise LimitError(
                f"a constant of shape {list(shape)} is too large: it exceeds {limit} bytes"
            )
