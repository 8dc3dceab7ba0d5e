"""What the kernel templates have in common: the shape of a problem, the target, what emit returns.

A template is a file beside this one with a spec (a frozen dataclass) and five functions:
`reject(spec)` says why it cannot serve, `choose(spec, target)` picks the tiling, `estimate(spec,
tiling, target)` predicts seconds on one core, `pack(weights, spec, tiling)` reorders constant
weights, and `emit(module, name, spec, tiling, ...)` writes the LLVM function. Where tilings differ
enough to be worth measuring, `tilings(spec, target, count)` gives the best by prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from math import prod
from typing import TypeAlias, TypeVar

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import BUFFER_ALIGN, Builder, Index
from cnnir.backends.llvm.kernels.pooling import Pooling
from cnnir.ops.boundary import ZERO, reads

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Target:
    """What a tiling depends on; nothing here is measured at compile time, so plans repeat."""

    registers: int = 32  # architectural registers of V floats
    l1: int = 32 << 10
    l2: int = 1 << 20
    fmas: int = 2  # fused multiply-adds of V floats a cycle
    halved: int = 0  # lanes of vectors that take twice as long as half of them
    hz: float = 3.7e9  # the clock that predictions assume; only their ratios matter
    bandwidth: float = 25e9  # bytes a second from memory on one core
    cached: float = 60e9  # the same from the caches beyond L1, where activations are
    threads: int = 1  # of a run; must not decide how results are rounded
    exact: bool = False  # whether only the products of the definition may be added


@dataclass(frozen=True)
class Place:
    """Where in the result a vector belongs, as an epilogue sees it.

    `offset` counts floats from the start of the result, and serves for every buffer of the same
    shape and layout. `coordinates()` are (block, n, *spatial) of a blocked result and (matrix, row,
    column) of a plain one; computing them may cost a division, so ask only when the offset does not
    do. `count` is how many of the lanes are stored.
    """

    offset: Index
    coordinates: Callable[[], tuple[Index, ...]]
    count: int


# (builder, vector, place) -> vector; operands are builder.pointers[first operand:], see KernelCode
Epilogue: TypeAlias = Callable[[Builder, ir.Value, Place], ir.Value]


@dataclass(frozen=True)
class KernelCode:
    """An emitted kernel: `void @name(error, scratch, item, pointers...)` for item in range(items).

    The pointers are x, w, [bias], epilogue operands, y: `operands` is the position of the first
    epilogue operand.
    """

    name: str
    items: int
    scratch_bytes: int
    flops: int
    operands: int
    summary: str
    function: ir.Function = field(repr=False, compare=False)


@dataclass(frozen=True)
class Strides:
    """How far apart neighbours lie in an activation, in floats.

    A plane is a block of channels of a Blocked activation, one channel of a row-major one. Within
    an image of a plane the pixels lie row-major, `pixel` apart.
    """

    plane: int
    image: int
    pixel: int

    @classmethod
    def blocked(cls, batch: int, sizes: Sequence[int], lanes: int) -> Strides:
        """Of Blocked(lanes): all images of a block follow one another."""
        image = prod(sizes) * lanes
        return cls(batch * image, image, lanes)

    @classmethod
    def plain(cls, channels: int, sizes: Sequence[int]) -> Strides:
        """Of a row-major activation: all channels of an image follow one another."""
        return cls(prod(sizes), channels * prod(sizes), 1)


@dataclass(frozen=True)
class ConvSpec:
    """A convolution x[N,C,*sizes] with w[O,C/groups,*kernel], for one, two or three spatial axes.

    y is Blocked(lanes); x is Blocked(lanes), or Plain (row-major) where `plain` is set. Padding is
    begins then ends, boundary what x is there: a word an axis, () for zeros. `bias` says that a
    vector of O values, padded to whole blocks, is added. Where `pool` is set, y is what it makes of
    the results.
    """

    batch: int
    channels: int
    filters: int
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int = 1
    plain: bool = False
    bias: bool = False
    lanes: int = 16
    pool: Pooling | None = None
    boundary: tuple[str, ...] = ()

    @property
    def conv_sizes(self) -> tuple[int, ...]:
        """Of all results of the convolution."""
        rank = len(self.sizes)
        return tuple(
            (s + self.padding[i] + self.padding[rank + i] - (k - 1) * d - 1) // t + 1
            for i, (s, k, t, d) in enumerate(
                zip(self.sizes, self.kernel, self.stride, self.dilation, strict=True)
            )
        )

    @property
    def out_sizes(self) -> tuple[int, ...]:
        """Of the results that are computed: all, or those in windows of the pool."""
        if self.pool is None:
            return self.conv_sizes
        sides = zip(self.conv_sizes, self.pool.window, strict=True)
        return tuple(size // side * side for size, side in sides)

    @property
    def y_sizes(self) -> tuple[int, ...]:
        """Of what is stored."""
        if self.pool is None:
            return self.conv_sizes
        sides = zip(self.conv_sizes, self.pool.window, strict=True)
        return tuple(size // side for size, side in sides)

    @property
    def pooled(self) -> str:
        """The end of a summary: what the store does."""
        return f", {self.pool.kind} of {'x'.join(map(str, self.pool.window))}" if self.pool else ""

    @property
    def in_blocks(self) -> int:
        return -(-self.channels // self.lanes)

    @property
    def out_blocks(self) -> int:
        return -(-self.filters // self.lanes)

    @property
    def x_strides(self) -> Strides:
        if self.plain:
            return Strides.plain(self.channels, self.sizes)
        return Strides.blocked(self.batch, self.sizes, self.lanes)

    @property
    def y_strides(self) -> Strides:
        return Strides.blocked(self.batch, self.y_sizes, self.lanes)

    @property
    def conv_strides(self) -> Strides:
        """As `y_strides`, of all results: where an epilogue sees them."""
        return Strides.blocked(self.batch, self.conv_sizes, self.lanes)

    @property
    def padded(self) -> bool:
        return any(self.padding)

    @property
    def flops(self) -> int:
        reduction = self.channels // self.groups * prod(self.kernel)
        return 2 * self.batch * self.filters * prod(self.out_sizes) * reduction

    def axes(self) -> list[Axis]:
        """The spatial axes as (depth, height, width); missing leading ones have size 1."""
        return self._axes

    @cached_property
    def _axes(self) -> list[Axis]:  # planning asks some hundred times
        rank, out = len(self.sizes), self.out_sizes
        words = reads(self.boundary, self.padding)
        missing = [Axis(1, 1, 1, 1, 1, 0)] * (3 - rank)
        return missing + [
            Axis(
                self.sizes[i],
                out[i],
                self.kernel[i],
                self.stride[i],
                self.dilation[i],
                self.padding[i],
                words[i],
            )
            for i in range(rank)
        ]

    def problem(self) -> str | None:
        """What no convolution kernel takes, or None."""
        rank = len(self.sizes)
        if rank not in (1, 2, 3):
            return f"{rank} spatial axes"
        if min(self.batch, self.channels, self.filters, *self.sizes, *self.kernel) < 1:
            return "an empty axis"
        if min(self.conv_sizes) < 1:
            return "an empty result"
        if min(self.padding) < 0:
            return "negative padding"
        return self.pool.problem(self.conv_sizes) if self.pool else None


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a window: sizes in and out, taps, stride, dilation, padding in front, and
    what the input is in the padding on both sides."""

    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    begin: int
    boundary: str = ZERO

    def span(self, count: int) -> int:
        """How many inputs `count` neighbouring outputs see."""
        return (count - 1) * self.stride + (self.taps - 1) * self.dilation + 1


@dataclass(frozen=True)
class Split:
    """`total` cut in `parts` of two neighbouring sizes, the larger first; all are multiples of
    `unit`, as `total` is."""

    total: int
    largest: int
    unit: int = 1

    @property
    def parts(self) -> int:
        return -(-(self.total // self.unit) // (self.largest // self.unit))

    @property
    def small(self) -> int:
        return self.total // self.unit // self.parts * self.unit

    @property
    def large_parts(self) -> int:
        return self.total // self.unit % self.parts

    def sizes(self) -> list[tuple[int, int]]:
        """The sizes that occur, with how often."""
        large, rest = self.large_parts, self.parts - self.large_parts
        both = [(self.small + self.unit, large), (self.small, rest)]
        return [(size, count) for size, count in both if count]

    def start(self, b: Builder, part: Index) -> Index:
        extra = b.min(part, self.large_parts) if self.large_parts else 0
        return b.add(b.mul(part, self.small), b.mul(extra, self.unit))


def aligned_empty(size: int) -> np.ndarray:
    """`size` f32 on a buffer boundary, with the slack bytes that every buffer ends with."""
    bytes_ = np.empty(4 * size + 2 * BUFFER_ALIGN, np.uint8)
    start = -bytes_.ctypes.data % BUFFER_ALIGN
    return bytes_[start : start + 4 * size].view(np.float32)


def storage(out: np.ndarray | None, size: int) -> np.ndarray:
    """Where `pack` writes: `out`, which must have that size, or an array of its own."""
    if out is None:
        return aligned_empty(size)
    assert out.dtype == np.float32 and out.shape == (size,), f"{out.shape}, wanted ({size},)"
    return out


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy in f32, row-major, on a buffer boundary."""
    copy = aligned_empty(array.size).reshape(array.shape)
    copy[...] = array
    return copy


def shares(total: int, largest: int) -> list[int]:
    """`total` split in the fewest parts of at most `largest`, as equal as can be, larger first."""
    parts = -(-total // largest)
    return [total // parts + (i < total % parts) for i in range(parts)]


def varied(
    ranked: Sequence[T], kind: Callable[[T], Hashable], cut: Callable[[T], Hashable], count: int
) -> list[T]:
    """At most `count` of the ranked choices that differ: the best of each kind, and in turn with
    them the best of each way to cut the work of the first one's kind."""
    firsts: dict[Hashable, T] = {}
    cuts: dict[Hashable, T] = {}
    for choice in ranked:
        firsts.setdefault(kind(choice), choice)
        if kind(choice) == kind(ranked[0]):
            cuts.setdefault(cut(choice), choice)
    pairs = zip_longest(firsts.values(), cuts.values())
    turns = dict.fromkeys(choice for pair in pairs for choice in pair if choice is not None)
    return list(turns)[:count]


def repeats(values: list[int]) -> list[tuple[int, int]]:
    """[2, 2, 1] -> [(2, 2), (1, 1)]: each value with how often it comes, the largest first."""
    return [(v, values.count(v)) for v in sorted(set(values), reverse=True)]
