"""The declared types of ONNX values: static shapes for inputs, and checks of what is declared.

Symbolic dimensions are bound here: by the shapes the caller gives, and the first dimension of an
input, which is the batch, to 1 when nothing else is known. A name that is bound has its value
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import TensorShapeProto, ValueInfoProto

from cnnir.errors import InputError, ModelError, UnsupportedError, quoted
from cnnir.frontends.onnx_tensors import TensorReader, described, element_type
from cnnir.tensortype import TensorType

Shapes = Mapping[str, Sequence[int]]


class Dimensions:
    """The symbolic dimensions of a model and what they are bound to."""

    def __init__(self, shapes: Shapes | None) -> None:
        self.shapes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
        self.bound: dict[str, tuple[int, str]] = {}
        for name, shape in self.shapes.items():
            if any(type(d) is not int or d < 0 for d in shape):
                raise InputError(f"shapes: {quoted(name)} is {shape}, wanted integers >= 0")

    def bind(self, inputs: Sequence[ValueInfoProto]) -> None:
        """Bind names from the given shapes, then those of batches to 1."""
        names = {v.name for v in inputs}
        if unknown := sorted(self.shapes.keys() - names):
            listed = ", ".join(quoted(n) for n in sorted(names)) or "none"
            raise InputError(f"shapes: there is no input {quoted(unknown[0])}; inputs: {listed}")
        for value in inputs:
            shape = self.shapes.get(value.name)
            if shape is None or not _has_shape(value):
                continue
            dims = value.type.tensor_type.shape.dim
            if len(dims) != len(shape):
                raise InputError(
                    f"shapes: {quoted(value.name)} is {shape}, but the model declares rank"
                    f" {len(dims)}"
                )
            for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
                self._bind(value.name, axis, dim, size)
        for value in inputs:
            if value.name not in self.shapes and _has_shape(value):
                dims = value.type.tensor_type.shape.dim
                if dims and dims[0].dim_param:
                    self.bound.setdefault(dims[0].dim_param, (1, "the batch"))

    def _bind(self, name: str, axis: int, dim: TensorShapeProto.Dimension, size: int) -> None:
        where = f"dimension {axis} of input {quoted(name)}"
        if dim.HasField("dim_value"):
            if dim.dim_value != size and dim.dim_value >= 0:
                raise InputError(f"shapes: {where} is {size}, the model has {dim.dim_value}")
        elif dim.dim_param:
            known, other = self.bound.setdefault(dim.dim_param, (size, where))
            if known != size:
                raise InputError(
                    f"shapes: {where} is {size}, but {quoted(dim.dim_param)} is {known} by {other}"
                )

    def input_type(self, value: ValueInfoProto, reader: TensorReader) -> TensorType:
        """The static type of a graph input."""
        what = described("input", value.name)
        if not value.HasField("type") or value.type.WhichOneof("value") is None:
            raise ModelError(f"{what} has no type")
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedError(f"values of type {kind.removesuffix('_type')} ({what})")
        dtype = element_type(value.type.tensor_type.elem_type, f"type of {what}")
        shape = self.shapes.get(value.name)
        if not _has_shape(value):
            if shape is None:
                raise InputError(
                    f"{what} has no shape; give it as shapes={{{quoted(value.name)}: (...)}}"
                )
            return TensorType(dtype, reader.shape(shape, dtype, what))
        dims = [self._size(value, axis) for axis in range(len(value.type.tensor_type.shape.dim))]
        return TensorType(dtype, reader.shape(dims, dtype, what))

    def _size(self, value: ValueInfoProto, axis: int) -> int:
        dim = value.type.tensor_type.shape.dim[axis]
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        if value.name in self.shapes:
            return self.shapes[value.name][axis]
        if dim.dim_param in self.bound:
            return self.bound[dim.dim_param][0]
        if axis == 0:
            return 1
        symbol = f" ({quoted(dim.dim_param)})" if dim.dim_param else ""
        raise InputError(
            f"dimension {axis}{symbol} of input {quoted(value.name)} is not known; give"
            f" shapes={{{quoted(value.name)}: (...)}}"
        )


def _has_shape(value: ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.HasField(
        "shape"
    )


def contradiction(
    declared: ValueInfoProto, type: TensorType, open_axis: int | None = None
) -> str | None:
    """In words how the declared type of a value contradicts the inferred one; None if not.

    open_axis: the axis of which only the largest size is known.
    """
    if declared.type.WhichOneof("value") != "tensor_type":
        if declared.HasField("type") and declared.type.WhichOneof("value"):
            return f"type {type}, but the model declares no tensor type"
        return None
    tensor = declared.type.tensor_type
    if tensor.elem_type:
        dtype = element_type(tensor.elem_type, f"type of {quoted(declared.name)}")
        if dtype != type.dtype:
            return f"type {type}, but the model declares element type {dtype}"
    if not tensor.HasField("shape"):
        return None
    dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    fits = len(dims) == type.rank and all(
        d in (None, own) or axis == open_axis
        for axis, (d, own) in enumerate(zip(dims, type.shape, strict=True))
    )
    shown = ",".join("?" if d is None else str(d) for d in dims)
    return None if fits else f"shape {list(type.shape)}, but the model declares [{shown}]"
