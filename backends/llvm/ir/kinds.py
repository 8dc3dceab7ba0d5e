"""Types of LLVM IR: one object each, so that equal types are the same object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class _One(type):
    """Makes one object for each class and arguments."""

    made: ClassVar[dict[tuple[Any, ...], Any]] = {}

    def __call__(cls, *arguments: Any) -> Any:
        key = (cls, *arguments)
        found = _One.made.get(key)
        return _One.made.setdefault(key, super().__call__(*arguments)) if found is None else found


class Type(metaclass=_One):
    """A type; `text` is how IR has it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class VoidType(Type):
    """No value."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("void")


class PointerType(Type):
    """An address."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("ptr")


class IntType(Type):
    """An integer of so many bits."""

    __slots__ = ("width",)

    def __init__(self, width: int) -> None:
        super().__init__(f"i{width}")
        self.width = width


class HalfType(Type):
    """A float of 16 bits."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("half")


class FloatType(Type):
    """A float of 32 bits."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("float")


class DoubleType(Type):
    """A float of 64 bits."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("double")


class VectorType(Type):
    """`count` lanes of a scalar type."""

    __slots__ = ("count", "element")

    def __init__(self, element: Type, count: int) -> None:
        super().__init__(f"<{count} x {element.text}>")
        self.element, self.count = element, count


class FunctionType:
    """What a function takes and gives."""

    __slots__ = ("arguments", "result")

    def __init__(self, result: Type, arguments: Sequence[Type]) -> None:
        self.result, self.arguments = result, tuple(arguments)
