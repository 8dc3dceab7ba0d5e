"""Multiplying a short list of vectors by a small constant matrix, in straight-line code.

Used by the transforms of Winograd convolution, whose matrices come in pairs of rows or columns that
differ only in signs: such a pair shares its sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder

Terms = list[tuple[float, ir.Value]]


def multiply(b: Builder, matrix: np.ndarray, vectors: Sequence[ir.Value]) -> list[ir.Value]:
    """matrix @ vectors, where a vector of the list is one element of the column."""
    matrix, vectors = _paired_columns(b, np.array(matrix), list(vectors))
    results: list[ir.Value | None] = [None] * len(matrix)
    for i, j in _pairs(matrix):
        same, opposite = _split(matrix[i], matrix[j])
        even = _sum(b, _terms(matrix[i], vectors, same))
        terms = _terms(matrix[i], vectors, opposite)
        factor = terms[0][0]
        odd = _sum(b, [(c / factor, v) for c, v in terms])
        results[i] = _scaled_add(b, factor, odd, even)
        results[j] = _scaled_add(b, -factor, odd, even)
    everything = range(len(vectors))
    return [
        _sum(b, _terms(row, vectors, everything)) if result is None else result
        for row, result in zip(matrix, results, strict=True)
    ]


def operations(matrix: np.ndarray) -> int:
    """How many vector instructions `multiply` takes, roughly: one a coefficient it meets."""
    columns = _pairs(matrix.T)
    rows = _pairs(matrix) if not columns else []
    met = int(np.count_nonzero(matrix)) - len(matrix)
    saved = sum(int(np.count_nonzero(matrix[:, i])) - 2 for i, _ in columns)
    saved += sum(int(np.count_nonzero(matrix[i])) - 2 for i, _ in rows)
    return met - saved


def _paired_columns(
    b: Builder, matrix: np.ndarray, vectors: list[ir.Value]
) -> tuple[np.ndarray, list[ir.Value]]:
    """Columns i, j that differ in signs: multiply the sum and the difference of their vectors."""
    for i, j in _pairs(matrix.T):
        same, opposite = _split(matrix[:, i], matrix[:, j])
        one, other = vectors[i], vectors[j]
        vectors[i], vectors[j] = b.ir.fadd(one, other), b.ir.fsub(one, other)
        matrix[opposite, j] = matrix[opposite, i]
        matrix[opposite, i] = 0
        matrix[same, j] = 0
    return matrix, vectors


def _pairs(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Rows that are equal up to signs, in some elements equal and in some opposite."""
    found: list[tuple[int, int]] = []
    for i, row in enumerate(matrix):
        taken = {k for pair in found for k in pair}
        for j in range(i + 1, len(matrix)):
            if i in taken or j in taken or not np.allclose(abs(row), abs(matrix[j])):
                continue
            same, opposite = _split(row, matrix[j])
            if same and opposite:
                found.append((i, j))
                break
    return found


def _split(row: np.ndarray, other: np.ndarray) -> tuple[list[int], list[int]]:
    """Where two rows are equal, and where they are opposite, zeros left out."""
    used = [k for k, value in enumerate(row) if value]
    same = [k for k in used if np.isclose(row[k], other[k])]
    return same, [k for k in used if k not in same]


def _terms(row: np.ndarray, vectors: Sequence[ir.Value], places: Sequence[int]) -> Terms:
    return [(float(row[k]), vectors[k]) for k in places if row[k]]


def _sum(b: Builder, terms: Terms) -> ir.Value:
    """c0 v0 + c1 v1 + ...; starts with a coefficient of one where there is one."""
    (first, total), *rest = sorted(terms, key=lambda term: abs(abs(term[0]) - 1) > 1e-12)
    if not np.isclose(first, 1):
        total = b.ir.fneg(total) if np.isclose(first, -1) else b.ir.fmul(b.splat(first), total)
    for factor, vector in rest:
        total = _scaled_add(b, factor, vector, total)
    return total


def _scaled_add(b: Builder, factor: float, vector: ir.Value, total: ir.Value) -> ir.Value:
    if np.isclose(factor, 1):
        return b.ir.fadd(total, vector)
    if np.isclose(factor, -1):
        return b.ir.fsub(total, vector)
    return b.fma(b.splat(factor), vector, total)
