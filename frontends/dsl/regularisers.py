"""Regularisers: functions of a weight that give one number, to be added to a loss.

A weight is seen as functions on a grid, such as the filters [O,I,*kernel] of a convolution, and
what is measured is h^d / 2 times the sum of the squares of L w, for a grid of d axes and spacing h:
half the integral of (L w)^2, whatever the resolution is.

Source: P. C. Hansen, Rank-Deficient and Discrete Ill-Posed Problems, SIAM 1998, chapter 5, for
Tikhonov regularisation in general form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.convolution import conv
from cnnir.frontends.dsl.stencils import difference, laplacian
from cnnir.frontends.dsl.tensor import Tensor

_BOUNDARIES = ("zero", "replicate", "circular")


def tikhonov(
    w: Tensor,
    operator: Any = "identity",
    *,
    spacing: float = 1.0,
    boundary: str = "zero",
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """spacing^d / 2 times the sum of the squares of L w; its gradient by w is spacing^d L' L w.

    operator: "identity"; "gradient", the differences of neighbours along each axis, by spacing;
    "laplacian", the sum of second differences, by spacing^2; or a matrix L of one's own [rows,
    taps], an array or of scipy.sparse, for grids flattened row by row.
    boundary: what differences find beyond the edges: "zero", "replicate" (no slope there) or
    "circular".
    sizes: of the grid, where w is the weight [inputs, units] of a dense layer whose inputs are
    images; a convolution's [O,I,*kernel] knows them.

    `mathematics.gradient_matrix` and `laplacian_matrix` are the same operators as matrices.
    """
    if not (isinstance(spacing, (int, float)) and spacing > 0) or boundary not in _BOUNDARIES:
        raise IRError(
            f"tikhonov: spacing {spacing!r}, boundary {boundary!r}: wanted a number above 0, and "
            f"one of {', '.join(_BOUNDARIES)}"
        )
    grids = _grids(w, sizes)
    rank = grids.rank - 2
    parts = _parts(grids, operator, float(spacing), boundary)
    squares = [(part * part).sum() for part in parts]
    return sum(squares[1:], squares[0]) * (0.5 * spacing**rank)


def l2(w: Tensor) -> Tensor:
    """The sum of the squares of a weight, halved: a regulariser, with w as its gradient."""
    return (w * w).sum() * 0.5


def roughness(w: Tensor) -> Tensor:
    """The sum of the squares of the discrete Laplacian of filters [O,I,*kernel], halved.

    `tikhonov` with a Laplacian, zeros beyond the edges and spacing 1: it makes filters smooth.
    """
    return tikhonov(w, "laplacian")


def _grids(w: Tensor, sizes: Sequence[int] | None) -> Tensor:
    """A weight as functions on a grid, [count, 1, *sizes]."""
    if sizes is None:
        if w.rank < 3:
            raise IRError(
                f"tikhonov({w.type}): wanted filters [O, I, *kernel], or sizes for a weight "
                "[inputs, units]"
            )
        return w.reshape(-1, 1, *w.shape[2:])
    points = int(np.prod(sizes))
    if w.rank != 2 or not points or w.shape[0] % points:
        raise IRError(
            f"tikhonov({w.type}): wanted [inputs, units] with a multiple of {points} inputs, for "
            f"images {list(sizes)}"
        )
    return w.transpose(1, 0).reshape(-1, 1, *sizes)


def _parts(grids: Tensor, operator: Any, spacing: float, boundary: str) -> list[Tensor]:
    """L w, in one or several tensors."""
    rank = grids.rank - 2
    if not isinstance(operator, str):
        return [_applied(grids, operator)]
    if operator == "identity":
        return [grids]
    if operator == "laplacian":
        around = [(1, 1)] * rank
        return [_filtered(grids, laplacian(rank) / spacing**2, boundary, around)]
    if operator == "gradient":
        ends = (1, 0 if boundary == "circular" else 1)  # a ring has as many differences as points
        return [
            _filtered(grids, difference(axis, rank) / spacing, boundary,
                      [ends if a == axis else (0, 0) for a in range(rank)])
            for axis in range(rank)
        ]  # fmt: skip
    raise IRError(
        f"tikhonov: the operator is {operator!r}, wanted identity, gradient, laplacian, or a "
        "matrix [rows, taps]"
    )


def _filtered(
    grids: Tensor, stencil: np.ndarray, boundary: str, padding: list[tuple[int, int]]
) -> Tensor:
    """Cross-correlation with a stencil."""
    weight = grids.trace.constant(stencil[None, None].astype(grids.type.numpy))
    return conv(grids, weight, padding=padding, boundary=boundary)


def _applied(grids: Tensor, operator: Any) -> Tensor:
    """Every grid, flattened, times a matrix."""
    matrix = np.asarray(operator.toarray() if hasattr(operator, "toarray") else operator)
    points = int(np.prod(grids.shape[2:]))
    if matrix.ndim != 2 or matrix.shape[1] != points:
        raise IRError(
            f"tikhonov: the operator has shape {list(matrix.shape)}, wanted [rows, {points}]"
        )
    turned = np.ascontiguousarray(matrix.T).astype(grids.type.numpy)
    return grids.reshape(-1, points) @ grids.trace.constant(turned)
