"""The transforms of FFT convolution, against polynomials at the roots."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import Guarded, run_kernel

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels.fft import Area, Transform, radices
from cnnir.backends.llvm.kernels.fft_circle import Circle, circles
from cnnir.backends.llvm.kernels.spec import KernelCode


def transformed(
    transform: Transform | Circle, back: bool, values: np.ndarray, results: int | None = None
) -> np.ndarray:
    """`values`, times 1, -1, 1/2 and 2 in the lanes, there or back, in the order of the code."""
    n = len(values)
    b = Builder(ir.Module(), "kernel", 3, 4)
    x, table, y = (Area(b, pointer) for pointer in b.pointers)
    way = transform.backward if back else transform.forward
    way(b, table.pointer, x.load, y.store, Area(b, b.scratch))
    code = KernelCode("kernel", 1, 4 * 8 * (n + 1), 0, 2, "", b.finish())
    lanes = np.stack([values.real, values.imag], 1)[:, :, None] * np.array([1, -1, 0.5, 2])
    out, factors = Guarded((results or n, 2, 4)), Guarded((transform.table.size + 1,))
    factors.array[:-1] = transform.table
    run_kernel(code, [Guarded(lanes.shape, lanes), factors], out)
    np.testing.assert_allclose(out.array[..., 3], -2 * out.array[..., 1], atol=1e-5 * n)
    return out.array[:, 0, 0] + 1j * out.array[:, 1, 0]


@pytest.mark.parametrize("phase", [0.0, 0.25])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 12, 20, 49, 60, 64, 112])
def test_a_transform_gives_the_values_at_the_roots(n: int, phase: float) -> None:
    rng = np.random.default_rng(n)
    coefficients = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    transform = Transform(n, phase)
    assert sorted(transform.order) == list(range(n))
    roots = np.exp(2j * np.pi * (phase + transform.order) / n)
    values = np.polyval(coefficients[::-1], roots)
    found = transformed(transform, False, coefficients)
    np.testing.assert_allclose(found, values, atol=3e-7 * abs(values).max())
    np.testing.assert_allclose(transformed(transform, True, values) / n, coefficients, atol=3e-6)


@pytest.mark.parametrize("n", [2, 4, 6, 8, 10, 14, 16, 18, 20, 28, 48, 56, 64, 112, 144])
def test_real_numbers_on_a_circle(n: int) -> None:
    """Their values at all roots of x^n = 1 but for the conjugates, and the way back."""
    assert circles(n)
    circle, numbers = Circle(n), np.random.default_rng(n).standard_normal(n)
    pairs = numbers[: n // 2] + 1j * numbers[n // 2 :]
    roots = np.exp(2j * np.pi * circle.phases[-1])
    numbered = np.rint(circle.phases[-1] * n) % n  # one of each k and n - k
    assert sorted(np.minimum(numbered, n - numbered)) == list(range(n // 2 + 1))
    values = np.polyval(numbers[::-1], roots)
    found = transformed(circle, False, pairs, n // 2 + 1)
    np.testing.assert_allclose(found, values, atol=3e-7 * abs(values).max())
    back = transformed(circle, True, values * circle.scales, n // 2)
    np.testing.assert_allclose(back, pairs, atol=3e-6)


def test_which_circles_there_are() -> None:
    assert not any(circles(n) for n in (1, 3, 15, 22, 26, 44, 88, 22 * 16))
    assert circles(512) and circles(2 * 9 * 32)


def test_sizes_with_large_prime_factors_have_no_passes() -> None:
    assert radices(11) is None and radices(26) is None and radices(7 * 64) is not None
