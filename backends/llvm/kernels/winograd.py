"""Winograd convolution F(m x m', r x r') onto Blocked(V): fewer products than taps times results.

For stride 1, no dilation and no groups, in one or two dimensions. A work item is (range of tiles,
chunk of output blocks) and does three things within its scratch, which is meant to stay in L2: it
transforms its tiles of input, for all channels; multiplies, for each of the n x n' products of a
tile, transformed weights by tiles (the micro-kernel, whose pixels are tiles); and transforms back.
Items of several chunks repeat the first step, which costs less than threads waiting for another.

Rounding differs from that of direct convolution (see winograd_transforms.py), so that exact
precision rules it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import llvmlite.ir as ir
import numpy as np

from cnnir.backends.llvm.builder import Builder, Condition, Index
from cnnir.backends.llvm.kernels.microkernel import Reduction, Tile, accumulate
from cnnir.backends.llvm.kernels.small_matrix import multiply
from cnnir.backends.llvm.kernels.spec import (
    Axis,
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    Strides,
    aligned_empty,
    repeats,
    shares,
)
from cnnir.backends.llvm.kernels.winograd_tiling import (
    PRODUCTS,
    Geometry,
    Tiling,
    choose,
    estimate,
    results,
    tile_kinds,
    tilings,
)

__all__ = ["ConvSpec", "Tiling", "choose", "emit", "estimate", "pack", "reject", "tilings"]


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    depth, height, width = spec.axes()
    if depth.taps > 1 or depth.size > 1:
        return "three spatial axes"
    if spec.groups > 1:
        return f"{spec.groups} groups"
    if spec.plain:
        return "input is not blocked"
    if any(axis.stride > 1 or axis.dilation > 1 for axis in (height, width)):
        return f"stride {spec.stride}, dilation {spec.dilation}"
    if height.taps * width.taps == 1:
        return "one tap has nothing to save"
    if not results(height.taps) or not results(width.taps):
        return f"more than {max(PRODUCTS) - 1} taps"
    if spec.pool and not any(tile_kinds(spec)):
        return f"no tile holds whole windows of {'x'.join(map(str, spec.pool.window))}"
    return spec.problem()


def pack(weights: np.ndarray, spec: ConvSpec, tiling: Tiling) -> np.ndarray:
    """w[O,C,*kernel], transformed, in the order in which the kernel reads it.

    [chunk][product][tile of blocks][channel][block in the tile][V]; filters beyond the last are
    zero.
    """
    g, lanes, channels = Geometry(spec, tiling), spec.lanes, spec.channels
    rows, columns = (t.taps for t in g.transforms)
    taps = weights.reshape(spec.filters, channels, rows.shape[1], columns.shape[1])
    filters = np.zeros((g.products, spec.out_blocks * lanes, channels), np.float32)
    small = np.einsum("ocij,qj->qoci", taps, columns, optimize=True)
    for p, row in enumerate(rows):
        products = np.einsum("qoci,i->qoc", small, row)
        filters[p * len(columns) : (p + 1) * len(columns), : spec.filters] = products
    packed = aligned_empty(filters.size)
    position = 0
    for chunk in range(g.chunks):
        first = chunk * tiling.chunk
        for product in filters:
            block = first
            for count in shares(tiling.chunk, tiling.blocks):
                part = product[block * lanes : (block + count) * lanes].T
                packed[position : position + part.size].reshape(part.shape)[...] = part
                position += part.size
                block += count
    return packed


def emit(
    module: ir.Module,
    name: str,
    spec: ConvSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y."""
    g = Geometry(spec, tiling)
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    _Emitter(b, g, epilogue).run()
    function = b.finish()
    return KernelCode(name, g.items, 4 * g.scratch, spec.flops, before, _summary(g), function)


def _summary(g: Geometry) -> str:
    (height, width), tiling = g.axes, g.tiling
    form = f"F({tiling.tile[0]}x{tiling.tile[1]}, {height.taps}x{width.taps})"
    saved = height.taps * width.taps * tiling.tile[0] * tiling.tile[1] / g.products
    return (
        f"Winograd {form}, {saved:.2g} times fewer products, {tiling.count} of {g.tiles} tiles and "
        f"{tiling.chunk} of {g.spec.out_blocks} blocks an item, {tiling.blocks} blocks x "
        f"{tiling.pixels} tiles multiplied at once{g.spec.pooled}"
    )


class _Emitter:
    """The three steps of a work item."""

    def __init__(self, b: Builder, g: Geometry, epilogue: Epilogue | None) -> None:
        self.b, self.g, self.spec, self.tiling = b, g, g.spec, g.tiling
        self.epilogue = epilogue
        self.x, self.w, *rest, self.y = b.pointers
        self.bias = rest[0] if g.spec.bias else None
        self.zeros = b.scratch
        self.inputs = b.at(b.scratch, b.lanes)
        self.products = b.at(self.inputs, g.products * g.input_plane)

    def run(self) -> None:
        b, g = self.b, self.g
        chunk, part = b.unflatten(b.item, [g.chunks, g.parts])
        # The last item starts earlier where the tiles do not divide: it repeats some of another's.
        self.first = b.min(b.mul(part, self.tiling.count), g.tiles - self.tiling.count)
        self.chunk = chunk
        b.vstore(b.splat(0.0), self.zeros)
        with b.loop(self.spec.in_blocks) as block, b.loop(self.tiling.count) as tile:
            self.transform_input(block.index, tile.index)
        with b.loop(g.products) as product:
            self.multiply(product.index)
        with b.loop(self.tiling.chunk) as block, b.loop(self.tiling.count) as tile:
            self.transform_results(block.index, tile.index)

    def position(self, tile: Index) -> list[Index]:
        """Image, row and column of tiles."""
        return self.b.unflatten(self.b.add(self.first, tile), [self.spec.batch, *self.g.grid])

    # ---- first step

    def transform_input(self, block: Index, tile: Index) -> None:
        b, g = self.b, self.g
        rows, columns = (t.inputs for t in g.transforms)
        seen = self.seen(block, tile)
        half = [multiply(b, rows, column) for column in zip(*seen, strict=True)]
        start = b.mul(b.add(b.mul(block, self.tiling.count), tile), b.lanes)
        plane = 0
        for row in zip(*half, strict=True):
            for value in multiply(b, columns, row):
                b.vstore(value, self.inputs, b.add(start, plane))
                plane += g.input_plane

    def seen(self, block: Index, tile: Index) -> list[list[ir.Value]]:
        """The vectors of input that a tile sees; zeros outside."""
        b, g = self.b, self.g
        (height, width), (rows, columns) = g.axes, self.tiling.tile
        image, row, column = self.position(tile)
        top = b.add(b.mul(row, rows), -height.begin)
        left = b.add(b.mul(column, columns), -width.begin)
        lies = self.spec.x_strides
        start = b.add(b.mul(block, lies.plane), b.mul(image, lies.image))
        start = b.add(start, b.mul(b.add(b.mul(top, width.size), left), lies.pixel))
        inside_rows = [self.inside(height, 0, top, i) for i in range(g.sides[0])]
        inside_columns = [self.inside(width, 1, left, j) for j in range(g.sides[1])]
        vectors: list[list[ir.Value]] = []
        for i, row_inside in enumerate(inside_rows):
            vectors.append([])
            for j, column_inside in enumerate(inside_columns):
                known = b.both(row_inside, column_inside)
                source = b.at(self.x, b.add(start, (i * width.size + j) * lies.pixel))
                if known is not True:
                    source = b.ir.select(b.truth(known), source, self.zeros)
                vectors[-1].append(b.vload(source))
        return vectors

    def inside(self, axis: Axis, number: int, start: Index, offset: int) -> Condition:
        """Whether the element `offset` from the start of a tile lies in the input."""
        first, step = -axis.begin + offset, self.tiling.tile[number]
        if first >= 0 and first + (self.g.grid[number] - 1) * step < axis.size:
            return True
        return self.b.inside(self.b.add(start, offset), axis.size)

    # ---- second step

    def multiply(self, product: Index) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        x = b.at(self.inputs, b.mul(product, g.input_plane))
        into = b.at(self.products, b.mul(product, g.result_plane))
        step = g.spec.channels * b.lanes  # weights of one block for one product
        w = b.at(self.w, b.mul(b.add(b.mul(self.chunk, g.products), product), tiling.chunk * step))
        first = 0
        for blocks, parts in repeats(shares(tiling.chunk, tiling.blocks)):
            with b.loop(parts) as part:
                block = b.add(b.mul(part.index, blocks), first)
                with b.loop(-(-tiling.count // tiling.pixels)) as turn:
                    tile = b.min(b.mul(turn.index, tiling.pixels), tiling.count - tiling.pixels)
                    self.tile(b.at(x, b.mul(tile, b.lanes)), b.at(w, b.mul(block, step)), blocks)
                    start = b.add(b.mul(block, tiling.count), tile)
                    self.keep(b.at(into, b.mul(start, b.lanes)), blocks)
            first += blocks * parts

    def tile(self, x: ir.Value, w: ir.Value, blocks: int) -> None:
        b, count = self.b, self.tiling.count
        pixels = {pixel: pixel * b.lanes for pixel in range(self.tiling.pixels)}
        self.sums = Tile(blocks, len(pixels), [b.splat(0.0)] * (blocks * len(pixels)))
        whole, rest = divmod(self.spec.channels, b.lanes)
        if whole:
            nest = [Reduction(whole, count * b.lanes), Reduction(b.lanes, 1)]
            accumulate(b, self.sums, x, w, pixels, nest)
        if rest:
            x = b.at(x, whole * count * b.lanes)
            w = b.at(w, whole * b.lanes * blocks * b.lanes)
            accumulate(b, self.sums, x, w, pixels, [Reduction(rest, 1)])

    def keep(self, into: ir.Value, blocks: int) -> None:
        """Store the sums of a register tile."""
        for i, value in enumerate(self.sums.sums):
            block, pixel = divmod(i, self.tiling.pixels)
            offset = (block * self.tiling.count + pixel) * self.b.lanes
            self.b.vstore(value, into, offset)

    # ---- third step

    def transform_results(self, block: Index, tile: Index) -> None:
        b, tiling = self.b, self.tiling
        image, row, column = self.position(tile)
        start = b.mul(b.add(b.mul(block, tiling.count), tile), b.lanes)
        source = b.at(self.products, start)
        block = b.add(block, b.mul(self.chunk, tiling.chunk))
        for height in self.extents(0, row):
            for width in self.extents(1, column):
                values = self.results(source, height, width)
                self.store((image, block, row, column), values)

    def extents(self, number: int, tile: Index) -> Iterator[int]:
        """How many rows (or columns) of a tile are results: one code for whole tiles, and one for
        those at the end that are not."""
        axis, step = self.g.axes[number], self.tiling.tile[number]
        rest, last = axis.out % step, self.g.grid[number] - 1
        if not rest or not last:
            yield rest or step
            return
        with self.b.either(self.b.less(tile, last)) as (yes, no):
            with yes:
                yield step
            with no:
                yield rest

    def results(self, source: ir.Value, height: int, width: int) -> list[list[ir.Value]]:
        """The first height x width results of a tile."""
        b, g = self.b, self.g
        rows, columns = (t.results for t in g.transforms)
        step = g.result_plane
        half = []
        for j in range(g.sides[1]):
            column = [b.vload(source, (i * g.sides[1] + j) * step) for i in range(g.sides[0])]
            half.append(multiply(b, rows[:height], column))
        return [multiply(b, columns[:width], row) for row in zip(*half, strict=True)]

    def store(self, position: tuple[Index, ...], values: list[list[ir.Value]]) -> None:
        b, tile, pool = self.b, self.tiling.tile, self.spec.pool
        image, block, row, column = position
        row, column = b.mul(row, tile[0]), b.mul(column, tile[1])
        if self.bias is not None:
            bias = b.vload(self.bias, b.mul(block, b.lanes))
            values = [[b.ir.fadd(value, bias) for value in line] for line in values]
        values = self.finished((image, block, row, column), values)
        if pool is not None:
            _, *sides = pool.sides
            values = pool.of(b, values, (sides[0], sides[1]))
            row, column = b.div(row, sides[0]), b.div(column, sides[1])
        width, lies = self.spec.y_sizes[-1], self.spec.y_strides
        y = b.at(self.y, self.offset(lies, width, (image, block, row, column)))
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                b.vstore(value, y, (i * width + j) * lies.pixel)

    def finished(self, position: tuple[Index, ...], values: list[list[ir.Value]]) -> list[list]:
        """The results of a tile after the epilogue, which sees the whole result."""
        epilogue = self.epilogue
        if epilogue is None:
            return values
        b, width, lies = self.b, self.spec.conv_sizes[-1], self.spec.conv_strides
        image, block, row, column = position
        base = self.offset(lies, width, position)

        def finish(value: ir.Value, i: int, j: int) -> ir.Value:
            where = self.coordinates(image, block, b.add(row, i), b.add(column, j))
            near = (i * width + j) * lies.pixel
            return epilogue(b, value, Place(b.add(base, near), where, b.lanes))

        return [
            [finish(value, i, j) for j, value in enumerate(line)] for i, line in enumerate(values)
        ]

    def offset(self, lies: Strides, width: int, position: tuple[Index, ...]) -> Index:
        """Where the pixel at (image, block, row, column) of an activation lies."""
        b = self.b
        image, block, row, column = position
        base = b.add(b.mul(block, lies.plane), b.mul(image, lies.image))
        return b.add(base, b.mul(b.add(b.mul(row, width), column), lies.pixel))

    def coordinates(self, image: Index, block: Index, row: Index, column: Index) -> Callable:
        spatial = (row, column) if len(self.spec.sizes) == 2 else (column,)
        return lambda: (block, image, *spatial)
