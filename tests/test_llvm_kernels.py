"""Every kernel template against plain numpy in f64, over grids of shapes and all vector widths.

Pad lanes of blocked operands are NaN, the memory around every operand is NaN and guarded, scratch
starts as NaN; so whatever a kernel reads or writes where it must not shows.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from kernel_harness import (
    LANES,
    TARGETS,
    TOLERANCE,
    Guarded,
    conv_error,
    from_blocked,
    packed_in_place,
    padded_bias,
    run_kernel,
    sampled,
    spatial,
    to_blocked,
)
from kernel_references import conv_reference, pool_reference, transpose_reference

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels import (
    conv_transpose,
    depthwise,
    direct_conv,
    grouped_conv,
    matmul,
    pool,
    winograd,
)
from cnnir.backends.llvm.kernels.conv_transpose import ConvTransposeSpec
from cnnir.backends.llvm.kernels.matmul import MatmulSpec
from cnnir.backends.llvm.kernels.microkernel import (
    FOLLOWING,
    Ahead,
    Reduction,
    Tile,
    accumulate,
    simplify,
    unrolling,
)
from cnnir.backends.llvm.kernels.pool import PoolSpec
from cnnir.backends.llvm.kernels.spec import ConvSpec, Place, Split, Target, shares

# ---- random specs


def conv_sample(pick):
    lanes, groups = pick(LANES), pick((1, 1, 1, 2, 3))
    channels = pick((1, 3, 5, 16, 17, 33, 48))
    filters = pick((1, 3, 5, 16, 17, 33, 48))
    if groups > 1:
        channels, filters = groups * lanes * pick((1, 2)), groups * lanes * pick((1, 2, 3))
    shape = spatial(pick, pick((1, 2, 2, 2, 3)))
    plain, bias = pick((False, False, True)), pick((False, True))
    spec = ConvSpec(pick((1, 3)), channels, filters, *shape, groups, plain, bias, lanes)
    return spec, direct_conv.reject(spec)


def depthwise_sample(pick):
    groups, s = pick((1, 3, 5, 16, 17, 33)), pick((1, 1, 1, 2, 4, 8))
    filters = groups * s * pick((1, 1, 2, 3))
    shape = spatial(pick, pick((1, 2, 2, 2, 3)))
    fields = (groups, False, pick((False, True)), pick(LANES))
    spec = ConvSpec(pick((1, 3)), groups * s, filters, *shape, *fields)
    return spec, depthwise.reject(spec)


def pool_sample(pick):
    sizes, kernel, stride, dilation, padding = spatial(pick, pick((1, 2, 2, 3)))
    rank, up = len(sizes), pick((False, True))
    out = tuple(
        (sizes[i] + padding[i] + padding[rank + i] - (kernel[i] - 1) * dilation[i] - 1
         + up * (stride[i] - 1)) // stride[i] + 1
        for i in range(rank)
    )  # fmt: skip
    fields = (sizes, out, kernel, stride, dilation, padding, pick((False, True)), pick(LANES))
    spec = PoolSpec(pick(("max", "average")), pick((1, 3)), pick((1, 3, 16, 17)), *fields)
    too_much = prod(out) * prod(kernel) > 3000  # for the reference, in Python
    return spec, pool.reject(spec) or ("slow" if too_much else None)


def matmul_sample(pick):
    constant, batch = pick((True, False)), pick((1, 1, 3))
    sizes = pick((1, 2, 3, 7, 14, 31, 65)), pick((1, 3, 16, 17, 33, 100)), pick((1, 2, 17, 64))
    flags = (constant, pick((False, True)), constant or pick((False, True)), pick((False, True)))
    spec = MatmulSpec(*sizes, batch, *flags, pick(LANES))
    return spec, matmul.reject(spec)


# ---- direct convolution


@pytest.mark.parametrize("seed", range(6))
def test_direct_convolution_agrees_over_random_shapes(seed):
    for spec in sampled(10, seed, conv_sample):
        tiling = direct_conv.choose(spec, TARGETS[spec.lanes])
        assert conv_error(direct_conv, spec, tiling) < TOLERANCE, spec
        if spec.padded and seed % 2:
            other = replace(tiling, copy=not tiling.copy)
            assert conv_error(direct_conv, spec, other) < TOLERANCE, (spec, other)


def test_edges_that_would_be_too_much_code_are_copied():
    shape = ((31, 31), (25, 25), (1, 1), (1, 1), (12, 12, 12, 12))
    spec = ConvSpec(1, 4, 8, *shape, lanes=8)
    tiling = direct_conv.choose(spec, TARGETS[8])
    assert tiling.copy
    assert conv_error(direct_conv, spec, tiling) < TOLERANCE
    usual = ConvSpec(1, 8, 8, (17, 17), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), lanes=8)
    assert not direct_conv.choose(usual, TARGETS[8]).copy


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(3, 1, 1, 7), (3, 2, 1, 14), (1, 1, 0, 13), (1, 2, 0, 14), (7, 2, 3, 31), (5, 1, 2, 27)],
)
def test_usual_convolutions(lanes, kernel, stride, padding, size):
    shape = ((size,) * 2, (kernel,) * 2, (stride,) * 2, (1, 1), (padding,) * 4)
    spec = ConvSpec(2, 3 if kernel == 7 else 40, 72, *shape, plain=kernel == 7, lanes=lanes)
    assert conv_error(direct_conv, spec) < TOLERANCE


@pytest.mark.parametrize("blocks, rows, columns", [(1, 1, 5), (2, 2, 3), (3, 1, 9), (4, 3, 1)])
@pytest.mark.parametrize("band, chunk", [(1, 1), (2, 3), (9, 6)])
@pytest.mark.parametrize("copy", [False, True])
def test_every_tiling_computes_the_same(blocks, rows, columns, band, chunk, copy):
    spec = ConvSpec(1, 20, 48, (9, 11), (3, 3), (1, 1), (1, 1), (1, 1, 1, 2), bias=True, lanes=8)
    tiling = direct_conv.Tiling(blocks, rows, columns, band, chunk, copy)
    assert conv_error(direct_conv, spec, tiling) < TOLERANCE


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ConvSpec(1, 8, 12, (5,), (1,), (1,), (1,), (0, 0), 4, lanes=4), "3 filters a group"),
        (ConvSpec(1, 6, 8, (5,), (1,), (1,), (1,), (0, 0), 2, lanes=4), "3 channels a group"),
        (ConvSpec(1, 4, 4, (2,), (3,), (1,), (1,), (0, 0), lanes=4), "an empty result"),
    ],
)
def test_direct_convolution_says_what_it_does_not_take(spec, words):
    assert words in direct_conv.reject(spec)


# ---- the others


@pytest.mark.parametrize("seed", range(6))
def test_depthwise_agrees_over_random_shapes(seed):
    for spec in sampled(10, seed, depthwise_sample):
        assert conv_error(depthwise, spec) < TOLERANCE, spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ConvSpec(1, 8, 8, (5,), (1,), (1,), (1,), (0, 0), 8, plain=True, lanes=4), "not blocked"),
        (ConvSpec(1, 6, 6, (5,), (1,), (1,), (1,), (0, 0), 2, lanes=4), "do not divide"),
        (ConvSpec(1, 4, 36, (5,), (1,), (1,), (1,), (0, 0), 4, lanes=4), "wanted 1 to 4"),
    ],
)
def test_depthwise_says_what_it_does_not_take(spec, words):
    assert words in depthwise.reject(spec)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("kernel, sizes", [((2, 2), (7, 5)), ((3,), (17,)), ((2, 1, 2), (3, 4, 5))])
@pytest.mark.parametrize("plain, bias", [(False, True), (True, False)])
def test_transposed_convolution(lanes, kernel, sizes, plain, bias):
    ones, none = (1,) * len(kernel), (0,) * len(kernel)
    shape = (sizes, kernel, kernel, ones, none * 2, none)
    spec = ConvTransposeSpec(2, 17, 21, *shape, plain=plain, bias=bias, lanes=lanes)
    assert conv_transpose.reject(spec) is None
    error = conv_error(conv_transpose, spec, None, (17, 21, *kernel), transpose_reference)
    assert error < TOLERANCE


def test_transposed_convolution_says_what_it_does_not_take():
    spec = ConvTransposeSpec(1, 4, 4, (5,), (3,), (2,), (1,), (0, 0), (0,), lanes=4)
    assert "stride (2,) is not the kernel (3,)" in conv_transpose.reject(spec)


@pytest.mark.parametrize("seed", range(4))
def test_pooling_agrees_over_random_shapes(seed):
    for spec in sampled(14, seed, pool_sample):
        check_pool(spec)


def check_pool(spec, special=False):
    x = np.random.default_rng(3).standard_normal((spec.batch, spec.channels, *spec.sizes))
    x = x.astype(np.float32)
    if special:
        x[..., ::5] = np.nan
        x[..., 1::5] = -np.inf
    data = to_blocked(x, spec.lanes)
    code = pool.emit(ir.Module(), "kernel", spec, pool.choose(spec, TARGETS[spec.lanes]))
    y = Guarded((spec.blocks, spec.batch, *spec.out_sizes, spec.lanes))
    run_kernel(code, [Guarded(data.shape, data)], y)
    got = from_blocked(y.array, spec.channels)
    np.testing.assert_allclose(got, pool_reference(x, spec), 1e-5, 1e-6, err_msg=str(spec))


@pytest.mark.parametrize("lanes", LANES)
def test_the_maximum_keeps_nan_and_infinity(lanes):
    shape = ((6, 23), (6, 23), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    check_pool(PoolSpec("max", 1, 5, *shape, lanes=lanes), special=True)


@pytest.mark.parametrize("seed", range(4))
def test_matmul_agrees_over_random_shapes(seed):
    for spec in sampled(10, seed, matmul_sample):
        check_matmul(spec)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("rows, columns", [(1, 1000), (1, 10), (130, 129)])
def test_dense_layers(lanes, rows, columns):
    check_matmul(MatmulSpec(rows, columns, 100, bias=True, lanes=lanes))


@pytest.mark.parametrize("panel", [False, True])
def test_matmul_with_run_time_weights(panel):
    spec = MatmulSpec(33, 37, 20, 2, constant=False, shared_w=False, lanes=8)
    check_matmul(spec, matmul.Tiling(2, 6, 2, panel))


def check_matmul(spec, tiling=None):
    rng = np.random.default_rng(5)
    batch_x = () if spec.shared_x else (spec.batch,)
    batch_w = () if spec.shared_w else (spec.batch,)
    x = rng.standard_normal((*batch_x, spec.rows, spec.depth), dtype=np.float32)
    w = rng.standard_normal((*batch_w, spec.depth, spec.columns), dtype=np.float32)
    tiling = tiling or matmul.choose(spec, TARGETS[spec.lanes])
    data = packed_in_place(matmul, w, spec, tiling) if spec.constant else w
    operands = [Guarded(x.shape, x), Guarded(data.shape, data)]
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    if spec.bias:
        bias, buffer = padded_bias(rng, spec.columns, spec.lanes)
        operands.append(buffer)
        wanted = wanted + bias
    y = Guarded((spec.batch, spec.rows, spec.columns))
    run_kernel(matmul.emit(ir.Module(), "kernel", spec, tiling), operands, y)
    error = abs(y.array - wanted).max() / abs(wanted).max()
    assert error < TOLERANCE, spec


# ---- epilogues


def residual(b: Builder, value: ir.Value, place: Place) -> ir.Value:
    """y = value + operand, where the operand has the shape and layout of the result."""
    other = b.vload(b.pointers[2], place.offset, align=4)
    return b.ir.fadd(value, other)


@pytest.mark.parametrize(
    "template, groups, size",
    [
        (direct_conv, 1, 1),
        (direct_conv, 1, 3),
        (depthwise, 24, 1),
        (depthwise, 24, 3),
        (grouped_conv, 2, 1),
        (grouped_conv, 2, 3),
        (grouped_conv, 4, 3),
        (winograd, 1, 3),
    ],
)
def test_an_epilogue_sees_the_place_of_its_vector(template, groups, size):
    kernel, padding = (size, size), (size // 2,) * 4
    spec = ConvSpec(2, 24, 24, (9, 15), kernel, (1, 1), (1, 1), padding, groups, lanes=8)
    rng = np.random.default_rng(1)
    tiling = template.choose(spec, TARGETS[8])
    x = rng.standard_normal((2, 24, 9, 15), dtype=np.float32)
    w = rng.standard_normal((24, 24 // groups, *kernel), dtype=np.float32)
    other = rng.standard_normal((2, 24, 9, 15), dtype=np.float32)
    seen: list[int] = []

    def by_coordinates(b: Builder, value: ir.Value, place: Place) -> ir.Value:
        seen.append(place.count)
        block, n, i, j = place.coordinates()
        offset = b.mul(b.flatten([block, n, i, j], [3, 2, 9, 15]), 8)
        return b.ir.fadd(value, b.vload(b.pointers[2], offset))

    packed = template.pack(w, spec, tiling)
    blocked = [to_blocked(a, 8) for a in (x, other)]
    operands = [Guarded(a.shape, a) for a in (blocked[0], packed, blocked[1])]
    wanted = conv_reference(x, w, None, spec) + other
    for epilogue in (residual, by_coordinates):
        code = template.emit(ir.Module(), "kernel", spec, tiling, epilogue, operands=1)
        assert code.operands == 2
        y = Guarded((3, 2, 9, 15, 8))
        run_kernel(code, operands, y)
        assert abs(from_blocked(y.array, 24) - wanted).max() < TOLERANCE * abs(wanted).max()
    assert set(seen) == {8}


def test_matmul_epilogue_reads_by_offset_and_by_coordinates():
    spec = MatmulSpec(5, 21, 9, 2, lanes=8)
    rng = np.random.default_rng(2)
    tiling = matmul.choose(spec, TARGETS[8])
    x = rng.standard_normal((2, 5, 9), dtype=np.float32)
    w = rng.standard_normal((9, 21), dtype=np.float32)
    other = rng.standard_normal((2, 5, 21), dtype=np.float32)

    def both(b: Builder, value: ir.Value, place: Place) -> ir.Value:
        matrix, row, column = place.coordinates()
        offset = b.flatten([matrix, row, column], [2, 5, 21])
        again = b.vload(b.pointers[2], offset, align=4)
        return b.ir.fadd(residual(b, value, place), again)

    packed = matmul.pack(w, spec, tiling)
    operands = [Guarded(a.shape, a) for a in (x, packed, other)]
    y = Guarded((2, 5, 21))
    run_kernel(matmul.emit(ir.Module(), "kernel", spec, tiling, both, operands=1), operands, y)
    np.testing.assert_allclose(y.array, x @ w + 2 * other, 1e-4, 1e-4)


# ---- the pieces


@pytest.mark.parametrize("total", [1, 2, 7, 13, 49, 55])
@pytest.mark.parametrize("largest", [1, 2, 6, 14])
def test_a_split_covers_everything_once_in_two_sizes(total, largest):
    split = Split(total, largest)
    sizes = [size for size, count in split.sizes() for _ in range(count)]
    assert sizes == shares(total, largest)
    assert sum(sizes) == total and max(sizes) <= largest and len(sizes) == split.parts
    b = Builder(ir.Module(), "f", 0)
    starts = [split.start(b, part) for part in range(split.parts)]
    assert starts == [sum(sizes[:i]) for i in range(len(sizes))]


def test_a_nest_joins_loops_that_walk_with_one_stride():
    nest = [Reduction(4, 1000), Reduction(3, 112), Reduction(3, 16), Reduction(16, 1)]
    assert simplify(nest) == [Reduction(4, 1000), Reduction(3, 112), Reduction(48, 1)]
    assert simplify([Reduction(1, 5), Reduction(1, 1)]) == [Reduction(1, 0)]


@pytest.mark.parametrize(
    ("extents", "fmas", "factors"),
    [
        ((4, 3, 48), 28, [1, 1, 4]),
        ((7, 7, 3), 28, [1, 1, 3]),
        ((9, 5), 2, [9, 5]),
        ((13,), 28, [1]),
    ],
)
def test_unrolling_keeps_bodies_small(extents, fmas, factors):
    assert unrolling([Reduction(e, 1000) for e in extents], fmas) == factors


@pytest.mark.parametrize(
    ("lanes", "turns", "lines"), [(8, 1, 24), (8, 4, 6), (8, 5, 5), (8, 0, 32), (16, 0, 96)]
)
def test_each_line_of_weights_to_come_is_asked_for_by_one_turn(lanes, turns, lines):
    """16 steps of 3 blocks, unrolled: 24 or 48 lines. Without turns those that follow are asked
    for, a line that two steps share by both; where a vector is a line for two cache levels."""
    b = Builder(ir.Module(), "kernel", 3, lanes)
    x, w, coming = b.pointers
    ahead = Ahead(coming, turns) if turns else FOLLOWING
    tile = Tile(3, 2, [b.splat(0.0)] * 6)
    accumulate(b, tile, x, w, {0: 0, 1: 16}, [Reduction(16, 1)], ahead=ahead)
    b.finish()
    assert str(b.module).count("call void @llvm.prefetch.p0(") == lines


def test_choices_do_not_depend_on_anything_but_their_arguments():
    specs = sampled(20, 99, conv_sample)
    first = [direct_conv.choose(spec, Target()) for spec in specs]
    assert first == [direct_conv.choose(spec, Target()) for spec in specs]
    for spec, tiling in zip(specs, first, strict=True):
        assert direct_conv.estimate(spec, tiling, Target()) > 0
