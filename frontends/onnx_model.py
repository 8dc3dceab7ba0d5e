"""Parses a model from a path, bytes or a ModelProto, and checks its header.

Only the protobuf parser of the onnx package is used: external data is read by `onnx_external`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, OperatorSetIdProto, TensorProto

from cnnir.errors import InputError, ModelError, quoted
from cnnir.frontends.onnx_schema import NEWEST_IR, NEWEST_OPSET
from cnnir.frontends.onnx_wire import (
    Content,
    FileContent,
    GivenContent,
    Malformed,
    RawData,
    stripped,
)

LARGEST_FILE = 2**31 - 1
"""Protobuf messages cannot be larger; bigger weights live in external data."""

Source = str | os.PathLike[str] | bytes | ModelProto


@contextmanager
def reading(source: Source) -> Iterator[Parsed]:
    """A model, parsed; while this lasts, tensors can be read from its file."""
    if isinstance(source, ModelProto):
        yield _checked(Parsed(source, None))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield _checked(_parsed(GivenContent(bytes(source)), None))
    else:
        if not isinstance(source, (str, os.PathLike)):
            kind = type(source).__name__
            raise InputError(f"the model is of type {kind}, wanted a path, bytes or a ModelProto")
        path = os.fspath(source)
        with _opened(path) as file:
            yield _checked(_parsed(FileContent(file.fileno()), os.path.dirname(path)))


@dataclass
class Parsed:
    """A model and what belongs to it."""

    model: ModelProto
    folder: str | None
    """Where its external data may be; None without a path."""
    stored: list[RawData | None] = field(default_factory=list)
    """Of the first initializers of the main graph the raw data that is not in `model`."""


def _opened(path: str) -> BinaryIO:
    try:
        file = open(path, "rb")
        status = os.fstat(file.fileno())
    except OSError as error:
        raise ModelError(f"{quoted(path)} cannot be read: {error.strerror}") from None
    wrong = ""
    if not stat.S_ISREG(status.st_mode):
        wrong = "is not a regular file"
    elif status.st_size > LARGEST_FILE:
        wrong = f"has {status.st_size} bytes; an ONNX file has less than 2 GiB"
    if wrong:
        file.close()
        raise ModelError(f"{quoted(path)} {wrong}")
    return file


def _parsed(content: Content, folder: str | None) -> Parsed:
    if not content.size:
        raise ModelError("the model is empty: no bytes to parse")
    stored: list[RawData | None] = []
    try:
        data, stored = stripped(content)
    except Malformed:
        data = content.read(0, content.size)  # where it cannot be walked, protobuf knows more
    try:
        return Parsed(onnx.load_model_from_string(data), folder, stored)
    except DecodeError:
        raise ModelError(
            f"the {content.size} bytes do not parse as an ONNX protobuf (truncated, compressed or"
            " another format)"
        ) from None


def _checked(parsed: Parsed) -> Parsed:
    _check_text(parsed.model)
    if not parsed.model.HasField("graph"):
        raise ModelError("the model has no graph")
    return parsed


def _check_text(model: ModelProto) -> None:
    """ModelError where text is not UTF-8: protobuf hands such fields out as bytes."""
    stack: list[Message] = [model]
    while stack:
        message = stack.pop()
        if isinstance(message, TensorProto):  # ListFields would copy its data
            fields: list[tuple[str, Any]] = [("name", message.name)]
            stack.extend(message.external_data)
        else:
            found = ((f, v) for f, v in message.ListFields() if f.name != "doc_string")
            fields = []
            for field, value in found:
                parts = [value] if isinstance(value, (str, bytes, Message)) else value
                if field.type == field.TYPE_MESSAGE:
                    stack.extend(parts)
                elif field.type == field.TYPE_STRING:
                    fields.extend((field.name, part) for part in parts)
        for name, text in fields:
            if isinstance(text, bytes):
                where = f"{message.DESCRIPTOR.name}.{name}"
                raise ModelError(f"{where} holds text that is not UTF-8 (invalid protobuf)")


def check_header(model: ModelProto) -> dict[str, int]:
    """The operator sets of a model; ModelError when its versions are not known."""
    if model.ir_version < 1:
        raise ModelError("the model has no ir_version")
    if model.ir_version > NEWEST_IR:
        raise ModelError(
            f"the model has IR version {model.ir_version}; the newest known is {NEWEST_IR}"
        )
    opsets = read_opsets(model.opset_import)
    if "" not in opsets:
        if any(default_domain(n.domain) == "" for n in model.graph.node):
            raise ModelError("the model imports no opset of the default domain")
        opsets[""] = NEWEST_OPSET
    return opsets


def read_opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    """Opset versions by domain; "ai.onnx" is the default domain."""
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = default_domain(entry.domain)
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"opset of domain {quoted(domain)} imported more than once:"
                f" {opsets[domain]} and {entry.version}"
            )
    version = opsets.get("", NEWEST_OPSET)
    if not 1 <= version <= NEWEST_OPSET:
        raise ModelError(
            f"opset version {version} of the default domain is not known;"
            f" wanted 1 to {NEWEST_OPSET}"
        )
    return opsets


def default_domain(domain: str) -> str:
    """A domain's one spelling."""
    return "" if domain == "ai.onnx" else domain
