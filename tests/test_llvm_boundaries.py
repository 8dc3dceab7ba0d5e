"""Convolution templates at boundaries other than zero, against np.pad and plain sums in f64.

The memory around every operand is NaN, as are pad lanes and scratch: a place that the boundary does
not name shows.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernel_harness import LANES, TARGETS, TOLERANCE, conv_error, sampled, spatial

from cnnir.backends.llvm.kernels import depthwise, direct_conv, grouped_conv, winograd
from cnnir.backends.llvm.kernels.spec import ConvSpec

WORDS = ("circular", "reflect", "replicate", "zero")


def bordered(pick, spec, most=9):
    """A spec with padding and a word for each axis, as large as the boundary has it."""
    words = tuple(pick(WORDS[:3]) if pick((True, True, False)) else "zero" for _ in spec.sizes)
    room = [
        size - 1 if word == "reflect" else most
        for word, size in zip(words, spec.sizes, strict=True)
    ]
    padding = tuple(min(pick((0, 1, 1, 2, 3, most)), limit) for limit in room * 2)
    made = replace(spec, boundary=words, padding=padding)
    quiet = set(made.boundary) == {"zero"} or not any(padding)
    return made, "nothing to read beyond" if quiet else None


def direct_sample(pick):
    groups, lanes = pick((1, 1, 1, 2)), pick(LANES)
    channels, filters = pick((1, 3, 16, 17, 33)), pick((1, 3, 16, 33, 48))
    if groups > 1:
        channels, filters = groups * lanes * pick((1, 2)), groups * lanes * pick((1, 2, 3))
    plain, bias = pick((False, False, True)), pick((False, True))
    shape = spatial(pick, pick((1, 2, 2, 2, 3)))
    spec = ConvSpec(pick((1, 2)), channels, filters, *shape, groups, plain, bias, lanes)
    spec, quiet = bordered(pick, spec)
    return spec, quiet or direct_conv.reject(spec)


def depthwise_sample(pick):
    groups, s = pick((1, 3, 16, 17)), pick((1, 1, 2))
    shape = spatial(pick, pick((1, 2, 2, 2, 3)))
    fields = (groups, False, pick((False, True)), pick(LANES))
    spec = ConvSpec(pick((1, 2)), groups * s, groups * s * pick((1, 2)), *shape, *fields)
    spec, quiet = bordered(pick, spec, 4)
    return spec, quiet or depthwise.reject(spec)


def grouped_sample(pick):
    groups, lanes = pick((2, 3)), pick(LANES)
    channels, filters = groups * pick((3, 5, 12)), groups * pick((6, 10, 12))
    shape = spatial(pick, pick((1, 2, 2, 3)))
    spec = ConvSpec(pick((1, 2)), channels, filters, *shape, groups, lanes=lanes)
    spec, quiet = bordered(pick, spec)
    return spec, quiet or grouped_conv.reject(spec)


def winograd_sample(pick):
    lanes, rank = pick(LANES), pick((1, 2, 2, 2, 3))
    kernel = tuple(pick((3, 3, 5, 7)) for _ in range(rank))
    sizes = tuple(pick((1, 2, 5, 8, 13, 17, 31)) for _ in range(rank))
    stride, dilation = [1] * rank, tuple(pick((1, 1, 1, 2)) for _ in range(rank))
    if rank == 3:
        kernel, stride[0] = (pick((1, 2, 3)), 3, 3), pick((1, 2))
    fields = (
        sizes,
        kernel,
        tuple(stride),
        dilation,
        (0,) * (2 * rank),
        1,
        False,
        pick((False, True)),
    )
    spec = ConvSpec(pick((1, 2)), pick((1, 5, 17)), pick((1, 16, 33)), *fields, lanes)
    spec, quiet = bordered(pick, spec)
    return spec, quiet or winograd.reject(spec)


@pytest.mark.parametrize("seed", range(6))
def test_direct_convolution_reads_beyond_its_borders(seed):
    for spec in sampled(6, seed, direct_sample):
        tiling = direct_conv.choose(spec, TARGETS[spec.lanes])
        assert conv_error(direct_conv, spec, tiling) < TOLERANCE, spec
        other = replace(tiling, copy=not tiling.copy)
        assert conv_error(direct_conv, spec, other) < TOLERANCE, (spec, other)


@pytest.mark.parametrize("template, sample", [
    (depthwise, depthwise_sample), (grouped_conv, grouped_sample), (winograd, winograd_sample),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_other_templates_read_beyond_their_borders(template, sample, seed):
    for spec in sampled(6, seed, sample):
        assert conv_error(template, spec) < TOLERANCE, spec
