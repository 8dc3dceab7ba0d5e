"""Modules made of modules: one after the other, side by side, and around a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from cnnir.errors import IRError, quoted
from cnnir.frontends.dsl.function_layer import Function
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.shapes import concat
from cnnir.frontends.dsl.tensor import Tensor

Part = Module | Callable[..., Any]


def as_module(part: Part) -> Module:
    """A function of tensors as a layer; modules stay as they are."""
    if isinstance(part, Module):
        return part
    if isinstance(part, type) and issubclass(part, Module):
        raise IRError(f"{part.__name__} is a class, wanted a layer such as {part.__name__}(...)")
    if not callable(part):
        raise IRError(f"{part!r} is no layer, wanted a module or a function of tensors")
    return Function(part)


class Sequential(Module):
    """Layers (or functions of tensors) one after the other.

    Layers given by keyword have that name; the others are called by their kind, counted from 1:
    conv1, relu1, conv2. One layer given twice is used twice, with one set of weights.
    """

    def __init__(self, *layers: Part, **named: Part) -> None:
        self.layers: dict[str, Module] = {}
        self.order: list[Module] = []
        counts: dict[str, int] = {}
        for part in layers:
            module = as_module(part)
            self.order.append(module)
            if module not in self.layers.values():
                counts[module.kind] = counts.get(module.kind, 0) + 1
                self.layers[f"{module.kind}{counts[module.kind]}"] = module
        for name, part in named.items():
            if name in self.layers:
                raise IRError(f"there are two layers named {name!r}")
            self.layers[name] = as_module(part)
            self.order.append(self.layers[name])

    def children(self) -> Iterator[tuple[str, Module]]:
        """The layers by name."""
        yield from self.layers.items()

    def forward(self, x: Tensor) -> Tensor:
        """x through all layers."""
        for module in self.order:
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: str | int | slice) -> Module:
        """A layer by name or position; of a slice a net of the same layers, names and weights."""
        if isinstance(key, slice):
            part, names = Sequential(*self.order[key]), {m: n for n, m in self.layers.items()}
            part.layers = {names[module]: module for module in part.order}
            return part
        if isinstance(key, int):
            return self.order[key]
        if key not in self.layers:
            listed = ", ".join(self.layers)
            raise IRError(f"there is no layer {quoted(key)}, there are {listed}")
        return self.layers[key]


class Branches(Module):
    """Every branch sees the input; what they give is joined along an axis, the channels.

    Branches given by keyword have that name; the others are called branch1, branch2, ...
    """

    def __init__(self, *branches: Part, axis: int = 1, **named: Part) -> None:
        if not branches and not named:
            raise IRError("no branches, wanted at least one")
        counted = {f"branch{i}": branch for i, branch in enumerate(branches, 1)}
        if twice := sorted(counted.keys() & named):
            raise IRError(f"there are two branches named {twice[0]!r}")
        self.named = {name: as_module(b) for name, b in {**counted, **named}.items()}
        self.axis = axis

    def children(self) -> Iterator[tuple[str, Module]]:
        """The branches by name."""
        yield from self.named.items()

    def forward(self, x: Tensor) -> Tensor:
        """All that the branches give, joined."""
        return concat([branch(x) for branch in self.named.values()], self.axis)


class Residual(Module):
    """x plus what the layers make of it; `shortcut` is what brings x to their shape."""

    def __init__(self, *layers: Part, shortcut: Part | None = None) -> None:
        self.body = as_module(layers[0]) if len(layers) == 1 else Sequential(*layers)
        self.shortcut = None if shortcut is None else as_module(shortcut)

    def children(self) -> Iterator[tuple[str, Module]]:
        """The body's layers under their own names, and the shortcut."""
        if type(self.body) is Sequential:
            yield from self.body.children()
        else:
            yield "body", self.body
        if self.shortcut is not None:
            yield "shortcut", self.shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        y = x
        for module in self.body.order if type(self.body) is Sequential else [self.body]:
            y = module(y)
        return y + (x if self.shortcut is None else self.shortcut(x))
