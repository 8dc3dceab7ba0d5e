"""What the command line is given, as arrays and shapes: `name=1,3,8,8`, `x.npy`, `random`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnir.errors import InputError
from cnnir.ir import Graph
from cnnir.verify import random_inputs


def shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    """`["x=1,3,8,8"]` as {"x": (1, 3, 8, 8)}; the name may hold `=` itself."""
    found = {}
    for text in given:
        name, equals, listed = text.rpartition("=")
        sizes = [size.strip() for size in listed.split(",") if size.strip()]
        if not equals or not name or not all(size.isdecimal() for size in sizes):
            raise InputError(f"--shape {text!r}: wanted something like name=1,3,224,224")
        found[name] = tuple(int(size) for size in sizes)
    return found


def batched(graph: Graph, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all inputs with another batch: those that begin as the first one does."""
    ranked = [v for v in graph.inputs if v.type.rank]
    if not ranked or batch < 1:
        raise InputError(f"--batch {batch}: the model has no batch, or it is less than 1")
    before = ranked[0].type.shape[0]
    return {str(v.name): (batch, *v.type.shape[1:]) for v in ranked if v.type.shape[0] == before}


def feeds(graph: Graph, given: list[str], seed: int) -> dict[str, np.ndarray]:
    """All inputs of the graph: from files by name, from files in order, the others at random."""
    names = [str(v.name) for v in graph.inputs]
    found: dict[str, np.ndarray] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        named = equals and name in names
        if equals and not named and not Path(text).exists():
            raise InputError(f"there is no input {name!r}; the model takes {', '.join(names)}")
        source = rest if named else text
        if source == "random":
            continue
        free = [n for n in names if n not in found]
        found |= _from_file(Path(source), name if named else next(iter(free), None), names)
    return dict(zip(names, random_inputs(graph, seed), strict=True)) | found


def _from_file(path: Path, name: str | None, names: list[str]) -> dict[str, np.ndarray]:
    """The array of a .npy under `name`, or all arrays of a .npz that are named as inputs."""
    try:
        with open(path, "rb") as file:
            loaded: Any = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                if name is None:
                    raise InputError(f"{path}: the model takes only {names}")
                return {name: loaded}
            return {key: loaded[key] for key in loaded.files if key in names}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a .npy or .npz file: {error}") from None


def save(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    """Write the outputs to a .npz, by name."""
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **dict(outputs))


def available_threads() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
