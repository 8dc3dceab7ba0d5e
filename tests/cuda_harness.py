"""Printed CUDA C in tests: compiled by NVRTC, which needs no device, and run by the emulator."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from loops_harness import Placed, poisoned

from cnnir.backends.cuda.calls import finest
from cnnir.backends.cuda.device import DEVICE
from cnnir.backends.cuda.driver import Gpu
from cnnir.backends.cuda.emulator import Emulator, compiler
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.machine import Task
from cnnir.backends.cuda.nvrtc import cubin
from cnnir.backends.cuda.prelude import PRELUDE
from cnnir.backends.cuda.printer import launch_of, print_kernel, scratch_of
from cnnir.errors import BackendError
from cnnir.ir import Node
from cnnir.loops import Kernel
from cnnir.loops.statements import RowMajor
from cnnir.tensortype import TensorType

PLAIN = RowMajor()


def needs_nvrtc() -> None:
    """Skip the test where NVRTC is not installed."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed")


def needs_compiler() -> None:
    """Skip the test where there is no C++ compiler for the emulator."""
    try:
        compiler()
    except BackendError as error:
        pytest.skip(str(error))


def lowered(node: Node) -> Kernel:
    """The kernel of a node on row-major buffers, as a device wants it."""
    return finest(node, [None if v is None else PLAIN for v in [*node.operands, *node.results]])


def on_device() -> None:
    """Skip the test where there is no GPU with a driver."""
    try:
        Gpu().close()
    except BackendError as error:
        pytest.skip(str(error))


def nvrtc_compile(texts: Iterable[str], arch: str) -> bytes:
    """The cubin of kernels for an architecture such as sm_90."""
    needs_nvrtc()
    return cubin("\n".join([DEVICE, PRELUDE, *texts]), arch)[0]


class Emulated:
    """Kernels on this processor: `texts` by name, without the prelude; launches by name."""

    def __init__(
        self,
        texts: dict[str, str],
        launches: dict[str, Launch],
        machine: Emulator | None = None,
    ) -> None:
        needs_compiler()
        self.machine = machine or Emulator()
        self.functions = self.machine.load(texts, launches).functions
        self.launches = launches

    def launch(self, name: str, addresses: Iterable[int]) -> None:
        """Do all threads of a launch; addresses of error, scratch and the buffers."""
        task = Task(self.functions[name], self.launches[name], tuple(addresses), 0)
        self.machine.record([task])()
        self.machine.wait()


def emulated(kernels: dict[str, Kernel]) -> Emulated:
    """The code of kernels by name."""
    texts = {name: print_kernel(kernel, name) for name, kernel in kernels.items()}
    return Emulated(texts, {name: launch_of(kernel) for name, kernel in kernels.items()})


def run_kernel(
    code: Emulated, name: str, kernel: Kernel, arrays: Iterable[np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """The results as arrays, and the error word; every buffer lies between guards."""
    remaining = iter(arrays)
    placed = []
    for buffer in kernel.buffers:
        if buffer.space == "operand":
            placed.append(Placed(poisoned(buffer.layout, next(remaining))))
        else:
            stored = TensorType(buffer.storage, ()).numpy
            nbytes = buffer.size * stored.itemsize
            placed.append(Placed(np.full(nbytes, 0xAB, np.uint8).view(stored)))
    scratch = Placed(np.full(scratch_of(kernel), 0xAB, np.uint8))
    error = Placed(np.zeros(1, np.int32))
    everything = [error, scratch, *placed]
    code.launch(name, [p.address for p in everything])
    assert all(p.intact() for p in everything)
    results = [
        b.layout.unpack(p.view, b.type.shape)
        for b, p in zip(kernel.buffers, placed, strict=True)
        if b.space == "result"
    ]
    return results, int(error.view[0])
