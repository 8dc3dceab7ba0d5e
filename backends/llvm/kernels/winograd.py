"""Winograd convolution F(m x m', r x r') onto Blocked(V): fewer products than taps times results.

For stride 1, and groups of whole blocks of channels. A third axis in front is not transformed: its
taps are so many more channels, of other slices. Results one dilation apart are a phase, which is a
convolution by itself: each tile belongs to one. A work item is (range of tiles,
chunk of output blocks) and does three things within its scratch, which is meant to stay in L2: it
transforms its tiles of input, for all channels; multiplies, for each of the n x n' products of a
tile, transformed weights by tiles (the micro-kernel, whose pixels are tiles); and transforms back.
Items of several chunks repeat the first step, which costs less than threads waiting for another.

Rounding differs from that of direct convolution (see winograd_transforms.py), so that exact
precision rules it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Condition, Index
from cnnir.backends.llvm.kernels.edges import element_place, line_place
from cnnir.backends.llvm.kernels.microkernel import FOLLOWING, Ahead, Reduction, Tile, accumulate
from cnnir.backends.llvm.kernels.small_matrix import multiply
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    Strides,
    repeats,
    shares,
)
from cnnir.backends.llvm.kernels.winograd_tiling import (
    PRODUCTS,
    Geometry,
    Position,
    Tiling,
    choose,
    estimate,
    results,
    tile_kinds,
    tilings,
)
from cnnir.backends.llvm.kernels.winograd_weights import pack, packed_size

__all__ = [
    "ConvSpec", "Tiling", "choose", "emit", "estimate", "pack", "packed_size", "reject", "tilings",
]  # fmt: skip


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    _, height, width = spec.axes()
    sizes = (spec.channels // spec.groups, spec.filters // spec.groups)
    if spec.groups > 1 and any(size % spec.lanes for size in sizes):
        return f"{spec.groups} groups that are not whole blocks"
    if spec.plain:
        return "input is not blocked"
    if any(axis.stride > 1 for axis in (height, width)):
        return f"stride {spec.stride}"
    if height.taps * width.taps == 1:
        return "one tap has nothing to save"
    if not results(height.taps) or not results(width.taps):
        return f"more than {max(PRODUCTS) - 1} taps"
    if spec.pool and max(height.dilation, width.dilation) > 1:
        return "pooling and dilation"
    if spec.pool and not any(tile_kinds(spec)):
        return f"no tile holds whole windows of {'x'.join(map(str, spec.pool.window))}"
    return spec.problem()


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
        self.group, _ = b.unflatten(chunk, [self.spec.groups, g.chunks // self.spec.groups])
        b.vstore(b.splat(0.0), self.zeros)
        with b.loop(g.planes) as plane, b.loop(self.tiling.count) as tile:
            self.transform_input(plane.index, tile.index)
        with b.loop(g.products) as product:
            self.multiply(product.index)
        with b.loop(self.tiling.chunk) as block, b.loop(self.tiling.count) as tile:
            self.transform_results(block.index, tile.index)

    def position(self, tile: Index) -> Position:
        """Where a tile of this item belongs."""
        numbers = self.b.unflatten(self.b.add(self.first, tile), self.g.extents)
        image, slice, phase, row, other, column = numbers
        return Position(image, slice, (phase, other), (row, column))

    # ---- first step

    def transform_input(self, plane: Index, tile: Index) -> None:
        b, g = self.b, self.g
        rows, columns = (t.inputs for t in g.transforms)
        tap, block = b.unflatten(plane, [g.depth.taps, g.in_blocks])
        seen = self.seen(tap, block, self.position(tile))
        half = [multiply(b, rows, column) for column in zip(*seen, strict=True)]
        start = b.mul(b.add(b.mul(plane, self.tiling.count), tile), b.lanes)
        offset = 0
        for row in zip(*half, strict=True):
            for value in multiply(b, columns, row):
                b.vstore(value, self.inputs, b.add(start, offset))
                offset += g.input_plane

    def seen(self, tap: Index, block: Index, at: Position) -> list[list[ir.Value]]:
        """The vectors of input that a tile sees through a tap of depth; zeros outside."""
        b, g = self.b, self.g
        depth, (height, width) = g.depth, g.axes
        at_depth = b.add(b.mul(at.slice, depth.stride), b.mul(tap, depth.dilation))
        slice, there = line_place(b, depth, at_depth)
        top, left = (b.add(self.start(i, at), -axis.begin) for i, axis in enumerate(g.axes))
        lies, block = self.spec.x_strides, b.add(b.mul(self.group, g.in_blocks), block)
        pixel = b.add(b.mul(b.add(b.mul(slice, height.size), top), width.size), left)
        start = b.add(
            b.mul(block, lies.plane), b.mul(at.image, lies.image), b.mul(pixel, lies.pixel)
        )
        columns = [self.element(1, left, j) for j in range(g.sides[1])]
        vectors: list[list[ir.Value]] = []
        for i in range(g.sides[0]):
            moved, row_inside = self.element(0, top, i)
            down = b.mul(b.add(moved, i * height.dilation), width.size)
            line = b.at(self.x, b.add(start, b.mul(down, lies.pixel)))
            row_inside = b.both(there, row_inside)
            vectors.append([])
            for j, (moved, column_inside) in enumerate(columns):
                known = b.both(row_inside, column_inside)
                source = b.at(line, b.mul(b.add(moved, j * width.dilation), lies.pixel))
                if known is not True:
                    source = b.ir.select(b.truth(known), source, self.zeros)
                vectors[-1].append(b.vload(source))
        return vectors

    def start(self, number: int, at: Position) -> Index:
        """The first row (or column) of results of a tile."""
        step, dilation = self.tiling.tile[number], self.g.axes[number].dilation
        return self.b.add(self.b.mul(at.tile[number], step * dilation), at.phase[number])

    def element(self, number: int, start: Index, offset: int) -> tuple[Index, Condition]:
        """How far from its own place element `offset` of those that a tile sees along an axis is
        read, and whether it is read at all."""
        axis, step = self.g.axes[number], self.tiling.tile[number]
        low = offset * axis.dilation - axis.begin
        high = low + ((self.g.grid[number] - 1) * step + 1) * axis.dilation - 1
        own = self.b.add(start, offset * axis.dilation)
        place, known = element_place(self.b, axis, own, low, high)
        return 0 if place is own else self.b.sub(place, own), known

    # ---- second step

    def multiply(self, product: Index) -> None:
        b, g, tiling = self.b, self.g, self.tiling
        x = b.at(self.inputs, b.mul(product, g.input_plane))
        into = b.at(self.products, b.mul(product, g.result_plane))
        step = g.channels * b.lanes  # weights of one block for one product
        w = b.at(self.w, b.mul(b.add(b.mul(self.chunk, g.products), product), tiling.chunk * step))
        first = 0
        for blocks, parts in repeats(shares(tiling.chunk, tiling.blocks)):
            with b.loop(parts) as part:
                block = b.add(b.mul(part.index, blocks), first)
                panel = b.at(w, b.mul(block, step))
                with b.loop(g.turns) as turn:
                    tile = b.min(b.mul(turn.index, tiling.pixels), tiling.count - tiling.pixels)
                    ahead = self.ahead(panel, blocks * step, turn.index)
                    self.tile(b.at(x, b.mul(tile, b.lanes)), panel, blocks, ahead)
                    start = b.add(b.mul(block, tiling.count), tile)
                    self.keep(b.at(into, b.mul(start, b.lanes)), blocks)
            first += blocks * parts

    def ahead(self, panel: ir.Value, size: int, turn: Index) -> Ahead:
        """What a turn of a panel asks for; the next panel follows in memory."""
        if not self.g.spread:
            return FOLLOWING
        share = -(-size // self.g.turns)
        start = self.b.add(size, self.b.mul(turn, share))
        return Ahead(self.b.at(panel, start), self.g.turns)

    def tile(self, x: ir.Value, w: ir.Value, blocks: int, ahead: Ahead) -> None:
        b, count = self.b, self.tiling.count
        pixels = {pixel: pixel * b.lanes for pixel in range(self.tiling.pixels)}
        self.sums = Tile(blocks, len(pixels), [b.splat(0.0)] * (blocks * len(pixels)))
        taps, channels = self.g.depth.taps, self.spec.channels // self.spec.groups
        whole, rest = divmod(channels, b.lanes)
        if not rest:
            taps, whole = 1, taps * whole  # slices follow each other as blocks do
        for tap in range(taps):
            x_tap = b.at(x, tap * self.g.in_blocks * count * b.lanes)
            used = tap * channels * blocks * b.lanes
            if whole:
                nest = [Reduction(whole, count * b.lanes), Reduction(b.lanes, 1)]
                coming = ahead.later(b, used)
                accumulate(b, self.sums, x_tap, b.at(w, used), pixels, nest, ahead=coming)
            if rest:
                x_tap = b.at(x_tap, whole * count * b.lanes)
                used += whole * b.lanes * blocks * b.lanes
                nest, coming = [Reduction(rest, 1)], ahead.later(b, used)
                accumulate(b, self.sums, x_tap, b.at(w, used), pixels, nest, ahead=coming)

    def keep(self, into: ir.Value, blocks: int) -> None:
        """Store the sums of a register tile."""
        for i, value in enumerate(self.sums.sums):
            block, pixel = divmod(i, self.tiling.pixels)
            offset = (block * self.tiling.count + pixel) * self.b.lanes
            self.b.vstore(value, into, offset)

    # ---- third step

    def transform_results(self, block: Index, tile: Index) -> None:
        b, tiling = self.b, self.tiling
        at = self.position(tile)
        start = b.mul(b.add(b.mul(block, tiling.count), tile), b.lanes)
        source = b.at(self.products, start)
        block = b.add(block, b.mul(self.chunk, tiling.chunk))
        for height in self.extents(0, at):
            for width in self.extents(1, at):
                if height and width:
                    self.store(block, at, self.results(source, height, width))

    def extents(self, number: int, at: Position) -> Iterator[int]:
        """How many rows (or columns) of a tile are results: one code for whole tiles, and one for
        those at the end that are not. Later phases may have one less."""
        b, axis, step = self.b, self.g.axes[number], self.tiling.tile[number]
        last, longer = self.g.grid[number] - 1, axis.out % axis.dilation
        rest = -(-axis.out // axis.dilation) - last * step
        if not longer and (rest == step or not last):
            yield rest
            return
        with b.either(b.less(at.tile[number], last)) as (yes, no):
            with yes:
                yield step
            with no:
                if not longer:
                    yield rest
                    return
                with b.either(b.less(at.phase[number], longer)) as (more, less):
                    with more:
                        yield rest
                    with less:
                        yield rest - 1

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

    def store(self, block: Index, at: Position, values: list[list[ir.Value]]) -> None:
        b, g, pool = self.b, self.g, self.spec.pool
        height, width = g.axes
        row, column = (self.start(i, at) for i in range(2))
        if self.bias is not None:
            bias = b.vload(self.bias, b.mul(block, b.lanes))
            values = [[b.ir.fadd(value, bias) for value in line] for line in values]
        values = self.finished(block, at, (row, column), values)
        _, *sides = pool.sides if pool else (1, 1, 1)
        if pool is not None:
            values = pool.of(b, values, (sides[0], sides[1]))
            row, column = b.div(row, sides[0]), b.div(column, sides[1])
        lies, sizes = self.spec.y_strides, (height.out // sides[0], width.out // sides[1])
        y = b.at(self.y, self.offset(lies, sizes, block, at, (row, column)))
        for i, line in enumerate(values):
            for j, value in enumerate(line):
                b.vstore(
                    value, y, (i * height.dilation * sizes[1] + j * width.dilation) * lies.pixel
                )

    def finished(
        self, block: Index, at: Position, start: tuple[Index, Index], values: list[list[ir.Value]]
    ) -> list[list]:
        """The results of a tile after the epilogue, which sees the whole result."""
        epilogue = self.epilogue
        if epilogue is None:
            return values
        b, lies, (height, width) = self.b, self.spec.conv_strides, self.g.axes
        sizes = (1, *self.spec.conv_sizes)[-2:]
        base = self.offset(lies, sizes, block, at, start)

        def finish(value: ir.Value, i: int, j: int) -> ir.Value:
            down, right = i * height.dilation, j * width.dilation
            pixel = (at.slice, b.add(start[0], down), b.add(start[1], right))
            near = b.add(base, (down * sizes[1] + right) * lies.pixel)
            where = self.coordinates(block, at.image, pixel)
            return epilogue(b, value, Place(near, where, b.lanes))

        return [
            [finish(value, i, j) for j, value in enumerate(line)] for i, line in enumerate(values)
        ]

    def offset(
        self,
        lies: Strides,
        sizes: tuple[int, ...],
        block: Index,
        at: Position,
        start: tuple[Index, Index],
    ) -> Index:
        """Where the pixel at `start` of an activation with such rows and columns lies."""
        b = self.b
        pixel = b.flatten([at.slice, *start], [self.g.depth.out, *sizes])
        base = b.add(b.mul(block, lies.plane), b.mul(at.image, lies.image))
        return b.add(base, b.mul(pixel, lies.pixel))

    def coordinates(self, block: Index, image: Index, pixel: tuple[Index, ...]) -> Callable:
        return lambda: (block, image, *pixel[-len(self.spec.sizes) :])
