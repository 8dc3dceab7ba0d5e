"""Matrix product y[B,M,N] = x[B,M,K] @ w[K,N] (+ bias[N]), all row-major; w constant or run-time.

Constant weights are packed in panels of a few blocks of V columns, read strictly in sequence: with
one row of x (a dense layer on one image) that runs as fast as memory delivers. Run-time weights are
read where they lie, or copied to such a panel first when enough rows share it. A partial last block
is computed whole - what it reads beyond a row is the next row or the slack of the buffer - and
stored in part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.edges import each_tile, segments
from cnnir.backends.llvm.kernels.microkernel import (
    FOLLOWING,
    LINE,
    Reduction,
    Tile,
    accumulate,
    tile_cycles,
    widest_tile,
)
from cnnir.backends.llvm.kernels.spec import (
    Axis,
    Epilogue,
    KernelCode,
    Place,
    Split,
    Target,
    shares,
    storage,
)

WIDEST = 7  # blocks in a tile, at most
ITEM_COST = 500  # cycles to fetch a work item
PANEL_TILES = 4  # row tiles from which on run-time weights are copied to a panel
WAITING = 24  # rows below which a product waits for its weights from memory
PORTION = 768  # rows of weights packed at a time
THREADS = (1, 4, 16)  # what the number of work items is meant to suit


@dataclass(frozen=True)
class MatmulSpec:
    """`constant`: w is packed by `pack`. One of x and w may be shared by all of the batch.

    Where `channels` is set, x is Blocked(lanes): a row is an image of so many channels, as
    [channels, depth / channels] would be; w is constant then, and there is no batch.
    """

    rows: int
    columns: int
    depth: int
    batch: int = 1
    constant: bool = True
    shared_x: bool = False
    shared_w: bool = True
    bias: bool = False
    lanes: int = 16
    channels: int = 0

    @property
    def blocks(self) -> int:
        return -(-self.columns // self.lanes)

    @property
    def pixels(self) -> int:
        """Of an image, where rows are images."""
        return self.depth // self.channels

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.columns * self.depth


@dataclass(frozen=True)
class Tiling:
    blocks: int  # blocks of V columns in a tile
    rows: int  # rows in a tile, at most; all tiles are as equal as can be
    band: int = 1  # row tiles in a work item
    panel: bool = False  # run-time weights are copied to scratch


def reject(spec: MatmulSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if min(spec.batch, spec.rows, spec.columns, spec.depth) < 1:
        return "an empty axis"
    if spec.constant and not spec.shared_w:
        return "constant weights that differ over the batch"
    return None


def choose(spec: MatmulSpec, target: Target) -> Tiling:
    """The tile with the least cost, then the work items that suit few and many threads alike."""
    return tilings(spec, target, 1)[0]


def tilings(spec: MatmulSpec, target: Target, count: int) -> list[Tiling]:
    """The best choices by prediction, of different tiles."""
    tiles = sorted(_tiles(spec, target), key=lambda t: (_cycles(spec, t, target), t.blocks))
    return [_cut(spec, tile, target) for tile in list(dict.fromkeys(tiles))[:count]]


def _cut(spec: MatmulSpec, tile: Tiling, target: Target) -> Tiling:
    """The tile with the work items that suit few and many threads alike."""
    rows = Split(spec.rows, tile.rows).parts
    panel = not spec.constant and rows >= PANEL_TILES
    bands = sorted({-(-rows // n) for n in range(1, min(rows, 64) + 1)})
    options = [replace(tile, band=band, panel=panel) for band in bands]
    return min(options, key=lambda t: (_mean_cycles(spec, t, target), t.band))


def estimate(spec: MatmulSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core: arithmetic, or the weights from memory, whatever takes longer."""
    compute = _item_cycles(spec, tiling, target) * _items(spec, tiling)
    weights = 4 * spec.columns * spec.depth * (1 if spec.shared_w else spec.batch)
    return max(compute / target.hz, weights / target.bandwidth)


def packed_size(spec: MatmulSpec, tiling: Tiling) -> int:
    """Floats that `pack` makes of the weights."""
    return spec.depth * spec.blocks * spec.lanes


def pack(
    weights: np.ndarray, spec: MatmulSpec, tiling: Tiling, out: np.ndarray | None = None
) -> np.ndarray:
    """w[K,N] as [tile of blocks][K][block in the tile][V], columns beyond the last zero; K in the
    order in which x lies.

    Some rows of a tile at a time are copied as they lie, in runs, and then turned within L2: most
    weights are the transpose of what a model holds, and N apart is far.
    """
    packed = storage(out, packed_size(spec, tiling))
    position = column = 0
    for count in shares(spec.blocks, tiling.blocks):
        width = count * spec.lanes
        tile = packed[position : position + spec.depth * width].reshape(spec.depth, width)
        for rows, channels in _portions(spec):
            part = weights[rows, column : column + width].copy("K")
            turned = part.reshape(channels, -1, part.shape[1]).swapaxes(0, 1)
            into = tile[rows].reshape(*turned.shape[:2], width)
            into[..., : part.shape[1]] = turned
            into[..., part.shape[1] :] = 0
        position, column = position + tile.size, column + width
    return packed


def _portions(spec: MatmulSpec) -> Iterator[tuple[slice, int]]:
    """Rows of w that are packed together, and of how many channels they are.

    The rows of an image in blocks are in the order block of channels, pixel, channel.
    """
    if not spec.channels:
        for first in range(0, spec.depth, PORTION):
            yield slice(first, min(first + PORTION, spec.depth)), 1
    for first in range(0, spec.channels, spec.lanes):
        channels = min(spec.lanes, spec.channels - first)
        yield slice(first * spec.pixels, (first + channels) * spec.pixels), channels


def emit(
    module: ir.Module,
    name: str,
    spec: MatmulSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    _Emitter(b, spec, tiling, epilogue).run()
    how = "packed" if spec.constant else "copied to a panel" if tiling.panel else "in place"
    summary = (
        f"matmul {spec.rows}x{spec.depth}x{spec.columns}, {tiling.blocks} blocks x {tiling.rows} "
        f"rows a tile, {tiling.band} row tiles an item, weights {how}"
        f"{', rows in blocks of channels' if spec.channels else ''}"
    )
    scratch = 4 * spec.depth * tiling.blocks * spec.lanes if tiling.panel else 0
    items = _items(spec, tiling)
    return KernelCode(name, items, scratch, spec.flops, before, summary, b.finish())


def _tiles(spec: MatmulSpec, target: Target) -> Iterator[Tiling]:
    for blocks in range(1, min(WIDEST, spec.blocks) + 1):
        rows = min(spec.rows, widest_tile(target.registers, blocks))
        yield Tiling(blocks, rows)
        yield Tiling(blocks, max(1, rows - 1))


def _cycles(spec: MatmulSpec, tiling: Tiling, target: Target) -> float:
    """One matrix of the batch."""
    total = 0.0
    for blocks in shares(spec.blocks, tiling.blocks):
        for rows, count in Split(spec.rows, tiling.rows).sizes():
            total += count * tile_cycles(blocks, rows, spec.depth, spec.lanes, target.fmas)
    return total


def _bands(spec: MatmulSpec, tiling: Tiling) -> int:
    return -(-Split(spec.rows, tiling.rows).parts // tiling.band)


def _items(spec: MatmulSpec, tiling: Tiling) -> int:
    return spec.batch * Split(spec.blocks, tiling.blocks).parts * _bands(spec, tiling)


def _item_cycles(spec: MatmulSpec, tiling: Tiling, target: Target) -> float:
    return _cycles(spec, tiling, target) * spec.batch / _items(spec, tiling) + ITEM_COST


def _mean_cycles(spec: MatmulSpec, tiling: Tiling, target: Target) -> float:
    items = _items(spec, tiling)
    turns = sum(-(-items // threads) * threads for threads in THREADS)
    panel = 4 * spec.depth * tiling.blocks if tiling.panel else 0
    return turns * (_item_cycles(spec, tiling, target) + panel)


class _Emitter:
    def __init__(
        self, b: Builder, spec: MatmulSpec, tiling: Tiling, epilogue: Epilogue | None
    ) -> None:
        self.b, self.spec, self.tiling, self.epilogue = b, spec, tiling, epilogue
        self.x, self.w, *rest, self.y = b.pointers
        self.bias = rest[0] if spec.bias else None
        self.rows = Split(spec.rows, tiling.rows)
        self.axis = Axis(spec.rows, spec.rows, 1, 1, 1, 0)
        # To ask for weights costs up to 45 % where memory is the bound, up to 23 % where a vector
        # is a line; where it is half of one it gains 12 % on 49 rows.
        quiet = spec.rows < WAITING or spec.lanes * 4 == LINE
        self.ahead = None if quiet else FOLLOWING

    def run(self) -> None:
        """A work item is (matrix, tile of columns, band of row tiles); each width has its code."""
        b, spec = self.b, self.spec
        columns, bands = Split(spec.blocks, self.tiling.blocks), _bands(spec, self.tiling)
        self.matrix, tile, band = b.unflatten(b.item, [spec.batch, columns.parts, bands])
        first = b.mul(band, self.tiling.band)
        last = b.min(b.add(first, self.tiling.band), self.rows.parts)
        partial = spec.columns % spec.lanes
        start = 0
        for blocks, count in columns.sizes():
            whole = count - bool(partial and start + count == columns.parts)
            position = b.sub(tile, start)
            block = columns.start(b, tile)
            if whole:
                with b.when(columns.parts == whole or b.inside(position, whole)):
                    self.columns(block, [spec.lanes] * blocks, first, last)
            if whole < count:
                with b.when(columns.parts == 1 or b.equal(tile, columns.parts - 1)):
                    self.columns(block, [spec.lanes] * (blocks - 1) + [partial], first, last)
            start += count

    def columns(self, block: Index, counts: list[int], first: Index, last: Index) -> None:
        """All rows of the band for a tile of columns; counts are the lanes stored of each block."""
        b, spec = self.b, self.spec
        row: int | None = None
        if spec.constant:
            w = b.at(self.w, b.mul(block, spec.depth * spec.lanes))
        else:
            matrix = 0 if spec.shared_w else b.mul(self.matrix, spec.depth * spec.columns)
            w, row = b.at(self.w, b.add(matrix, b.mul(block, spec.lanes))), spec.columns
            if self.tiling.panel:
                w, row = self.copy_panel(w, len(counts)), None
        for part, start in each_tile(b, segments(self.axis, self.tiling.rows), first, last):
            self.tile(block, counts, start, part.width, w, row)

    def copy_panel(self, w: ir.Value, blocks: int) -> ir.Value:
        b, spec = self.b, self.spec
        with b.loop(spec.depth) as k:
            for i in range(blocks):
                value = b.vload(w, b.add(b.mul(k.index, spec.columns), i * b.lanes), align=4)
                b.vstore(value, b.scratch, b.mul(b.add(b.mul(k.index, blocks), i), b.lanes))
        return b.scratch

    def tile(
        self, block: Index, counts: list[int], start: Index, rows: int, w: ir.Value, row: int | None
    ) -> None:
        b, spec = self.b, self.spec
        state: list[ir.Value] = []
        for i in range(len(counts)):
            value = b.splat(0.0)
            if self.bias is not None:
                value = b.vload(self.bias, b.mul(b.add(block, i), b.lanes))
            state += [value] * rows
        tile = Tile(len(counts), rows, state)
        if spec.channels:
            self.images(tile, start, w)
        else:
            matrix = 0 if spec.shared_x else b.mul(self.matrix, spec.rows)
            x = b.at(self.x, b.mul(b.add(matrix, start), spec.depth))
            pixels = {r: r * spec.depth for r in range(rows)}
            accumulate(b, tile, x, w, pixels, [Reduction(spec.depth, 1)], row, ahead=self.ahead)
        for i, count in enumerate(counts):
            column = b.mul(b.add(block, i), b.lanes)
            self.store(start, column, count, tile.sums[i * rows : (i + 1) * rows])

    def images(self, tile: Tile, start: Index, w: ir.Value) -> None:
        """The sums of a tile whose rows are images in blocks: whole blocks, then the last one."""
        b, spec = self.b, self.spec
        image = spec.pixels * b.lanes
        x, plane = b.at(self.x, b.mul(start, image)), spec.rows * image
        rows = {r: r * image for r in range(tile.pixels)}
        whole, rest = divmod(spec.channels, b.lanes)
        if whole:
            nest = [Reduction(whole, plane), Reduction(image, 1)]
            accumulate(b, tile, x, w, rows, nest, ahead=self.ahead)
        if rest:
            x, w = b.at(x, whole * plane), b.at(w, whole * image * tile.blocks * b.lanes)
            nest = [Reduction(spec.pixels, b.lanes), Reduction(rest, 1)]
            accumulate(b, tile, x, w, rows, nest, ahead=self.ahead)

    def store(self, start: Index, column: Index, count: int, values: list[ir.Value]) -> None:
        b, spec = self.b, self.spec
        top = b.add(b.mul(self.matrix, spec.rows), start)
        base = b.add(b.mul(top, spec.columns), column)
        y = b.at(self.y, base)
        for r, value in enumerate(values):
            if self.epilogue is not None:
                at = (self.matrix, b.add(start, r), column)
                place = Place(b.add(base, r * spec.columns), partial(tuple, at), count)
                value = self.epilogue(b, value, place)
            b.masked_store(value, y, r * spec.columns, count)
