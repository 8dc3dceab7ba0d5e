"""The state of a training: weights and slots, updated in place, and seen through `net.params`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from cnnir.backends.state import State
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.trace import Home, Parameter
from cnnir.tensortype import TensorType


class Weights:
    """The arrays that steps update: a net's weights, by name, and the slots of an optimiser.

    `net.params` reads the weights from here. A weight that is assigned, drawn or loaded anew there
    comes in again with `refresh`.
    """

    def __init__(
        self,
        net: Module,
        names: Iterable[str],
        slots: Mapping[str, TensorType],
        before: Weights | None = None,
    ) -> None:
        """Weights of these names; slots begin as zeros, or as they were in `before`."""
        known = {name: p for name, p, _ in net.params.items_of_modules()}
        self._parameters: dict[str, Parameter] = {name: known[name] for name in names}
        types = {name: p.type for name, p in self._parameters.items()}
        self.state = State(types | dict(slots))
        self._homes = {name: Home(partial(self._now, name)) for name in self._parameters}
        if before is not None:
            kept = before.state.arrays
            self.state.write({name: kept[name] for name in slots if name in kept})

    def refresh(self) -> None:
        """Take weights that were changed from outside since the last step."""
        for name, parameter in self._parameters.items():
            if parameter.home is not self._homes[name]:
                self.state.write({name: parameter.array})
                parameter.home = self._homes[name]

    def read(self) -> dict[str, np.ndarray]:
        """Copies of all arrays."""
        self.refresh()
        return {name: array.copy() for name, array in self.state.arrays.items()}

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace all arrays, of weights and slots."""
        self.refresh()
        self.state.write({name: arrays[name] for name in self.state.types})

    @property
    def types(self) -> dict[str, TensorType]:
        """Name -> element type and shape of every array."""
        return self.state.types

    def _now(self, name: str) -> np.ndarray:
        """An array as it is, brought from a device where that has a newer one."""
        return self.state.arrays[name]
