"""NVIDIA's libraries as Python modules, which are optional: imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from cnnir.errors import BackendError

INSTALL = "pip install 'cnnir[cuda]'"


def bindings(name: str, what: str) -> Any:
    """The module `cuda.bindings.NAME`; BackendError that says what wants it and what is missing."""
    try:
        return importlib.import_module(f"cuda.bindings.{name}")
    except ImportError as error:
        raise BackendError(
            f"{what} needs the package {error.name or error}, which is missing: {INSTALL}"
        ) from error
