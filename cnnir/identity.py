"""What a compiled model depends on, as one hash: by it, programs are found again on disk.

A program that was kept may stand for compiling only if compiling would make the same. So the hash
covers the bytes of the model's file, shapes and passes, and cnnir's own source; a backend adds its
options, the processor and the compiler. Whoever has ops, operators or passes of their own in this
process gets no hash, as nothing here knows their source.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from cnnir.backends.pieces import file_digest
from cnnir.errors import ModelError, quoted

_DEPENDENCIES = ("onnx", "networkx", "ml_dtypes")
"""Packages that import and optimise models with us; the backends name theirs."""


class ModelFile:
    """A model's file, which must stay as it is for as long as graphs are made of it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.alone = False
        """Whether models are read of this file alone, not of others beside it; `read` tells."""
        self._stamp = _stamp(self.path)

    def read(self, load: Callable[..., Any]) -> Any:
        """What `load(path, files=...)` makes of it, which adds the names of other files to a list.

        ModelError if this is not the file that was there at the beginning.
        """
        others: list[str] = []
        made = load(self.path, files=others)
        self.check()
        self.alone = not others
        return made

    def check(self) -> None:
        """ModelError if the file is not the one that was there at the beginning."""
        if _stamp(self.path) != self._stamp:
            raise ModelError(f"{quoted(self.path)} has changed since it was compiled first")

    def identity(self, shapes: Mapping[str, tuple[int, ...]] | None, passes: str | None) -> str:
        """The hash; empty where there is none."""
        source = source_stamp()
        if not source or not self._stamp or extended():
            return ""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError:
            return ""  # the importer says what is wrong
        try:
            content = file_digest(descriptor)
        finally:
            os.close(descriptor)
        self.check()
        bound = sorted((name, tuple(shape)) for name, shape in (shapes or {}).items())
        parts = (content, repr(bound), repr(passes), source, platform.python_version())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _stamp(path: str) -> tuple[int, ...]:
    """What changes when a file does; empty when it is no regular file."""
    try:
        info = os.stat(path)
    except OSError:
        return ()
    if not os.path.isfile(path):
        return ()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


@lru_cache(maxsize=1)
def source_stamp() -> str:
    """A hash of names, sizes and times of cnnir's source files; empty if they are not files.

    Not of their content: Python itself decides in this way whether its bytecode is up to date, and
    to read everything would take as long as to load a small model.
    """
    digest, count = hashlib.sha256(), 0
    for package in ("cnnir", "cnnir.frontends", "cnnir.backends"):
        for root in importlib.import_module(package).__path__:
            for name, size, changed in sorted(_sources(root)):
                digest.update(f"{name} {size} {changed}\n".encode())
                count += 1
    for package in _DEPENDENCIES:
        spec = importlib.util.find_spec(package)
        digest.update(f"{package} {_stamp(spec.origin or '') if spec else ''}\n".encode())
    return digest.hexdigest() if count else ""


def _sources(folder: str) -> Iterator[tuple[str, int, int]]:
    """Path, size and time of every Python file below a folder."""
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _sources(entry.path)
        elif entry.name.endswith(".py"):
            info = entry.stat()
            yield entry.path, info.st_size, info.st_mtime_ns


def extended() -> bool:
    """Whether this process has ops, operators or passes that did not come with cnnir.

    A module that is not loaded has nothing that was added to it.
    """
    kinds = [
        *_registry("cnnir.ops.base", "OPS").values(),
        *_registry("cnnir.passes.base", "PASSES").values(),
        *(o.function for o in _registry("cnnir.frontends.onnx_builder", "OPERATORS").values()),
    ]
    if any(not kind.__module__.startswith("cnnir.") for kind in kinds):
        return True
    return _registry("cnnir.passes", "PIPELINES") != _registry("cnnir.passes", "SHIPPED")


def _registry(module: str, name: str) -> dict[str, Any]:
    loaded = sys.modules.get(module)
    return dict(getattr(loaded, name)) if loaded is not None else {}
