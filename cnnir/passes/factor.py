"""The mathematics of splitting convolution kernels: ranks, singular values, blocks; no graphs.

A kernel w[o,c,u,v] is a vertical kernel followed by a horizontal one through r channels,

    w[o,c,u,v] = sum over r of second[o,r,v] first[r,c,u]

exactly if the matrix with rows (c,u) and columns (o,v) has rank r; the nearest such kernel comes
from its singular value decomposition (Eckart and Young 1936). The same for rows c and columns
(o,u,v) of each c alone: a depthwise kernel followed by a 1x1. All in f64; kernels are
[O, C/groups, *taps], and the groups of a kernel are split each by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

EXACT = {"f32": 5e-7, "f64": 1e-13}
"""By element type: what is left of a matrix, relative to it, that counts as rounding."""
_SAMPLES = 4
"""So many matrices of a stack are looked at first."""
_INNER = (16, 128)
"""Inner sizes that are tried before a full decomposition, where it would be 8 times larger."""


@dataclass(frozen=True)
class Factors:
    """A stack of matrices [count,m,n] as left [count,m,r] times right [count,r,n]."""

    left: np.ndarray
    right: np.ndarray
    error: float
    """The Frobenius norm of the difference, relative to that of the matrices."""

    @property
    def rank(self) -> int:
        """The inner size."""
        return self.left.shape[2]


def factors(matrices: np.ndarray, most: int, tolerance: float) -> Factors | None:
    """The matrices through as few inner channels as leave an error <= tolerance in each.

    None where that takes more than `most`, which is found out without a full decomposition in
    most cases.
    """
    if most < 1 or not matrices.size:
        return None
    few = matrices[:: -(-len(matrices) // _SAMPLES)]
    if any(_exceeds(matrix, most, tolerance) for matrix in few):
        return None
    if len(matrices) > _SAMPLES and factors(few, most, tolerance) is None:
        return None
    norms = np.linalg.norm(matrices, axis=(1, 2))
    u, s, v, rest = _decomposed(matrices, tolerance * norms)
    # tails[:, r] is what is left of each matrix without its first r singular values
    squares = np.concatenate([s**2, rest[:, None] ** 2], axis=1)
    tails = np.sqrt(np.cumsum(squares[:, ::-1], axis=1)[:, ::-1])
    rank = max(1, int((tails > tolerance * norms[:, None]).sum(1).max()))
    if rank > most:
        return None
    root = np.sqrt(s[:, :rank])
    error = float(np.linalg.norm(tails[:, rank]) / (np.linalg.norm(norms) or 1.0))
    return Factors(u[:, :, :rank] * root[:, None, :], root[:, :, None] * v[:, :rank], error)


def _decomposed(
    matrices: np.ndarray, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Singular values with their vectors, and the norm of what they leave out of each matrix.

    All of them, or the largest where those leave next to nothing of what is allowed: the columns
    of a matrix a of low rank are combinations of a few random ones of them, q, and the singular
    values of q' a, which is small, are those of a but for a - q q' a, which is measured (Halko,
    Martinsson and Tropp 2011).
    """
    rows, columns = matrices.shape[1:]
    for inner in _INNER:
        if 8 * inner > min(rows, columns):
            break
        draws = np.random.default_rng(0).standard_normal((columns, inner))
        q, _ = np.linalg.qr(matrices @ draws)
        small = q.swapaxes(1, 2) @ matrices
        rest = np.linalg.norm(matrices - q @ small, axis=(1, 2))
        if (rest <= 0.01 * allowed).all():
            u, s, v = np.linalg.svd(small, full_matrices=False)
            return q @ u, s, v, rest
    u, s, v = np.linalg.svd(matrices, full_matrices=False)
    return u, s, v, np.zeros(len(matrices))


def _exceeds(matrix: np.ndarray, rank: int, tolerance: float) -> bool:
    """Whether a matrix surely has a larger rank: a proof for yes, a doubt for no.

    Of any q more rows than `rank`, at least the q smallest eigenvalues of their Gram matrix are
    lost. They are above t if that matrix less t on its diagonal has a Cholesky factor, which is
    quicker by far than singular values. The longest rows are taken, and of them as many columns
    as make it likely; a part of a matrix loses no more than all of it.
    """
    rows, columns = matrix.shape
    if rows > columns:
        matrix, rows = matrix.T, columns
    more = min(rows - rank, max(8, rank // 8))
    if more < 1 or rows < 64:
        return False
    squares = np.einsum("ij,ij->i", matrix, matrix)
    lost = tolerance**2 * squares.sum() / more
    longest = np.argsort(squares)[::-1][: rank + more]
    chosen = matrix[longest, : (rank + more) * 3 // 2]
    gram = chosen @ chosen.T
    # the factor itself is rounded: only what is well above that is a proof
    lost += 16 * np.finfo(np.float64).eps * np.trace(gram)
    try:
        np.linalg.cholesky(gram - lost * np.eye(len(gram)))
    except np.linalg.LinAlgError:
        return False
    return True


# ---------------------------------------------------------------- kernels


@dataclass(frozen=True)
class Split:
    """A kernel as two, the first of them applied first."""

    first: np.ndarray
    second: np.ndarray
    rank: int
    """Channels between the two: of a group, of a channel or of a filter, as the way to split is."""
    error: float


def spatial_split(
    w: np.ndarray, groups: int, axes: tuple[int, ...], most: int, tolerance: float
) -> Split | None:
    """A kernel over the given spatial axes, then one over the others, through <= most channels.

    `most` counts the channels of one group. None where the rank is larger.
    """
    (filters, channels), taps = w.shape[:2], w.shape[2:]
    rank = len(taps)
    rest = tuple(a for a in range(rank) if a not in axes)
    each = filters // groups
    # [g, o, c, *taps] -> [g, (c, axes), (o, rest)]
    stack = w.reshape(groups, each, channels, *taps)
    order = (0, 2, *(3 + a for a in axes), 1, *(3 + a for a in rest))
    inner, outer = [taps[a] for a in axes], [taps[a] for a in rest]
    matrices = stack.transpose(order).reshape(groups, channels * math.prod(inner), -1)
    found = factors(matrices, most, tolerance)
    if found is None:
        return None
    r = found.rank
    left = found.left.reshape(groups, channels, *inner, r)
    right = found.right.reshape(groups, r, each, *outer)
    own = tuple(taps[a] if a in axes else 1 for a in range(rank))
    other = tuple(taps[a] if a in rest else 1 for a in range(rank))
    first = np.moveaxis(left, -1, 1).reshape(groups * r, channels, *own)
    second = np.moveaxis(right, 1, 2).reshape(filters, r, *other)
    return Split(first, second, found.rank, found.error)


def depthwise_first(w: np.ndarray, groups: int, most: int, tolerance: float) -> Split | None:
    """w[o,c,:] = sum over r of p[o,c r] d[c r,:]: a depthwise kernel, then a 1x1.

    The first has r filters a channel (at most `most`), the second the groups of w.
    """
    (filters, channels), taps = w.shape[:2], w.shape[2:]
    each = filters // groups
    stack = w.reshape(groups, each, channels, -1).transpose(0, 2, 1, 3)
    if factors(stack[0, :_SAMPLES], most, tolerance) is None:
        return None
    found = factors(stack.reshape(groups * channels, each, -1), most, tolerance)
    if found is None:
        return None
    r = found.rank
    left = found.left.reshape(groups, channels, each, r).transpose(0, 2, 1, 3)
    second = left.reshape(filters, channels * r, *(1,) * len(taps))
    first = found.right.reshape(groups * channels * r, 1, *taps)
    return Split(first, second, found.rank, found.error)


def depthwise_last(w: np.ndarray, most: int, tolerance: float) -> Split | None:
    """w[o,c,:] = sum over r of d[o,r,:] p[o r,c]: a 1x1 kernel, then one with a group a filter."""
    (filters, channels), taps = w.shape[:2], w.shape[2:]
    found = factors(w.reshape(filters, channels, -1), most, tolerance)
    if found is None:
        return None
    r = found.rank
    first = found.left.transpose(0, 2, 1).reshape(filters * r, channels, *(1,) * len(taps))
    second = found.right.reshape(filters, r, *taps)
    return Split(first, second, found.rank, found.error)


# ---------------------------------------------------------------- zeros


def block_groups(w: np.ndarray, groups: int) -> list[int]:
    """Into how many equal groups, in order, a kernel falls by its zeros: more than it has."""
    filters, channels = w.shape[0], w.shape[1] * groups
    each = filters // groups
    used = np.zeros((filters, channels), bool)
    nonzero = (w != 0).any(axis=tuple(range(2, w.ndim)))
    for g in range(groups):
        rows, columns = slice(g * each, (g + 1) * each), g * w.shape[1]
        used[rows, columns : columns + w.shape[1]] = nonzero[rows]
    found = []
    for count in range(math.gcd(filters, channels), groups, -1):
        if filters % count or channels % count or count % groups:
            continue
        blocks = used.reshape(count, filters // count, count, channels // count).any(axis=(1, 3))
        if not (blocks & ~np.eye(count, dtype=bool)).any():
            found.append(count)
    return found


def diagonal_blocks(w: np.ndarray, groups: int, wanted: int) -> np.ndarray:
    """The kernel of more groups, a multiple of its own, without the zeros between them."""
    each, (filters, channels) = wanted // groups, w.shape[:2]
    blocks = w.reshape(groups, each, filters // wanted, each, channels // each, *w.shape[2:])
    kept = [blocks[:, i, :, i] for i in range(each)]
    return np.stack(kept, 1).reshape(filters, channels // each, *w.shape[2:])


def tap_range(w: np.ndarray, axis: int) -> tuple[int, int, int]:
    """First tap of a spatial axis that is not zero, how many there are, and their distance."""
    others = tuple(a for a in range(w.ndim) if a != 2 + axis)
    used = np.flatnonzero((w != 0).any(axis=others))
    if not used.size:
        return 0, 1, 1
    step = math.gcd(*(int(i) for i in used - used[0])) or 1
    return int(used[0]), int(used[-1] - used[0]) // step + 1, step
