"""The parts of scipy that are used, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from cnnir.errors import BackendError


def sparse() -> ModuleType:
    """scipy.sparse; BackendError where scipy is not installed."""
    return _part("sparse")


def _part(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"scipy.{name}")
    except ImportError:
        raise BackendError(
            "scipy is not installed; wanted for matrices: pip install 'cnnir[mathematics]'"
        ) from None
