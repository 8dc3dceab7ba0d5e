"""The Fourier transform of n real numbers on a circle, x^n = 1, of every lane by itself.

A circular image needs it where a tile is as long as the image: with x^n = i, which serves all
other real numbers (fft.py), what wraps around has the wrong sign. The circle is halved until an odd
number of values is left:

    x^n - 1 = (x^(n/2) - 1) (x^(n/2) + 1)

Modulo the second factor n/2 real numbers are n/4 complex ones, x^(n/4) = i, which `Transform` has;
the first one is a circle again. The ends, x^q = 1 and x^q = -1 with an odd q, are summed as
defined. Half of the roots do, the others are their conjugates: n/2 + 1 values, two of them real.

The numbers come in pairs, i and i + n/2, as `Transform` takes them for x^n = i.

Source: G. Bruun, z-transform DFT filters and FFTs, 1978, for real numbers by residues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder
from cnnir.backends.llvm.kernels.fft import REAL, Area, Complex, Load, Store, Transform, radices

LONGEST = 9  # values that are summed as defined
HALVING = 8  # operations' worth of cutting a circle in two: four additions, and eight vectors moved


def circles(n: int) -> bool:
    """Whether there is a transform of n real numbers on a circle."""
    while n % 4 == 0:
        if radices(n // 4) is None:
            return False
        n //= 2
    return n % 2 == 0 and n // 2 <= LONGEST


@dataclass(frozen=True)
class Circle:
    """The transform of n real numbers, in pairs, at half of the roots of x^n = 1."""

    n: int

    @cached_property
    def parts(self) -> list[Transform]:
        """Of each half circle in turn, the largest first."""
        found, left = [], self.n
        while left % 4 == 0:
            found.append(Transform(left // 4, REAL))
            left //= 2
        return found

    @property
    def odd(self) -> int:
        """Real numbers of either end."""
        return self.n // 2 - sum(part.n for part in self.parts)

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The phases at the ends: of x^q = -1, and of x^q = 1."""
        phases = np.arange(self.odd // 2 + 1) / self.odd
        return phases + 0.5, phases

    @property
    def phases(self) -> list[np.ndarray]:
        """Of the roots, in the order of the values; what comes before is each part's own."""
        return [np.concatenate([*(part.phases[-1] for part in self.parts), *self.ends])]

    @property
    def scales(self) -> np.ndarray:
        """What each value is multiplied with, so that `backward` gives the numbers again."""
        return np.where(self.phases[-1] * 2 % 1 == 0, 1, 2) / self.n

    @property
    def table(self) -> np.ndarray:
        return np.concatenate([np.zeros(0), *(part.table for part in self.parts)])

    @property
    def work(self) -> float:
        """Operations on vectors for a pair of numbers."""
        halves = sum(part.n * (HALVING + part.work) for part in self.parts)
        return (halves + 2 * self.odd * (self.odd + 1)) / (self.n // 2)

    def __str__(self) -> str:
        return f"{self.n} on a circle"

    def forward(self, b: Builder, table: ir.Value, load: Load, store: Store, keep: Area) -> None:
        """The n / 2 + 1 values of the numbers whose pairs `load` gives, to `store`."""
        start = 0
        for part in self.parts:
            here, there = keep.behind(start), keep.behind(start + part.n)
            put = here.store if part.passes else _behind(b, start, store)
            with b.loop(part.n) as loop:
                low, high = load(loop.index), load(b.add(loop.index, part.n))
                put(loop.index, (b.ir.fsub(*low), b.ir.fsub(*high)))
                there.store(loop.index, (b.ir.fadd(*low), b.ir.fadd(*high)))
            part.forward(b, table, here.load, _behind(b, start, store), here)
            table, start, load = b.at(table, part.table.size), start + part.n, there.load
        pairs = [load(i) for i in range(self.odd)]
        differences = _values(b, [b.ir.fsub(*pair) for pair in pairs], self.ends[0])
        sums = _values(b, [b.ir.fadd(*pair) for pair in pairs], self.ends[1])
        for i, value in enumerate((*differences, *sums)):
            store(start + i, value)

    def backward(self, b: Builder, table: ir.Value, load: Load, store: Store, keep: Area) -> None:
        """The pairs of numbers whose values, times `scales`, `load` gives, to `store`."""
        starts = np.cumsum([0, *(part.n for part in self.parts)]).tolist()
        tables = np.cumsum([0, *(part.table.size for part in self.parts)]).tolist()
        half = self.odd // 2 + 1
        values = [load(starts[-1] + i) for i in range(2 * half)]
        differences = _numbers(b, values[:half], self.ends[0], self.odd)
        sums = _numbers(b, values[half:], self.ends[1], self.odd)
        put = keep.behind(starts[-1]).store if self.parts else store
        for i, pair in enumerate(zip(sums, differences, strict=True)):
            put(i, (b.ir.fadd(*pair), b.ir.fsub(*pair)))
        for number in reversed(range(len(self.parts))):
            part, start = self.parts[number], starts[number]
            here, there = keep.behind(start), keep.behind(start + part.n)
            got = _from(b, start, load)
            part.backward(b, b.at(table, tables[number]), got, here.store, here)
            put, got = here.store if number else store, here.load if part.passes else got
            with b.loop(part.n) as loop:
                both = zip(there.load(loop.index), got(loop.index), strict=True)
                low, high = [(b.ir.fadd(*pair), b.ir.fsub(*pair)) for pair in both]
                put(loop.index, low)
                put(b.add(loop.index, part.n), high)


def _behind(b: Builder, start: int, store: Store) -> Store:
    return lambda i, value: store(b.add(i, start), value)


def _from(b: Builder, start: int, load: Load) -> Load:
    return lambda i: load(b.add(i, start))


def _values(b: Builder, numbers: Sequence[ir.Value], phases: np.ndarray) -> list[Complex]:
    """Of the polynomial with these coefficients, at the roots of these phases."""
    angles = 2 * np.pi * phases[:, None] * np.arange(len(numbers))
    return [(_sum(b, numbers, np.cos(row)), _sum(b, numbers, np.sin(row))) for row in angles]


def _numbers(b: Builder, values: Sequence[Complex], phases: np.ndarray, n: int) -> list[ir.Value]:
    """The real parts of n sums of all values, in the j-th turned back by j times their phases."""
    parts = [part for value in values for part in value]
    angles = 2 * np.pi * np.arange(n)[:, None] * phases
    factors = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(n, -1)
    return [_sum(b, parts, row) for row in factors]


def _sum(b: Builder, terms: Sequence[ir.Value], factors: np.ndarray) -> ir.Value:
    """Of the terms times their factors, those that are not zero."""
    total = b.splat(0.0)
    first = True
    for term, factor in zip(terms, np.where(abs(factors) < 1e-12, 0, factors), strict=True):
        if factor:
            scaled = b.splat(float(factor))
            total = b.ir.fmul(term, scaled) if first else b.fma(term, scaled, total)
            first = False
    return total
