"""Target cuda-emu: programs of the CUDA backend on this processor, see `emulator.py`."""

from __future__ import annotations

import os
from collections.abc import Callable

from cnnir.backends.base import Program
from cnnir.backends.cache import DiskCache
from cnnir.backends.cuda import build_on
from cnnir.backends.cuda.emulator import Emulator
from cnnir.ir import Graph

OPTIMISE = True
"""Passes run before this backend sees a graph."""

REMEMBERS = False
"""Programs are made anew in every process, of cubins that are kept."""


def build(
    graph: Callable[[], Graph],
    threads: int | None = None,
    precision: str = "default",
    cache: str | os.PathLike[str] | bool | None = None,
) -> Program:
    """A program for a graph of fixed shapes; options as for target cuda.

    Only precision "default" is another: what emulates tensor cores is slow, so it is "exact".
    """
    return build_on(graph(), Emulator(DiskCache.default(cache)), precision)
