"""Lower a node to loops, print, compile by MCJIT and run on guarded buffers of poison."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llvmlite.binding as llvm
import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.layout import Blocked, Padded, Plain
from cnnir.backends.llvm.printer import print_kernel
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Graph, Node
from cnnir.loops import Kernel, Layout, lower
from cnnir.tensortype import TensorType

GUARD = 256  # bytes of guard on either side of a buffer, the slack of 64 behind it not counted
LEVELS = {16: "avx512", 8: "avx2", 4: "sse2"}


def target_of(lanes: int) -> CpuTarget | None:
    """A target with vectors of so many lanes, None where this machine has none."""
    try:
        return CpuTarget.host(LEVELS[lanes])
    except Exception:
        return None


def node_of(op: str, *types: str | TensorType | None, **attrs: object) -> Node:
    """A node of an op on inputs."""
    g = Graph()
    values = []
    for k, t in enumerate(types):
        t = TensorType.parse(t) if isinstance(t, str) else t
        values.append(None if t is None else g.input(t, f"a{k}"))
    made = g.add(op, *values, **attrs)
    return (made[0] if isinstance(made, tuple) else made).node


def layouts_of(node: Node, kind: str, lanes: int) -> list[Layout | None]:
    """All plain, or blocked wherever the rank allows it and params per channel padded."""
    made: list[Layout | None] = []
    for value in [*node.operands, *node.results]:
        if value is None:
            made.append(None)
        elif kind == "blocked" and value.type.rank >= 2:
            made.append(Blocked(lanes))
        elif kind == "blocked" and value.type.rank == 1 and value in node.operands:
            made.append(Padded(lanes))
        else:
            made.append(Plain())
    return made


def compile_module(module: ir.Module, target: CpuTarget, opt: int = 2):
    """An engine that owns the code."""
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=opt, jit=True
    )
    options = llvm.create_pipeline_tuning_options(speed_level=opt)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(parsed, passes)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine


class Placed:
    """A buffer at a 64-byte boundary between guard bands."""

    def __init__(self, storage: np.ndarray) -> None:
        self.raw = np.full(storage.nbytes + 2 * GUARD + 128, 0xFB, np.uint8)
        self.start = GUARD + (-self.raw.ctypes.data - GUARD) % 64
        self.nbytes = storage.nbytes
        self.view = self.raw[self.start : self.start + self.nbytes].view(storage.dtype)
        self.view[...] = storage

    @property
    def address(self) -> int:
        return self.raw.ctypes.data + self.start

    def intact(self) -> bool:
        return bool(
            (self.raw[: self.start] == 0xFB).all()
            and (self.raw[self.start + self.nbytes :] == 0xFB).all()
        )


def poisoned(layout: Layout, array: np.ndarray) -> np.ndarray:
    """The storage of an array whose pad lanes are NaN, or all bits set."""
    storage = layout.pack(array)
    real = layout.pack(np.ones(array.shape, np.uint8)).astype(bool)
    poison = np.full(storage.nbytes, 0xFF, np.uint8).view(storage.dtype)
    if array.dtype == np.bool_:
        poison = np.ones(storage.shape, bool)
    return np.where(real, storage, poison)


def run_kernel(
    kernel: Kernel, target: CpuTarget, arrays: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """The results as arrays, and the error word."""
    module = ir.Module("test")
    print_kernel(module, kernel, target)
    engine = compile_module(module, target)
    placed = []
    remaining = list(arrays)
    for buffer in kernel.buffers:
        if buffer.space == "operand":
            placed.append(Placed(poisoned(buffer.layout, remaining.pop(0))))
        else:
            nbytes = buffer.size * buffer.type.numpy.itemsize
            placed.append(Placed(np.full(nbytes, 0xAB, np.uint8).view(buffer.type.numpy)))
    scratch = Placed(np.zeros(kernel.scratch_bytes, np.uint8))
    error = Placed(np.zeros(1, np.int32))
    kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    kinds += [ctypes.c_void_p] * len(placed)
    function = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(kernel.name))
    for item in range(kernel.items):
        function(error.address, scratch.address, item, *(p.address for p in placed))
    assert all(p.intact() for p in [*placed, scratch, error])
    results = [
        b.layout.unpack(p.view, b.type.shape)
        for b, p in zip(kernel.buffers, placed, strict=True)
        if b.space == "result"
    ]
    return results, int(error.view[0])


def run_node(
    node: Node, arrays: Sequence[np.ndarray | None], lanes: int, kind: str = "plain"
) -> list[np.ndarray]:
    """A node by way of loops; no index may be found wrong."""
    target = target_of(lanes)
    assert target is not None
    kernel = lower(node, layouts_of(node, kind, lanes), lanes)
    results, code = run_kernel(kernel, target, [a for a in arrays if a is not None])
    assert code == 0, kernel.errors
    return results
