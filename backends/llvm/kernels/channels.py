"""Channels put together from those of other tensors, all in Blocked(V): lanes move between blocks.

A concatenation, a slice or a shuffle of channels whose parts are no whole blocks. Each block of the
result is made of a few vectors a pixel, whose lanes one shuffle each puts in their places; which
ones is known when the code is written. Pad lanes of the result keep unspecified bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.spec import KernelCode, Split

ITEM_VECTORS = 512  # of the result that a work item makes, about: 32 KiB of 16 lanes


@dataclass(frozen=True)
class Run:
    """Neighbouring channels of one operand, which stay neighbours."""

    operand: int
    first: int
    count: int


@dataclass(frozen=True)
class ChannelsSpec:
    """The runs are the result's channels in order. `pixels` are those of all images."""

    pixels: int
    runs: tuple[Run, ...]
    lanes: int = 16

    @property
    def operands(self) -> int:
        return 1 + max(run.operand for run in self.runs)

    @property
    def channels(self) -> int:
        return sum(run.count for run in self.runs)

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.lanes)


@dataclass(frozen=True)
class Part:
    """A block of an operand, and which of its lanes each lane of the result takes, if any."""

    operand: int
    block: int
    lanes: tuple[int | None, ...]


@dataclass(frozen=True)
class Mixture:
    """Blocks first, first + 1 ... of the result, made alike: the blocks of `parts` advance too."""

    first: int
    count: int
    parts: tuple[Part, ...]


def mixtures(spec: ChannelsSpec) -> list[Mixture]:
    """All blocks of the result in order."""
    picks = [(run.operand, run.first + i) for run in spec.runs for i in range(run.count)]
    found: list[Mixture] = []
    for block in range(spec.blocks):
        parts = _parts(picks[block * spec.lanes : (block + 1) * spec.lanes], spec.lanes)
        last = found[-1] if found else None
        if last is not None and parts == _advanced(last.parts, last.count):
            found[-1] = Mixture(last.first, last.count + 1, last.parts)
        else:
            found.append(Mixture(block, 1, parts))
    return found


def _parts(picks: Sequence[tuple[int, int]], lanes: int) -> tuple[Part, ...]:
    """What a block of these channels is made of."""
    taken: dict[tuple[int, int], list[int | None]] = {}
    for lane, (operand, channel) in enumerate(picks):
        block, source = divmod(channel, lanes)
        taken.setdefault((operand, block), [None] * lanes)[lane] = source
    return tuple(Part(operand, block, tuple(places)) for (operand, block), places in taken.items())


def _advanced(parts: tuple[Part, ...], blocks: int) -> tuple[Part, ...]:
    return tuple(Part(part.operand, part.block + blocks, part.lanes) for part in parts)


def emit(module: ir.Module, name: str, spec: ChannelsSpec) -> KernelCode:
    """Write the kernel: pointers to the operands, y. A work item is (some blocks, some pixels)."""
    b = Builder(module, name, spec.operands + 1, spec.lanes, noalias=[spec.operands])
    pixels = Split(spec.pixels, ITEM_VECTORS)
    blocks = Split(spec.blocks, max(1, ITEM_VECTORS // spec.pixels))
    group, chunk = b.unflatten(b.item, [blocks.parts, pixels.parts])
    first, start = blocks.start(b, group), pixels.start(b, chunk)
    last = blocks.start(b, b.add(group, 1))
    stop = pixels.start(b, b.add(chunk, 1))
    whole = mixtures(spec)
    for mixture in whole:
        end = mixture.first + mixture.count
        with b.loop(b.min(end, last), b.max(mixture.first, first)) as block:
            _block(b, spec, mixture, block.index, start, stop)
    summary = f"channels of {spec.operands} tensors, {len(whole)} kinds of blocks"
    items = blocks.parts * pixels.parts
    return KernelCode(name, items, 0, 0, spec.operands, summary, b.finish())


def _block(
    b: Builder, spec: ChannelsSpec, mixture: Mixture, block: Index, start: Index, stop: Index
) -> None:
    """The pixels of one block."""
    lanes, image = spec.lanes, spec.pixels * spec.lanes
    ahead = b.sub(block, mixture.first)
    sources = [
        b.at(b.pointers[part.operand], b.mul(b.add(ahead, part.block), image))
        for part in mixture.parts
    ]
    y = b.at(b.pointers[-1], b.mul(block, image))
    with b.loop(stop, start) as pixel:
        offset = b.mul(pixel.index, lanes)
        vectors = [b.vload(source, offset) for source in sources]
        b.vstore(_mixed(b, vectors, mixture.parts), y, offset)


def _mixed(b: Builder, vectors: Sequence[ir.Value], parts: Sequence[Part]) -> ir.Value:
    """One vector of the lanes that the parts name; a shuffle for each but the first."""
    lanes = len(parts[0].lanes)
    places, mixed = parts[0].lanes, vectors[0]
    if len(parts) == 1:
        return mixed if _in_place(places) else b.shuffle(mixed, _filled(places))
    for vector, part in zip(vectors[1:], parts[1:], strict=True):
        taken = [
            lanes + theirs if theirs is not None else ours
            for ours, theirs in zip(places, part.lanes, strict=True)
        ]
        mixed = b.blend(mixed, vector, _filled(taken))
        places = tuple(None if lane is None else i for i, lane in enumerate(taken))
    return mixed


def _in_place(places: Sequence[int | None]) -> bool:
    return all(lane is None or lane == i for i, lane in enumerate(places))


def _filled(places: Sequence[int | None]) -> list[int]:
    """Some lane for those that nobody reads."""
    return [i if lane is None else lane for i, lane in enumerate(places)]
