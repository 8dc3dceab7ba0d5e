"""Single kernels on one core, as shares of the machine's FMA peak; rows for results/kernels.jsonl.

    python benchmarks/kernels.py [--only WORD] [--lanes V] [--seconds S] [--record]

Each kernel runs all its work items in one native call, on buffers of random numbers, in turn with
the loop that measures the peak, since shared machines change their clock; the share of peak is the
median over such neighbours. Winograd and symmetric kernels save operations, which are counted as of
direct convolution, so their share is above 100 %. For work that moves more than it computes
(depthwise, one row of matmul, pooling) look at the bytes a second.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from math import prod
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
from results import append, context

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.kernels import depthwise, direct_conv, matmul, pool, symmetric, winograd
from cnnir.backends.llvm.kernels.matmul import MatmulSpec
from cnnir.backends.llvm.kernels.pool import PoolSpec
from cnnir.backends.llvm.kernels.spec import ConvSpec, KernelCode, Target, aligned_empty
from cnnir.backends.llvm.kernels.winograd_tiling import Geometry
from cnnir.backends.llvm.peak import FmaLoop
from cnnir.backends.llvm.target import CpuTarget

SLACK = 16  # floats that may be read behind a buffer
SLICE = 0.004  # seconds of the kernel, then of the peak loop, and so on in turn


@dataclass(frozen=True)
class Case:
    name: str
    template: ModuleType
    spec: Any
    sizes: tuple[int, ...]  # of the operands and the result, in floats


def conv(c: int, o: int, size: int, k: int, stride: int = 1, groups: int = 1, **more: Any) -> Case:
    """A square 2-D convolution with the padding that keeps the size."""
    lanes = more["lanes"]
    shape = ((size,) * 2, (k,) * 2, (stride,) * 2, (1, 1), (k // 2,) * 4)
    spec = ConvSpec(1, c, o, *shape, groups, **more)
    template = depthwise if groups > 1 else direct_conv
    x = spec.channels if spec.plain else spec.in_blocks * lanes
    weights = spec.out_blocks * lanes * (c // groups) * k * k
    y = spec.out_blocks * lanes * prod(spec.out_sizes)
    kind = "depthwise" if groups == c else f"{groups} groups" if groups > 1 else "conv"
    name = f"{kind} {k}x{k}{f' s{stride}' if stride > 1 else ''} {c}->{o} {size}x{size}"
    return Case(name, template, spec, (x * size * size, weights, y))


def symmetric_conv(c: int, size: int, k: int, lanes: int) -> Case:
    """A depthwise convolution whose kernels are symmetric along both axes; operations are counted
    as if they were not."""
    general = conv(c, c, size, k, 1, c, lanes=lanes)
    given = {field.name: getattr(general.spec, field.name) for field in fields(ConvSpec)}
    spec = symmetric.SymmetricSpec(**given, mirrored=(True, True))
    name = general.name.replace("depthwise", "symmetric depthwise")
    return Case(name, symmetric, spec, general.sizes)


def winograd_conv(c: int, size: int, lanes: int, target: Target) -> Case:
    """A square 3x3 convolution; operations are counted as of direct convolution."""
    shape = ((size,) * 2, (3, 3), (1, 1), (1, 1), (1,) * 4)
    spec = ConvSpec(1, c, c, *shape, lanes=lanes)
    g = Geometry(spec, winograd.choose(spec, target))
    plane = spec.out_blocks * lanes * size * size
    name = f"winograd 3x3 {c}->{c} {size}x{size}"
    return Case(name, winograd, spec, (plane, g.weights * g.chunks, plane))


def dense(rows: int, depth: int, columns: int, lanes: int) -> Case:
    spec = MatmulSpec(rows, columns, depth, lanes=lanes)
    sizes = (rows * depth, spec.blocks * lanes * depth, rows * columns)
    return Case(f"matmul {rows}x{depth}x{columns}", matmul, spec, sizes)


def pooling(kind: str, channels: int, size: int, k: int, stride: int, lanes: int) -> Case:
    out = (size + 2 * (k // 2) - k) // stride + 1
    shape = ((size,) * 2, (out,) * 2, (k,) * 2, (stride,) * 2, (1, 1), (k // 2,) * 4)
    spec = PoolSpec(kind, 1, channels, *shape, lanes=lanes)
    width = spec.blocks * lanes
    name = f"{kind} pool {k}x{k} s{stride} {channels} {size}x{size}"
    return Case(name, pool, spec, (width * size**2, width * out**2))


def cases(v: int, target: Target) -> Iterator[Case]:
    """The layers of ResNet-50 and MobileNet that differ, and what bounds other networks."""
    yield conv(3, 64, 224, 7, 2, plain=True, lanes=v)
    for c, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        yield conv(c, c, size, 3, lanes=v)
    for c, size in ((128, 56), (512, 14)):
        yield conv(c, c, size, 3, 2, lanes=v)
    for c, o, size in ((256, 64, 56), (64, 256, 56), (512, 128, 28), (128, 512, 28)):
        yield conv(c, o, size, 1, lanes=v)
    for c, o, size in ((1024, 256, 14), (256, 1024, 14), (512, 2048, 7), (2048, 512, 7)):
        yield conv(c, o, size, 1, lanes=v)
    yield conv(256, 512, 56, 1, 2, lanes=v)
    for c, o, size, k in ((64, 192, 27, 5), (192, 384, 13, 3), (64, 64, 55, 3), (48, 48, 31, 3)):
        yield conv(c, o, size, k, lanes=v)
    yield conv(64, 64, 224, 3, lanes=v)
    for c, size in ((64, 56), (128, 28), (256, 14), (512, 7), (64, 224), (256, 56), (512, 28)):
        yield winograd_conv(c, size, v, target)
    for c, size, k, stride in ((96, 112, 3, 2), (144, 56, 3, 1), (384, 14, 3, 1), (240, 28, 5, 1)):
        yield conv(c, c, size, k, stride, c, lanes=v)
    for c, size, k in ((64, 56, 7), (128, 28, 7), (256, 14, 7), (128, 28, 5)):
        yield conv(c, c, size, k, 1, c, lanes=v)
        yield symmetric_conv(c, size, k, v)
    yield conv(128, 128, 56, 3, 1, 32, lanes=v)
    for rows, depth, columns in ((1, 2048, 1000), (1, 4096, 4096), (16, 2048, 1000)):
        yield dense(rows, depth, columns, v)
    yield dense(197, 768, 768, v)
    yield pooling("max", 64, 112, 3, 2, v)
    yield pooling("average", 192, 35, 3, 1, v)


def run_all(code: KernelCode, pointers: int) -> str:
    """Add a function that does every work item in turn; its `item` argument is their number."""
    b = Builder(code.function.module, "run_all", pointers)
    with b.loop(b.item) as item:
        b.ir.call(code.function, [b.error, b.scratch, item.index, *b.pointers])
    b.finish()
    return "run_all"


def buffer(size: int) -> np.ndarray:
    array = aligned_empty(size + SLACK)
    array[:] = np.random.default_rng(size).standard_normal(size + SLACK, dtype=np.float32)
    return array


def beside_peak(
    call: Callable[[], object], flops: int, loop: FmaLoop, seconds: float
) -> tuple[float, float, float]:
    """(least time of a call, the peak, share of the peak), the loop and the calls in turn.

    The share is the median of neighbours: the clock of a shared machine changes, for both.
    """
    best, shares, peaks, end = float("inf"), [], [], time.perf_counter() + seconds
    while len(shares) < 5 or time.perf_counter() < end:
        peaks.append(loop.rate())
        times = []
        while sum(times) < SLICE:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        best = min(best, *times)
        shares.append(flops / median(times) * 1e-9 / peaks[-1])
    return best, max(peaks), median(shares)


def measure(case: Case, cpu: CpuTarget, target: Target, seconds: float) -> dict[str, object]:
    spec, template = case.spec, case.template
    tiling = template.choose(spec, target)
    code = template.emit(ir.Module(), "kernel", spec, tiling)
    name = run_all(code, len(case.sizes))
    engine = build([code.function.module], [name], cpu)
    kinds = [ctypes.c_void_p] * 2 + [ctypes.c_int64] + [ctypes.c_void_p] * len(case.sizes)
    function = ctypes.CFUNCTYPE(None, *kinds)(engine.address(name))
    buffers = [buffer(size) for size in (1, code.scratch_bytes // 4, *case.sizes)]
    error, scratch, *pointers = (array.ctypes.data for array in buffers)
    loop = FmaLoop(cpu, SLICE)
    best, peak, share = beside_peak(
        lambda: function(error, scratch, code.items, *pointers), code.flops, loop, seconds
    )
    loop.close()
    row = {
        "kernel": case.name,
        "lanes": spec.lanes,
        "ms": round(best * 1e3, 4),
        "gflops": round(code.flops / best * 1e-9, 1),
        "peak": round(peak, 1),
        "share": round(share, 3),
        "gbytes": round(4 * sum(case.sizes) / best * 1e-9, 1),
        "predicted_ms": round(template.estimate(spec, tiling, target) * 1e3, 4),
        "items": code.items,
        "compile_ms": round(engine.report.seconds * 1e3),
        "tiling": str(tiling),
    }
    engine.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kernels whose name holds this word")
    parser.add_argument("--lanes", type=int, default=0, help="vector width, default the target's")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each kernel")
    parser.add_argument("--record", action="store_true", help="append to results/kernels.jsonl")
    options = parser.parse_args()
    cpu = CpuTarget.host()
    machine = context()
    target = Target(cpu.registers, cpu.l1, cpu.l2, cpu.fmas)
    for case in cases(options.lanes or cpu.lanes, target):
        if options.only not in case.name:
            continue
        row = measure(case, cpu, target, options.seconds)
        print(
            f"{case.name:34} {row['ms']:9.4f} ms {row['gflops']:7.1f} GFLOP/s {row['share']:6.1%} "
            f"{row['gbytes']:6.1f} GB/s {row['items']:4} items, {row['compile_ms']:3} ms compiling",
            flush=True,
        )
        if options.record:
            append("kernels", row | machine)


if __name__ == "__main__":
    main()
