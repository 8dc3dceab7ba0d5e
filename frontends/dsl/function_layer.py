"""Layers without weights: the objects that go with functions on tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.module import Module, check_arguments


class Function(Module):
    """A function on tensors as a layer: `Function(nn.relu)`, or any function of your own."""

    function: ClassVar[Callable[..., Any] | None] = None

    def __init__(self, *args: Any, **options: Any) -> None:
        if self.function is None:
            if not args or not callable(args[0]):
                raise IRError("wanted a function of tensors")
            self.call, args = args[0], args[1:]
        else:
            self.call = self.function
        self.args, self.options = args, options
        signature = inspect.signature(self.call)
        after_x = signature.replace(parameters=list(signature.parameters.values())[1:])
        check_arguments(type(self).__name__, after_x, args, options)

    @property
    def kind(self) -> str:
        """The name of the function."""
        name = getattr(self.call, "__name__", "function")
        return name if name.isidentifier() else "function"

    def forward(self, *xs: Any) -> Any:
        """The function of the tensors and the options given."""
        return self.call(*xs, *self.args, **self.options)


def layer(name: str, function: Callable[..., Any]) -> type[Module]:
    """The class of layers of a function: `layer("ReLU", relu)`; its options are the function's."""
    signature = inspect.signature(function)
    options = list(signature.parameters.values())[1:]
    text = f"{function.__doc__}\n\n    The layer of the function `{function.__name__}`."
    create: Any = type(Function)
    made: type[Module] = create(
        name,
        (Function,),
        {
            "function": staticmethod(function),
            "__doc__": text,
            "__module__": "cnnir.nn",
            "__signature__": signature.replace(parameters=options, return_annotation="None"),
        },
    )
    return made


def single(number: float, default: float) -> float:
    """A number as an f32 holds it, which is how files hold attributes; the default as it is."""
    return default if number == default else float(np.float32(number))
