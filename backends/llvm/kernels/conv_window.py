"""The reduction of a tile of direct convolution: what its pixels see of the input, and the loops.

A tile whose pixels all see all taps is one nest of the micro-kernel. At an edge of padded input the
taps are walked in runs that the same pixels see, so what lies outside is neither read nor computed;
at a boundary that is not zero they see all, but what is outside at the place that continues it.
(One loop for several runs would be less code, but LLVM then shares inputs between taps and spills.)
"""

from __future__ import annotations

from dataclasses import dataclass

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.edges import Run, tap_place
from cnnir.backends.llvm.kernels.microkernel import BODY, Reduction, Tile, accumulate
from cnnir.backends.llvm.kernels.spec import Axis
from cnnir.ops.boundary import ZERO

EDGE_BODY = BODY // 4  # FMAs in an unrolled body: there are several, and each runs less


@dataclass(frozen=True)
class Window:
    """What the pixels of a tile see of the planes (channels, or blocks of them) of the input.

    Addresses count floats from the first plane. `origin` is where tap 0 of the first pixel would
    lie, which may be outside; `rows` and `columns` are runs of taps with the rows and columns of
    the tile that see them. `at` is the slice and the row of the tile where it is only known at run
    time which taps those are.
    """

    axes: tuple[Axis, Axis, Axis]
    strides: tuple[int, ...]  # of plane, slice, row, column
    lane: int  # stride of a channel in its plane
    origin: Index
    slices: tuple[Index, Index]  # the valid taps
    rows: tuple[Run, ...]
    columns: tuple[Run, ...]
    shape: tuple[int, int]  # rows and columns of the tile
    at: tuple[Index | None, Index | None]

    def reduce(
        self, b: Builder, tile: Tile, x: ir.Value, w: ir.Value, planes: int, lanes: int
    ) -> None:
        """Add `planes` planes of `lanes` channels to the sums of the tile."""
        whole = [(0, axis.taps) for axis in self.axes]
        seen = [self.slices, *((r.first, r.last) for r in self.rows + self.columns)]
        if seen == whole and not self._moved:
            taps = [Reduction(a.taps, s) for a, s in zip(self.axes, self._steps, strict=True)]
            nest = [Reduction(planes, self.strides[0]), *taps, Reduction(lanes, self.lane)]
            self._run(b, tile, x, w, self.origin, (self.rows[0], self.columns[0]), nest, BODY)
        elif not _empty(*self.slices):
            self._loops(b, tile, x, w, planes, lanes)

    @property
    def _moved(self) -> bool:
        """Whether slices or rows of taps have places that are only known at run time."""
        axes = zip(self.at, self.axes, strict=False)
        return any(at is not None and axis.boundary != ZERO for at, axis in axes)

    @property
    def _steps(self) -> list[int]:
        """From one tap to the next, along each axis."""
        return [a.dilation * s for a, s in zip(self.axes, self.strides[1:], strict=True)]

    def _loops(
        self, b: Builder, tile: Tile, x: ir.Value, w: ir.Value, planes: int, lanes: int
    ) -> None:
        """Loops over planes, slices and rows of taps; in them the runs of taps along the row."""
        deep, down, right = self._steps
        depth, height, width = self.axes
        vectors = lanes * tile.blocks * b.lanes
        with tile.loop(b, planes) as plane, tile.loop(b, self.slices[1], self.slices[0]) as z:
            for rows in self.rows:
                if _empty(rows.first, rows.last):
                    continue
                with tile.loop(b, rows.last, rows.first) as i:
                    offset = b.add(self.origin, b.mul(plane, self.strides[0]))
                    offset = b.add(offset, b.mul(z, deep), b.mul(i, down))
                    offset = b.add(offset, self._shift(b, 0, z), self._shift(b, 1, i))
                    at = b.flatten([plane, z, i], [0, depth.taps, height.taps])
                    for run in self.columns:
                        assert isinstance(run.first, int) and isinstance(run.last, int)
                        count = run.last - run.first
                        nest = [Reduction(count, right), Reduction(lanes, self.lane)]
                        tap = b.add(b.mul(at, width.taps), run.first)
                        weights = b.at(w, b.mul(tap, vectors))
                        start = b.add(offset, run.first * right)
                        self._run(b, tile, x, weights, start, (rows, run), nest, EDGE_BODY)

    def _shift(self, b: Builder, number: int, tap: Index) -> Index:
        """How far from its own place a slice or row of taps is read, in floats."""
        axis, at = self.axes[number], self.at[number]
        if at is None or axis.boundary == ZERO:
            return 0
        own = b.add(b.mul(at, axis.stride), b.mul(tap, axis.dilation), -axis.begin)
        return b.mul(b.sub(tap_place(b, axis, at, tap), own), self.strides[1 + number])

    def _run(
        self,
        b: Builder,
        tile: Tile,
        x: ir.Value,
        w: ir.Value,
        start: Index,
        seeing: tuple[Run, Run],
        nest: list[Reduction],
        body: int,
    ) -> None:
        """One nest for those pixels of the tile that see these taps."""
        down = self.axes[1].stride * self.strides[2]
        right = self.axes[2].stride * self.strides[3]
        rows, columns = (zip(run.results, run.shifts, strict=True) for run in seeing)
        across = [(c, c * right + shift * self.strides[3]) for c, shift in columns]
        offsets = {
            r * self.shape[1] + c: r * down + shift * self.strides[2] + offset
            for r, shift in rows
            for c, offset in across
        }
        # The address is one of a pixel that is there, since the origin need not be.
        first = min(offsets.values())
        pixels = {pixel: offset - first for pixel, offset in offsets.items()}
        accumulate(b, tile, b.at(x, b.add(start, first)), w, pixels, nest, body=body)


def _empty(low: Index, high: Index) -> bool:
    return isinstance(low, int) and isinstance(high, int) and low >= high
