"""Transposed convolutions said as convolutions: torch is the oracle."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import cnnir
from cnnir.pipeline import optimise

torch = pytest.importorskip("torch")
F = torch.nn.functional

CASES = [
    (rank, kernel, stride, padding, extra)
    for rank, kernel, stride in product((1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3))
    for padding, extra in ((0, 0), (1, stride - 1))
    if 3 * stride + kernel + extra > 2 * padding
]


def transposed(rank: int, kernel: int, stride: int, padding: int, extra: int, groups: int):
    """A graph of one layer, its input, and what torch makes of that."""
    rng = np.random.default_rng(kernel + 10 * stride + 100 * rank)
    w = rng.standard_normal((4, 3, *(kernel,) * rank), np.float32)
    x = rng.standard_normal((2, 4, *(4,) * (rank - 1), 5), np.float32)
    b = rng.standard_normal(3 * groups, np.float32)
    attrs = {
        "stride": (stride,) * rank,
        "padding": (padding,) * 2 * rank,
        "output_padding": (extra,) * rank,
    }
    g = cnnir.Graph("m")
    value = g.input(cnnir.TensorType("f32", x.shape), "x")
    g.output(
        g.add("conv_transpose", value, g.param("w", w), g.param("b", b), groups=groups, **attrs)
    )
    layer = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    options = dict(stride=stride, padding=padding, output_padding=extra, groups=groups)
    y = layer(*(torch.from_numpy(a.astype(np.float64)) for a in (x, w, b)), **options).numpy()
    return g, x, y


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case: tuple[int, ...], groups: int) -> None:
    g, x, expected = transposed(*case, groups)
    optimise(g, "transposed,dead")
    g.verify()
    _, kernel, stride, padding, _ = case
    remains = any(n.name == "conv_transpose" for n in g.order())
    if kernel > stride > padding:
        assert not remains
    assert remains or kernel != stride or padding
    np.testing.assert_allclose(cnnir.evaluate(g, [x], dtype="f64")[0], expected, atol=1e-5)


@pytest.mark.parametrize("features", ["sse2", "avx2", None])
@pytest.mark.parametrize("kernel", [3, 4, 9])
def test_native(kernel: int, features: str | None) -> None:
    """As compiled, where the convolution may be done by any algorithm."""
    g, x, expected = transposed(2, kernel, 2, 1, 1, 1)
    exe = cnnir.compile(g, threads=2, features=features)
    assert any(step.kernel != "loops" for step in exe.plan.steps)
    np.testing.assert_allclose(exe(x), expected, atol=1e-4)
