"""What the exporter writes a graph with: names, nodes, constants; and the registry of its ops.

An op's function `f(w, node, *names)` gets the names of the operands and writes nodes whose outputs
are the node's results. It raises UnsupportedError for what ONNX cannot say.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from onnx import NodeProto, TensorProto, helper

from cnnir.errors import ModelError, UnsupportedError
from cnnir.frontends.onnx_schema import check_operands, signature
from cnnir.frontends.onnx_tensors import ELEMENT_TYPES
from cnnir.ir import Graph, Node, Value
from cnnir.tensortype import DTYPES, TensorType

OPSET = 21
"""The opset of every export, old enough for every runtime to have all of its operators ..."""

NEWER = {"swish": 24}
"""... unless the graph has one of these ops, which came later."""

CODES = {name: code for code, name in ELEMENT_TYPES.items()}

F = TypeVar("F", bound=Callable[..., Any])
WRITERS: dict[str, Callable[..., None]] = {}


def writes(*ops: str) -> Callable[[F], F]:
    """Register a function as the exporter of ops of the IR."""

    def register(function: F) -> F:
        WRITERS.update(dict.fromkeys(ops, function))
        return function

    return register


class Writer:
    """The nodes and constants of one model."""

    def __init__(self, opset: int, taken: Sequence[str]) -> None:
        self.opset = opset
        self.batch: int | None = None
        """The first dimension, where the model is to be for any batch size."""
        self.nodes: list[NodeProto] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.names: dict[Value, str] = {}
        self.types: dict[str, TensorType] = {}
        self.used: set[Value] = set()
        """Values that a node or an output reads."""
        self.cut: set[Node] = set()
        """Nodes whose result is an output that is cut to its length, and nothing else."""
        self._taken, self._node_names = set(taken), set[str]()
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._source = ""

    # ------------------------------------------------------------------ names

    def fresh(self, name: str) -> str:
        """`name`, or that with a number, which nothing else is called."""
        return _unique(name or "value", self._taken)

    def define(self, value: Value, name: str | None = None) -> str:
        """The name of a value, given now unless it has one."""
        if value not in self.names:
            self.names[value] = name or self.fresh(value.name or f"{value.node.name}_out")
            self.types[self.names[value]] = value.type
        return self.names[value]

    def operands(self, node: Node) -> list[str]:
        """The names of a node's operands; "" for one that is left out."""
        return ["" if v is None else self.names[v] for v in node.operands]

    def results(self, node: Node) -> list[str]:
        """The names of a node's results; "" for those that nothing reads, the first excepted."""
        return [self.define(v) if v in self.used or not v.index else "" for v in node.results]

    def at(self, source: str) -> None:
        """What is written from now on comes from this layer or node."""
        self._source = source

    # ------------------------------------------------------------------ nodes

    def emit(
        self,
        op: str,
        operands: Sequence[str],
        results: Node | Sequence[str],
        **attributes: Any,
    ) -> None:
        """A node. `results` is whose results they are, or their names.

        Attributes that are None are left out.
        """
        names = list(operands)
        while names and not names[-1]:
            names.pop()
        self._check(op, names)
        outputs = self.results(results) if isinstance(results, Node) else list(results)
        while outputs and not outputs[-1]:
            outputs.pop()
        given = {k: v for k, v in attributes.items() if v is not None}
        name = _unique(self._source or op, self._node_names, f"/{op}")
        self.nodes.append(helper.make_node(op, names, outputs, name=name, **given))

    def _check(self, op: str, names: Sequence[str]) -> None:
        """UnsupportedError unless ONNX has the operator for these element types."""
        known = signature("", op, self.opset)
        if isinstance(known, str):
            raise UnsupportedError(f"{op}: {known}")
        try:
            check_operands(known, [self.types[n] if n else None for n in names])
        except ModelError as error:
            raise UnsupportedError(f"{op}: {error}") from None

    # ------------------------------------------------------------------ constants

    def initializer(self, name: str, array: np.ndarray) -> str:
        """An array under a name that is free."""
        self.arrays[name], self.types[name] = array, TensorType.of(array)
        return name

    def array(self, value: Value) -> np.ndarray | None:
        """The array of a param, None for any other value."""
        return self.arrays.get(self.names[value]) if value.node.kind == "param" else None

    def constant(self, value: Any, dtype: str = "i64") -> str:
        """The name of a small constant; equal ones are one."""
        array = np.asarray(value, DTYPES[dtype])
        key = (dtype, array.tobytes(), array.shape)
        if key not in self._constants:
            self._constants[key] = self.initializer(self.fresh("constant"), array)
        return self._constants[key]


def _unique(name: str, taken: set[str], suffix: str = "") -> str:
    """The name, or with the suffix and a number where it is taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        plain = f"{name}{suffix}" if suffix else f"{name}_{number}"
        candidate = plain if suffix and number == 2 else f"{name}{suffix}_{number}"
    taken.add(candidate)
    return candidate


def number(value: float, default: float | None = None) -> float | None:
    """A float attribute; None, so that it is left out, where it is the standard's default."""
    return None if value == default else float(value)


def tensor_proto(name: str, array: np.ndarray) -> TensorProto:
    """An initializer without its data."""
    type = TensorType.of(array)
    return TensorProto(name=name, dims=type.shape, data_type=CODES[type.dtype])


def raw(array: np.ndarray) -> bytes:
    """The little-endian bytes of an array in row-major order."""
    array = np.ascontiguousarray(array)
    return (array.byteswap() if sys.byteorder == "big" else array).tobytes()


def opset_of(graph: Graph) -> int:
    """The opset that the ops of a graph and of its bodies ask for."""
    opset = OPSET
    for node in graph.order():
        opset = max(opset, NEWER.get(node.name, 0))
        if isinstance(body := node.attrs.get("body"), Graph):
            opset = max(opset, opset_of(body))
    return opset


def read_values(graph: Graph) -> set[Value]:
    """The values that a node or an output of the graph reads."""
    read = set(graph.outputs)
    for node in graph.order():
        read.update(v for v in node.operands if v is not None)
    return read
