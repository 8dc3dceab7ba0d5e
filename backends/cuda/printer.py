"""print_kernel: a Kernel of the loop language as a CUDA C function.

`extern "C" __global__ void name(int* error, unsigned char* scratch, T0* p0, ...)`, pointers as in
`kernel.buffers`. A thread does one work item, or some lanes of one where the kernel has vector
loops: neighbours in a warp are neighbours among the lanes, and so in memory; `several.py` says how
many lanes a thread takes. Where a long reduction has its lanes inside, the threads of a warp share
it. `launch_of` says how to launch the kernel. The text needs the prelude before it; compiling and
running are for others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cnnir.backends.cuda import operations as ops
from cnnir.backends.cuda.expressions import WARP, Expressions, bare, index_type
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.several import at_first, neighbours, several
from cnnir.errors import BackendError
from cnnir.loops import Kernel
from cnnir.loops import expr as x
from cnnir.loops.analysis import post_order
from cnnir.loops.statements import For, Get, If, Let, Set, Statement, Store, Variable

THREADS = 128
"""Threads of a block, roughly."""
MOST_LANES = 256
"""Threads that a block has for lanes; a kernel of more has several blocks side by side."""


@dataclass(frozen=True)
class Share:
    """How threads share the lanes of a kernel: so many take `each` of them, one after another."""

    threads: int
    each: int = 1


def launch_of(kernel: Kernel) -> Launch:
    """The launch that does all work items; a grid of 0 blocks when there are none.

    Blocks are (threads of an item, items): the grid's x counts items, its y portions of the lanes.
    """
    threads = share_of(kernel).threads
    portions = -(-threads // MOST_LANES)
    width = threads if portions == 1 else -(-threads // portions // WARP) * WARP
    items = max(1, THREADS // width)
    return Launch((-(-kernel.items // items), -(-threads // width), 1), (width, items, 1))


def scratch_of(kernel: Kernel) -> int:
    """Bytes of scratch memory of all items together, 64-byte aligned."""
    return kernel.items * kernel.scratch_bytes


def print_kernel(kernel: Kernel, name: str | None = None, shared: Collection[int] = ()) -> str:
    """The text of the kernel.

    shared: positions among `kernel.buffers` that another pointer may overlap (results computed in
    place of an operand). All other pointers are promised not to overlap what is written. A pointer
    to an empty buffer must still be good to read 64 bytes.
    """
    places = {buffer: f"p{k}" for k, buffer in enumerate(kernel.buffers)}
    places |= {buffer: f"s{k}" for k, buffer in enumerate(kernel.scratch)}
    launch = launch_of(kernel)
    printer = _Statements(Expressions(places), share_of(kernel), launch)
    printer.head(kernel)
    printer.block(kernel.body)
    pointers = ["int* error", "unsigned char* scratch"]
    for position, buffer in enumerate(kernel.buffers):
        kind = ops.storage_type(buffer.storage)
        constant = "const " if buffer.space == "operand" else ""
        only = "" if position in shared else " __restrict__"
        pointers.append(f"{constant}{kind}*{only} p{position}")
    head = f'extern "C" __global__ void __launch_bounds__({launch.threads}) {name or kernel.name}('
    parameters = ",\n".join(f"    {pointer}" for pointer in pointers)
    return "\n".join([head, f"{parameters}) {{", *printer.values.lines, "}", ""])


def share_of(kernel: Kernel) -> Share:
    """Threads for the lanes of vector loops; a warp for long reductions; 1 for a kernel without."""
    found = list(_walk(kernel.body))
    vectors = [s for s in found if isinstance(s, For) and s.var.lanes]
    lanes, each = max((_extent(s), neighbours(s)) for s in vectors) if vectors else (1, 1)
    if lanes > 1 and any(isinstance(s, Get) and s.buffer is not None for s in found):
        raise BackendError(f"kernel {kernel.name} reads what other lanes may write")
    serial = any(isinstance(s, (Set, Get)) for s in found)
    if lanes == 1:
        return Share(WARP if not serial and _shares_reductions(found) else 1)
    return Share(lanes) if _shares_reductions(found) else Share(lanes // each, each)


def _extent(loop: For) -> int:
    """Lanes of a vector loop."""
    return (loop.var.hi or 0) + 1


def _shares_reductions(statements: list[Statement]) -> bool:
    """Whether there is a reduction that keeps the lanes of a whole warp busy."""
    values = [s.value for s in statements if isinstance(s, (Let, Store))]
    return any(
        isinstance(e, x.Reduce) and (lane := e.bound[-1]).lanes and lane.hi == WARP - 1
        for e in post_order(values)
    )


def _walk(body: list[Statement]) -> Iterator[Statement]:
    """All statements, outer ones first."""
    for s in body:
        yield s
        if isinstance(s, (For, If)):
            yield from _walk(s.body)


class _Statements:
    def __init__(self, values: Expressions, share: Share, launch: Launch) -> None:
        self.values, self.share, self.launch = values, share, launch
        self.one = share == Share(1)
        values.warp = launch.block[0] == WARP and share == Share(WARP)
        self.variables: dict[Variable, str] = {}
        self.everyone = self.one
        """Whether the statements being printed are for every thread."""

    def head(self, kernel: Kernel) -> None:
        """Who the thread is, and what it has of its own."""
        line = self.values.line
        kind = index_type(kernel.item)
        line(f"const {kind} item = ({kind})blockIdx.x * {self.launch.block[1]} + threadIdx.y;")
        if not self.one:
            width, each = self.launch.block[0], self.share.each
            thread = "threadIdx.x"
            if self.launch.grid[1] > 1:
                thread = f"blockIdx.y * {width} + threadIdx.x"
            if each > 1 and self.launch.grid[1] > 1:
                thread = f"({thread})"
            line(f"const int lane = {thread}{f' * {each}' if each > 1 else ''};")
        line(f"if (item >= {kernel.items}) return;")
        self.values.define(kernel.item, "item")
        for buffer in kernel.scratch:
            kind = ops.storage_type(buffer.storage)
            where = f"item * {kernel.scratch_bytes} + {buffer.byte}"
            line(f"{kind}* {self.values.pointers[buffer]} = ({kind}*)(scratch + {where});")
        for s in _walk(kernel.body):
            if isinstance(s, Set) and s.variable not in self.variables:
                self.variables[s.variable] = name = self.values.fresh()
                line(f"{ops.value_type(s.variable.dtype)} {name};")

    def block(self, body: list[Statement]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, s: Statement) -> None:
        values = self.values
        match s:
            case For() if s.var.lanes:
                self.vector(s)
            case For():
                with values.loop(s.var, s.start, s.stop):
                    self.block(s.body)
            case If():
                with values.block(f"if ({bare(values.value(s.condition))})"):
                    self.block(s.body)
            case Let():
                text = values.value(s.value)
                if text.isidentifier():
                    values.define(s.name, text)
                else:
                    values.variable(s.name, text)
            case Store():
                self.store(s)
            case Set():
                values.line(f"{self.variables[s.variable]} = {bare(values.value(s.value))};")
            case Get():
                self.get(s)

    def vector(self, s: For) -> None:
        """The lanes of a vector loop are threads; those behind its end do nothing."""
        extent, each = _extent(s), self.share.each
        self.everyone = True
        warp, self.values.warp = self.values.warp, False  # what a lane does is its own
        if each > 1 and neighbours(s) < each:  # lanes behind the last whole vector
            every = self.launch.block[0] * self.launch.grid[1]
            self.values.line("#pragma unroll 1")
            head = f"for (int at = lane / {each}; at < {extent}; at += {every})"
            with self.values.block(head):
                self.values.define(s.var, "at")
                self.block(s.body)
        elif extent == each * self.launch.block[0] * self.launch.grid[1]:
            self.lanes(s)
        else:
            with self.values.block(f"if (lane < {extent})"):
                self.lanes(s)
        self.values.warp = warp
        self.everyone = self.one

    def lanes(self, s: For) -> None:
        """The thread's own lanes."""
        values, each = self.values, self.share.each
        if each == 1:
            values.define(s.var, "0" if self.one else "lane")
            self.block(s.body)
            return
        kinds = [ops.storage_type(store.buffer.storage) for store in s.body]
        names = [values.fresh() for _ in s.body]
        for kind, name in zip(kinds, names, strict=True):
            values.line(f"cn_several<{kind}, {each}> {name};")
        with several(values, s.var, "lane", each, [store.value for store in s.body]):
            for store, name in zip(s.body, names, strict=True):
                value = ops.to_storage(store.buffer.storage, values.value(store.value))
                values.line(f"{name}.at[e] = {bare(value)};")
        with at_first(values, s.var, "lane"):
            for store, name in zip(s.body, names, strict=True):
                offset = values.index(store.offset)
                values.line(f"cn_write({values.pointers[store.buffer]} + {offset}, {name});")

    def store(self, s: Store) -> None:
        values = self.values
        offset, value = values.index(s.offset), values.value(s.value)
        stored = bare(ops.to_storage(s.buffer.storage, value))
        first = "" if self.everyone else "if (lane == 0) "
        values.line(f"{first}{values.pointers[s.buffer]}[{offset}] = {stored};")

    def get(self, s: Get) -> None:
        if s.variable is not None:
            text = self.variables[s.variable]
        else:
            assert s.buffer is not None and s.offset is not None
            text = self.values.element(s.buffer, self.values.index(s.offset))
        self.values.variable(s.symbol, text)
