"""Run-time weights, transformed for Winograd convolution: what `winograd.pack` does, as a kernel.

A work item is some input channels of one block of filters: for each it gathers the taps of V
filters, transforms them, and stores a vector a product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.repack import gathered
from cnnir.backends.llvm.kernels.small_matrix import multiply
from cnnir.backends.llvm.kernels.spec import ConvSpec, KernelCode, repeats, shares
from cnnir.backends.llvm.kernels.winograd_tiling import Geometry, Tiling

ITEM_CHANNELS = 16  # that a work item transforms


@dataclass(frozen=True)
class Lies:
    """Where weight [o, c, tap] is: first + o * filter + c * channel + taps[tap]."""

    first: int
    filter: int
    channel: int
    taps: tuple[int, ...]

    @staticmethod
    def of(addresses: np.ndarray) -> Lies | None:
        """The steps in an array [O,C,*kernel] of addresses; None where they are not constant."""
        flat = addresses.reshape(*addresses.shape[:2], -1)
        filters, channels = flat.shape[:2]
        first = int(flat[0, 0, 0])
        filter = int(flat[1, 0, 0]) - first if filters > 1 else 0
        channel = int(flat[0, 1, 0]) - first if channels > 1 else 0
        taps = flat[0, 0] - first
        along = first + filter * np.arange(filters)[:, None] + channel * np.arange(channels)
        if not (flat == along[:, :, None] + taps).all():
            return None
        return Lies(first, filter, channel, tuple(map(int, taps)))


def can_pack(spec: ConvSpec) -> bool:
    """Whether weights of this convolution lie as this file reads them."""
    return spec.groups == 1 and spec.axes()[0].taps == 1


def emit(module: ir.Module, name: str, spec: ConvSpec, tiling: Tiling, lies: Lies) -> KernelCode:
    """Write the kernel: pointers weights, packed weights."""
    g = Geometry(spec, tiling)
    b = Builder(module, name, 2, spec.lanes, noalias=[1])
    parts = -(-spec.channels // ITEM_CHANNELS)
    block, part = b.unflatten(b.item, [spec.out_blocks, parts])
    first = b.mul(part, ITEM_CHANNELS)
    last = b.min(b.add(first, ITEM_CHANNELS), spec.channels)
    rest = spec.filters % spec.lanes
    for count, here in _widths(b, block, spec.out_blocks, spec.lanes, rest):
        with b.when(here), b.loop(last, first) as channel:
            _transform(b, g, lies, block, channel.index, count)
    summary = f"{spec.filters}x{spec.channels} filters transformed to {g.products} products each"
    return KernelCode(name, spec.out_blocks * parts, 0, 0, 1, summary, b.finish())


def _widths(b: Builder, block: Index, blocks: int, lanes: int, rest: int):
    """How many filters a block has, and when."""
    if not rest:
        return [(lanes, True)]
    if blocks == 1:
        return [(rest, True)]
    return [(lanes, b.less(block, blocks - 1)), (rest, b.equal(block, blocks - 1))]


def _transform(
    b: Builder, g: Geometry, lies: Lies, block: Index, channel: Index, count: int
) -> None:
    source = b.add(b.mul(block, lies.filter * b.lanes), b.mul(channel, lies.channel), lies.first)
    pointer = b.at(b.pointers[0], source)
    lanes = tuple(lane * lies.filter if lane < count else None for lane in range(b.lanes))
    taps = [gathered(b, b.at(pointer, tap), lanes) for tap in lies.taps]
    rows, columns = (t.taps for t in g.transforms)
    width = columns.shape[1]
    lines = [multiply(b, columns, taps[i * width : (i + 1) * width]) for i in range(len(rows[0]))]
    into, plane = _place(b, g, block, channel)
    products = [multiply(b, rows, list(column)) for column in zip(*lines, strict=True)]
    for j, column in enumerate(products):
        for i, value in enumerate(column):
            b.vstore(value, into, (i * len(columns) + j) * plane)


def _place(b: Builder, g: Geometry, block: Index, channel: Index) -> tuple[ir.Value, int]:
    """Where a channel of a block goes for the first product, and how far on for the next."""
    tiling, channels = g.tiling, g.spec.channels
    plane = channels * tiling.chunk * b.lanes
    chunk, inside = b.div(block, tiling.chunk), b.rem(block, tiling.chunk)
    start: Index = 0
    before = 0
    for blocks, parts in repeats(shares(tiling.chunk, tiling.blocks)):
        own = b.sub(inside, before)
        tile = b.add(b.mul(b.div(own, blocks), blocks), before)
        at = b.add(b.mul(tile, channels), b.mul(channel, blocks), b.rem(own, blocks))
        if before:
            at = b.ir.select(b.truth(b.less(inside, before)), b.value(start), b.value(at))
        start, before = at, before + blocks * parts
    offset = b.add(b.mul(chunk, g.products * plane), b.mul(start, b.lanes))
    return b.at(b.pointers[1], offset), plane
