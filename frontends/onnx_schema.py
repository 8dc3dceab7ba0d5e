"""The signatures of ONNX operators, and the attributes and operands of a node checked by them.

`onnx.defs` is read as a plain table (names, types, defaults, versions); neither the checker nor
the shape inference of the onnx package is used, since both can end the process on a bad model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto
from onnx.defs import OpSchema

from cnnir.errors import ModelError, quoted
from cnnir.tensortype import TensorType

NEWEST_OPSET: int = onnx.defs.onnx_opset_version()
NEWEST_IR: int = onnx.IR_VERSION

_TYPE_NAMES = {
    "f16": "tensor(float16)",
    "bf16": "tensor(bfloat16)",
    "f32": "tensor(float)",
    "f64": "tensor(double)",
    "bool": "tensor(bool)",
}
_TYPE_NAMES |= {f"i{n}": f"tensor(int{n})" for n in (8, 16, 32, 64)}
_TYPE_NAMES |= {f"u{n}": f"tensor(uint{n})" for n in (8, 16, 32, 64)}
_SHORT_NAMES = {long: short for short, long in _TYPE_NAMES.items()}

# Opset 18 came with a GroupNormalization whose scale is per group; it is marked as deprecated
# from the beginning, yet exporters wrote it.
_STILL_ACCEPTED = {("GroupNormalization", 18)}
_PAYLOADS: dict[int, str] = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors",
    AttributeProto.GRAPHS: "graphs",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
    AttributeProto.TYPE_PROTOS: "type_protos",
}
_KINDS: dict[int, str] = {int(code): name for name, code in AttributeProto.AttributeType.items()}
_SINGLE = ("f", "i", "s", "t", "g", "sparse_tensor", "tp")


@dataclass(frozen=True)
class Formal:
    """One declared operand: its name, whether it may be left out or repeats, its type's name."""

    name: str
    optional: bool
    variadic: bool
    homogeneous: bool
    type: str


@dataclass(frozen=True)
class Signature:
    """What the ONNX standard says of one operator at one opset."""

    op: str
    since: int
    attributes: Mapping[str, tuple[int, bool, Any]]
    """Name to (attribute type, required, default)."""

    operands: tuple[Formal, ...]
    least: int
    most: int
    outputs: tuple[str, ...]
    most_outputs: int
    types: Mapping[str, frozenset[str]]


@functools.lru_cache(maxsize=4096)
def signature(domain: str, op: str, opset: int) -> Signature | str:
    """The operator's signature, or in words why there is none."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return _why_missing(domain, op, opset)
    if schema.deprecated and (op, schema.since_version) not in _STILL_ACCEPTED:
        return f"deprecated since opset {schema.since_version}"
    attributes = {}
    for name, attribute in schema.attributes.items():
        kind = int(attribute.type.value)  # type: ignore[attr-defined]
        default = attribute.default_value
        given = default if isinstance(default, AttributeProto) and default.type else None
        attributes[name] = (kind, attribute.required, given and _payload(given))
    option = OpSchema.FormalParameterOption
    operands = tuple(
        Formal(
            f.name, f.option == option.Optional, f.option == option.Variadic, f.is_homogeneous,
            f.type_str,
        )
        for f in schema.inputs
    )  # fmt: skip
    types = {t.type_param_str: frozenset(t.allowed_type_strs) for t in schema.type_constraints}
    return Signature(
        op, schema.since_version, attributes, operands, schema.min_input, schema.max_input,
        tuple(f.name for f in schema.outputs), schema.max_output, types,
    )  # fmt: skip


def _why_missing(domain: str, op: str, opset: int) -> str:
    try:
        newest = onnx.defs.get_schema(op, NEWEST_OPSET, domain)
    except onnx.defs.SchemaError:
        return "no such operator"
    return f"exists since opset {newest.since_version}, but the model imports opset {opset}"


def check_operands(signature: Signature, types: Sequence[TensorType | None]) -> None:
    """Raise ModelError where operands are missing, too many, or of the wrong element type."""
    if len(types) > signature.most:
        raise ModelError(f"{len(types)} inputs given, wanted at most {signature.most}")
    if len(types) < signature.least:
        missing = signature.operands[len(types)].name if signature.operands else ""
        raise ModelError(
            f"{len(types)} inputs given, wanted at least {signature.least}:"
            f" the required input {missing} is missing"
        )
    bound: dict[str, tuple[str, str]] = {}
    for position, type in enumerate(types):
        formal = signature.operands[min(position, len(signature.operands) - 1)]
        if type is None:
            if not formal.optional:
                raise ModelError(f"the required input {formal.name} is left out (an empty name)")
            continue
        allowed = signature.types.get(formal.type, frozenset((formal.type,)))
        if _TYPE_NAMES[type.dtype] not in allowed:
            known = sorted(_SHORT_NAMES[a] for a in allowed if a in _SHORT_NAMES)
            raise ModelError(
                f"input {formal.name} has element type {type.dtype}, wanted {' or '.join(known)}"
            )
        if formal.type in signature.types and formal.homogeneous:
            name, first = bound.setdefault(formal.type, (formal.name, type.dtype))
            if first != type.dtype:
                raise ModelError(
                    f"input {formal.name} has element type {type.dtype}, wanted {first} as of"
                    f" input {name}"
                )


def attributes(
    node: NodeProto, signature: Signature, bound: Mapping[str, AttributeProto] | None
) -> dict[str, Any]:
    """The attributes of a node as Python values, checked against the operator's signature.

    `bound` are the attributes of the enclosing function's call; None outside of functions.
    """
    values: dict[str, Any] = {}
    for attribute in resolved(node, bound):
        name = attribute.name
        if name not in signature.attributes:
            known = ", ".join(sorted(signature.attributes)) or "none"
            raise ModelError(f"unknown attribute {quoted(name)}; there are {known}")
        kind = attribute_kind(attribute)
        wanted = signature.attributes[name][0]
        if kind != wanted:
            raise ModelError(
                f"attribute {quoted(name)} has type {_KINDS.get(kind, kind)}, wanted"
                f" {_KINDS[wanted]}"
            )
        values[name] = _payload(attribute)
    for name, (_, required, _) in signature.attributes.items():
        if required and name not in values:
            raise ModelError(f"the required attribute {name} is missing")
    return values


def resolved(node: NodeProto, bound: Mapping[str, AttributeProto] | None) -> list[AttributeProto]:
    """A node's attributes, each once, with references to a function's attributes replaced."""
    seen: set[str] = set()
    result = []
    for attribute in node.attribute:
        if attribute.name in seen:
            raise ModelError(f"duplicate attribute {quoted(attribute.name)}")
        seen.add(attribute.name)
        if reference := attribute.ref_attr_name:
            if bound is None:
                raise ModelError(
                    f"attribute {quoted(attribute.name)} refers to {quoted(reference)} of a"
                    " function, but is outside of functions"
                )
            if reference not in bound:
                continue  # the caller leaves it out, so it is left out here
            renamed = AttributeProto()
            renamed.CopyFrom(bound[reference])
            renamed.name = attribute.name
            attribute = renamed
        result.append(attribute)
    return result


def attribute_kind(attribute: AttributeProto) -> int:
    """The attribute's type; ModelError when its payload is another one's."""
    filled = [
        kind
        for kind, field in _PAYLOADS.items()
        if (attribute.HasField(field) if field in _SINGLE else len(getattr(attribute, field)))
    ]
    kind = int(attribute.type)
    if not kind and len(filled) == 1:  # files before IR version 2 have no type tags
        return int(filled[0])
    if kind not in _PAYLOADS:
        raise ModelError(f"attribute {quoted(attribute.name)} has the unknown type {kind}")
    if any(other != kind for other in filled):
        other = next(k for k in filled if k != kind)
        raise ModelError(
            f"attribute {quoted(attribute.name)} is tagged {_KINDS[kind]} but holds {_KINDS[other]}"
        )
    return kind


def _payload(attribute: AttributeProto) -> Any:
    kind = attribute_kind(attribute)
    value = getattr(attribute, _PAYLOADS[kind])
    if kind == AttributeProto.STRING:
        return _text(value, attribute.name)
    if kind == AttributeProto.STRINGS:
        return tuple(_text(v, attribute.name) for v in value)
    return value if _PAYLOADS[kind] in _SINGLE else tuple(value)


def _text(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ModelError(f"attribute {quoted(name)} is not UTF-8 text") from None
