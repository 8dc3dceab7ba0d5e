"""What is looked at before a training begins: that data and net fit each other."""

from __future__ import annotations

from cnnir.errors import InputError
from cnnir.frontends.dsl.module import Module, input_names
from cnnir.tensortype import TensorType, is_float
from cnnir.training.data import Batch


def make_ready(net: Module, batch: Batch, seed: int) -> None:
    """Build a net that has no weights yet, for the first batch; InputError for data of a type
    that it does not take."""
    types = [TensorType.of(array) for array in batch.inputs]
    built = net._state.inputs
    if built is None:
        for type in types:
            if is_float(type.dtype) and type.dtype != "f32":
                raise InputError(_convert(type, "f32"))
        net.build(dict(zip(input_names(net)[0], types, strict=False)), seed=seed)
        return
    for (name, wanted), type in zip(built.items(), types, strict=False):
        if wanted.dtype != type.dtype:
            raise InputError(f"input {name!r}: {_convert(type, wanted.dtype)}")
        if wanted.shape[1:2] != type.shape[1:2] or wanted.rank != type.rank:
            raise InputError(
                f"input {name!r}: a batch is {type}, the net was built for {wanted}: wanted "
                f"{list(wanted.shape[1:])} a sample, channels first"
            )


def _convert(type: TensorType, wanted: str) -> str:
    name = TensorType(wanted, ()).numpy.name
    return (
        f"x is {type.numpy.name}, wanted {name}: nothing is converted silently, use "
        f"x.astype({name!r})"
    )
