"""Compile and run single kernels without the rest of the backend; guarded and poisoned buffers.

Every array a kernel gets lies between guard bands of a NaN bit pattern, so that a stray read shows
in the result and a stray write shows in the guard.
"""

from __future__ import annotations

import ctypes
import random

import llvmlite.binding as llvm
import numpy as np
from kernel_references import conv_reference

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.kernels.spec import Target

LANES = (4, 8, 16)
TARGETS = {4: Target(registers=16), 8: Target(registers=16), 16: Target()}
TOLERANCE = 1e-5
GUARD = 1024  # floats on either side
POISON = np.uint32(0x7FC0BEEF)

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


class Compiled:
    """A module compiled by MCJIT for the host; LLVM's own vectorisers and unroller stay off."""

    def __init__(self, module: ir.Module, opt: int = 3, assembly: str | None = None) -> None:
        parsed = llvm.parse_assembly(str(module))
        parsed.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=opt,
            jit=True,
        )
        options = llvm.create_pipeline_tuning_options(speed_level=opt)
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(parsed, builder)
        if assembly is not None:
            with open(assembly, "w") as file:
                file.write(machine.emit_assembly(parsed))
        self.engine = llvm.create_mcjit_compiler(parsed, machine)
        self.engine.finalize_object()

    def function(self, name: str, pointers: int):
        address = self.engine.get_function_address(name)
        kinds = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64] + [ctypes.c_void_p] * pointers
        return ctypes.CFUNCTYPE(None, *kinds)(address)


class Guarded:
    """A 64-byte aligned f32 array between poisoned bands."""

    def __init__(self, shape: tuple[int, ...], values: np.ndarray | None = None) -> None:
        size = int(np.prod(shape))
        raw = np.empty(size + 2 * GUARD + 16, np.uint32)
        start = GUARD + (-raw.ctypes.data // 4) % 16
        raw[:] = POISON
        self.raw, self.start, self.size = raw, start, size
        self.array = raw[start : start + size].view(np.float32).reshape(shape)
        if values is not None:
            self.array[...] = values

    @property
    def address(self) -> int:
        return self.raw.ctypes.data + 4 * self.start

    def intact(self) -> bool:
        before, after = self.raw[: self.start], self.raw[self.start + self.size :]
        return bool((before == POISON).all() and (after == POISON).all())


def run_kernel(code, operands: list[Guarded], result: Guarded, opt: int = 3) -> None:
    """Compile the module of `code` and do all its items; checks every guard."""
    compiled = Compiled(code.function.module, opt)  # owns the code: keep it while calling
    function = compiled.function(code.name, len(operands) + 1)
    scratch = Guarded(((code.scratch_bytes + 3) // 4,))
    error = Guarded((1,), np.zeros(1))
    addresses = [a.address for a in [*operands, result]]
    for item in range(code.items):
        scratch.array.view(np.uint32)[...] = POISON
        function(error.address, scratch.address, item, *addresses)
    assert not error.array.view(np.uint32).any()
    for buffer in [scratch, error, *operands, result]:
        assert buffer.intact()


def to_blocked(x: np.ndarray, lanes: int) -> np.ndarray:
    """[N,C,*s] as [blocks,N,*s,V], pad lanes NaN."""
    n, c, *sizes = x.shape
    blocks = -(-c // lanes)
    padded = np.full((n, blocks * lanes, *sizes), np.nan, np.float32)
    padded[:, :c] = x
    split = padded.reshape(n, blocks, lanes, *sizes)
    return np.moveaxis(split, (1, 2), (0, -1)).copy()


def from_blocked(y: np.ndarray, channels: int) -> np.ndarray:
    joined = np.moveaxis(y, (0, -1), (1, 2))
    return joined.reshape(y.shape[1], -1, *y.shape[2:-1])[:, :channels]


def padded_bias(rng, count, lanes):
    values = rng.standard_normal(count, dtype=np.float32)
    padded = np.full(-(-count // lanes) * lanes, np.nan, np.float32)
    padded[:count] = values
    return values, Guarded(padded.shape, padded)


def packed_in_place(template, w, spec, tiling):
    """Packed weights, which are the same wherever they are written and whatever was there."""
    packed = template.pack(w, spec, tiling)
    assert packed.ctypes.data % 64 == 0 and packed.shape == (template.packed_size(spec, tiling),)
    out = np.full(packed.size + 2, np.nan, np.float32)
    template.pack(np.asfortranarray(w), spec, tiling, out[1:-1])
    np.testing.assert_array_equal(out[1:-1], packed)
    assert np.isnan(out[[0, -1]]).all()
    return packed


def conv_error(
    template, spec, tiling=None, weights_shape=None, reference=conv_reference, weights=np.asarray
):
    """The largest error of a convolution, relative to the largest result; `weights` makes its own
    of random ones."""
    rng = np.random.default_rng(7)
    tiling = tiling or template.choose(spec, TARGETS[spec.lanes])
    x = rng.standard_normal((spec.batch, spec.channels, *spec.sizes), dtype=np.float32)
    shape = weights_shape or (spec.filters, spec.channels // spec.groups, *spec.kernel)
    w = weights(rng.standard_normal(shape, dtype=np.float32))
    packed = packed_in_place(template, w, spec, tiling)
    data = x if spec.plain else to_blocked(x, spec.lanes)
    operands = [Guarded(data.shape, data), Guarded(packed.shape, packed)]
    bias = None
    if spec.bias:
        bias, buffer = padded_bias(rng, spec.filters, spec.lanes)
        operands.append(buffer)
    code = template.emit(ir.Module(), "kernel", spec, tiling)
    wanted = reference(x, w, bias, spec)
    y = Guarded((spec.out_blocks, spec.batch, *wanted.shape[2:], spec.lanes))
    run_kernel(code, operands, y)
    error = abs(from_blocked(y.array, spec.filters) - wanted).max()
    return error / max(abs(wanted).max(), 1e-30)


def sampled(count, seed, make):
    """`count` specs that a template takes, the same every time."""
    rng = random.Random(seed)
    found = []
    while len(found) < count:
        spec, reason = make(rng.choice)
        if reason is None:
            found.append(spec)
    return found


def spatial(pick, rank):
    sizes = tuple(pick((1, 2, 7, 13, 17, 31) if rank < 3 else (1, 4, 7)) for _ in range(rank))
    kernel = tuple(pick((1, 2, 3, 5, 7)) for _ in range(rank))
    kernel = pick(((1,) * rank, kernel, kernel))
    stride = pick(((1,) * rank, tuple(pick((1, 2, 3)) for _ in range(rank))))
    dilation = tuple(pick((1, 1, 2)) for _ in range(rank))
    padding = pick(((0,) * (2 * rank), tuple(pick((0, 1, 2, 3)) for _ in range(2 * rank))))
    return sizes, kernel, stride, dilation, padding
