"""Copying a band of input rows, with its padding, into the scratch of a work item.

Used by the convolution templates, so that their inner loops know nothing of edges. Every element of
the band is written; what lies outside of the input is zero, or what its boundary says, and nothing
outside of it is read but the slack that every buffer ends with.
"""

from __future__ import annotations

from dataclasses import dataclass

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.edges import line_place, place
from cnnir.backends.llvm.kernels.spec import Axis, Strides
from cnnir.ops.boundary import ZERO


@dataclass(frozen=True)
class Band:
    """planes x taps of depth x rows x columns x pixel floats, row-major."""

    planes: int
    depth: Axis
    height: Axis
    width: Axis
    rows: int
    source: Strides  # of the input; a pixel is V floats when blocked, 1 when plain
    lanes: int

    @property
    def pixel(self) -> int:
        return self.source.pixel

    @property
    def columns(self) -> int:
        return self.width.span(self.width.out)

    @property
    def slices(self) -> int:
        return self.depth.span(1)

    @property
    def strides(self) -> tuple[int, ...]:
        """In floats: plane, depth, row, pixel."""
        row = self.columns * self.pixel
        return self.slices * self.rows * row, self.rows * row, row, self.pixel

    @property
    def bytes(self) -> int:
        # Plain rows are copied V floats at a time and may run over by V - 1.
        return 4 * (self.planes * self.strides[0] + self.lanes)


def copy_band(b: Builder, band: Band, x: ir.Value, first_slice: Index, first_row: Index) -> None:
    """Fill scratch from x (the first plane of the item); first_* count with the padding."""
    plane, depth, row, _ = band.strides
    height, width = band.height.size, band.width.size
    with b.loop(band.planes) as p, b.loop(band.slices) as s, b.loop(band.rows) as r:
        z, deep = line_place(b, band.depth, b.add(first_slice, s.index))
        i, down = line_place(b, band.height, b.add(first_row, r.index))
        offset = b.add(b.mul(p.index, plane), b.mul(s.index, depth), b.mul(r.index, row))
        target = b.at(b.scratch, offset)
        source = b.mul(b.add(b.mul(z, height), i), width * band.pixel)
        source = b.add(b.mul(p.index, band.source.plane), source)
        known = b.both(deep, down)
        if known is True:
            _copy_row(b, band, target, b.at(x, source))
        else:
            with b.either(known) as (yes, no):
                with yes:
                    _copy_row(b, band, target, b.at(x, source))
                with no:
                    _zeros(b, band, target, 0, band.columns)


def _copy_row(b: Builder, band: Band, target: ir.Value, source: ir.Value) -> None:
    """What is left of the row, the row, what is right of it: each may run over into the next."""
    width, step = band.width, band.lanes // band.pixel
    left = min(width.begin, band.columns)
    inner = min(width.size, band.columns - left)
    end = left + inner
    for start, stop, outside in ((0, left, True), (left, end, False), (end, band.columns, True)):
        if outside and width.boundary == ZERO:
            _zeros(b, band, target, start, stop - start)
        elif start < stop:
            with b.loop(stop, start, 1 if outside else step) as j:
                own = b.add(j.index, -width.begin)
                column = place(b, width, own, start - width.begin, stop - 1 - width.begin)
                value = b.vload(source, b.mul(column, band.pixel), align=4)
                b.vstore(value, target, b.mul(j.index, band.pixel), align=4)


def _zeros(b: Builder, band: Band, target: ir.Value, start: int, count: int) -> None:
    if count > 0:
        with b.loop(start + count, start, band.lanes // band.pixel) as j:
            b.vstore(b.splat(0.0), target, b.mul(j.index, band.pixel), align=4)
