"""print_graph: a whole graph as one CUDA C text: the prelude, its kernels, and who calls them.

The launches are a table in comments, with the place of every buffer. Nothing here needs a device,
or NVRTC; the text compiles with NVRTC and with nvcc.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from cnnir.backends.cuda.device import DEVICE
from cnnir.backends.cuda.emit import Emitted, emit
from cnnir.backends.cuda.place import Place, Places, place
from cnnir.backends.cuda.plan import plan
from cnnir.backends.cuda.prelude import PRELUDE
from cnnir.backends.cuda.schedule import Schedule
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.cuda.warpgroup import WARPGROUP, uses_warpgroups
from cnnir.ir import Graph


def print_graph(graph: Graph, arch: str = "sm_90", precision: str = "default") -> str:
    """The graph as CUDA C. Wants a graph after the passes, as some ops exist only as others."""
    schedule = plan(graph, CudaTarget(arch, precision))
    emitted = emit(schedule)
    return listing(schedule, emitted, place(schedule, emitted.codes))


def listing(schedule: Schedule, emitted: Emitted, places: Places) -> str:
    """A program as CUDA C."""
    table = "\n".join(_table(schedule, emitted, places))
    texts = emitted.texts.values()
    warpgroups = [WARPGROUP] if any(map(uses_warpgroups, texts)) else []
    return "\n".join([table, "", DEVICE, *warpgroups, PRELUDE, *texts])


def kernel_texts(graph: Graph, arch: str = "sm_90", precision: str = "default") -> dict[int, str]:
    """CUDA C of each node that a kernel computes, by the node's serial; without the prelude."""
    schedule = plan(graph, CudaTarget(arch, precision))
    texts = emit(schedule).texts
    return {
        call.step.serial: texts[call.step.symbol]
        for call in schedule.calls
        if call.step.symbol in texts and call.step.kernel != "pack"
    }


def _table(schedule: Schedule, emitted: Emitted, places: Places) -> Iterator[str]:
    graph = schedule.graph
    launches = sum(len(code.launches) for code in emitted.codes)
    yield f"// cnnir {version('cnnir')}, graph {graph.name!a}, {schedule.target.name}"
    yield f"// {launches} launches; {len(emitted.texts)} kernels"
    yield f"// arena {places.arena_bytes} bytes, constants {places.constant_bytes} bytes"
    yield "//"
    for number, value in enumerate(graph.inputs):
        yield f"// input:{number} {value.type} {value.name!a}"
    for value, name, at in zip(graph.outputs, graph.output_names, places.outputs, strict=True):
        yield f"// output {_where(at)} {value.type} {name!a}"
    for buffer in places.buffers:
        if buffer.space == "constant":
            yield f"// constant:{buffer.offset} {buffer.type} {buffer.layout!a} {buffer.name!a}"
    yield "//"
    yield "// function<<<blocks, threads, shared>>>(error, scratch, pointers) -> result, nodes"
    for number, (call, code) in enumerate(zip(schedule.calls, emitted.codes, strict=True)):
        pointers = [places.sources[p] for p in (*call.reads, *call.writes)]
        arguments = [("arena", 4 * number), ("arena", places.scratch[number]), *pointers]
        for name, launch in code.launches:
            listed = ", ".join(map(_where, arguments))
            nodes = " ".join(ascii(source) for source in call.step.sources)
            yield f"// {name}{launch}({listed}) -> {call.step.result} {nodes}"
        yield from (f"//   error {k + 1}: {word}" for k, word in enumerate(code.errors))


def _where(place: Place) -> str:
    return f"{place[0]}:{place[1]}"
