"""Parses a model from a path, bytes or a ModelProto, and checks its header.

Only the protobuf parser of the onnx package is used: external data is read by `onnx_external`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, OperatorSetIdProto, TensorProto

from cnnir.errors import ModelError, quoted
from cnnir.frontends.onnx_schema import NEWEST_IR, NEWEST_OPSET

LARGEST_FILE = 2**31 - 1
"""Protobuf messages cannot be larger; bigger weights live in external data."""

Source = str | os.PathLike[str] | bytes | ModelProto


def read_model(source: Source) -> tuple[ModelProto, str | None]:
    """The parsed model, and the folder its external data may be in (None without a path)."""
    if isinstance(source, ModelProto):
        model, folder = source, None
    elif isinstance(source, (bytes, bytearray, memoryview)):
        model, folder = _parsed(bytes(source)), None
    else:
        path = os.fspath(source)
        model, folder = _parsed(_file(path)), os.path.dirname(path)
    _check_text(model)
    if not model.HasField("graph"):
        raise ModelError("the model has no graph")
    return model, folder


def _file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{quoted(path)} is not a regular file")
            if status.st_size > LARGEST_FILE:
                raise ModelError(
                    f"{quoted(path)} has {status.st_size} bytes; an ONNX file has less than 2 GiB"
                )
            return file.read()
    except OSError as error:
        raise ModelError(f"{quoted(path)} cannot be read: {error.strerror}") from None


def _parsed(data: bytes) -> ModelProto:
    if not data:
        raise ModelError("the model is empty: no bytes to parse")
    try:
        return onnx.load_model_from_string(data)
    except DecodeError:
        raise ModelError(
            f"the {len(data)} bytes do not parse as an ONNX protobuf (truncated, compressed or"
            " another format)"
        ) from None


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
