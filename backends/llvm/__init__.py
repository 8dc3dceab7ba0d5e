"""The LLVM backend: a Graph becomes native code in this process.

Four stages, a file each: `plan` (kernels and layouts), `place` (addresses), `emit` (LLVM IR) and
`load` (code and a Program). The first three, and compiling, end in an `Image`, which is kept on
disk where it is known of what it was made, and found there the next time. Tuned kernels are in
`kernels/`; everything else is printed from the op's element definition by `printer`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cnnir.backends.base import Program
from cnnir.backends.llvm.cache import ObjectCache
from cnnir.backends.llvm.images import ImageCache
from cnnir.backends.llvm.load import LlvmProgram
from cnnir.backends.llvm.target import CpuTarget, named
from cnnir.errors import BackendError
from cnnir.ir import Graph

__all__ = ["OPTIMISE", "PRECISIONS", "REMEMBERS", "build"]

OPTIMISE = True
"""Passes run before this backend sees a graph."""

REMEMBERS = True
"""`build` takes an `identity`, by which programs are found again."""

PRECISIONS = ("default", "exact")


def build(
    graph: Callable[[], Graph],
    threads: int | None = None,
    features: str | None = None,
    cache: str | os.PathLike[str] | bool | None = None,
    precision: str = "default",
    tune: bool = False,
    identity: str | None = None,
) -> Program:
    """Native code for a graph of fixed shapes.

    graph: makes the graph, which is used up, where the program is not found on disk. threads: of a
    run; None takes every core this process may use. features: "avx512", "avx2", "sse2" or LLVM's
    names, with the vector width that they give; None takes the host's and the width that suits the
    graph, unless CNNIR_CPU_FEATURES says otherwise. cache: where compiled objects and programs are
    kept; False for nowhere, None for the user's cache folder, or CNNIR_CACHE. precision: "default"
    allows algorithms that round differently, within 1e-4 of the largest result (Winograd
    convolution); "exact" adds only the products of each op's definition. tune: go by the times of
    the best few kernels for each step, measured once with so many threads and kept in the cache,
    instead of predictions; so that another number of threads may take another algorithm, whose
    results differ in the last bits. identity: what the program is found by, if one was kept
    (`keep`), see `cnnir.identity`; None for one that is not kept.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r}; there are {', '.join(PRECISIONS)}")
    started = time.perf_counter()
    host = CpuTarget.host(features)
    threads = threads or host.cores
    objects, images = ObjectCache.default(cache), ImageCache.default(cache) if identity else None
    asked = {"features": named(features), "precision": precision, "tune": tune}
    options = {"threads": threads, **asked}
    key = images.key(identity, host, options) if images and identity else ""
    image = images.load(key) if images else None
    known = image is not None
    if image is not None:
        image.plan.seconds = {"recall": time.perf_counter() - started}
    else:
        making = importlib.import_module("cnnir.backends.llvm.make")  # what a recall does without
        image = making.make(graph(), host, options, objects)
    image.plan.notes += images.notes() if images else []
    keep = partial(images.save, key, image) if images and not known else None
    program = LlvmProgram(image, host, threads, objects, keep)
    if not known:
        _give_back()
    return program


def _give_back() -> None:
    """Return free memory to the system, where the C library (glibc) would keep it otherwise: what
    the compiler used, and the loader."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(ctypes.c_size_t(0))


def __getattr__(name: str) -> Any:
    """`listing`, for reports, imported when first used."""
    if name == "listing":
        return importlib.import_module("cnnir.backends.llvm.listing")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
