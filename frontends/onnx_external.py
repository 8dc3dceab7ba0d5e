"""Reads external tensor data: bytes of a file that lies beside the model, and of nothing else.

The location comes from an untrusted file. It is walked component by component with `O_NOFOLLOW`
below the model's folder, so neither `..` nor a link leads out; the end must be a regular file
that holds the whole range, which is checked before memory for it is allocated.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

import numpy as np

from cnnir.errors import ModelError, quoted

_NUMBER = re.compile(r"[0-9]{1,19}")


def read_external(
    folder: str | None, entries: Iterable[tuple[str, str]], nbytes: int, what: str
) -> np.ndarray:
    """The `nbytes` bytes that the key-value `entries` of tensor `what` point to."""
    keys: dict[str, str] = {}
    for key, value in entries:
        if key in keys:
            raise ModelError(f"{what}: external data gives the key {quoted(key)} twice")
        keys[key] = value
    if folder is None:
        raise ModelError(f"{what}: external data needs a model loaded from a path, not from bytes")
    if "location" not in keys:
        raise ModelError(f"{what}: external data has no location")
    offset = _number(keys, "offset", 0, what)
    length = _number(keys, "length", nbytes, what)
    if length != nbytes:
        raise ModelError(f"{what}: external length {length} does not match the shape's {nbytes}")
    descriptor = _open(folder, keys["location"], what)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        if offset + nbytes > size:
            raise ModelError(
                f"{what}: external data ends at byte {offset + nbytes} (offset {offset}, length"
                f" {nbytes}), but the file has a size of {size}"
            )
        file.seek(offset)
        return _read(file, nbytes, what)


def _number(keys: dict[str, str], key: str, default: int, what: str) -> int:
    text = keys.get(key)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text) or int(text) > 2**63 - 1:
        raise ModelError(
            f"{what}: external {key} {quoted(text)} is not a number in the range 0 to 2**63-1"
            f"{' (it is negative)' if text.startswith('-') else ''}"
        )
    return int(text)


def _open(folder: str, location: str, what: str) -> int:
    """A descriptor of the regular file at `location` below `folder`."""
    shown = f"{what}: external location {quoted(location)}"
    if not location or "\0" in location:
        raise ModelError(f"{shown} is empty or holds a NUL")
    if location.startswith("/"):
        raise ModelError(f"{shown} is absolute, wanted a path relative to the model's folder")
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise ModelError(f"{shown} must name a file in the model's folder, without '..'")
    beneath = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        current = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for number, part in enumerate(parts):
            # O_NONBLOCK: opening a FIFO must not wait for a writer
            flag = os.O_DIRECTORY if number < len(parts) - 1 else os.O_NONBLOCK
            parent = current
            try:
                current = os.open(part, beneath | flag, dir_fd=parent)
            finally:
                os.close(parent)
    except OSError as error:
        raise ModelError(
            f"{shown} cannot be opened (symbolic links are not followed): {error.strerror}"
        ) from None
    if not stat.S_ISREG(os.fstat(current).st_mode):
        os.close(current)
        raise ModelError(f"{shown} is not a regular file")
    return current


def _read(file: object, nbytes: int, what: str) -> np.ndarray:
    data = np.empty(nbytes, np.uint8)
    view, done = memoryview(data), 0  # type: ignore[arg-type]
    while done < nbytes:
        # one read call moves at most 2 GiB
        count = file.readinto(view[done : done + (1 << 30)])  # type: ignore[attr-defined]
        if not count:
            raise ModelError(f"{what}: external data ended after {done} of {nbytes} bytes")
        done += count
    return data
