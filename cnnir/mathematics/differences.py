"""Discrete gradients and Laplacians of functions on a grid, as sparse matrices.

Along one axis D maps n values to differences of neighbours by the spacing h, with those over the
edges: [n + 1, n] where values go on as zeros ("zero") or as the last ones ("replicate"), [n, n] on
a ring ("circular"). The gradient has the D of each axis below one another, and the Laplacian is the
Kronecker sum of second differences -D' D: in two dimensions -(D1' D1) (x) I - I (x) (D2' D2). So
-L = G' G, the rule of summation by parts. Functions are flattened row by row.

Source: G. Strang, Computational Science and Engineering, Wellesley-Cambridge 2007, sections 1.1 and
3.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnir.errors import InputError
from cnnir.mathematics.scipy_parts import sparse


def gradient_matrix(sizes: Sequence[int], spacing: float = 1.0, boundary: str = "zero") -> Any:
    """Differences along each axis of a grid, those along the first axis first.

    A scipy.sparse.csr_array of f64 [differences, points]. Raises InputError for a boundary that is
    not "zero", "replicate" or "circular".
    """
    rows = [_along(sizes, a, _differences(n, spacing, boundary)) for a, n in enumerate(sizes)]
    return sparse().csr_array(sparse().vstack(rows))


def laplacian_matrix(sizes: Sequence[int], spacing: float = 1.0, boundary: str = "zero") -> Any:
    """The sum of second differences over the axes of a grid, as a Kronecker sum.

    A scipy.sparse.csr_array of f64 [points, points], symmetric, with no eigenvalue above 0. Raises
    as `gradient_matrix` does.
    """
    found: Any = 0
    for axis, count in enumerate(sizes):
        d = _differences(count, spacing, boundary)
        found = found - _along(sizes, axis, d.T @ d)
    return sparse().csr_array(found)


def _along(sizes: Sequence[int], axis: int, matrix: Any) -> Any:
    """I (x) matrix (x) I: a matrix that works on one axis of a grid."""
    found = sparse().eye_array(1)
    for a, count in enumerate(sizes):
        found = sparse().kron(found, matrix if a == axis else sparse().eye_array(count))
    return found


def _differences(count: int, spacing: float, boundary: str) -> Any:
    """D along one axis."""
    if count < 1 or not spacing > 0:
        raise InputError(f"size {count}, spacing {spacing}: wanted both above 0")
    if boundary not in ("zero", "replicate", "circular"):
        raise InputError(f"boundary is {boundary!r}, wanted zero, replicate or circular")
    d = sparse().diags_array(
        [1.0, -1.0], offsets=[0, -1], shape=(count + 1, count), dtype=float
    ).tolil()  # fmt: skip
    if boundary == "replicate":
        d[0, 0] = d[count, count - 1] = 0
    if boundary == "circular":
        d[0, count - 1] -= 1
        d = d[:count]
    return sparse().csr_array(d / spacing)
