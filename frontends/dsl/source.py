"""Where in the user's own files something is written, so that an error can point at it."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TypeVar

from cnnir.errors import Error

F = TypeVar("F", bound=Callable[..., object])

_HERE = tuple(os.path.dirname(file) + os.sep for file in (__file__, inspect.getfile(Error)))
"""Where the DSL and the rest of the package are: two folders in a checkout."""
_BOUNDARIES: set[CodeType] = set()


@dataclass(frozen=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        shown = os.path.relpath(self.file) if os.path.isabs(self.file) else self.file
        shown = self.file if shown.startswith("..") else shown
        text = linecache.getline(self.file, self.line).strip()
        return f"{shown}, line {self.line}" + (f": {text}" if text else "")


def boundary(function: F) -> F:
    """Mark a function that runs a whole net: who called it did not write what is inside."""
    _BOUNDARIES.add(function.__code__)
    return function


def user_place() -> Place | None:
    """The innermost line that is running and lies outside of this package.

    None when a boundary comes first: then the line only asked for a whole net.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _BOUNDARIES:
            return None
        if not _ours(frame):
            return Place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def error_place(error: BaseException) -> Place | None:
    """The innermost line outside of this package that led into it and to an error.

    It is looked for between where the error is caught and where it was raised, then further out.
    """
    place = None
    step = error.__traceback__
    while step is not None:
        if not _ours(step.tb_frame):
            inner = step.tb_next
            if inner is not None and _ours(inner.tb_frame):
                place = Place(step.tb_frame.f_code.co_filename, step.tb_lineno)
        step = step.tb_next
    return place or user_place()


def _ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_HERE)
