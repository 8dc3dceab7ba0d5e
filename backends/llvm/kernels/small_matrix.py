"""Multiplying a short list of vectors by a small constant matrix, in straight-line code.

Used by the transforms of Winograd convolution, whose matrices come in pairs of rows or columns that
differ only in signs: such a pair shares its sums. Coefficients are Python's floats, on which a
comparison takes a hundredth of numpy's time: a network's transforms take some 50000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder

Rows = list[list[float]]
Terms = list[tuple[float, ir.Value]]


def multiply(b: Builder, matrix: np.ndarray, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """matrix @ vectors, where a vector of the list is one element of the column."""
    rows, vectors = _paired_columns(b, matrix.tolist(), list(vectors))
    results: list[ir.Value | None] = [None] * len(rows)
    for i, j in _pairs(rows):
        same, opposite = _split(rows[i], rows[j])
        even = _sum(b, _terms(rows[i], vectors, same))
        terms = _terms(rows[i], vectors, opposite)
        factor = terms[0][0]
        odd = _sum(b, [(c / factor, v) for c, v in terms])
        results[i] = _scaled_add(b, factor, odd, even)
        results[j] = _scaled_add(b, -factor, odd, even)
    everything = range(len(vectors))
    return [
        _sum(b, _terms(row, vectors, everything)) if result is None else result
        for row, result in zip(rows, results, strict=True)
    ]


def operations(matrix: np.ndarray) -> int:
    """How many vector instructions `multiply` takes, roughly: one a coefficient it meets."""
    columns = _pairs(matrix.T.tolist())
    rows = _pairs(matrix.tolist()) if not columns else []
    met = int(np.count_nonzero(matrix)) - len(matrix)
    saved = sum(int(np.count_nonzero(matrix[:, i])) - 2 for i, _ in columns)
    saved += sum(int(np.count_nonzero(matrix[i])) - 2 for i, _ in rows)
    return met - saved


def _paired_columns(b: Builder, rows: Rows, vectors: list[ir.Value]) -> tuple[Rows, list[ir.Value]]:
    """Columns i, j that differ in signs: multiply the sum and the difference of their vectors."""
    columns = _turned(rows)
    for i, j in _pairs(columns):
        same, opposite = _split(columns[i], columns[j])
        one, other = vectors[i], vectors[j]
        vectors[i], vectors[j] = b.ir.fadd(one, other), b.ir.fsub(one, other)
        for k in opposite:
            columns[j][k], columns[i][k] = columns[i][k], 0.0
        for k in same:
            columns[j][k] = 0.0
    return _turned(columns), vectors


def _turned(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def _pairs(rows: Rows) -> list[tuple[int, int]]:
    """Rows that are equal up to signs, in some elements equal and in some opposite."""
    found: list[tuple[int, int]] = []
    for i, row in enumerate(rows):
        taken = {k for pair in found for k in pair}
        for j in range(i + 1, len(rows)):
            if i in taken or j in taken or not _equal_up_to_signs(row, rows[j]):
                continue
            same, opposite = _split(row, rows[j])
            if same and opposite:
                found.append((i, j))
                break
    return found


def _equal_up_to_signs(row: list[float], other: list[float]) -> bool:
    return all(_close(abs(one), abs(two)) for one, two in zip(row, other, strict=True))


def _close(one: float, other: float) -> bool:
    """Equal but for rounding."""
    return abs(one - other) <= 1e-8 + 1e-5 * abs(other)


def _split(row: list[float], other: list[float]) -> tuple[list[int], list[int]]:
    """Where two rows are equal, and where they are opposite, zeros left out."""
    used = [k for k, value in enumerate(row) if value]
    same = [k for k in used if _close(row[k], other[k])]
    return same, [k for k in used if k not in same]


def _terms(row: list[float], vectors: Sequence[ir.Value], places: Sequence[int]) -> Terms:
    return [(row[k], vectors[k]) for k in places if row[k]]


def _sum(b: Builder, terms: Terms) -> ir.Value:
    """c0 v0 + c1 v1 + ...; starts with a coefficient of one where there is one."""
    (first, total), *rest = sorted(terms, key=lambda term: abs(abs(term[0]) - 1) > 1e-12)
    if not _close(first, 1):
        total = b.ir.fneg(total) if _close(first, -1) else b.ir.fmul(b.splat(first), total)
    for factor, vector in rest:
        total = _scaled_add(b, factor, vector, total)
    return total


def _scaled_add(b: Builder, factor: float, vector: ir.Value, total: ir.Value) -> ir.Value:
    if _close(factor, 1):
        return b.ir.fadd(total, vector)
    if _close(factor, -1):
        return b.ir.fsub(total, vector)
    return b.fma(b.splat(factor), vector, total)
