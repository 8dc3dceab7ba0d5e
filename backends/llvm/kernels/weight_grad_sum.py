"""The second step of a weight gradient: parts added in order, and vectors of filters made rows.

Reads [part][block of filters][row][V], where a row is a channel and a tap; writes the gradient
row-major, [filter][row]. A work item is some rows of a block, V of which are turned round at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Index
from cnnir.backends.llvm.kernels.spec import Epilogue, KernelCode, Target
from cnnir.backends.llvm.kernels.transposed import transposed

ITEM_SQUARES = 16  # squares of V x V that a work item turns round, about


@dataclass(frozen=True)
class SumSpec:
    """filters x rows weights, in `parts`; a block of filters is stored with `stored` rows."""

    filters: int
    rows: int
    stored: int
    parts: int
    lanes: int

    @property
    def blocks(self) -> int:
        return -(-self.filters // self.lanes)

    @property
    def part(self) -> int:
        """Floats of a part."""
        return self.blocks * self.stored * self.lanes

    @property
    def flops(self) -> int:
        return self.parts * self.filters * self.rows


def estimate(spec: SumSpec, target: Target) -> float:
    """Seconds on one core: bytes, or half a cycle for each shuffle of a square."""
    moved = 4 * (spec.parts + 1) * spec.part
    shuffles = spec.part / spec.lanes * spec.lanes.bit_length()
    return max(moved / target.bandwidth, 4 * shuffles / target.hz)


def emit(
    module: ir.Module,
    name: str,
    spec: SumSpec,
    tiling: None = None,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers sums, weights' gradient."""
    b = Builder(module, name, 2, spec.lanes, noalias=[1])
    squares, rest = divmod(spec.rows, spec.lanes)
    parts = -(-(squares + bool(rest)) // ITEM_SQUARES)
    block, part = b.unflatten(b.item, [spec.blocks, parts])
    first = b.mul(part, ITEM_SQUARES)
    last = spec.filters % spec.lanes
    for filters, here in _widths(b, block, spec.blocks, spec.lanes, last):
        with b.when(here):
            if squares:
                stop = b.min(b.add(first, ITEM_SQUARES), squares)
                with b.loop(stop, first) as square:
                    _turn(b, spec, block, b.mul(square.index, b.lanes), b.lanes, filters)
            if rest:
                with b.when(b.equal(part, parts - 1)):
                    _turn(b, spec, block, squares * b.lanes, rest, filters)
    summary = f"{spec.parts} parts added, {spec.filters} rows of {spec.rows}"
    return KernelCode(name, spec.blocks * parts, 0, spec.flops, 2, summary, b.finish())


def _widths(b: Builder, block: Index, blocks: int, lanes: int, rest: int):
    """How many filters a block has, and when."""
    if not rest:
        return [(lanes, True)]
    if blocks == 1:
        return [(rest, True)]
    return [(lanes, b.less(block, blocks - 1)), (rest, b.equal(block, blocks - 1))]


def _turn(b: Builder, spec: SumSpec, block: Index, row: Index, rows: int, filters: int) -> None:
    """Rows x filters weights."""
    at = b.mul(b.add(b.mul(block, spec.stored), row), b.lanes)
    source = b.at(b.pointers[0], at)
    sums = [b.vload(source, i * b.lanes) for i in range(rows)]
    if spec.parts > 1:
        with b.loop(spec.parts, 1, carry=sums) as part:
            more = b.at(source, b.mul(part.index, spec.part))
            for i in range(rows):
                part.state[i] = b.ir.fadd(part.state[i], b.vload(more, i * b.lanes))
        sums = part.result
    columns = transposed(b, sums + [b.splat(0.0)] * (b.lanes - rows))
    start = b.add(b.mul(b.mul(block, b.lanes), spec.rows), row)
    for i in range(filters):
        b.masked_store(columns[i], b.pointers[1], b.add(start, i * spec.rows), rows)
