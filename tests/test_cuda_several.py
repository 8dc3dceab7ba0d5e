"""Threads of printed CUDA kernels that take several lanes, and values kept in 16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_harness import emulated, needs_compiler, nvrtc_compile, run_kernel
from loops_harness import node_of

from cnnir.backends.cuda.calls import finest
from cnnir.backends.cuda.layout import ChannelsLast, Plain
from cnnir.backends.cuda.printer import Share, launch_of, print_kernel, share_of
from cnnir.evaluate import evaluate_node
from cnnir.ir import Node
from cnnir.loops import Layout

POOL: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}


def kernel_of(op: str, *types: str, layout: str = "", storage: str = "", **attrs: Any):
    """(node, its kernel): images with channels last where the layout says so."""
    node = node_of(op, *types, **attrs)
    return node, finest(node, [laid(v.type.shape, layout, storage) for v in values_of(node)])


def values_of(node: Node) -> list[Any]:
    return [*node.operands, *node.results]


def laid(shape: tuple[int, ...], layout: str, storage: str) -> Layout:
    last = layout == "last" and len(shape) > 2
    return ChannelsLast(shape[1], storage) if last else Plain(storage)


CASES = {
    # everything side by side and in whole vectors
    "a chain of pixels": (4, kernel_of("add", "f32[3,5,7,8]", "f32[3,5,7,8]")),
    "an odd end": (4, kernel_of("relu", "f32[3,33]")),
    "an end that is a vector": (4, kernel_of("relu", "f32[212]")),
    "the end of a row": (4, kernel_of("mul", "f32[6,52]", "f32[6,1]")),
    "channels": (4, kernel_of("relu", "f32[2,12,3,3]", layout="last")),
    "channels in 16 bits": (8, kernel_of("relu", "f32[2,24,3,3]", layout="last", storage="f16")),
    "pairs of channels": (2, kernel_of("relu", "f32[2,6,3,3]", layout="last")),
    "halves": (8, kernel_of("add", "f16[4,40]", "f16[4,40]")),
    "doubles": (2, kernel_of("add", "f64[4,40]", "f64[4,40]")),
    "a number for a channel": (
        4, kernel_of("mul", "f32[2,12,3,3]", "f32[12,1,1]", layout="last"),
    ),
    "windows": (4, kernel_of("max_pool", "f32[2,8,9,7]", layout="last", **POOL)),
    "sums of windows": (
        8, kernel_of("avg_pool", "f32[1,16,9,7]", layout="last", storage="bf16", **POOL),
    ),
    "pixels": (4, kernel_of(
        "reduce_mean", "f32[3,8,5,7]", axes=(2, 3), keepdims=True, layout="last",
    )),
    # not so
    "odd rows": (1, kernel_of("mul", "f32[6,33]", "f32[6,1]")),
    "odd channels": (1, kernel_of("relu", "f32[2,7,3,3]", layout="last")),
    "a shift by one": (
        1, kernel_of("slice", "f32[4,33]", starts=(0, 1), sizes=(4, 32), steps=(1, 1)),
    ),
    "every second": (
        1, kernel_of("slice", "f32[4,64]", starts=(0, 0), sizes=(4, 32), steps=(1, 2)),
    ),
    "columns for rows": (1, kernel_of("transpose", "f32[16,32]", perm=(1, 0))),
    "rows that were looked up": (1, kernel_of("gather", "f32[9,40]", "i64[3]", axis=0)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_how_many_lanes_a_thread_takes(name: str):
    each, (_, kernel) = CASES[name]
    assert share_of(kernel).each == each
    text = print_kernel(kernel, "k")
    assert (f"cn_read<{each}>" in text) == ("cn_write" in text) == (each > 1)


def test_values():
    """All of them as one text; vectors at addresses that are no multiples would be faults."""
    needs_compiler()
    code = emulated({f"k{n}": kernel for n, (_, (_, kernel)) in enumerate(CASES.values())})
    rng = np.random.default_rng(0)
    for number, (_, (node, kernel)) in enumerate(CASES.values()):
        arrays = [given(v.type, rng) for v in node.operands]
        (got,), error = run_kernel(code, f"k{number}", kernel, arrays)
        (want,) = evaluate_node(node, arrays)
        bits = {"f16": 2.0**-10, "bf16": 2.0**-7}.get(kernel.buffers[-1].storage, 1e-6)
        assert not error
        np.testing.assert_allclose(got.astype(np.float64), want, bits, bits)


def given(type: Any, rng: np.random.Generator) -> np.ndarray:
    if type.dtype == "i64":
        return rng.integers(0, 9, type.shape)
    return rng.standard_normal(type.shape).astype(type.numpy)


def test_threads_of_a_row():
    """A warp takes 128 floats, and the threads of a block are whole warps."""
    _, (_, kernel) = CASES["an end that is a vector"]
    assert share_of(kernel) == Share(32, 4)
    assert launch_of(kernel).block == (32, 4, 1) and launch_of(kernel).grid == (1, 1, 1)
    _, (_, kernel) = CASES["channels in 16 bits"]
    assert launch_of(kernel).block == (3, 42, 1)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_they_compile(arch: str):
    texts = [print_kernel(kernel, f"k{n}") for n, (_, (_, kernel)) in enumerate(CASES.values())]
    assert nvrtc_compile(texts, arch)
