"""Checkpoints: all that a training needs to go on as if it had not been cut off.

An npz file of plain arrays, never pickled, written whole or not at all: weights and slots under
`now/NAME`, those of the best epoch under `best/NAME`, and the rest as JSON, whose numbers are read
back as the very same.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import InputError, ModelError, quoted
from cnnir.frontends.atomic import replacing
from cnnir.tensortype import TensorType

VERSION = 1
NOTES = "training.json"

Arrays = dict[str, np.ndarray]


@dataclass
class Checkpoint:
    """Arrays by name, those of the best epoch so far, and notes that JSON can hold."""

    now: Arrays
    best: Arrays | None
    notes: dict[str, Any]


def write(path: str, point: Checkpoint) -> None:
    """Write a checkpoint in the place of the one before."""
    notes = json.dumps({"version": VERSION, **point.notes}).encode()
    arrays = {NOTES: np.frombuffer(notes, np.uint8)}
    for prefix, group in (("now", point.now), ("best", point.best or {})):
        arrays |= {f"{prefix}/{name}": array for name, array in group.items()}
    if odd := [name for name, array in arrays.items() if array.dtype.kind == "V"]:
        raise InputError(f"{odd[0]} is {arrays[odd[0]].dtype}, which a checkpoint cannot hold")
    with replacing(os.fspath(path)) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read(path: str, wanted: Mapping[str, TensorType]) -> Checkpoint:
    """A checkpoint whose arrays are those wanted; InputError or ModelError for any other file."""
    shown = quoted(os.fspath(path))
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        notes = json.loads(arrays.pop(NOTES).tobytes())
        if notes["version"] != VERSION:
            raise ModelError(f"{shown} is of version {notes['version']}, wanted {VERSION}")
    except FileNotFoundError:
        raise InputError(f"there is no file {shown}") from None
    except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise ModelError(f"{shown} is no checkpoint: {error}") from None
    groups: dict[str, Arrays] = {"now": {}, "best": {}}
    for name, array in arrays.items():
        prefix, _, rest = name.partition("/")
        groups.setdefault(prefix, {})[rest] = array
    _check(shown, groups["now"], wanted)
    return Checkpoint(groups["now"], groups["best"] or None, notes)


def _check(shown: str, arrays: Arrays, wanted: Mapping[str, TensorType]) -> None:
    wrong = [f"{name} is missing" for name in wanted.keys() - arrays.keys()]
    wrong += [f"{quoted(name)} is not in this training" for name in arrays.keys() - wanted.keys()]
    for name, type in wanted.items():
        if name in arrays and TensorType.of(arrays[name]) != type:
            wrong.append(f"{name} is {TensorType.of(arrays[name])}, this training has {type}")
    if wrong:
        listed = "".join(f"\n  - {line}" for line in sorted(wrong))
        raise ModelError(
            f"{shown} is a checkpoint of another net, or of another optimiser:{listed}"
        )
