"""FFT convolution of one or two axes, row-major: products of values instead of sums over taps.

For stride 1, constant weights and any groups. A correlation of two polynomials is the product of
their values, one of them conjugate; a tile of the image is one, its results are coefficients that
are not reached by what wraps around (fft_tiling.py). A work item is a tile and some filters of a
group, and stays within its scratch:

    each channel   rows of pixels    -> transform along the first axis, V columns side by side
                   squares of V x V  -> turned round
                   columns           -> transform along the second, V rows side by side
    each filter    values            -> times those of the weights, added over the channels
                   and back the same way, to rows of results

Lanes beyond the last row or column of a tile hold anything, and are dropped when they are turned
round. Where a tile is too short for its last results (fft_tiling.py), what they lack of each row is
kept between the transforms of both axes, and added to them there.

Tiles are real: the first axis has half as many complex values (fft.py says how, and fft_circle.py
for circular images as long as a tile). A single axis is a rectangle of rows one after the other;
between its two transforms each value is turned (Cooley and Tukey's factors). Rounding differs from
that of the definition, so exact precision rules it out; and what is not finite spreads over its
tile.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels import line
from cnnir.backends.llvm.kernels.edges import line_place, place
from cnnir.backends.llvm.kernels.fft import Area, Complex, add, subtract, times
from cnnir.backends.llvm.kernels.fft_tiling import (
    Geometry,
    Tiling,
    choose,
    estimate,
    fitted,
    none_fits,
    tilings,
)
from cnnir.backends.llvm.kernels.fft_weights import pack, packed_size
from cnnir.backends.llvm.kernels.spec import (
    ConvSpec,
    Epilogue,
    KernelCode,
    Place,
    Strides,
    repeats,
    shares,
)
from cnnir.backends.llvm.kernels.transposed import transposed
from cnnir.ops.boundary import ZERO, reads

__all__ = [
    "ConvSpec", "Tiling", "choose", "emit", "estimate", "fitted", "pack", "packed_size", "reject",
    "tilings",
]  # fmt: skip

FEWEST = 16  # taps from which on it is considered


def reject(spec: ConvSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if len(spec.sizes) > 2:
        return f"{len(spec.sizes)} spatial axes"
    if any(step > 1 for step in spec.stride):
        return f"stride {spec.stride}"
    if prod(spec.kernel) < FEWEST:
        return f"{prod(spec.kernel)} taps, too few to gain from"
    if spec.pool:
        return "it stores what it computes"
    if not spec.plain:
        return "input is not row-major"
    rank, words = len(spec.sizes), reads(spec.boundary, spec.padding)
    for axis, (word, size) in enumerate(zip(words, spec.sizes, strict=True)):
        if word != ZERO and max(spec.padding[axis], spec.padding[rank + axis]) > size:
            return f"padding goes round {word} more than once"
    if problem := spec.problem():
        return problem
    return "no tile fits the kernel, or the memory for its weights" if none_fits(spec) else None


def emit(
    module: ir.Module,
    name: str,
    spec: ConvSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers x, w, [bias], `operands` epilogue operands, y; y is row-major."""
    g = Geometry(spec, tiling)
    before = 2 + spec.bias
    b = Builder(module, name, before + operands + 1, spec.lanes, noalias=[before + operands])
    _Emitter(b, g, epilogue).run()
    return KernelCode(name, g.items, 4 * g.scratch, spec.flops, before, _summary(g), b.finish())


def _summary(g: Geometry) -> str:
    def by(values) -> str:
        return " x ".join(map(str, values))

    passes = " and ".join(map(str, g.transforms))
    return (
        f"FFT of {by(g.sides)} real values by passes of {passes} on {g.spec.lanes} lanes, "
        f"{by(c.results for c in g.cuts)} results each, {by(c.tiles for c in g.cuts)} tiles, "
        f"{g.tiling.chunk} of {g.filters} filters an item"
    )


class _Emitter:
    """The steps of a work item."""

    def __init__(self, b: Builder, g: Geometry, epilogue: Epilogue | None) -> None:
        self.b, self.g, self.spec, self.epilogue = b, g, g.spec, epilogue
        self.x, self.w, *rest, self.y = b.pointers
        self.bias = rest[0] if g.spec.bias else None
        self.one = b.scratch
        transformed = 2 * b.lanes * g.vectors
        self.other = b.at(self.one, g.room)
        self.seen = b.at(self.other, g.room)
        self.sums = b.at(self.seen, transformed * g.apart)
        self.missing = b.at(self.sums, transformed * (g.block if g.channels > 1 else 0))
        twist, rows, _ = g.tables
        self.last_taps = b.at(self.w, g.weights)
        self.twist = b.at(self.last_taps, g.corrections)
        self.row_table = b.at(self.twist, twist)
        self.column_table = b.at(self.row_table, rows)

    def run(self) -> None:
        b, g = self.b, self.g
        self.group, chunk, self.image, *self.tile = b.unflatten(b.item, g.extents)
        with b.loop(g.channels) as channel:
            self.read(channel.index)
        first = b.add(b.mul(self.group, g.filters), b.mul(chunk, g.tiling.chunk))
        for count, parts in repeats(shares(g.tiling.chunk, g.block)):
            with b.loop(parts) as part:
                filter = b.add(first, b.mul(part.index, count))
                if g.channels > 1:
                    self.multiply(filter, count)
                with b.loop(count) as number:
                    self.write(b.add(filter, number.index), number.index)
            first = b.add(first, count * parts)

    # ---- forward

    def read(self, channel: Index) -> None:
        """Transform a tile of a channel."""
        b, g, (wide, high) = self.b, self.g, self.g.panels
        rows, columns = g.transforms
        plane = b.add(b.mul(self.group, g.channels), channel)
        with b.loop(wide) as panel:
            area = self.area(self.one, panel.index, g.rows)
            load = self.pixels(plane, b.mul(panel.index, b.lanes))
            rows.forward(b, self.row_table, load, area.store, area)
        with b.loop(high) as down, b.loop(wide) as across:
            square = self.vectors(self.one, across.index, down.index, g.rows, 1)
            self.keep(square, self.other, down.index, across.index, g.tiling.columns)
        with b.loop(high) as panel:
            area = self.area(self.other, panel.index, g.tiling.columns)
            seen = self.area(self.seen, panel.index, g.tiling.columns * g.apart)
            if g.short:
                self.keep_missing(area, panel.index, channel)

            def store(i: Index, value: Complex) -> None:
                seen.store(b.add(b.mul(i, g.apart), channel), value)

            columns.forward(b, self.column_table, area.load, store, area)

    def pixels(self, plane: Index, column: Index) -> Callable[[Index], Complex]:
        """What gives row i of a tile, V pixels from `column` on, and the row half a tile below."""
        b, g = self.b, self.g
        lies = self.spec.x_strides
        base = b.add(b.mul(plane, lies.plane), b.mul(self.image, lies.image))
        starts = [b.mul(tile, cut.results) for tile, cut in zip(self.tile, g.cuts, strict=True)]
        along = g.axes[-1]
        first = b.add(starts[-1], column, -along.begin)

        def pixel(i: Index) -> ir.Value:
            if g.twisted:
                behind = b.add(first, b.mul(i, g.tiling.columns))
                return line.read(b, self.x, base, behind, along)
            row, there = line_place(b, g.axes[0], b.add(starts[0], i))
            start = b.add(base, b.mul(row, along.size))
            return line.read(b, self.x, start, first, along, there, ahead=b.lanes)

        return lambda i: (pixel(i), pixel(b.add(i, g.tiling.rows)))

    # ---- tiles that are too short

    def keep_missing(self, area: Area, panel: Index, channel: Index) -> None:
        """What the last results lack of a channel: pixels behind the end of each row, less those at
        its front, which they see instead. All of them are in the tile."""
        b, g = self.b, self.g
        axis, missing = g.axes[-1], self.area(self.missing, panel, g.short * g.channels)
        with b.loop(g.short) as i:
            behind = b.add(i.index, g.sides[-1] - axis.begin)
            end = axis.span(axis.out) - axis.begin
            wanted = b.add(place(b, axis, behind, end - g.short, end - 1), axis.begin)
            lacking = subtract(b, area.load(wanted), area.load(i.index))
            missing.store(b.add(b.mul(i.index, g.channels), channel), lacking)

    def correct(self, area: Area, filter: Index, panel: Index) -> None:
        """Add to the last results what they lack."""
        b, g = self.b, self.g
        axis, zero = g.axes[-1], b.splat(0.0)
        missing = self.area(self.missing, panel, g.short * g.channels)
        row = b.add(b.mul(filter, g.panels[1]), panel)
        taps = self.area(self.last_taps, row, g.last_taps * g.channels)
        with b.loop(g.short) as result:
            seen = b.add(b.div(result.index, axis.dilation), 1)
            with b.loop(seen, carry=[zero] * 4) as tap:
                pixel = b.sub(result.index, b.mul(tap.index, axis.dilation))
                with b.loop(g.channels, carry=tap.state) as channel:
                    x = missing.load(b.add(b.mul(pixel, g.channels), channel.index))
                    w = taps.load(b.add(b.mul(tap.index, g.channels), channel.index))
                    for k, factors in enumerate(product(x, w)):
                        channel.state[k] = b.fma(*factors, channel.state[k])
                tap.state[:] = channel.result
            real, one, other, negative = tap.result
            lacking = b.ir.fsub(real, negative), b.ir.fadd(one, other)
            at = b.add(result.index, axis.out - g.short)
            area.store(at, add(b, area.load(at), lacking))

    # ---- squares

    def area(self, start: ir.Value, panel: Index, length: int) -> Area:
        return Area(self.b, self.b.at(start, self.b.mul(panel, 2 * length * self.b.lanes)))

    def vectors(
        self, start: ir.Value, panel: Index, square: Index, length: int, sign: int
    ) -> list[Complex]:
        """V vectors of a panel, turned by the twist where there is one to be."""
        b = self.b
        area, first = self.area(start, panel, length), b.mul(square, b.lanes)
        values = [area.load(b.add(first, i)) for i in range(b.lanes)]
        if self.g.twisted and sign > 0:
            values = self.twisted(values, panel, first, sign)
        return values

    def twisted(
        self, values: list[Complex], panel: Index, first: Index, sign: int
    ) -> list[Complex]:
        twist = self.area(self.twist, panel, self.g.tiling.rows)
        places = [self.b.add(first, i) for i in range(self.b.lanes)]
        return [
            times(self.b, value, twist.load(i), sign)
            for value, i in zip(values, places, strict=True)
        ]

    def keep(
        self, square: list[Complex], into: ir.Value, panel: Index, place: Index, length: int
    ) -> None:
        """Turn a square round and store it."""
        b = self.b
        area, first = self.area(into, panel, length), b.mul(place, b.lanes)
        real, imaginary = (transposed(b, list(part)) for part in zip(*square, strict=True))
        values: list[Complex] = list(zip(real, imaginary, strict=True))
        if self.g.twisted and into is self.one:
            values = self.twisted(values, panel, first, -1)
        for i, value in enumerate(values):
            area.store(b.add(first, i), value)

    # ---- back

    def multiply(self, filter: Index, count: int) -> None:
        """The sums over channels of products, for some filters."""
        b, g = self.b, self.g
        x, sums = Area(b, self.seen), Area(b, self.sums)
        w = self.area(self.w, filter, g.channels * g.vectors)
        with b.loop(g.vectors) as place:
            with b.loop(g.channels, carry=[b.splat(0.0)] * (2 * count)) as channel:
                real, imaginary = x.load(b.add(b.mul(place.index, g.apart), channel.index))
                i = b.add(b.mul(place.index, g.channels), channel.index)
                negative, state = b.ir.fneg(imaginary), channel.state
                for k in range(count):
                    factor = w.load(b.add(b.mul(i, count), k))
                    state[2 * k] = b.fma(real, factor[0], state[2 * k])
                    state[2 * k + 1] = b.fma(real, factor[1], state[2 * k + 1])
                    state[2 * k] = b.fma(negative, factor[1], state[2 * k])
                    state[2 * k + 1] = b.fma(imaginary, factor[0], state[2 * k + 1])
            for k in range(count):
                result = channel.result[2 * k], channel.result[2 * k + 1]
                sums.store(b.add(place.index, k * g.vectors), result)

    def products(self, filter: Index, number: Index, panel: Index) -> Callable[[Index], Complex]:
        """What gives the values of a filter's results."""
        b, g = self.b, self.g
        start = b.mul(panel, g.tiling.columns)
        if g.channels > 1:
            start = b.add(b.mul(number, g.vectors), start)
            return lambda i: Area(b, self.sums).load(b.add(start, i))
        x = self.area(self.seen, panel, g.tiling.columns)
        w = self.area(self.w, filter, g.vectors)
        return lambda i: times(b, x.load(i), w.load(b.add(start, i)))

    def write(self, filter: Index, number: Index) -> None:
        """The results of a filter, one of those that were multiplied, in this tile."""
        b, g, (_, high) = self.b, self.g, self.g.panels
        rows, columns = g.transforms
        with b.loop(high) as panel:
            area = self.area(self.other, panel.index, g.tiling.columns)
            load = self.products(filter, number, panel.index)
            columns.backward(b, self.column_table, load, area.store, area)
            if g.short:
                self.correct(area, filter, panel.index)
        with b.loop(g.stored_panels) as across:
            with b.loop(high) as down:
                square = self.vectors(self.other, down.index, across.index, g.tiling.columns, -1)
                self.keep(square, self.one, across.index, down.index, g.rows)
            area = self.area(self.one, across.index, g.rows)
            store = self.results(filter, b.mul(across.index, b.lanes))
            rows.backward(b, self.row_table, area.load, store, area)

    def results(self, filter: Index, column: Index) -> Callable[[Index, Complex], None]:
        """What stores V results from `column` on in row i of a tile, and half a tile below."""
        b, g, rows = self.b, self.g, self.g.tiling.rows
        limits = [
            b.min(b.sub(axis.out, b.mul(tile, cut.results)), cut.results)
            for axis, tile, cut in zip(g.axes, self.tile, g.cuts, strict=True)
        ]
        starts = [b.mul(tile, cut.results) for tile, cut in zip(self.tile, g.cuts, strict=True)]

        def store(i: Index, value: ir.Value) -> None:
            if g.twisted:
                first = b.add(b.mul(i, g.tiling.columns), column)
                with b.when(b.less(first, limits[0])):
                    self.put(filter, (b.add(starts[0], first),), b.sub(limits[0], first), value)
                return
            with b.when(b.both(b.less(i, limits[0]), b.less(column, limits[1]))):
                at = (b.add(starts[0], i), b.add(starts[1], column))
                self.put(filter, at, b.sub(limits[1], column), value)

        def both(i: Index, value: Complex) -> None:
            store(i, value[0])
            if g.twisted or g.cuts[0].results > rows:
                store(b.add(i, rows), value[1])

        return both

    def put(self, filter: Index, pixel: tuple[Index, ...], count: Index, value: ir.Value) -> None:
        """Finish and store the first `count` of V results."""
        b, sizes = self.b, self.spec.out_sizes
        lies = Strides.plain(self.spec.filters, sizes)
        if self.bias is not None:
            value = b.ir.fadd(value, b.broadcast(self.bias, filter))
        offset = b.add(
            b.mul(filter, lies.plane), b.mul(self.image, lies.image), b.flatten(pixel, sizes)
        )
        if self.epilogue is not None:
            plane = b.add(b.mul(self.image, self.spec.filters), filter)
            row = b.flatten([plane, *pixel[:-1]], [0, *sizes[:-1]])
            value = self.epilogue(b, value, Place(offset, lambda: (0, row, pixel[-1]), b.lanes))
        line.write(b, value, self.y, offset, count)
