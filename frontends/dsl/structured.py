"""Layers whose operator has a form: K(theta) = mat(Q theta), with few parameters theta.

Q says where each parameter stands in the matrix or the kernel, so K is linear in theta: its
derivative in the direction v is mat(Q v), and the gradient by theta is Q' w for the gradient w by
the entries of K. Both come out of `jvp` and `gradient` by themselves.

Source: E. Haber, L. Ruthotto, Stable architectures for deep neural networks, Inverse Problems 34,
2017, for antisymmetric operators and M-matrices as layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.convolution import conv
from cnnir.frontends.dsl.initialisers import Initialiser, normal, ones, zeros
from cnnir.frontends.dsl.module import Module
from cnnir.frontends.dsl.stencils import laplacian
from cnnir.frontends.dsl.tensor import Tensor, op
from cnnir.frontends.dsl.windows import Boundary, Padding, Size, channels, check_image, entries

Shape = tuple[int, ...]
Places = Sequence[Sequence[tuple[int, int, float]]]
"""Of each parameter the rows, columns and factors where it stands."""


@dataclass(frozen=True)
class Sparse:
    """Q without its zeros: entry [rows[k], columns[k]] is values[k], in the order of rows."""

    shape: tuple[int, int]
    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, q: Any) -> Sparse:
        """Of an array or a scipy.sparse matrix [entries, parameters]."""
        if isinstance(q, Sparse):
            return q
        shape = tuple(getattr(q, "shape", np.shape(q)))
        if len(shape) != 2 or not np.prod(shape):
            raise IRError(f"Q has shape {list(shape)}, wanted [entries, parameters]")
        if hasattr(q, "tocoo"):
            found = q.tocsr().tocoo()  # duplicates summed, by rows
            rows, columns, values = found.row, found.col, found.data
        else:
            dense = np.asarray(q, np.float64)
            rows, columns = np.nonzero(dense)
            values = dense[rows, columns]
        return cls(shape, rows, columns, np.asarray(values, np.float64))

    def dense(self) -> np.ndarray:
        """With its zeros, f64."""
        q = np.zeros(self.shape)
        np.add.at(q, (self.rows, self.columns), self.values)
        return q

    def slots(self) -> tuple[np.ndarray, np.ndarray]:
        """The parameters of each entry and their factors, [entries, most]; spare factors are 0."""
        counts = np.bincount(self.rows, minlength=self.shape[0])
        begins = np.cumsum(counts) - counts
        slot = np.arange(len(self.rows)) - begins[self.rows]
        which = np.zeros((self.shape[0], max(1, int(counts.max(initial=0)))), np.int64)
        factors = np.zeros(which.shape)
        which[self.rows, slot], factors[self.rows, slot] = self.columns, self.values
        return which, factors


def mat(theta: Tensor, q: Sparse, shape: Shape) -> Tensor:
    """Q theta as a tensor of this shape, row by row.

    Parameters are gathered, and summed where an entry needs several; only where it needs most of
    them is it a product with a dense Q.
    """
    trace, dtype = theta.trace, theta.type.numpy
    which, factors = q.slots()
    most = which.shape[1]
    if most > 1 and 2 * most > q.shape[1]:
        product = trace.constant(q.dense().astype(dtype)) @ theta.reshape(-1, 1)
        return product.reshape(*shape)
    spread = shape if most == 1 else (*shape, most)
    picked = op("gather", theta, trace.constant(which.reshape(spread)), axis=0)
    if not (factors == 1).all():
        picked = picked * trace.constant(factors.reshape(spread).astype(dtype))
    return picked if most == 1 else picked.sum(-1)


class Structured(Module):
    """y = K x + b on the last axis of x [N, inputs], with K = mat(Q theta).

    q: [outputs * inputs, parameters], an array or a scipy.sparse matrix; its row o * inputs + i
    says how K[o, i] is made. Weights: theta [parameters], bias [outputs].
    """

    def __init__(
        self,
        q: Any,
        outputs: int,
        *,
        bias: bool = True,
        init: Initialiser | None = None,
        bias_init: Initialiser = zeros,
    ) -> None:
        (self.outputs,) = entries("outputs", outputs, 1)
        self.places = Sparse.of(q)
        rows, _ = self.places.shape
        if rows % outputs:
            raise IRError(f"Q has {rows} rows, wanted a multiple of {outputs} outputs")
        self.bias, self.bias_init = bias, bias_init
        self.init = init or normal((rows // outputs) ** -0.5)

    @property
    def q(self) -> np.ndarray:
        """Q as an array, f64 [outputs * inputs, parameters]."""
        return self.places.dense()

    def forward(self, x: Tensor) -> Tensor:
        """K x + b."""
        inputs = self.places.shape[0] // self.outputs
        if x.rank != 2 or x.shape[1] != inputs:
            raise IRError(f"x is {x.type}, wanted [N, {inputs}]")
        y = x @ self.matrix(x.dtype, inputs).transpose(1, 0)
        return y + self.param("bias", (self.outputs,), self.bias_init, dtype=x.dtype) if (
            self.bias) else y  # fmt: skip

    def matrix(self, dtype: str, inputs: int) -> Tensor:
        """K [outputs, inputs]."""
        theta = self.param("theta", self.places.shape[1:], self.init, dtype=dtype)
        return mat(theta, self.places, (self.outputs, inputs))


def diagonal(units: int, **options: Any) -> Structured:
    """K = diag(theta): `units` parameters."""
    return Structured(_placed((units, units), [[(k, k, 1)] for k in range(units)]), units,
                      **{"init": ones, **options})  # fmt: skip


def antisymmetric(units: int, **options: Any) -> Structured:
    """K' = -K: units (units - 1) / 2 parameters, and eigenvalues without real parts."""
    pairs = itertools.combinations(range(units), 2)
    return Structured(
        _placed((units, units), [[(i, j, 1), (j, i, -1)] for i, j in pairs]), units, **options
    )


def symmetric(units: int, **options: Any) -> Structured:
    """K' = K: units (units + 1) / 2 parameters."""
    pairs = itertools.combinations_with_replacement(range(units), 2)
    return Structured(
        _placed((units, units), [list({(i, j, 1), (j, i, 1)}) for i, j in pairs]), units, **options
    )


def toeplitz(outputs: int, inputs: int, **options: Any) -> Structured:
    """K[o, i] = theta[o - i + inputs - 1]: outputs + inputs - 1 parameters."""
    lines: list[list[tuple[int, int, float]]] = [[] for _ in range(outputs + inputs - 1)]
    for o, i in itertools.product(range(outputs), range(inputs)):
        lines[o - i + inputs - 1].append((o, i, 1))
    return Structured(_placed((outputs, inputs), lines), outputs, **options)


def circulant(units: int, **options: Any) -> Structured:
    """K[o, i] = theta[(o - i) mod units]: a periodic convolution with a kernel of full size."""
    lines = [[((i + k) % units, i, 1) for i in range(units)] for k in range(units)]
    return Structured(_placed((units, units), lines), units, **options)


class MMatrix(Structured):
    """An M-matrix: K[o, i] = -theta[o, i]^2 off the diagonal, and rows that add up to `margin`.

    So off the diagonal nothing is positive, whatever theta is, and all eigenvalues have real parts
    of at least `margin`, by Gershgorin's theorem. Weights: theta [units (units - 1)], bias [units].
    """

    def __init__(self, units: int, *, margin: float = 0.0, **options: Any) -> None:
        if not margin >= 0:
            raise IRError(f"margin is {margin!r}, wanted a number of at least 0")
        pairs = itertools.permutations(range(units), 2)
        lines = [[(o, i, -1), (o, o, 1)] for o, i in pairs]
        super().__init__(_placed((units, units), lines), units, **options)
        self.margin = margin

    def matrix(self, dtype: str, inputs: int) -> Tensor:
        """K [units, units]."""
        theta = self.param("theta", self.places.shape[1:], self.init, dtype=dtype)
        k = mat(theta * theta, self.places, (inputs, inputs))
        return k + self.constant(self.margin * np.eye(inputs, dtype=k.type.numpy))


class StructuredConv(Module):
    """A convolution whose every kernel is mat(Q theta), with parameters of its own.

    q: [taps, parameters], for kernels of the sizes `kernel`. Without `filters` it works on each
    channel by itself. padding and boundary are those of Conv. Weights: theta [filters, C,
    parameters] (or [C, 1, parameters]), bias [filters].
    """

    def __init__(
        self,
        q: Any,
        kernel: Sequence[int],
        filters: int | None = None,
        *,
        stride: Size = 1,
        padding: Padding = "same",
        boundary: Boundary = "zero",
        bias: bool = True,
        init: Initialiser | None = None,
    ) -> None:
        self.q, self.kernel, self.filters = Sparse.of(q).dense(), tuple(kernel), filters
        if self.q.shape[0] != np.prod(self.kernel):
            raise IRError(f"Q has {self.q.shape[0]} rows, wanted one for each tap of {kernel}")
        self.stride = entries("stride", stride, len(self.kernel))
        self.padding, self.boundary, self.bias, self.init = padding, boundary, bias, init

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        check_image(x, len(self.kernel))
        count = self.filters or channels(x)
        inputs = channels(x) if self.filters else 1
        parameters = self.q.shape[1]
        init = self.init or normal((inputs * parameters) ** -0.5)
        theta = self.param("theta", (count, inputs, parameters), init, dtype=x.dtype)
        turned = self.constant(np.ascontiguousarray(self.q.T).astype(x.type.numpy))
        weight = (theta.reshape(count * inputs, parameters) @ turned).reshape(
            count, inputs, *self.kernel
        )
        bias = self.param("bias", (count,), dtype=x.dtype) if self.bias else None
        return conv(
            x, weight, bias, stride=self.stride, padding=self.padding, boundary=self.boundary,
            groups=1 if self.filters else channels(x),
        )  # fmt: skip


def symmetric_conv(
    size: int, filters: int | None = None, *, double: bool = True, **options: Any
) -> StructuredConv:
    """Square kernels that are symmetric; with an odd size the operator is a symmetric matrix.

    double: w[i, j] = w[-i, j] = w[i, -j], ((size + 1) / 2)^2 parameters each; otherwise
    w[i, j] = w[-i, -j] alone, (size^2 + 1) / 2 parameters.
    """
    if double:
        half = (size + 1) // 2
        places = np.minimum(np.arange(size), np.arange(size)[::-1])
        which, count = (places[:, None] * half + places).ravel(), half * half
    else:
        which, count = np.arange(size * size), (size * size + 1) // 2
        which = np.minimum(which, which[::-1])
    return StructuredConv(np.eye(count)[which], (size, size), filters, **options)


def laplacian_conv(filters: int | None = None, rank: int = 2, **options: Any) -> StructuredConv:
    """Multiples of the discrete Laplacian: 1 parameter a kernel."""
    return StructuredConv(laplacian(rank).reshape(-1, 1), (3,) * rank, filters, **options)


class SeparableKernelConv(Module):
    """A convolution of each channel whose kernels are sums of `terms` products of 1-D kernels.

    w = sum over r of u_r (outer) v_r ..., a CP decomposition of rank `terms`. Weights: factor0,
    factor1, ... [C, terms, size], bias [C].
    """

    def __init__(
        self,
        kernel: Sequence[int],
        terms: int = 1,
        *,
        padding: Padding = "same",
        boundary: Boundary = "zero",
        bias: bool = True,
        init: Initialiser | None = None,
    ) -> None:
        self.kernel = entries("kernel", tuple(kernel), len(kernel))
        (self.terms,) = entries("terms", terms, 1)
        self.padding, self.boundary, self.bias, self.init = padding, boundary, bias, init

    def forward(self, x: Tensor) -> Tensor:
        """The filtered x."""
        rank, count = len(self.kernel), x.shape[1]
        check_image(x, rank)
        weight: Tensor | None = None
        for axis, size in enumerate(self.kernel):
            init = self.init or normal((size * self.terms ** (1 / rank)) ** -0.5)
            shape = (count, self.terms, size)
            factor = self.param(f"factor{axis}", shape, init, dtype=x.dtype)
            line = factor.reshape(count, self.terms, *(1,) * axis, size, *(1,) * (rank - axis - 1))
            weight = line if weight is None else weight * line
        assert weight is not None
        bias = self.param("bias", (count,), dtype=x.dtype) if self.bias else None
        return conv(
            x, weight.sum(1, keepdims=True), bias, padding=self.padding, boundary=self.boundary,
            groups=count,
        )  # fmt: skip


class HaarWavelet(Module):
    """The Haar transform of each channel: x [N, C, H, W] as [N, 4 C, H/2, W/2], orthogonal.

    Of each channel come the mean of 2x2 pixels and the details along W, along H and along both,
    each times 2, so that the sum of squares stays. It has no weights.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The four parts of each channel, one after another."""
        check_image(x, 2)
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise IRError(f"x is {x.type}, wanted even sizes")
        low, high = np.array([1.0, 1.0]), np.array([1.0, -1.0])
        parts = [np.multiply.outer(a, b) / 2 for a in (low, high) for b in (low, high)]
        weight = np.tile(np.stack(parts)[:, None], (channels(x), 1, 1, 1))
        held = self.constant(weight.astype(x.type.numpy))
        return conv(x, held, stride=2, groups=channels(x))


def _placed(shape: tuple[int, int], lines: Places) -> Sparse:
    """Q for a matrix."""
    found = sorted(
        (row * shape[1] + column, parameter, factor)
        for parameter, line in enumerate(lines)
        for row, column, factor in line
    )
    rows, columns, values = zip(*found, strict=True) if found else ((), (), ())
    return Sparse(
        (shape[0] * shape[1], len(lines)), np.array(rows, int), np.array(columns, int),
        np.array(values, float),
    )  # fmt: skip
