"""The ONNX importer: `load` turns a model file into a Graph.

All shapes are static afterwards. A model that is malformed raises ModelError at the first defect;
one that is valid but asks for things cnnir does not have raises a single UnsupportedError that
lists all of them. The files named `onnx_ops_*` hold the operators; this one walks the nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from onnx import FunctionProto, GraphProto, NodeProto, ValueInfoProto

from cnnir.errors import (
    IRError,
    LimitError,
    ModelError,
    RuntimeError,
    UnsupportedError,
    quoted,
)
from cnnir.frontends import (
    onnx_control,
    onnx_ops_constant,
    onnx_ops_conv,
    onnx_ops_deform,
    onnx_ops_detect,
    onnx_ops_einsum,
    onnx_ops_elementwise,
    onnx_ops_index,
    onnx_ops_loss,
    onnx_ops_normalize,
    onnx_ops_quantize,
    onnx_ops_reduce,
    onnx_ops_sample,
    onnx_ops_shape,
    onnx_ops_training,
)
from cnnir.frontends.onnx_builder import OPEN_LENGTH, OPERATORS, Builder
from cnnir.frontends.onnx_functions import Functions
from cnnir.frontends.onnx_model import (
    Source,
    check_header,
    default_domain,
    read_opsets,
    reading,
)
from cnnir.frontends.onnx_obstacles import Obstacles
from cnnir.frontends.onnx_schema import attributes, check_operands, resolved, signature
from cnnir.frontends.onnx_scope import (
    ABSENT,
    UNKNOWN,
    Scope,
    in_order,
    label,
    node_name,
)
from cnnir.frontends.onnx_tensors import TensorReader, described
from cnnir.frontends.onnx_types import Dimensions, Shapes, contradiction
from cnnir.frontends.onnx_wire import RawData
from cnnir.ir import Graph, Value

OPERATOR_FILES = (
    onnx_control,
    onnx_ops_constant,
    onnx_ops_conv,
    onnx_ops_deform,
    onnx_ops_detect,
    onnx_ops_einsum,
    onnx_ops_elementwise,
    onnx_ops_index,
    onnx_ops_loss,
    onnx_ops_normalize,
    onnx_ops_quantize,
    onnx_ops_reduce,
    onnx_ops_sample,
    onnx_ops_shape,
    onnx_ops_training,
)
"""Importing them registers their operators."""

MOST_CONSTANTS = 256
"""Source nodes of constants that a node's provenance takes in."""

MAX_NODES = 200_000
MAX_BYTES = 4 << 30


def load(
    source: Source,
    shapes: Shapes | None = None,
    *,
    outputs: Sequence[str] | None = None,
    max_nodes: int = MAX_NODES,
    max_bytes: int = MAX_BYTES,
    files: list[str] | None = None,
) -> Graph:
    """Import an ONNX model from a path, its bytes, or a ModelProto.

    `shapes` gives the shapes of inputs by name; it is needed where the model leaves dimensions
    open, except for the first (the batch), which is 1 unless said otherwise. `outputs` names what
    is to be the outputs in place of the model's: tensors, or nodes for their first result.
    `max_nodes` limits
    the nodes once functions are expanded, `max_bytes` the size of any single tensor. External
    data is only read below the folder of the model's path; `files` is told the names of such files.
    """
    with reading(source) as parsed:
        model = parsed.model
        opsets = check_header(model)
        functions = Functions(model)
        functions.expanded(model.graph.node, max_nodes)
        reader = TensorReader(parsed.folder, max_bytes, files)
        importer = _Importer(functions, reader, max_nodes)
        bound = Dimensions(shapes)
        return importer.graph_of(model.graph, opsets, bound, outputs, parsed.stored)


class _Importer:
    """Walks one model. What it cannot import becomes UNKNOWN, and is listed at the end."""

    def __init__(self, functions: Functions, reader: TensorReader, max_nodes: int) -> None:
        self.functions, self.reader, self.max_nodes = functions, reader, max_nodes
        self.graph = Graph()
        self.nodes = 0
        self.made: set[Value] = set()
        self.lengths: dict[Value, tuple[Value, int]] = {}
        self.obstacles = Obstacles()
        self.located: Exception | None = None

    # ------------------------------------------------------------------ graphs

    def graph_of(
        self,
        proto: GraphProto,
        opsets: dict[str, int],
        dimensions: Dimensions,
        outputs: Sequence[str] | None = None,
        stored: Sequence[RawData | None] = (),
    ) -> Graph:
        """The whole import of the main graph; `stored` as in `Parsed`."""
        self.graph.name = proto.name or "main"
        if not proto.output:
            raise ModelError("the graph declares no output")
        scope = Scope(opsets, declared=_declared(proto))
        self._initializers(proto, scope, stored)
        self._inputs(proto, scope, dimensions)
        self._nodes(proto.node, scope)
        names = [declared.name for declared in proto.output]
        values = self._outputs(proto, scope)
        if outputs is not None:
            names, values = list(outputs), [scope.tensor(proto.node, name) for name in outputs]
        if any(value is UNKNOWN for value in values):
            raise self.obstacles.error()
        for name, value in zip(names, values, strict=True):
            if name in self.graph.output_names:
                raise ModelError(f"graph output {quoted(name)} is listed twice")
            self.graph.output(value, name, *self.lengths.get(value, ()))
        self.graph.sweep()
        return self.graph

    def _initializers(
        self, proto: GraphProto, scope: Scope, stored: Sequence[RawData | None] = ()
    ) -> None:
        for tensor, raw in zip_longest(proto.initializer, stored):
            read = functools.partial(self.reader.read, tensor, raw=raw)
            self._param(tensor.name, read, scope)
        for sparse in proto.sparse_initializer:
            read = functools.partial(self.reader.read_sparse, sparse)
            self._param(sparse.values.name, read, scope)

    def _param(self, name: str, read: Any, scope: Scope) -> None:
        what = described("initializer", name)
        try:
            value: Any = self.graph.param(name, read(what))
        except UnsupportedError as error:
            value = self.obstacles.add(str(error), what)
        scope.define(name, value, "initializer")

    def _inputs(self, proto: GraphProto, scope: Scope, dimensions: Dimensions) -> None:
        """Inputs that have an initializer are params: their default is their value."""
        defaults = set(scope.names)
        seen: set[str] = set()
        dimensions.bind(proto.input)
        for declared in proto.input:
            if declared.name in seen:
                raise ModelError(f"graph input {quoted(declared.name)} is defined twice")
            seen.add(declared.name)
            if declared.name in defaults:
                self._check(declared, scope.names[declared.name], "initializer")
                continue
            try:
                type = dimensions.input_type(declared, self.reader)
                value: Any = self.graph.input(type, declared.name)
            except UnsupportedError as error:
                value = self.obstacles.add(str(error), described("input", declared.name))
            scope.define(declared.name, value, "graph input")

    def _outputs(self, proto: GraphProto, scope: Scope) -> list[Any]:
        values = []
        for declared in proto.output:
            if declared.name not in scope:
                raise ModelError(f"graph output {quoted(declared.name)} is not defined by any node")
            value = scope.find(declared.name)
            self._check(declared, value, "graph output")
            values.append(value)
        return values

    def _check(self, declared: ValueInfoProto | None, value: Any, what: str) -> None:
        """Raise ModelError where a declared type contradicts the one that the value has."""
        if declared is None or not isinstance(value, Value):
            return
        _, open_axis = self.lengths.get(value, (None, None))
        if wrong := contradiction(declared, value.type, open_axis):
            raise ModelError(f"{what} {quoted(declared.name)} has {wrong}")

    def inline(
        self, proto: GraphProto, operands: Sequence[Any], outer: Scope, at: str
    ) -> list[Any]:
        """The outputs of a sub-graph, its nodes imported in the scope around it."""
        scope = outer.inner(f"{at}/", declared=_declared(proto))
        self._initializers(proto, scope)
        for declared, value in zip(proto.input, operands, strict=True):
            scope.define(declared.name, value, "sub-graph input")
        self._nodes(proto.node, scope)
        return self._outputs(proto, scope)

    # ------------------------------------------------------------------ nodes

    def _nodes(self, nodes: Sequence[NodeProto], scope: Scope) -> None:
        self.nodes += len(nodes) + 1
        if self.nodes > 2 * self.max_nodes:
            raise LimitError(f"more nodes than max_nodes={self.max_nodes} with loops unrolled")
        for index in in_order(nodes, scope):
            self._node(nodes[index], index, scope)

    def _node(self, node: NodeProto, index: int, scope: Scope) -> None:
        """Import one node; errors say which it is."""
        name = scope.prefix + node_name(node, index)
        where = label(node, index, scope.prefix)
        results: Sequence[Any] = ()
        try:
            with self.graph.provenance(name, *_constants(node, scope)):
                results = self._results(node, name, scope)
                results = self._bound(node, results, where)
        except UnsupportedError as error:
            self.obstacles.add(str(error), quoted(name), node, scope)
        except (IRError, ModelError, RuntimeError, LimitError) as error:
            if error is self.located:
                raise
            kind = LimitError if isinstance(error, LimitError) else ModelError
            self.located = kind(f"{where}: {error}")
            raise self.located from None
        for position, output in enumerate(node.output):
            if output:
                value = results[position] if position < len(results) else UNKNOWN
                _inherit(value, name)
                scope.names[output] = value
                self._check(scope.declared.get(output), value, f"{where}: output")

    def _results(self, node: NodeProto, name: str, scope: Scope) -> Sequence[Any]:
        """What the node's outputs are; a shorter list where the rest is UNKNOWN."""
        if not any(node.output):
            raise ModelError("the node has no output")
        operands = [scope.find(n) if n else ABSENT for n in node.input]
        while operands and operands[-1] is ABSENT and not node.input[len(operands) - 1]:
            operands.pop()
        if function := self.functions.find(node):
            return self._call(function, node, operands, name, scope)
        domain = default_domain(node.domain)
        if domain not in scope.opsets:
            raise ModelError(f"the domain {quoted(domain)} is not imported")
        opset = scope.opsets[domain]
        known = signature(domain, node.op_type, opset)
        if isinstance(known, str):
            if known == "no such operator":
                raise UnsupportedError(known)
            raise ModelError(known)
        given = attributes(node, known, scope.bound)
        if len(node.output) > known.most_outputs:
            raise ModelError(f"{len(node.output)} outputs, wanted at most {known.most_outputs}")
        operator = OPERATORS.get(f"{domain}.{node.op_type}" if domain else node.op_type)
        if operator is None:
            raise UnsupportedError("the operator is not supported")
        defaults = {name: known.attributes[name][2] for name in given.keys() - operator.attributes}
        if refused := [name for name in sorted(defaults) if given[name] != defaults[name]]:
            said = (f"attribute {n}={given[n]!r}, wanted {defaults[n]!r}" for n in refused)
            raise UnsupportedError("; ".join(said))
        if any(value is UNKNOWN for value in operands):
            return ()
        if any(value in self.lengths for value in operands):
            raise UnsupportedError(OPEN_LENGTH)
        check_operands(known, [value and value.type for value in operands])
        if len(node.input) < operator.least:
            count = f"{len(node.input)} inputs, wanted {operator.least} or more"
            raise UnsupportedError(f"opset {opset} with {count}")
        operands += [None] * (operator.least - len(operands))
        if any(value is not None for value in operands[operator.most :]):
            raise UnsupportedError(f"input {known.operands[operator.most].name}")
        given = {name: value for name, value in given.items() if name not in defaults}
        if absent := sorted(operator.required - given.keys()):
            raise UnsupportedError(f"opset {opset} without the attribute {absent[0]}")
        builder = Builder(
            self.graph, self.reader, opset, node.op_type, tuple(map(bool, node.output)),
            lambda graph, values: self.inline(graph, values, scope, name), self.made,
            self.lengths,
        )  # fmt: skip
        results = operator.function(builder, *operands[: operator.most], **given)
        return results if isinstance(results, tuple) else (results,)

    def _call(
        self,
        function: FunctionProto,
        node: NodeProto,
        operands: Sequence[Any],
        name: str,
        scope: Scope,
    ) -> list[Any]:
        """The outputs of a function's body, imported in place of the call."""
        given = {a.name: a for a in resolved(node, scope.bound)}
        defaults = {a.name: a for a in function.attribute_proto}
        if unknown := given.keys() - defaults.keys() - set(function.attribute):
            raise ModelError(f"unknown attribute {quoted(min(unknown))} of the function")
        for kind, used, declared in (
            ("inputs", operands, function.input),
            ("outputs", node.output, function.output),
        ):
            if len(used) > len(declared):
                raise ModelError(f"{len(used)} {kind} given, the function has {len(declared)}")
        opsets = {**scope.opsets, **read_opsets(function.opset_import)}
        inner = scope.inner(f"{name}/", opsets=opsets, parent=None, bound=defaults | given)
        for position, formal in enumerate(function.input):
            value = operands[position] if position < len(operands) else ABSENT
            inner.define(formal, value, "function input")
        self._nodes(function.node, inner)
        return [inner.find(output) for output in function.output]

    def _bound(self, node: NodeProto, results: Sequence[Any], where: str) -> list[Any]:
        """Results with the names of the node's outputs as hints; constants become params."""
        named: list[Any] = []
        for position, output in enumerate(node.output):
            if position >= len(results):
                if output and results:
                    self.obstacles.add(f"output {position} is not supported", where, node)
                named.append(UNKNOWN)
                continue
            value = results[position]
            if isinstance(value, Value) and output:
                if value.node.kind == "op" and value.name is None:
                    value.name = output
                elif value in self.made:
                    value = self.graph.param(output, self.graph.params[value.node.attrs["ref"]])
            named.append(value)
        return named


def _inherit(value: Any, name: str) -> None:
    """A node that only gives a value on, or has nodes of its own inside, is its source as well."""
    if isinstance(value, Value) and name not in value.node.sources:
        value.node.sources += (name,)


def _constants(node: NodeProto, scope: Scope) -> list[str]:
    """The nodes that made constants which this one reads: what it becomes comes from them too."""
    found: dict[str, None] = {}
    for name in filter(None, node.input):
        value = scope.find(name) if name in scope else None
        if isinstance(value, Value) and value.node.kind == "param":
            found |= dict.fromkeys(value.node.sources)
    return list(found)[:MOST_CONSTANTS]


def _declared(proto: GraphProto) -> dict[str, ValueInfoProto]:
    """The declared types of values inside the graph, by name."""
    declared: dict[str, ValueInfoProto] = {}
    for value in proto.value_info:
        declared.setdefault(value.name, value)
    return declared
