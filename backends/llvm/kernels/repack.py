"""Weights known only at run time, put into the order of a template by a kernel of their own.

The templates' `pack` says where each weight goes, in numpy, for constants. For run-time weights the
same function is asked once, at compile time, with the weights' own addresses: what comes out is a
list of vectors, each with the addresses of its lanes. Vectors that follow one another by constant
steps are found (`pieces`) and become loops. So every template whose `pack` moves weights and leaves
some lanes zero has its kernel for nothing; Winograd's transforms them (winograd_pack.py).

Weights that are another value turned round (as in the gradient of a convolution by its input) are
read where that value lies: the addresses say it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import I32, Builder, Index
from cnnir.backends.llvm.kernels.spec import KernelCode, Target

ITEM_VECTORS = 1024  # that a work item packs, about
VECTOR_CYCLES = 25.0  # to gather V lanes and store them
WIDEST_UNIT = 8  # vectors that may differ in their lanes before all begins again
HALF = 1 << 12  # addresses go through `pack` in two parts, which f32 holds exactly


Lanes = tuple[int | None, ...]
"""For each lane of a vector its address beside that of the vector, None for zero."""


@dataclass(frozen=True)
class Piece:
    """Vectors first, first + 1 ... of the packed weights, as a nest of loops (outermost first).

    nest: (extent, step of the address) of each loop. unit: what the innermost turn packs, for each
    of its vectors the address beside the first one's, and the lanes. A tile of blocks of filters
    is such a unit, where the last block has fewer filters.
    """

    first: int
    address: int
    unit: tuple[tuple[int, Lanes], ...]
    nest: tuple[tuple[int, int], ...]

    @property
    def vectors(self) -> int:
        return len(self.unit) * prod(extent for extent, _ in self.nest)


def moved(
    template: ModuleType, spec: Any, tiling: Any, addresses: np.ndarray, lanes: int
) -> np.ndarray:
    """Where every lane of the packed weights comes from, [vectors, V]; -1 for zero.

    addresses: of each weight, an array of the weights' shape.
    """
    known = addresses.astype(np.int64) + 1  # 0 is what pack leaves zero
    low = template.pack((known % HALF).astype(np.float32), spec, tiling)
    high = template.pack((known // HALF).astype(np.float32), spec, tiling)
    whole = high.reshape(-1).astype(np.int64) * HALF + low.reshape(-1).astype(np.int64)
    return whole.reshape(-1, lanes) - 1


def pieces(where: np.ndarray) -> list[Piece]:
    """The vectors of `moved` as few nests of loops."""
    used = where >= 0
    first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
    address = np.maximum(where[np.arange(len(where)), first], 0)
    offsets = np.where(used, where - address[:, None], np.iinfo(np.int32).min)
    mixed = np.random.default_rng(0).integers(1, 1 << 40, where.shape[1])
    with np.errstate(over="ignore"):
        pattern = (offsets * mixed).sum(axis=1)
    found: list[Piece] = []
    start = 0
    while start < len(where):
        nest, count, size = _longest(address[start:], pattern[start:])
        unit = tuple(_vector(where[i], int(address[start])) for i in range(start, start + count))
        found.append(Piece(start, int(address[start]), unit, tuple(nest)))
        start += size
    return found


def _vector(where: np.ndarray, address: int) -> tuple[int, Lanes]:
    """A vector of a unit: its own address beside the unit's, and its lanes."""
    used = where[where >= 0]
    own = int(used[0]) if used.size else address
    return own - address, tuple(int(i) - own if i >= 0 else None for i in where)


Nest = list[tuple[int, int]]


def _longest(address: np.ndarray, pattern: np.ndarray) -> tuple[Nest, int, int]:
    """The nest that covers most vectors from the first on: loops, vectors a unit, all vectors."""
    best: tuple[Nest, int, int] = ([], 0, 0)
    for unit in range(1, min(WIDEST_UNIT, len(address)) + 1):
        nest, size = _nest(address, pattern, unit)
        if size > best[2]:
            best = nest, unit, size
        if size == len(address):
            break
    return best


def _nest(address: np.ndarray, pattern: np.ndarray, size: int) -> tuple[Nest, int]:
    """The longest nest of units of `size` vectors, and how many vectors it has."""
    nest: Nest = []
    while 2 * size <= len(address):
        step = int(address[size] - address[0])
        count = len(address) // size
        blocks = address[: count * size].reshape(count, size) - address[:size]
        same = (blocks == step * np.arange(count)[:, None]).all(axis=1)
        same &= (pattern[: count * size].reshape(count, size) == pattern[:size]).all(axis=1)
        turns = count if same.all() else int(same.argmin())
        if turns == 1:
            break
        nest.insert(0, (turns, step))
        size *= turns
    return nest or [(1, 0)], size


def estimate(vectors: int, target: Target, lanes: int) -> float:
    """Seconds on one core to pack so many vectors."""
    return max(vectors * VECTOR_CYCLES / target.hz, 8 * lanes * vectors / target.bandwidth)


def emit(module: ir.Module, name: str, parts: list[Piece], lanes: int) -> KernelCode:
    """Write the kernel: pointers weights, packed weights."""
    b = Builder(module, name, 2, lanes, noalias=[1])
    items = 0
    for part in parts:
        cut = _Cut(part)
        with b.when(b.inside(b.sub(b.item, items), cut.items) if len(parts) > 1 else True):
            cut.emit(b, b.sub(b.item, items))
        items += cut.items
    vectors = sum(part.vectors for part in parts)
    summary = f"{vectors} vectors packed in {len(parts)} nests of loops"
    return KernelCode(name, items, 0, 0, 1, summary, b.finish())


class _Cut:
    """A piece cut in work items: the outer loops as one, some of whose turns are an item."""

    def __init__(self, part: Piece) -> None:
        self.part = part
        self.width = len(part.unit)
        extents = [extent for extent, _ in part.nest]
        self.depth = 1
        while self.depth < len(extents) and self._inner(extents) > ITEM_VECTORS:
            self.depth += 1
        self.outer = extents[: self.depth]
        self.inner = self._inner(extents)
        self.chunk = max(1, ITEM_VECTORS // self.inner)
        self.items = -(-prod(self.outer) // self.chunk)

    def _inner(self, extents: list[int]) -> int:
        """Vectors of one turn of the outer loops."""
        return self.width * prod(extents[self.depth :])

    def emit(self, b: Builder, item: Index) -> None:
        count = prod(self.outer)
        first = b.mul(item, self.chunk) if self.items > 1 else 0
        last = b.min(b.add(first, self.chunk), count)
        with b.loop(last, first) as turn:
            at = b.unflatten(turn.index, self.outer)
            source: Index = self.part.address
            for i, (_, step) in zip(at, self.part.nest[: self.depth], strict=True):
                source = b.add(source, b.mul(i, step))
            vector = b.add(b.mul(turn.index, self.inner), self.part.first)
            self.loops(b, self.depth, source, vector)

    def loops(self, b: Builder, level: int, source: Index, vector: Index) -> None:
        """The inner loops; source counts floats, vector vectors."""
        if level == len(self.part.nest):
            for i, (beside, lanes) in enumerate(self.part.unit):
                value = gathered(b, b.at(b.pointers[0], b.add(source, beside)), lanes)
                b.vstore(value, b.pointers[1], b.mul(b.add(vector, i), b.lanes))
            return
        extent, step = self.part.nest[level]
        size = self.width * prod(extent for extent, _ in self.part.nest[level + 1 :])
        with b.loop(extent) as turn:
            at = b.add(source, b.mul(turn.index, step))
            self.loops(b, level + 1, at, b.add(vector, b.mul(turn.index, size)))


def gathered(b: Builder, pointer: ir.Value, lanes: Lanes) -> ir.Value:
    """A vector of the floats at these offsets from a pointer, zero for None."""
    if lanes == tuple(range(b.lanes)):
        return b.vload(pointer, 0, align=4)
    value = b.splat(0.0)
    for lane, offset in enumerate(lanes):
        if offset is not None:
            value = b.ir.insert_element(value, b.load(pointer, offset), ir.Constant(I32, lane))
    return value
