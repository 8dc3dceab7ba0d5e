"""What reports show of this backend: assembly and loops of kernels, and the machine's limits.

For people. Nothing here is needed to compile or to run; `options` are those of `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cnnir.backends.llvm.bandwidth import read_rates
from cnnir.backends.llvm.calls import LoopsKernel
from cnnir.backends.llvm.engine import render
from cnnir.backends.llvm.layout import Plain
from cnnir.backends.llvm.peak import fma_peak
from cnnir.backends.llvm.plan import plan
from cnnir.backends.llvm.schedule import Kernel
from cnnir.backends.llvm.target import CpuTarget, named
from cnnir.backends.llvm.width import fitted
from cnnir.backends.schedule import EXPRESSIONS
from cnnir.errors import IRError
from cnnir.ir import Graph
from cnnir.loops import lower


def assembly(texts: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, str]:
    """LLVM IR, by symbol, as the assembly of the target that options name."""
    target = CpuTarget.host(options.get("features"))
    with ThreadPoolExecutor(target.cores) as pool:
        rendered = pool.map(lambda text: render(text, target, "assembly").decode(), texts.values())
        return dict(zip(texts, rendered, strict=True))


def loops(graph: Graph, options: Mapping[str, Any]) -> dict[int, str]:
    """For the serial of each node its loops, before they become LLVM IR.

    Those of a tuned template, which is not made of them, are those of its node's definition.
    """
    target = CpuTarget.host(options.get("features"))
    if not named(options.get("features")):
        target = fitted(graph, target)
    planned = plan(graph, target, options.get("threads") or target.cores)
    found: dict[int, str] = {}
    with EXPRESSIONS:
        for call in planned.calls:
            if call.step.kernel != "pack":
                found[call.step.serial] = _loops(call.kernel, target.lanes)
    return {serial: text for serial, text in found.items() if text}


def limits(options: Mapping[str, Any]) -> tuple[int, float, dict[str, tuple[float, float]]]:
    """What a program is up against, measured: its threads, the operations a second that they do in
    f32, and for each cache and memory the bytes that it holds and that they read of it a second."""
    threads = options.get("threads") or CpuTarget.host().cores
    return threads, threads * fma_peak() * 1e9, read_rates(threads)


def _loops(kernel: Kernel, lanes: int) -> str:
    if isinstance(kernel, LoopsKernel):
        return kernel.lowered().text()
    node = kernel.node
    layouts = [None if v is None else Plain() for v in (*node.operands, *node.results)]
    try:
        return lower(node, layouts, lanes, kernel.kind).text()
    except IRError:
        return ""  # an op that exists as a template only
