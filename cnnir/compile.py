"""compile(model, target) -> Executable: the one door from a model to something that runs.

This file and `cnnir.load` are the only places that reach frontends and backends, by name, so that
`import cnnir` stays quick and no backend is a hard dependency of another.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnnir.errors import (
    BackendError,
    InputError,
    LimitError,
    ModelError,
    Obstacle,
    UnsupportedError,
)
from cnnir.front import Origin, Recipe, Specialisation
from cnnir.ir import Graph
from cnnir.tensortype import TensorType

Shapes = Mapping[str, tuple[int, ...]]

TARGETS = {
    "cpu": "cnnir.backends.llvm",
    "cuda": "cnnir.backends.cuda",
    "cuda-emu": "cnnir.backends.cuda.emulated",
    "reference": "cnnir.backends.reference",
}
"""Target name -> module with `OPTIMISE`, `REMEMBERS` and `build(graph, **options) -> Program`.

`cuda:sm_90a` is target cuda with the option `arch="sm_90a"`.
"""


def load(source: Any, shapes: Shapes | None = None, **limits: Any) -> Graph:
    """The graph of an ONNX model: a path, the file's bytes, or a ModelProto.

    `shapes` binds symbolic dimensions, by input name; an unbound batch is 1. `limits` are
    `max_nodes` and `max_bytes`, and `outputs`: names of tensors or nodes of the model whose values
    are to be the graph's outputs in place of the model's own. Raises ModelError for a malformed
    model and UnsupportedError, listing everything at once, for one that asks for what cnnir does
    not have.
    """
    return importlib.import_module("cnnir.frontends.onnx_import").load(source, shapes, **limits)


def check(source: Any, shapes: Shapes | None = None) -> list[Obstacle]:
    """Everything that keeps an ONNX model from being loaded, at once; nothing where it can be.

    A malformed model has one obstacle: the first defect.
    """
    try:
        load(source, shapes)
    except UnsupportedError as error:
        return list(error.obstacles) or [Obstacle("the model", "", 0, (), str(error))]
    except (ModelError, LimitError) as error:
        return [Obstacle("the model", "", 0, (), str(error))]
    return []


def save_onnx(source: Any, path: Any, **options: Any) -> None:
    """Write a Graph, or a net with the inputs it was last built for, as an ONNX file.

    `options`: `batch="N"` makes it a file for any batch size; `external` says whether weights go to
    a file beside it (None: where the model would be too large for one). Raises UnsupportedError,
    listing everything at once, for what ONNX cannot say.
    """
    exporter = importlib.import_module("cnnir.frontends.onnx_export")
    exporter.save(source if isinstance(source, Graph) else _graph(source, None), path, **options)


def _graph(source: Any, shapes: Shapes | None, output: str | None = None) -> Graph:
    """A graph that the caller owns: of a Graph, of a net of `cnnir.nn`, or of an ONNX model.

    With `output`, the part of it that gives the tensor of this name.
    """
    if isinstance(source, Graph):
        return source.clone() if output is None else _provenance().cut(source, output)
    if callable(trace := getattr(source, "graph", None)):
        graph: Graph = trace(shapes)
        return graph if output is None else _provenance().cut(graph, output)
    return load(source, shapes, outputs=None if output is None else [output])


def _provenance() -> Any:
    return importlib.import_module("cnnir.provenance")


def compile(
    source: Any,
    target: str = "cpu",
    *,
    threads: int | None = None,
    shapes: Shapes | None = None,
    passes: str | None = None,
    verify: bool = False,
    snapshots: bool = False,
    **options: Any,
) -> Executable:
    """Compile a Graph, a net of `cnnir.nn`, an ONNX file (path, bytes) or a ModelProto.

    threads: worker threads of a run; None takes the cores this process may use.
    target: what it is compiled for.
    shapes: shapes of inputs by name, of symbolic dimensions, or of a net that is not built yet.
    passes: the pipeline as text, such as "fold,cse,fuse"; None takes the default one.
    verify: compare the values before and after every pass and rewrite in f64 (slow).
    snapshots: keep the graph after every pass in `history`.
    options: what the target understands: cpu `features`, `cache`, `precision`, `tune`; cuda
    `precision`, `cache`, `tune`. precision="exact" adds the products of each op's definition in
    f32, and "default" is the quickest f32 arithmetic that the target has.
    """
    how = recipe(
        target, threads=threads, passes=passes, verify=verify, snapshots=snapshots, **options
    )
    return Executable(_origin_of(source), how, shapes, flexible=not isinstance(source, Graph))


def _origin_of(source: Any) -> Callable[..., Origin]:
    """Origins for (shapes, output), both None or as for `_graph`; later changes do not matter."""
    if isinstance(source, str | os.PathLike):
        file = importlib.import_module("cnnir.identity").ModelFile(source)

        def of_file(shapes: Shapes | None = None, output: str | None = None) -> Origin:
            def read() -> Graph:
                outputs = None if output is None else [output]
                graph: Graph = file.read(partial(load, shapes=shapes, outputs=outputs))
                return graph

            return Origin(read, None if output else file, shapes)

        return of_file
    if isinstance(source, Graph):
        source = source.clone()
    traced = {}  # of a net, whose weights may change

    def of_object(shapes: Shapes | None = None, output: str | None = None) -> Origin:
        def make() -> Graph:
            key = repr((shapes, output))
            if key not in traced and callable(getattr(source, "graph", None)):
                traced[key] = _graph(source, shapes, output)
            return traced[key].clone() if key in traced else _graph(source, shapes, output)

        return Origin(make)

    return of_object


def recipe(
    target: str,
    *,
    threads: int | None = None,
    passes: str | None = None,
    verify: bool = False,
    snapshots: bool = False,
    **options: Any,
) -> Recipe:
    """How a graph becomes a program; arguments as of `compile`."""
    name, colon, arch = target.partition(":")
    if name not in TARGETS or (colon and name != "cuda"):
        raise BackendError(f"there is no target {target!r}; there are {', '.join(TARGETS)}")
    if colon:
        options["arch"] = arch
    if threads is not None and threads < 1:
        raise BackendError(f"threads must be at least 1, got {threads}")
    options["threads"] = threads
    backend = importlib.import_module(TARGETS[name])

    return Recipe(backend, passes, {"verify": verify, "snapshots": snapshots}, options)


def _no_entry(*arrays: Any) -> None:
    """Stands where a program has no short way."""


class Executable:
    """A compiled model. Call it with arrays, or `run` it with a dict.

    A new batch size is compiled once, when it is first met, and kept. Calls from several Python
    threads at once are safe.
    """

    def __init__(
        self,
        origin: Callable[..., Origin],
        specialise: Recipe,
        shapes: Shapes | None,
        flexible: bool,
    ) -> None:
        self._origin, self._specialise, self._flexible = origin, specialise, flexible
        self._lock = threading.Lock()
        self._shapes = shapes
        self._first = specialise(origin(shapes))
        self._names = tuple(port.name for port in self._first.signature.inputs)
        self._known = {self._first.signature.shapes: self._first}
        self._enter = self._first.enter or _no_entry
        """The short way into the specialisation that was called last."""

    @property
    def graph(self) -> Graph:
        """The optimised graph of the first shapes.

        The executable runs without it. It is made again, of the source, when it is asked for, and
        kept for as long as the caller keeps it; ModelError where the model's file has changed.
        """
        return self._first.graph

    @property
    def plan(self) -> Any:
        """The plan of the first shapes: kernels, layouts, buffers, reasons."""
        return self._first.program.plan

    @property
    def history(self) -> list[Any]:
        """A record of every pass that ran; where the program came from disk, they run now."""
        return self._first.front.history()

    @property
    def inputs(self) -> dict[str, TensorType]:
        """Types of the inputs by name, in order, for the first shapes."""
        return {port.name: port.type for port in self._first.signature.inputs}

    @property
    def outputs(self) -> dict[str, TensorType]:
        """Types of the outputs by name, in order, for the first shapes."""
        return {port.name: port.type for _, port in self._first.signature.shown()}

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in order."""
        return list(self._names)

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return list(self.outputs)

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The output array, or a tuple of them; inputs in order or by name."""
        if not named and (outputs := self._enter(*arrays)) is not None:
            return outputs
        chosen = None if named else self._fitting(arrays)
        if chosen is None:
            chosen, arrays = self._checked(self._fed(arrays, named))
        self._enter = chosen.enter or _no_entry
        results = chosen.program.run(arrays)
        if chosen.single:
            return results[0]
        outputs = tuple(chosen.signature.trimmed(results).values())
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, feeds: Mapping[str, Any], out: str = "numpy") -> dict[str, Any]:
        """All outputs by name, as fresh arrays.

        Inputs are numpy's, or of the host or the target's device with `__dlpack__` or
        `__cuda_array_interface__`. out: "numpy", or "device" for arrays that stay in its memory,
        which `torch.from_dlpack` and `cupy.from_dlpack` read in place.
        """
        chosen, arrays = self._checked(feeds)
        return chosen.run(arrays, out)

    def profile(self, feeds: Mapping[str, Any]) -> list[float]:
        """Seconds of each step of the plan in one run."""
        chosen, arrays = self._checked(feeds)
        return chosen.program.profile(arrays)

    def emit(self, folder: str | os.PathLike[str], *forms: str) -> list[Path]:
        """Write the code of the first shapes into a folder, which is made; the files' paths.

        forms: what the target has: ll, opt, asm and obj for cpu, cu, ptx, cubin, sass, launch and
        resources for cuda; none means the first of them. Raises BackendError for any other.
        """
        program = self._first.program
        made: dict[str, bytes] = {}
        for form in forms or tuple(program.forms)[:1]:
            made |= program.artifacts(form)
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            (place / name).write_bytes(content)
        return [place / name for name in made]

    def provenance(self, feeds: Mapping[str, Any] | None = None) -> list[Any]:
        """A `Trail` for each source node in each place where it ended: node, step, kernel, text.

        The model is read again for it. With feeds, of the first shapes, a run is timed too.
        """
        program = self._first.program
        seconds = None if feeds is None else self.profile(feeds)
        graph, history = self.graph, self.history  # in this order: they are of one run
        imported = self._origin(self._shapes).load()
        rows: list[Any] = _provenance().trails(
            imported, graph, program.plan, history, program.texts(), seconds
        )
        return rows

    def why(self, name: str, feeds: Mapping[str, Any] | None = None) -> Any:
        """The `Story` of a source node, or of the node behind a source tensor; print it.

        It has the rewrites that the node went through, the kernel it ended in, and for every rule
        that nearly matched the condition that stopped it. InputError for a name there is not.
        """
        known = _provenance()
        imported = self._origin(self._shapes).load()
        source = known.source_of(imported, name)
        if source is None:  # another name of a tensor, or what no output needs
            imported = self._origin(self._shapes, name).load()
            source = known.source_of(imported, name) or name
        rows = self.provenance(feeds)
        return known.story(source, imported, self.history, self.plan, rows)

    def source(self, place: str | int) -> tuple[str, ...]:
        """The source nodes behind a step (its number), a value of `graph.text()`, or a function."""
        found: tuple[str, ...] = _provenance().sources_of(place, self.graph, self.plan)
        return found

    def watch(self, name: str, feeds: Mapping[str, Any]) -> np.ndarray:
        """The value of any tensor of the source, or of a source node's first result, for inputs.

        This executable stays as it is: the part of the model that leads to the tensor is read and
        compiled again, for the same target. InputError, with near names, where there is none.
        """
        if name in self.output_names:
            return self.run(feeds)[name]
        _, arrays = self._checked(feeds)
        bound = {n: a.shape for n, a in zip(self._names, arrays, strict=True)}
        part = self._specialise(self._origin(bound if self._flexible else None, name))
        try:
            (value,) = part.run(arrays).values()
            return value
        finally:
            part.program.close()

    def report(
        self, path: str | os.PathLike[str], *, title: str | None = None, seconds: float = 2.0
    ) -> None:
        """Write all that is known of the model, for its first shapes, as one HTML file.

        It opens offline: the graph after every pass, weights, kernels and their texts, times
        (measured for about `seconds`, 0 for none), memory. `title`: instead of the graph's name.
        """
        reporting = importlib.import_module("cnnir.reporting")
        imported = self._origin(self._shapes).load()
        subject = reporting.subject(self._first, imported, self._specialise, seconds, title)
        Path(path).write_text(reporting.page(subject), "utf-8")

    def close(self) -> None:
        """Free native code and memory of all specialisations."""
        for known in self._known.values():
            known.program.close()

    def _fitting(self, arrays: tuple[Any, ...]) -> Specialisation | None:
        """The known specialisation for arrays that it can take as they are; None where a closer
        look is due. Every call comes by here, so it asks only what is quick to answer."""
        for array in arrays:
            if type(array) is not np.ndarray:
                return None
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                return None
        known = self._known.get(tuple([array.shape for array in arrays]))
        if known is None or [array.dtype for array in arrays] != known.dtypes:
            return None
        return known

    def _fed(self, arrays: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        if len(arrays) > len(self._names):
            raise InputError(f"{len(arrays)} inputs given, the model takes {self.input_names}")
        feeds = dict(zip(self._names, arrays, strict=False))
        if twice := feeds.keys() & named.keys():
            raise InputError(f"inputs {sorted(twice)} are given twice")
        return feeds | named

    def _checked(self, feeds: Mapping[str, Any]) -> tuple[Specialisation, tuple[Any, ...]]:
        shape_of = importlib.import_module("cnnir.backends.arrays").shape_of
        shapes = tuple(shape_of(feeds[n]) if n in feeds else () for n in self._names)
        chosen = self._known.get(shapes)
        if chosen is None and self._flexible and self._same_ranks(shapes):
            chosen = self._new_shapes(shapes)
        chosen = chosen or self._first
        return chosen, tuple(chosen.program.checked(feeds))

    def _new_shapes(self, shapes: tuple[tuple[int, ...], ...]) -> Specialisation:
        with self._lock:
            if shapes not in self._known:
                bound = dict(zip(self.input_names, shapes, strict=True))
                self._known[shapes] = self._specialise(self._origin(bound))
            return self._known[shapes]

    def _same_ranks(self, shapes: tuple[tuple[int, ...], ...]) -> bool:
        return [len(s) for s in shapes] == [len(s) for s in self._first.signature.shapes]
