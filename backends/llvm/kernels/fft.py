"""Fourier transforms of lists of vectors in memory: every lane is transformed by itself.

A list of n vectors of complex numbers is a polynomial in x for each lane, and what is computed are
its values at the n roots of x^n = exp(2 pi i phase). Phase 0 is the discrete Fourier transform.
Phase 1/4, x^n = i, serves real numbers: 2n of them are n complex ones, the second half as imaginary
parts since x^n = i, and as long as a product of two such polynomials has 2n coefficients at most it
comes out as real numbers again, without any pass that takes spectra apart.

A pass of radix r takes a block x^N = exp(2 pi i p) to r blocks x^(N/r) = exp(2 pi i (p + q) / r):
factors, then a short transform in registers. All is done in place, so that values come in the order
of blocks of blocks; the way back takes the same passes in reverse, and an order is nothing that a
product of values cares for.

Sources: J. Cooley, J. Tukey, An algorithm for the machine calculation of complex Fourier series,
1965; C. Fiduccia, Polynomial evaluation via the division algorithm, 1972, for the view as residues;
R. Crandall, B. Fagin, Discrete weighted transforms and large-integer arithmetic, 1994, for x^n = i.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import isclose, prod

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index

Complex = tuple[ir.Value, ir.Value]
Load = Callable[[Index], Complex]
Store = Callable[[Index, Complex], None]

RADICES = (2, 3, 4, 5, 6, 7, 8)
REAL, CYCLIC = 0.25, 0.0
"""Phases: for 2n real numbers, and for n complex ones."""


@lru_cache(maxsize=1024)
def radices(n: int) -> tuple[int, ...] | None:
    """The passes of a transform, large radices last; None for sizes with large prime factors."""
    if n == 1:
        return ()
    found: list[tuple[int, ...]] = []
    for radix in RADICES:
        rest = radices(n // radix) if n % radix == 0 else None
        if rest is not None:
            found.append(tuple(sorted((radix, *rest))))
    return min(found, key=work, default=None)


def work(passes: Sequence[int]) -> float:
    """Vector operations of a transform by these passes, for a value."""
    return sum((operations(r) + 4 * (r - 1)) / r for r in passes)


def operations(radix: int) -> int:
    """Additions and multiplications of vectors in a short transform."""
    return {2: 4, 3: 16, 4: 16, 5: 40, 6: 44, 7: 78, 8: 56}[radix]


@dataclass(frozen=True)
class Transform:
    """The transform of n vectors of complex numbers at the roots of x^n = exp(2 pi i phase)."""

    n: int
    phase: float

    @cached_property
    def passes(self) -> tuple[int, ...]:
        found = radices(self.n)
        assert found is not None, f"no transform of {self.n}"
        return found

    @cached_property
    def phases(self) -> list[np.ndarray]:
        """Of the blocks before each pass, and of the roots at the end, in their order."""
        levels = [np.array([self.phase])]
        for radix in self.passes:
            levels.append(((levels[-1][:, None] + np.arange(radix)) / radix).reshape(-1))
        return levels

    @property
    def order(self) -> np.ndarray:
        """The k of each value in turn: its root is exp(2 pi i (phase + k) / n)."""
        return np.rint(self.phases[-1] * self.n - self.phase).astype(np.int64) % self.n

    @property
    def scales(self) -> np.ndarray:
        """What each value is multiplied with, so that `backward` gives the coefficients again."""
        return np.full(self.n, 1 / self.n)

    @property
    def work(self) -> float:
        """Operations on vectors for a value."""
        return work(self.passes)

    def __str__(self) -> str:
        return " x ".join(map(str, self.passes))

    @cached_property
    def table(self) -> np.ndarray:
        """The factors of all passes: [block][1 to radix - 1][real, imaginary part]."""
        parts = [np.zeros(0)]
        for radix, phases in zip(self.passes, self.phases, strict=False):
            angles = 2 * np.pi * phases[:, None] * np.arange(1, radix) / radix
            parts.append(np.stack([np.cos(angles), np.sin(angles)], -1).reshape(-1))
        return np.concatenate(parts)

    def forward(self, b: Builder, table: ir.Value, load: Load, store: Store, keep: Area) -> None:
        """Values of the polynomial whose coefficients `load` gives, to `store`; `keep` holds what
        passes hand on."""
        for number in range(len(self.passes)):
            first, last = number == 0, number == len(self.passes) - 1
            self._pass(
                b, number, table, load if first else keep.load, store if last else keep.store, 1
            )

    def backward(self, b: Builder, table: ir.Value, load: Load, store: Store, keep: Area) -> None:
        """n times the coefficients of the polynomial whose values `load` gives, to `store`."""
        for number in reversed(range(len(self.passes))):
            last, first = number == 0, number == len(self.passes) - 1
            self._pass(
                b, number, table, load if first else keep.load, store if last else keep.store, -1
            )

    def _pass(
        self, b: Builder, number: int, table: ir.Value, load: Load, store: Store, sign: int
    ) -> None:
        radix, blocks = self.passes[number], prod(self.passes[:number])
        step = self.n // blocks // radix
        sizes = [prod(self.passes[:i]) * (r - 1) for i, r in enumerate(self.passes)]
        plain = self.phase == 0 and number == 0
        with b.loop(blocks) as block:
            at = b.at(table, b.add(b.mul(block.index, 2 * (radix - 1)), 2 * sum(sizes[:number])))
            with b.loop(step) as j:
                start = b.add(b.mul(block.index, radix * step), j.index)
                places = [b.add(start, q * step) for q in range(radix)]
                values = [load(place) for place in places]
                if sign > 0 and not plain:
                    values = _turned(b, values, at, sign)
                values = short(b, values, sign)
                if sign < 0 and not plain:
                    values = _turned(b, values, at, sign)
                for place, value in zip(places, values, strict=True):
                    store(place, value)


@dataclass(frozen=True)
class Area:
    """Complex vectors in memory, real parts before imaginary ones."""

    b: Builder
    pointer: ir.Value

    def load(self, i: Index) -> Complex:
        at = self.b.at(self.pointer, self.b.mul(i, 2 * self.b.lanes))
        return self.b.vload(at), self.b.vload(at, self.b.lanes)

    def store(self, i: Index, value: Complex) -> None:
        at = self.b.at(self.pointer, self.b.mul(i, 2 * self.b.lanes))
        self.b.vstore(value[0], at)
        self.b.vstore(value[1], at, self.b.lanes)

    def behind(self, start: int) -> Area:
        """The vectors from `start` on."""
        return Area(self.b, self.b.at(self.pointer, 2 * start * self.b.lanes))


def times(b: Builder, x: Complex, w: Complex, sign: int = 1) -> Complex:
    """x w, or x times the conjugate of w."""
    (a, c), (u, v) = x, w
    negative = b.ir.fneg(v)
    first, second = (negative, v) if sign > 0 else (v, negative)
    return b.fma(c, first, b.ir.fmul(a, u)), b.fma(a, second, b.ir.fmul(c, u))


def _turned(b: Builder, values: list[Complex], table: ir.Value, sign: int) -> list[Complex]:
    """Each value but the first times its factor."""
    turned = values[:1]
    for i, value in enumerate(values[1:]):
        factor = b.broadcast(table, 2 * i), b.broadcast(table, 2 * i + 1)
        turned.append(times(b, value, factor, sign))
    return turned


def short(b: Builder, x: list[Complex], sign: int) -> list[Complex]:
    """y[k] = sum over j of x[j] exp(sign 2 pi i j k / n) in straight-line code, for a small n."""
    n = len(x)
    if n == 1:
        return x
    if n == 2:
        return [add(b, *x), subtract(b, *x)]
    if n % 2:
        return _odd(b, x, sign)
    # n = 2 m, or 4 m where it divides
    parts = 4 if n % 4 == 0 and n > 4 else 2
    inner = [short(b, x[a::parts], sign) for a in range(parts)]
    y: list[Complex] = [x[0]] * n
    for k in range(n // parts):
        turned = [_rotated(b, inner[a][k], sign * a * k, n) for a in range(parts)]
        for q, value in enumerate(short(b, turned, sign)):
            y[k + q * (n // parts)] = value
    return y


def _odd(b: Builder, x: list[Complex], sign: int) -> list[Complex]:
    """An odd n: sums and differences of x[j] and x[n - j] share their products."""
    n = len(x)
    pairs = [(x[j], x[n - j]) for j in range(1, n // 2 + 1)]
    sums, differences = [add(b, *p) for p in pairs], [subtract(b, *p) for p in pairs]
    first = x[0]
    for each in sums:
        first = add(b, first, each)
    y = [first] * n
    for k in range(1, n // 2 + 1):
        even, odd = x[0], None
        for j, (total, difference) in enumerate(zip(sums, differences, strict=True), 1):
            angle = 2 * np.pi * (j * k % n) / n
            even = _scaled_add(b, float(np.cos(angle)), total, even)
            odd = _scaled_add(b, sign * float(np.sin(angle)), difference, odd)
        assert odd is not None
        turned = b.ir.fneg(odd[1]), odd[0]
        y[k], y[n - k] = add(b, even, turned), subtract(b, even, turned)
    return y


def _rotated(b: Builder, x: Complex, k: int, n: int) -> Complex:
    """x exp(2 pi i k / n)."""
    (re, im), k = x, k % n
    if k == 0:
        return x
    if 4 * k % n == 0:
        return [(b.ir.fneg(im), re), (b.ir.fneg(re), b.ir.fneg(im)), (im, b.ir.fneg(re))][
            4 * k // n - 1
        ]
    c, s = float(np.cos(2 * np.pi * k / n)), float(np.sin(2 * np.pi * k / n))
    if isclose(abs(c), abs(s)):
        # (re + i im)(c + i s) with |c| = |s|: c (re - t im) + i c (im + t re), t = s / c
        total, difference = b.ir.fadd(re, im), b.ir.fsub(re, im)
        parts = (difference, total) if s * c > 0 else (total, b.ir.fneg(difference))
        return b.ir.fmul(parts[0], b.splat(c)), b.ir.fmul(parts[1], b.splat(c))
    return times(b, x, (b.splat(c), b.splat(s)))


def add(b: Builder, x: Complex, y: Complex) -> Complex:
    return b.ir.fadd(x[0], y[0]), b.ir.fadd(x[1], y[1])


def subtract(b: Builder, x: Complex, y: Complex) -> Complex:
    return b.ir.fsub(x[0], y[0]), b.ir.fsub(x[1], y[1])


def _scaled_add(b: Builder, factor: float, x: Complex, total: Complex | None) -> Complex:
    c = b.splat(factor)
    if total is None:
        return b.ir.fmul(c, x[0]), b.ir.fmul(c, x[1])
    return b.fma(c, x[0], total[0]), b.fma(c, x[1], total[1])
