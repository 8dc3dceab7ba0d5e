"""What instructions take: results of others, arguments, and constants."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from cnnir.backends.llvm.ir.kinds import FloatType, IntType, Type, VectorType

Number: TypeAlias = "bool | int | float"


class Value:
    """A value of a type; `ref` is what instructions call it."""

    __slots__ = ("ref", "type")

    def __init__(self, type_: Type, ref: str) -> None:
        self.type, self.ref = type_, ref

    def __repr__(self) -> str:
        return f"{self.type.text} {self.ref}"


class Argument(Value):
    """A parameter of a function, with what is promised of it."""

    __slots__ = ("attributes",)

    def __init__(self, type_: Type, ref: str) -> None:
        super().__init__(type_, ref)
        self.attributes: list[str] = []

    def add_attribute(self, name: str) -> None:
        """Promise something, such as noalias."""
        self.attributes.append(name)


class Poison(Value):
    """No value in particular: what nobody may read."""

    __slots__ = ()

    def __init__(self, type_: Type) -> None:
        super().__init__(type_, "poison")


class Constant(Value):
    """A number; of a vector type all of one number, or a list of numbers or constants."""

    __slots__ = ()

    def __init__(self, type_: Type, value: Number | Sequence[Number | Constant]) -> None:
        if isinstance(type_, VectorType):
            ref = _vector(type_, value)
        else:
            assert isinstance(value, int | float)
            ref = _scalar(type_, value)
        super().__init__(type_, ref)


def _vector(type_: VectorType, value: Number | Sequence[Number | Constant]) -> str:
    element = type_.element
    if isinstance(value, int | float):
        return _same(element, _scalar(element, value))
    assert len(value) == type_.count
    lanes = [x.ref if isinstance(x, Constant) else _scalar(element, x) for x in value]
    first = lanes[0]
    if lanes.count(first) == len(lanes):
        return _same(element, first)
    return f"<{', '.join([f'{element.text} {lane}' for lane in lanes])}>"


def _same(element: Type, ref: str) -> str:
    return "zeroinitializer" if ref in ("0", "0.0", "false") else f"splat ({element.text} {ref})"


def _scalar(type_: Type, value: Number) -> str:
    if isinstance(type_, IntType):
        if type_.width == 1:
            return "true" if value else "false"
        return str(int(value))
    return _float(float(value), isinstance(type_, FloatType))


@lru_cache(maxsize=1024)
def _decimal(value: float) -> str:
    """A float that a few binary digits can say, in decimal, else the bits of the f64."""
    short = abs(value) < 1 << 20 and value * 1024 == math.floor(value * 1024)
    return repr(value) if short else f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _float(value: float, single: bool) -> str:
    if value == 0.0:  # equal keys of a cache have different signs
        return "-0.0" if math.copysign(1.0, value) < 0 else "0.0"
    if single and math.isfinite(value):
        try:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        except OverflowError:
            value = math.copysign(math.inf, value)
    return _decimal(value)
