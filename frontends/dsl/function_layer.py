"""Layers without weights: the objects that go with functions on tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.module import Module


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
        try:
            inspect.signature(self.call).bind(None, *args, **options)
        except TypeError as error:
            raise IRError(f"{error}, it is written {self._usage()}") from None

    @property
    def kind(self) -> str:
        """The name of the function."""
        name = getattr(self.call, "__name__", "function")
        return name if name.isidentifier() else "function"

    def forward(self, *xs: Any) -> Any:
        """The function of the tensors and the options given."""
        return self.call(*xs, *self.args, **self.options)

    def _usage(self) -> str:
        parameters = list(inspect.signature(self.call).parameters.values())[1:]
        shown = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
        return f"{type(self).__name__}{shown}"


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
