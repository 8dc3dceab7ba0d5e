"""Files of weights: .safetensors (with the package `safetensors`) and .npz.

Neither can hold code. What a file holds is checked against the net before any weight changes, and
a file is written whole or not at all.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from cnnir.errors import InputError, IRError, ModelError, UnsupportedError, quoted
from cnnir.frontends.atomic import replacing
from cnnir.tensortype import DTYPES, TensorType

try:
    import safetensors as package
    from safetensors import SafetensorError as FormatError
    from safetensors.numpy import save as safetensors_bytes
except ImportError:  # an optional dependency
    package = None  # type: ignore[assignment]
    FormatError = ValueError  # type: ignore[assignment,misc]

TYPES = {
    **{f"F{n}": f"f{n}" for n in (16, 32, 64)}, "BF16": "bf16", "BOOL": "bool",
    **{f"{k}{n}": f"{k.lower()}{n}" for k in "IU" for n in (8, 16, 32, 64)},
}  # fmt: skip
"""What safetensors calls our element types."""

Arrays = dict[str, np.ndarray]


def save_weights(arrays: Arrays, path: str) -> None:
    """Write arrays by name; the suffix chooses the format."""
    path = os.fspath(path)
    write = _chosen(path, {".npz": _write_npz, ".safetensors": _write_safetensors})
    write(arrays, path)


def load_weights(path: str, wanted: Mapping[str, TensorType]) -> Arrays:
    """The arrays of a file, which must be those wanted; all that is wrong is listed at once."""
    path = os.fspath(path)
    read = _chosen(path, {".npz": _read_npz, ".safetensors": _read_safetensors})
    arrays = read(path)
    wrong = []
    for name, type in wanted.items():
        if name not in arrays:
            wrong.append(f"{name} is missing")
        elif str(type) != _described(arrays[name]):
            wrong.append(f"{name} is {_described(arrays[name])}, the net has {type}")
    for name in sorted(arrays.keys() - wanted.keys()):
        wrong.append(f"{quoted(name)} is not a weight of the net")
    if wrong:
        listed = "".join(f"\n  - {line}" for line in wrong)
        raise ModelError(f"the weights in {quoted(path)} are not those of this net:{listed}")
    return arrays


def _chosen(path: str, formats: Mapping[str, Callable]) -> Callable:
    suffix = os.path.splitext(path)[1]
    if suffix not in formats:
        raise InputError(f"{quoted(path)} ends in {suffix!r}, wanted {' or '.join(formats)}")
    return formats[suffix]


def _described(array: np.ndarray) -> str:
    try:
        return str(TensorType.of(array))
    except IRError:  # an element type that we do not have
        return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _write_npz(arrays: Arrays, path: str) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "V":
            raise UnsupportedError(
                f"{name} is {_described(array)}, which npz cannot hold; .safetensors can"
            )
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_npz(path: str) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise InputError(f"there is no file {quoted(path)}") from None
        raise ModelError(f"{quoted(path)} is not an npz file of plain arrays: {error}") from None


def _write_safetensors(arrays: Arrays, path: str) -> None:
    _need_package(path)
    data = safetensors_bytes({n: np.require(a, requirements="C") for n, a in arrays.items()})
    with replacing(path) as file:
        file.write(data)


def _read_safetensors(path: str) -> Arrays:
    _need_package(path)
    try:
        with open(path, "rb") as file:
            found = package.deserialize(file.read())
    except FileNotFoundError:
        raise InputError(f"there is no file {quoted(path)}") from None
    except (FormatError, ValueError) as error:
        raise ModelError(f"{quoted(path)} is not a safetensors file: {error}") from None
    arrays = {}
    for name, tensor in found:
        if tensor["dtype"] not in TYPES:
            raise UnsupportedError(f"{quoted(name)} in {quoted(path)} is {tensor['dtype']}")
        dtype = DTYPES[TYPES[tensor["dtype"]]]
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return arrays


def _need_package(path: str) -> None:
    if package is None:
        raise UnsupportedError(
            f"{quoted(path)} needs the package safetensors: pip install 'cnnir[safetensors]', "
            "or use .npz"
        )
