"""Files of weights: .safetensors (with the package `safetensors`) and .npz.

Neither can hold code. What a file holds is checked against the net before any weight changes, and
a file is written whole or not at all.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from cnnir.errors import InputError, ModelError, UnsupportedError, quoted
from cnnir.frontends.atomic import replacing
from cnnir.tensortype import TensorType

try:
    import safetensors.numpy as tensors
    from safetensors import SafetensorError as FormatError
except ImportError:  # an optional dependency
    tensors = None  # type: ignore[assignment]
    FormatError = ValueError  # type: ignore[assignment,misc]

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
    wrong = [f"{name} is missing" for name in wanted if name not in arrays]
    for name, array in arrays.items():
        if name not in wanted:
            wrong.append(f"{quoted(name)} is not a weight of the net")
        elif str(wanted[name]) != _described(array):
            wrong.append(f"{name} is {_described(array)}, the net has {wanted[name]}")
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
    shape = ",".join(map(str, array.shape))
    try:
        return str(TensorType.of(array))
    except Exception as error:
        return f"{array.dtype}[{shape}] ({error})"


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
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = tensors.save({n: whole[n].reshape(a.shape) for n, a in arrays.items()})
    with replacing(path) as file:
        file.write(data)


def _read_safetensors(path: str) -> Arrays:
    _need_package(path)
    try:
        with open(path, "rb") as file:
            return tensors.load(file.read())
    except FileNotFoundError:
        raise InputError(f"there is no file {quoted(path)}") from None
    except (FormatError, ValueError, KeyError) as error:
        raise ModelError(f"{quoted(path)} is not a safetensors file: {error}") from None


def _need_package(path: str) -> None:
    if tensors is None:
        raise UnsupportedError(
            f"{quoted(path)} needs the package safetensors: pip install 'cnnir[safetensors]', "
            "or use .npz"
        )
