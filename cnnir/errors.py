"""Every exception of cnnir. All derive from `Error`; nothing else is raised on purpose.

Messages read `op(operand types): what is wrong, what was wanted` and name the source node where
there is one. Names that come from a model file are untrusted: `quoted` makes them printable.
"""

from __future__ import annotations

import builtins
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class Error(Exception):
    """Base of all cnnir errors."""


class IRError(Error):
    """A graph that cannot be built or does not verify."""


class ParseError(Error):
    """Text that is not a graph. Holds the position and shows the line with a caret."""

    def __init__(self, message: str, line: int, column: int = 1, source: str = "") -> None:
        shown = f"\n  {source}\n  {' ' * (column - 1)}^" if source else ""
        super().__init__(f"line {line}, column {column}: {message}{shown}")
        self.line, self.column = line, column


class ModelError(Error):
    """A model file that is malformed: what is wrong, where, and what was wanted."""


@dataclass(frozen=True)
class Obstacle:
    """One thing that a model asks for and cnnir does not have."""

    where: str
    """The node, or what else it is: `initializer 'w'`."""
    operator: str
    opset: int
    operands: tuple[str, ...]
    """Types of the operands, where they are known."""
    what: str
    nearest: str = ""
    """The nearest form that is supported, where there is one."""


class UnsupportedError(Error):
    """A valid model that asks for things cnnir does not have. Lists all of them at once."""

    def __init__(
        self, message: str, items: Sequence[str] = (), obstacles: Sequence[Obstacle] = ()
    ) -> None:
        listed = "".join(f"\n  - {item}" for item in items)
        super().__init__(message + listed)
        self.items, self.obstacles = tuple(items), tuple(obstacles)


class GradientError(Error):
    """A derivative that does not exist, or that is asked for in a way that has no meaning."""


class LimitError(Error):
    """Something larger than the limits allow: nodes, bytes, seconds."""


class PassError(Error):
    """A pass that broke the graph, or did not come to an end."""


class BackendError(Error):
    """Code generation, native compilation or a target that is not available."""


class InputError(Error):
    """An input of a run with the wrong name, dtype or shape."""


class RuntimeError(Error, builtins.RuntimeError):
    """A run that met data it cannot work on, such as an index out of range."""


class TrainingError(Error):
    """A training that cannot go on: a loss that is no number."""


def quoted(name: str, limit: int = 120) -> str:
    """A name from outside as it may be shown: quoted, control characters escaped, not too long."""
    text = name if len(name) <= limit else name[: limit - 3] + "..."
    return "'" + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text) + "'"


def near(name: str, names: Iterable[str]) -> str:
    """A hint at the end of a message on a name that there is not: those that are written alike."""
    found = difflib.get_close_matches(name, list(dict.fromkeys(names)), 3, 0.4)
    return f"; near are {', '.join(map(quoted, found))}" if found else ""
