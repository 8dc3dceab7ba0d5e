"""The ONNX exporter: any graph that ONNX can say, as a model.

Every op of the IR becomes the operator that the importer reads it from, so that importing an export
gives the same graph. `fused` bodies are written out. What ONNX cannot say is refused in one error
that lists all of it. The files `onnx_write_*` hold the ops; this one walks the nodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from cnnir.errors import IRError, LimitError, ModelError, UnsupportedError, quoted
from cnnir.frontends import onnx_write_compute, onnx_write_loss, onnx_write_moves
from cnnir.frontends.atomic import replacing
from cnnir.frontends.onnx_import import load
from cnnir.frontends.onnx_writer import (
    CODES,
    WRITERS,
    Writer,
    opset_of,
    raw,
    read_values,
    tensor_proto,
)
from cnnir.ir import Graph, Node, Value

WRITER_FILES = (onnx_write_compute, onnx_write_loss, onnx_write_moves)
"""Importing them registers the ops they write."""

LARGEST_MODEL = 1_900_000_000
"""Weights above this go to a file of their own: protobuf ends at 2 GiB, with all else in it."""

SMALLEST_EXTERNAL = 1024
"""Tensors smaller than this stay in the model, where shape inference can read them."""

ALIGNMENT = 4096
"""External tensors begin at multiples of this, so that they can be mapped into memory."""


def save(
    graph: Graph, path: str, *, batch: str | None = None, external: bool | None = None
) -> None:
    """Write a graph as an ONNX file, whole or not at all.

    batch: a name, such as "N", that stands for the first dimension of inputs and outputs, so that
        the file is for any batch size; None writes the sizes that the graph has.
    external: whether weights of 1 KiB or more go to a file beside it, PATH.data; None does so when
        they are together larger than 1.9 GB.

    Raises UnsupportedError, listing everything at once, for what ONNX cannot say.
    """
    path = os.fspath(path)
    writer = _written(graph, batch)
    total = sum(array.nbytes for array in writer.arrays.values())
    if external is None:
        external = total > LARGEST_MODEL
    if not external and total > LARGEST_MODEL:
        raise LimitError(f"{total} bytes of weights do not fit one ONNX file, wanted external=True")
    model = _model(graph, writer, batch)
    if external:
        location = os.path.basename(path) + ".data"
        _save_external(model, writer.arrays, path + ".data", location)
    else:
        _inline(model, writer.arrays)
    with replacing(path) as file:
        file.write(model.SerializeToString())


def export(graph: Graph, batch: str | None = None) -> ModelProto:
    """The graph as a ModelProto that holds its weights; `batch` as for `save`."""
    writer = _written(graph, batch)
    model = _model(graph, writer, batch)
    _inline(model, writer.arrays)
    return model


# ---------------------------------------------------------------- the walk


def _written(graph: Graph, batch: str | None) -> Writer:
    """Everything written, or one error that lists what cannot be."""
    names = [*(v.name or "" for v in graph.inputs), *graph.output_names]
    writer = Writer(opset_of(graph), names)
    writer.batch = _batch_of(graph) if batch else None
    missing: dict[str, list[str]] = {}
    for value in graph.inputs:
        writer.define(value, value.name)
    _name_outputs(graph, writer, missing)
    _nodes(graph, writer, (), missing)
    _copies(graph, writer)
    if missing:
        items = []
        for what, places in missing.items():
            shown = ", ".join(places[:3]) + (", ..." if len(places) > 3 else "")
            items.append(f"{what} ({len(places)}: {shown})")
        raise UnsupportedError("the graph has what ONNX cannot say:", items)
    _drop_unread(graph, writer)
    if batch:
        _check_batch(graph, writer, batch)
    return writer


def _batch_of(graph: Graph) -> int:
    """The first dimension that all inputs share (those of rank 0 have none)."""
    sizes = {v.type.shape[0] for v in graph.inputs if v.type.rank}
    if len(sizes) != 1:
        raise UnsupportedError(f"the inputs have no batch in common: {sorted(sizes)}")
    return sizes.pop()


def _check_batch(graph: Graph, writer: Writer, batch: str) -> None:
    """The file is imported for another batch, and all that is to change are first dimensions."""
    assert writer.batch is not None
    other = 2 * writer.batch + 1
    model = _model(graph, writer, batch)
    _inline(model, writer.arrays)
    shapes = {v.name or "": (other, *v.type.shape[1:]) for v in graph.inputs if v.type.rank}
    refused = f"the graph is for a batch of {writer.batch} alone, wanted batch=None"
    try:
        again = load(model, shapes)
    except (IRError, ModelError) as error:
        raise UnsupportedError(f"{refused}: {error}") from None
    for name, old, new in zip(graph.output_names, graph.outputs, again.outputs, strict=True):
        if new.type.shape != (other, *old.type.shape[1:]):
            changed = f"{old.type} becomes {new.type} for a batch of {other}"
            raise UnsupportedError(f"{refused}: output {quoted(name)} {changed}")


def _name_outputs(graph: Graph, writer: Writer, missing: dict[str, list[str]]) -> None:
    """Results that are outputs have the outputs' names."""
    lengths = {length for length, _ in graph.trims.values()}
    inputs = {v.name for v in graph.inputs}
    for position, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        if position in lengths:
            continue
        if name in inputs and not (value.node.kind == "input" and value.name == name):
            missing.setdefault("an output with the name of an input", []).append(quoted(name))
        elif value.node.kind == "op":
            writer.define(value, name)
        if position in graph.trims:
            if _trim_is_known(graph, position):
                writer.cut.add(value.node)
            else:
                what = "an output cut at run time, unless nms or nonzero give it"
                missing.setdefault(what, []).append(quoted(name))


def _trim_is_known(graph: Graph, position: int) -> bool:
    """Whether ONNX cuts this output itself: it is all that is read of an nms or nonzero."""
    value, (length, _) = graph.outputs[position], graph.trims[position]
    node = value.node
    own = (
        value.index == 0 and node.name in ("nms", "nonzero") and graph.outputs[length].node is node
    )
    return own and not any(graph.users(v) for v in node.results)


def _nodes(
    graph: Graph, writer: Writer, sources: tuple[str, ...], missing: dict[str, list[str]]
) -> None:
    """The params and nodes of a graph; `sources` are those of the node that it is the body of."""
    writer.used |= read_values(graph)
    order = graph.order()
    for node in order:  # all params first, so that their names are free
        if node.kind == "param":
            value = node.results[0]
            name = writer.define(value, writer.fresh(value.name or "param"))
            writer.initializer(name, graph.params[node.attrs["ref"]])
    for node in order:
        if node.op is not None:
            came = node.sources or sources
            writer.at("+".join(came))
            try:
                _node(node, writer, came, missing)
            except UnsupportedError as error:
                where = quoted("+".join(came)) if came else "unnamed"
                missing.setdefault(f"{node.name}: {error}", []).append(where)
                for value in node.results:
                    writer.define(value)


def _node(
    node: Node, writer: Writer, sources: tuple[str, ...], missing: dict[str, list[str]]
) -> None:
    assert node.op is not None
    if isinstance(body := node.attrs.get("body"), Graph):
        _inlined(body, node, writer, sources, missing)
    elif node.name in WRITERS:
        WRITERS[node.name](writer, node, *writer.operands(node))
    elif node.op.decompose is not None:
        _inlined(_decomposed(node), node, writer, sources, missing)
    else:
        raise UnsupportedError("ONNX has no such operator")


def _inlined(
    body: Graph,
    node: Node,
    writer: Writer,
    sources: tuple[str, ...],
    missing: dict[str, list[str]],
) -> None:
    """A graph in place of a node: its inputs are the operands, its outputs the results."""
    given = [v for v in node.operands if v is not None]
    for inner, outer in zip(body.inputs, given, strict=True):
        writer.names[inner] = writer.names[outer]
    for inner, outer in zip(body.outputs, node.results, strict=True):
        if inner.node.kind == "op" and inner not in writer.names:
            writer.define(inner, writer.define(outer))
    _nodes(body, writer, sources, missing)
    for inner, outer in zip(body.outputs, node.results, strict=True):
        name = writer.define(outer)
        if writer.names[inner] != name:
            writer.emit("Identity", [writer.names[inner]], [name])


def _decomposed(node: Node) -> Graph:
    """What an op is made of, as a graph of its own."""
    body = Graph("decomposed")
    operands: list[Value | None] = []
    for value in node.operands:
        operands.append(value and body.input(value.type, f"x{len(operands)}"))
    assert node.op is not None and node.op.decompose is not None
    results = node.op.decompose(body, *operands, **node.attrs)
    for value in results if isinstance(results, tuple) else (results,):
        body.output(value, f"y{len(body.outputs)}")
    return body


def _copies(graph: Graph, writer: Writer) -> None:
    """Outputs that are inputs or params, or given twice, are copies."""
    writer.at("")
    lengths = {length for length, _ in graph.trims.values()}
    for position, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        if position not in lengths and value in writer.names and writer.names[value] != name:
            writer.emit("Identity", [writer.names[value]], [name])


def _drop_unread(graph: Graph, writer: Writer) -> None:
    """Nodes and constants that no output needs."""
    read = set(graph.output_names)
    kept = []
    for node in reversed(writer.nodes):
        if read.intersection(node.output):
            kept.append(node)
            read.update(filter(None, node.input))
    writer.nodes = kept[::-1]
    writer.arrays = {name: array for name, array in writer.arrays.items() if name in read}


# ---------------------------------------------------------------- the model


def _model(graph: Graph, writer: Writer, batch: str | None) -> ModelProto:
    """The model without the data of its initializers."""
    lengths = {length for length, _ in graph.trims.values()}
    inputs = [_declared(v.name or "", v, {0: batch} if batch else {}) for v in graph.inputs]
    outputs = []
    for position, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        opened: dict[int, str | None] = {0: batch} if batch else {}
        if position in graph.trims:
            opened = {graph.trims[position][1]: None}
        if position not in lengths:
            outputs.append(_declared(name, value, opened))
    proto = helper.make_graph(writer.nodes, graph.name, inputs, outputs)
    opsets = [helper.make_opsetid("", writer.opset)]
    return helper.make_model(
        proto,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="cnnir",
    )


def _declared(name: str, value: Value, opened: Mapping[int, str | None]) -> Any:
    """A declared value, with the dimensions that have a symbol or no number."""
    shape = [opened.get(axis, d) for axis, d in enumerate(value.type.shape)]
    return helper.make_tensor_value_info(name, CODES[value.type.dtype], shape)


def _inline(model: ModelProto, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(tensor_proto(name, array))
        tensor.raw_data = raw(array)


def _save_external(
    model: ModelProto, arrays: dict[str, np.ndarray], path: str, location: str
) -> None:
    """Write large arrays to a file of their own, and where they are into the model."""
    offset = 0
    with replacing(path) as file:
        for name, array in arrays.items():
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(tensor_proto(name, array))
            if array.nbytes < SMALLEST_EXTERNAL:
                tensor.raw_data = raw(array)
                continue
            data = raw(array)
            file.write(data + b"\0" * (-len(data) % ALIGNMENT))
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": location, "offset": offset, "length": len(data)}
            _annotate(tensor, place.items())
            offset += len(data) + -len(data) % ALIGNMENT


def _annotate(tensor: TensorProto, entries: Iterable[tuple[str, Any]]) -> None:
    for key, value in entries:
        tensor.external_data.add(key=key, value=str(value))
