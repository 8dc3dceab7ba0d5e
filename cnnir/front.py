"""From a source to a program: where graphs come from, how they are built, what is kept of it.

A program needs no graph once it is built, and keeps its weights packed. So nobody holds the graph
and its arrays; whoever wants to look at it has it made again.
"""

from __future__ import annotations

import importlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import InputError
from cnnir.ir import Graph


@dataclass(frozen=True)
class Origin:
    """Where a graph comes from, as often as it is asked for; always the same one."""

    load: Callable[[], Graph]
    """Makes a graph that the caller owns."""
    file: Any = None
    """The ModelFile that it is all made of, if it is."""
    shapes: Mapping[str, tuple[int, ...]] | None = None

    def identity(self, passes: str | None) -> str:
        """What a program of this source is found by, see `cnnir.identity`; often nothing."""
        found: str = self.file.identity(self.shapes, passes) if self.file else ""
        return found


class Front:
    """Makes optimised graphs, each time the same: for a backend to use up, or to look at."""

    def __init__(self, load: Callable[[], Graph], optimise: Callable[[Graph], list[Any]]) -> None:
        self._load, self._optimise = load, optimise
        self._history: list[Any] | None = None
        self._seen: weakref.ref[Graph] | None = None
        self._lock = threading.Lock()

    def graph(self) -> Graph:
        """A new optimised graph."""
        graph = self._load()
        self._history = self._optimise(graph)
        return graph

    def seen(self) -> Graph:
        """The optimised graph to look at; the same one for as long as somebody holds it."""
        with self._lock:
            graph = self._seen() if self._seen else None
            if graph is None:
                graph = self.graph()
                self._seen = weakref.ref(graph)
            return graph

    def history(self) -> list[Any]:
        """What the passes did, to the graph of `seen` if there is one."""
        if self._history is None:
            self.seen()
        assert self._history is not None
        return self._history


@dataclass(frozen=True)
class Recipe:
    """How a graph becomes a program: the target's module, the passes, what both are told."""

    backend: Any
    passes: str | None
    keep: dict[str, bool]
    options: dict[str, Any]

    def __call__(self, source: Graph | Origin) -> Specialisation:
        """Optimise a graph and build it, or find what was built of it before."""
        origin = Origin(source.clone) if isinstance(source, Graph) else source
        front = Front(origin.load, lambda graph: self.optimise(graph, **self.keep))
        # who verifies or takes snapshots wants to see the passes at work
        found = self.backend.REMEMBERS and not any(self.keep.values())
        if found and (identity := origin.identity(self.passes)):
            program = self.backend.build(front.graph, identity=identity, **self.options)
            if origin.file.alone:
                program.keep()
        else:
            program = self.backend.build(front.graph, **self.options)
        return Specialisation(front, program)

    def optimise(self, graph: Graph, **keep: bool) -> list[Any]:
        """Run the passes, where the target wants them; their records."""
        if not self.backend.OPTIMISE:
            return []
        pipeline = importlib.import_module("cnnir.pipeline")
        records: list[Any] = pipeline.optimise(graph, self.passes, **keep)
        return records


class Specialisation:
    """One set of input shapes: the native program, and the way to the graph that it was made of."""

    def __init__(self, front: Front, program: Any) -> None:
        self.front, self.program, self.signature = front, program, program.signature
        self.dtypes = [port.type.numpy for port in self.signature.inputs]
        self.single = len(self.signature.outputs) == 1 and not self.signature.trims
        self.enter = None if self.signature.trims else program.enter

    @property
    def graph(self) -> Graph:
        """The optimised graph, made again; from now on the plan's steps name its nodes."""
        graph = self.front.seen()
        self.program.plan.follow(graph)
        return graph

    def run(self, arrays: Sequence[Any], out: str = "numpy") -> dict[str, Any]:
        """All outputs by name, as arrays of numpy or of the device; see `Executable.run`."""
        if out == "numpy":
            return self.signature.trimmed(self._results(arrays))
        if out != "device":
            raise InputError(f"out={out!r}, wanted 'numpy' or 'device'")
        if self.signature.trims:
            raise InputError("out='device', but an output is as long as data say; wanted 'numpy'")
        names = [port.name for port in self.signature.outputs]
        return dict(zip(names, self.program.run_on_device(arrays), strict=True))

    def _results(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """By the short way where there is one that takes these inputs: so one frame serves both,
        `run` and the call of an executable."""
        results = self.enter(*arrays) if self.enter else None
        if results is None:
            results = self.program.run(arrays)
        return list(results) if isinstance(results, list | tuple) else [results]
