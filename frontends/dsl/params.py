"""The weights of a net by name, as numpy arrays."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from cnnir.errors import InputError, IRError
from cnnir.frontends.dsl.trace import Parameter, read_only
from cnnir.tensortype import TensorType


class NoSuchParameter(InputError, KeyError):
    """A name that no weight of the net has."""

    def __str__(self) -> str:
        return str(self.args[0])


class Params(MutableMapping[str, np.ndarray]):
    """Name -> array, in the order of the net's layers.

    Arrays are read-only, since graphs share them; assigning replaces one and keeps its type.
    """

    def __init__(self, module: Any) -> None:
        self._module = module

    def items_of_modules(self) -> Iterator[tuple[str, Parameter, Any]]:
        """Name, parameter and the layer that it belongs to."""
        for path, module in self._module.named_modules():
            for name, parameter in module._state.parameters.items():
                yield ".".join(filter(None, (path, name))), parameter, module

    def _known(self) -> dict[str, Parameter]:
        known = {name: parameter for name, parameter, _ in self.items_of_modules()}
        if not known and self._module._state.inputs is None:
            raise IRError(
                f"{type(self._module).__name__} has no weights yet: their shapes follow from its "
                "input, wanted net.build(shape) first, such as net.build((1, 3, 32, 32))"
            )
        return known

    def _find(self, name: str) -> Parameter:
        known = self._known()
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 3)
            hint = f"; close ones are {', '.join(close)}" if close else ""
            raise NoSuchParameter(f"there is no parameter {name!r}{hint}")
        return known[name]

    def __getitem__(self, name: str) -> np.ndarray:
        return self._find(name).array

    def __setitem__(self, name: str, value: Any) -> None:
        parameter, array = self._find(name), np.asarray(value)
        if array.shape != parameter.array.shape:
            raise InputError(
                f"parameter {name!r} is {parameter.type}, an array {list(array.shape)} is given"
            )
        if not np.can_cast(array.dtype, parameter.array.dtype, "same_kind"):
            raise InputError(f"parameter {name!r} is {parameter.type}, {array.dtype} is given")
        parameter.array = read_only(np.array(array, parameter.array.dtype, order="C"))

    def __delitem__(self, name: str) -> None:
        raise InputError(f"parameter {name!r} cannot be deleted, it belongs to a layer")

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {type}" for name, type in self.types().items())

    def types(self) -> dict[str, TensorType]:
        """Name -> element type and shape."""
        return {name: parameter.type for name, parameter in self._known().items()}

    @property
    def count(self) -> int:
        """How many numbers they are."""
        return sum(p.array.size for p in self._known().values())
