"""Walking windows over Blocked(V) input in place: what depthwise convolution and pooling share.

A row of results is cut in tiles. Tiles whose windows lie inside the input run in a loop; the few at
the ends are emitted one by one, with the taps that fall outside left out, or reading where the
boundary says. Rows and slices beyond the edge are left out by loop bounds, or are others by
arithmetic once a row of taps. So nothing is copied, and no inner loop tests anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.edges import Segment, segments, tap_place, tap_range
from cnnir.backends.llvm.kernels.spec import Axis, Epilogue, Place, Strides

MAX_EDGES = 6  # tiles emitted one by one in a row; more would be a lot of code for a rare shape
ITEM_BYTES = 64 << 10  # about as much input an item, so that items are neither many nor few


@dataclass(frozen=True)
class Windows:
    """The windows of a problem, with x and y in blocks of V channels.

    Each input block gives `phases` neighbouring output blocks.
    """

    batch: int
    out_blocks: int
    axes: tuple[Axis, Axis, Axis]
    rank: int  # of the spatial part, before leading axes of size 1 were put in front
    tile: int  # results in a tile, at most
    lanes: int
    phases: int = 1

    @cached_property
    def band(self) -> int:
        """Rows of results in a work item."""
        _, height, width = self.axes
        row_bytes = 4 * self.lanes * width.size * height.stride
        return max(1, min(height.out, ITEM_BYTES // row_bytes))

    @property
    def bands(self) -> int:
        return -(-self.axes[1].out // self.band)

    @property
    def items(self) -> int:
        return self.batch * self.out_blocks * self.axes[0].out * self.bands

    @property
    def x_strides(self) -> Strides:
        return Strides.blocked(self.batch, [axis.size for axis in self.axes], self.lanes)

    @property
    def y_strides(self) -> Strides:
        return Strides.blocked(self.batch, [axis.out for axis in self.axes], self.lanes)

    @property
    def line(self) -> int:
        """From one row of the input to the next, in floats."""
        return self.axes[2].size * self.lanes

    @property
    def segments(self) -> tuple[Segment, ...]:
        return segments(self.axes[2], self.tile)

    def problem(self) -> str | None:
        if len(self.segments) > MAX_EDGES:
            return f"{len(self.segments)} different tiles in a row, too many to emit"
        return None


@dataclass
class Tile:
    """A tile of results being emitted."""

    windows: Windows
    image: Index
    block: Index  # of the output
    phase: int
    slice: Index
    row: Index
    column: Index
    segment: Segment
    slice_taps: tuple[Index, Index]
    row_taps: tuple[Index, Index]
    plane: ir.Value  # the input block

    def reduce(
        self,
        b: Builder,
        state: Sequence[ir.Value],
        step: Callable[[list, Callable[[int, int], ir.Value], Index], list],
    ) -> list[ir.Value]:
        """Loop over the rows of the windows: state = step(state, load, row of taps).

        `load(p, t)` is the vector that result p sees through tap t; each is loaded once a row.
        """
        depth, height, _ = self.windows.axes
        for low, high in (self.slice_taps, self.row_taps):
            if isinstance(low, int) and isinstance(high, int) and low >= high:
                return list(state)  # known to see nothing but padding
        with b.loop(self.slice_taps[1], self.slice_taps[0], carry=state) as s:
            with b.loop(self.row_taps[1], self.row_taps[0], carry=s.state) as r:
                z = tap_place(b, depth, self.slice, s.index)
                i = tap_place(b, height, self.row, r.index)
                line = b.at(self.plane, b.mul(self.windows.line, b.add(b.mul(z, height.size), i)))
                load = self.loader(b, [line])
                r.state[:] = step(list(r.state), load, b.add(b.mul(s.index, height.taps), r.index))
            s.state[:] = r.result
        return s.result

    def loader(self, b: Builder, lines: Sequence[ir.Value]) -> Callable[[int, int], ir.Value]:
        """load(p, tap): the sum of what result p sees through a tap in lines of the input."""
        width, lanes, part = self.windows.axes[2], b.lanes, self.segment
        origin = b.sub(b.mul(self.column, width.stride), width.begin)
        shift = min(origin, 0) if isinstance(origin, int) else 0  # stay inside of the buffer
        starts = [b.at(line, b.mul(b.add(origin, -shift), lanes)) for line in lines]
        loaded: dict[int, ir.Value] = {}

        def load(p: int, tap: int) -> ir.Value:
            column = p * width.stride + tap * width.dilation + shift
            column += part.shifts[p][part.taps[p].index(tap)]
            if column not in loaded:
                first, *others = (b.vload(start, column * lanes) for start in starts)
                for other in others:
                    first = b.ir.fadd(first, other)
                loaded[column] = first
            return loaded[column]

        return load

    def store(
        self, b: Builder, y: ir.Value, values: Sequence[ir.Value], epilogue: Epilogue | None
    ) -> None:
        w, strides = self.windows, self.windows.y_strides
        at = b.flatten([self.slice, self.row, self.column], [axis.out for axis in w.axes])
        base = b.add(b.mul(self.block, strides.plane), b.mul(self.image, strides.image))
        base = b.add(base, b.mul(at, strides.pixel))
        target = b.at(y, base)
        for p, value in enumerate(values):
            if epilogue is not None:
                place = Place(b.add(base, p * b.lanes), self._where(b, p), b.lanes)
                value = epilogue(b, value, place)
            b.vstore(value, target, p * b.lanes)

    def _where(self, b: Builder, p: int) -> Callable[[], tuple[Index, ...]]:
        def coordinates() -> tuple[Index, ...]:
            spatial = (self.slice, self.row, b.add(self.column, p))
            return (self.block, self.image, *spatial[3 - self.windows.rank :])

        return coordinates


def tiles(b: Builder, w: Windows, x: ir.Value) -> Iterator[Tile]:
    """Emit the loops of a work item; yields each tile to fill in."""
    block, image, z, band = b.unflatten(b.item, [w.out_blocks, w.batch, w.axes[0].out, w.bands])
    source = b.mul(b.div(block, w.phases), w.x_strides.plane)
    plane = b.at(x, b.add(source, b.mul(image, w.x_strides.image)))
    first = b.mul(band, w.band)
    last = b.min(b.add(first, w.band), w.axes[1].out)
    slice_taps = tap_range(b, w.axes[0], z)
    for phase in range(w.phases):
        with b.when(b.equal(b.rem(block, w.phases), phase)), b.loop(last, first) as row:
            row_taps = tap_range(b, w.axes[1], row.index)
            for segment in w.segments:
                with b.loop(segment.count) as part:
                    column = b.add(b.mul(part.index, segment.width), segment.start)
                    at = (image, block, phase, z, row.index, column)
                    yield Tile(w, *at, segment, slice_taps, row_taps, plane)
