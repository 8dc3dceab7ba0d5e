"""Convolution in groups that are not whole blocks, kernel by kernel, as in test_llvm_kernels.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_harness import (
    LANES,
    TARGETS,
    TOLERANCE,
    Guarded,
    conv_error,
    from_blocked,
    run_kernel,
    sampled,
    spatial,
    to_blocked,
)
from kernel_references import conv_reference

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.kernels import grouped_conv
from cnnir.backends.llvm.kernels.spec import ConvSpec


def grouped_sample(pick):
    groups, channels, filters = pick((2, 3, 5)), pick((1, 3, 5, 9, 17, 34)), pick((2, 6, 13, 20))
    shape = spatial(pick, pick((1, 2, 2, 2, 3)))
    fields = (groups, False, pick((False, True)), pick(LANES))
    spec = ConvSpec(pick((1, 3)), groups * channels, groups * filters, *shape, *fields)
    return spec, grouped_conv.reject(spec)


@pytest.mark.parametrize("seed", range(6))
def test_groups_of_any_size_agree_over_random_shapes(seed):
    for spec in sampled(10, seed, grouped_sample):
        assert conv_error(grouped_conv, spec) < TOLERANCE, spec


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("channels, filters", [(34, 34), (62, 22), (16, 58), (136, 17)])
def test_usual_groups(lanes, channels, filters):
    shape = ((7, 7), (1, 1), (1, 1), (1, 1), (0,) * 4)
    spec = ConvSpec(2, 3 * channels, 3 * filters, *shape, 3, bias=True, lanes=lanes)
    assert grouped_conv.reject(spec) is None
    assert conv_error(grouped_conv, spec) < TOLERANCE


def test_a_group_sees_nothing_of_its_neighbours():
    shape = ((5, 6), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    spec = ConvSpec(1, 30, 36, *shape, 3, lanes=8)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, 30, 5, 6), dtype=np.float32)
    x[:, :10], x[:, 20:] = np.nan, np.inf
    w = rng.standard_normal((36, 10, 3, 3), dtype=np.float32)
    tiling = grouped_conv.choose(spec, TARGETS[8])
    packed, data = grouped_conv.pack(w, spec, tiling), to_blocked(x, 8)
    operands = [Guarded(data.shape, data), Guarded(packed.shape, packed)]
    y = Guarded((5, 1, 5, 6, 8))
    run_kernel(grouped_conv.emit(ir.Module(), "kernel", spec, tiling), operands, y)
    alone = replace(spec, channels=10, filters=12, groups=1)
    wanted = conv_reference(x[:, 10:20], w[12:24], None, alone)
    got = from_blocked(y.array, 36)
    np.testing.assert_allclose(got[:, 12:24], wanted, 1e-4, 1e-4)
    assert np.isnan(got[:, :12]).all() and not np.isfinite(got[:, 24:]).any()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (ConvSpec(1, 8, 16, (5,), (1,), (1,), (1,), (0, 0), 2, lanes=4), "whole blocks"),
        (ConvSpec(1, 6, 6, (5,), (1,), (1,), (1,), (0, 0), lanes=4), "whole blocks"),
        (ConvSpec(1, 6, 6, (5,), (1,), (1,), (1,), (0, 0), 2, plain=True, lanes=4), "not blocked"),
        (ConvSpec(1, 34, 34, (5,), (1,), (1,), (1,), (0, 0), 34, lanes=16), "1 filters a group"),
        (ConvSpec(1, 6, 6, (2,), (3,), (1,), (1,), (0, 0), 2, lanes=4), "an empty result"),
    ],
)
def test_grouped_convolution_says_what_it_does_not_take(spec, words):
    assert words in grouped_conv.reject(spec)
