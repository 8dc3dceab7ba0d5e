"""print_graph: a whole graph as one CUDA C text: the prelude, its kernels, and who calls them.

Every node is printed from its element definition, row-major; equal kernels are shared. The launches
are a table in comments, with the place of every buffer: nothing here needs a device or runs on one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version

from cnnir import memory
from cnnir.backends.cuda.prelude import PRELUDE
from cnnir.backends.cuda.printer import Launch, launch_of, print_kernel
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Kernel, Layout, lower
from cnnir.loops.statements import RowMajor

LANES = 32
"""Lanes of vector loops: the threads of a warp."""
ALIGN = 256
"""Of every buffer, as device memory comes."""

Place = tuple[str, int]
"""Where a buffer is: ("input", number), or ("constants" or "arena", byte offset)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One launch of a kernel."""

    kernel: str
    launch: Launch
    pointers: tuple[Place, ...]
    node: Node


@dataclass
class Listing:
    """The kernels of a graph and the launches that run it, in order."""

    graph: Graph
    kernels: dict[str, str] = field(default_factory=dict)
    """Text by name."""
    calls: list[Call] = field(default_factory=list)
    outputs: list[Place] = field(default_factory=list)
    constants: dict[str, int] = field(default_factory=dict)
    """Byte offset of each param in the block of constants."""
    constant_bytes: int = 0
    arena_bytes: int = 0

    @property
    def scratch_bytes(self) -> int:
        """Scratch of the launch that needs most; launches follow each other and share it."""
        return max((call.launch.scratch_bytes for call in self.calls), default=0)

    def text(self) -> str:
        """All of it as CUDA C."""
        return "\n".join([*self._table(), "", PRELUDE, *self.kernels.values()])

    __str__ = text

    def _table(self) -> Iterable[str]:
        graph = self.graph
        counts = f"{len(self.calls)} launches of {len(self.kernels)} kernels"
        yield f"// cnnir {version('cnnir')}, graph {graph.name!a}: {counts}"
        yield f"// arena {self.arena_bytes} bytes, constants {self.constant_bytes} bytes,"
        yield f"// scratch {self.scratch_bytes} bytes; 64 readable bytes follow each of them"
        yield "//"
        for number, value in enumerate(graph.inputs):
            yield f"// input:{number} {value.type} {value.name!a}"
        for place, value, name in zip(self.outputs, graph.outputs, graph.output_names, strict=True):
            yield f"// output {_where(place)} {value.type} {name!a}"
        yield from (f"// constants:{at} {name!a}" for name, at in self.constants.items())
        yield "//"
        yield "// kernel<<<blocks, (lanes, items)>>>(error, scratch, pointers) -> result, nodes"
        for call in self.calls:
            places = ", ".join(map(_where, call.pointers))
            sources = " ".join(ascii(name) for name in call.node.sources)
            result = call.node.results[0].type
            yield f"// {call.kernel}{call.launch}(error, scratch, {places}) -> {result} {sources}"


def _where(place: Place) -> str:
    return f"{place[0]}:{place[1]}"


def print_graph(graph: Graph) -> str:
    """The graph as CUDA C. Wants a graph after the passes, as some ops exist only as others."""
    return listing(graph).text()


def listing(graph: Graph) -> Listing:
    """Kernels, launches and places of a graph."""
    made = Listing(graph)
    lowered = [(node, _lowered(node)) for node in graph.order() if _computes(node)]
    _place_constants(made)
    placement = _placed(graph, [node for node, kernel in lowered if kernel.items])
    made.arena_bytes = placement.peak
    names: dict[str, str] = {}
    for node, kernel in lowered:
        if kernel.items:  # an empty result needs no work
            pointers = tuple(
                _place(made, placement, v) for v in (*node.operands, *node.results) if v is not None
            )
            name = _share(made, names, node, kernel)
            made.calls.append(Call(name, launch_of(kernel), pointers, node))
    made.outputs = [_place(made, placement, v) for v in graph.outputs]
    return made


def _computes(node: Node) -> bool:
    """Whether a node has a kernel; views are other names for what they show."""
    return node.op is not None and not node.op.view


def _lowered(node: Node) -> Kernel:
    plain = RowMajor()
    layouts: list[Layout | None] = [None if v is None else plain for v in node.operands]
    return lower(node, [*layouts, *([plain] * len(node.results))], LANES, finest=True)


def _share(made: Listing, names: dict[str, str], node: Node, kernel: Kernel) -> str:
    """The name of the kernel; a new one where no earlier kernel is equal."""
    text = print_kernel(kernel, "_")
    if text not in names:
        names[text] = name = f"{node.name}_{len(names)}"
        errors = [f"// error {kernel.first_code + k}: {e}" for k, e in enumerate(kernel.errors)]
        heading = [f"// {kernel.summary}", *errors]
        made.kernels[name] = "\n".join([*heading, print_kernel(kernel, name)])
    return names[text]


def _root(value: Value) -> Value:
    """The value that a view shows."""
    while value.node.op is not None and value.node.op.view:
        operand = value.node.operands[0]
        assert operand is not None
        value = operand
    return value


def _place_constants(made: Listing) -> None:
    end = 0
    for name, array in made.graph.params.items():
        made.constants[name] = end
        end += -(-array.nbytes // ALIGN) * ALIGN
    made.constant_bytes = end


def _placed(graph: Graph, nodes: list[Node]) -> memory.Placement:
    steps: list[memory.Access] = []
    sizes: dict[Value, int] = {}
    for node in nodes:
        reads = tuple(_root(v) for v in node.operands if v is not None)
        steps.append(memory.Access(reads, node.results))
    for node in graph.order():
        if _computes(node):
            sizes |= {v: v.type.nbytes for v in node.results}
    return memory.place(steps, sizes, keep=[_root(v) for v in graph.outputs], align=ALIGN)


def _place(made: Listing, placement: memory.Placement, value: Value) -> Place:
    root = _root(value)
    if root.node.kind == "input":
        return "input", made.graph.inputs.index(root)
    if root.node.kind == "param":
        return "constants", made.constants[root.name or ""]
    return "arena", placement.offsets[root]
