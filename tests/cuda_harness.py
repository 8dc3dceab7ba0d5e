"""Compile printed CUDA C: by NVRTC, which needs no device, and by the system's C++ compiler, as a
program that does all threads of a launch one after another.

The kernels are printed without any synchronisation, so the order of threads does not matter.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from loops_harness import Placed, poisoned

from cnnir.backends.cuda import PRELUDE, Launch, launch_of
from cnnir.ir import Node
from cnnir.loops import Kernel, lower
from cnnir.loops.statements import RowMajor

PLAIN = RowMajor()
SHIM = """\
#include <math.h>
#include <string.h>
#define __global__
#define __device__
#define __restrict__ __restrict
#define __launch_bounds__(threads)
struct Place { unsigned x, y; };
static thread_local Place blockIdx, blockDim, threadIdx;
template <class To, class From> static inline To bits_of(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __int_as_float(int i) { return bits_of<float>(i); }
static inline float __uint_as_float(unsigned i) { return bits_of<float>(i); }
static inline unsigned __float_as_uint(float f) { return bits_of<unsigned>(f); }

template <unsigned... I> struct Positions {};
template <unsigned N, unsigned... I> struct Count : Count<N - 1, N - 1, I...> {};
template <unsigned... I> struct Count<0, I...> { typedef Positions<I...> type; };
template <class... P, unsigned... I>
static void all_threads(void (*kernel)(P...), unsigned grid, void** a, Positions<I...>) {
  for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
    for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
      for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel((P)a[I]...);
}
template <class... P>
static void launch(void (*kernel)(P...), unsigned grid, unsigned x, unsigned y, void** a) {
  blockDim = {x, y};
  all_threads(kernel, grid, a, typename Count<sizeof...(P)>::type());
}
"""


def lowered(node: Node, lanes: int = 32) -> Kernel:
    """The kernel of a node on row-major buffers, as a device wants it."""
    layouts = [None if v is None else PLAIN for v in [*node.operands, *node.results]]
    return lower(node, layouts, lanes, finest=True)


def nvrtc_compile(text: str, arch: str) -> int:
    """Compile for an architecture such as sm_90; the bytes of the cubin."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed")

    def checked(answer):
        assert answer[0] == nvrtc.nvrtcResult.NVRTC_SUCCESS, answer[0]
        return answer[1]

    program = checked(nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], []))
    (outcome,) = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture={arch}".encode()])
    if outcome != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise AssertionError(log.decode())
    size = checked(nvrtc.nvrtcGetCUBINSize(program))
    nvrtc.nvrtcDestroyProgram(program)
    return size


@cache
def compiler() -> str | None:
    """The system's C++ compiler."""
    return next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)


class Emulated:
    """Kernels as native code of this machine. `texts` are kernels by name, without the prelude."""

    def __init__(self, texts: dict[str, str]) -> None:
        if compiler() is None:
            pytest.skip("there is no C++ compiler")
        entries = "\n".join(
            f'extern "C" void launch_{name}(unsigned grid, unsigned x, unsigned y, void** a) '
            f"{{ launch({name}, grid, x, y, a); }}"
            for name in texts
        )
        with TemporaryDirectory() as folder:
            source, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            source.write_text("\n".join([SHIM, PRELUDE, *texts.values(), entries]), "utf-8")
            command = [compiler(), "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared"]
            done = subprocess.run(
                [*command, "-fPIC", "-o", library, source], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[:4000]
            self.library = ctypes.CDLL(str(library))

    def launch(self, name: str, launch: Launch, addresses: Sequence[int]) -> None:
        """Do all threads of a launch; addresses of error, scratch and the buffers."""
        array = (ctypes.c_void_p * len(addresses))(*addresses)
        self.library[f"launch_{name}"](launch.grid, *launch.block, array)


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
            nbytes = buffer.size * buffer.type.numpy.itemsize
            placed.append(Placed(np.full(nbytes, 0xAB, np.uint8).view(buffer.type.numpy)))
    launch = launch_of(kernel)
    scratch = Placed(np.full(launch.scratch_bytes, 0xAB, np.uint8))
    error = Placed(np.zeros(1, np.int32))
    everything = [error, scratch, *placed]
    code.launch(name, launch, [p.address for p in everything])
    assert all(p.intact() for p in everything)
    results = [
        b.layout.unpack(p.view, b.type.shape)
        for b, p in zip(kernel.buffers, placed, strict=True)
        if b.space == "result"
    ]
    return results, int(error.view[0])
