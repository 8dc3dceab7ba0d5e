"""The gradient of maximum pooling on Blocked(V): each window finds its first maximum again.

    dx[j] = sum of the dy[i] whose window has its first maximum at j

That reads x, which the forward pass has left, and saves storing an index of twice the size. Windows
that tile x exactly store all they see at once, zeros where the maximum is not. Others add to what
windows before them have stored: a work item is an image of a block, with its windows in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.builder import Builder, Condition, Index
from cnnir.backends.llvm.kernels.pool import PoolSpec
from cnnir.backends.llvm.kernels.spec import Axis, Epilogue, KernelCode, Place, Strides, Target

MOST_TAPS = 32  # of a window, which are compared in straight-line code


@dataclass(frozen=True)
class Tiling:
    """There is nothing to choose."""


def reject(spec: PoolSpec) -> str | None:
    """Why this template cannot serve, or None."""
    if len(spec.sizes) not in (1, 2, 3):
        return f"{len(spec.sizes)} spatial axes"
    if prod(spec.kernel) > MOST_TAPS:
        return f"windows of {prod(spec.kernel)} taps, more than {MOST_TAPS}"
    return None


def choose(spec: PoolSpec, target: Target) -> Tiling:
    return Tiling()


def estimate(spec: PoolSpec, tiling: Tiling, target: Target) -> float:
    """Seconds on one core: x and dy are read and dx written, or its arithmetic."""
    lanes = spec.blocks * spec.batch * spec.lanes
    moved = 4 * lanes * (2 * prod(spec.sizes) + prod(spec.out_sizes))
    work = 8 * lanes * prod(spec.out_sizes) * prod(spec.kernel)
    return max(moved / target.bandwidth, work / (4 * spec.lanes * target.hz))


def emit(
    module: ir.Module,
    name: str,
    spec: PoolSpec,
    tiling: Tiling,
    epilogue: Epilogue | None = None,
    operands: int = 0,
) -> KernelCode:
    """Write the kernel: pointers dy, x, `operands` epilogue operands, dx."""
    b = Builder(module, name, 2 + operands + 1, spec.lanes, noalias=[2 + operands])
    _Emitter(b, spec, epilogue).run()
    how = "that tile the image" if _tiles_exactly(spec) else "added in order"
    summary = f"gradient of max pool {'x'.join(map(str, spec.kernel))}, windows {how}"
    flops = 2 * spec.flops
    return KernelCode(name, spec.blocks * spec.batch, 0, flops, 2, summary, b.finish())


def _tiles_exactly(spec: PoolSpec) -> bool:
    """Whether every element of x lies in one window, and windows have nothing else."""
    return (
        spec.kernel == spec.stride
        and not any(spec.padding)
        and all(d == 1 or k == 1 for d, k in zip(spec.dilation, spec.kernel, strict=True))
        and all(s == n * k for s, n, k in zip(spec.sizes, spec.out_sizes, spec.kernel, strict=True))
    )


@dataclass(frozen=True)
class _Tap:
    """An element that a window sees: where it lies in the image, and whether it does."""

    at: tuple[Index, ...]
    inside: Condition


class _Emitter:
    def __init__(self, b: Builder, spec: PoolSpec, epilogue: Epilogue | None) -> None:
        self.b, self.spec, self.epilogue = b, spec, epilogue
        self.axes = spec.axes()
        self.sizes = [axis.size for axis in self.axes]
        lies = Strides.blocked(spec.batch, spec.sizes, spec.lanes)
        self.block, self.image = b.unflatten(b.item, [spec.blocks, spec.batch])
        self.base = b.add(b.mul(self.block, lies.plane), b.mul(self.image, lies.image))
        self.x, self.dx = (b.at(b.pointers[i], self.base) for i in (1, -1))

    def run(self) -> None:
        b, spec = self.b, self.spec
        exact = _tiles_exactly(spec)
        windows = [axis.out for axis in self.axes]
        if not exact:
            with b.loop(prod(self.sizes)) as pixel:
                b.vstore(b.splat(0.0), self.dx, b.mul(pixel.index, b.lanes))
        source = b.at(b.pointers[0], b.mul(b.item, prod(windows) * b.lanes))
        with b.loop(windows[0]) as z, b.loop(windows[1]) as row, b.loop(windows[2]) as column:
            at = [z.index, row.index, column.index]
            dy = b.vload(source, b.mul(b.flatten(at, windows), b.lanes))
            taps = self.taps(at)
            for tap, won in zip(taps, self.winners(taps), strict=True):
                if exact:
                    self.put(tap.at, b.ir.select(won, dy, b.splat(0.0)))
                else:
                    self.add(tap, won, dy)
        if not exact and self.epilogue is not None:
            with b.loop(prod(self.sizes)) as pixel:
                value = b.vload(self.dx, b.mul(pixel.index, b.lanes))
                self.put(tuple(b.unflatten(pixel.index, self.sizes)), value)

    def taps(self, window: list[Index]) -> list[_Tap]:
        """What a window sees, in row-major order."""
        b = self.b
        seen = [self.along(axis, i) for axis, i in zip(self.axes, window, strict=True)]
        return [
            _Tap((z[0], y[0], x[0]), b.both(z[1], b.both(y[1], x[1])))
            for z in seen[0]
            for y in seen[1]
            for x in seen[2]
        ]

    def along(self, axis: Axis, i: Index) -> list[tuple[Index, Condition]]:
        """The elements of an axis that window i sees, and whether they lie in x."""
        b = self.b
        found: list[tuple[Index, Condition]] = []
        for tap in range(axis.taps):
            shift = tap * axis.dilation - axis.begin
            at = b.add(b.mul(i, axis.stride), shift)
            known = shift >= 0 and (axis.out - 1) * axis.stride + shift < axis.size
            found.append((at, True if known else b.inside(at, axis.size)))
        return found

    def winners(self, taps: list[_Tap]) -> list[ir.Value]:
        """For each tap the lanes whose first maximum it is; a NaN is more than any number."""
        b = self.b
        none: ir.Value = b.mask(0)
        best, found = b.splat(float("-inf")), none
        ahead = []
        for tap in taps:
            value = self.load(tap)
            more = b.ir.fcmp_unordered(">", value, best)
            more = b.ir.and_(more, b.ir.fcmp_ordered("ord", best, best))
            more = b.ir.or_(more, b.ir.not_(found))
            if tap.inside is not True:
                more = b.ir.select(b.truth(tap.inside), more, none)
            best = b.ir.select(more, value, best)
            found = b.ir.or_(found, more)
            ahead.append(more)
        won, later = [], none
        for more in reversed(ahead):
            won.append(b.ir.and_(more, b.ir.not_(later)))
            later = b.ir.or_(later, more)
        return won[::-1]

    def offset(self, at: tuple[Index, ...]) -> Index:
        return self.b.mul(self.b.flatten(at, self.sizes), self.b.lanes)

    def load(self, tap: _Tap) -> ir.Value:
        b, at = self.b, self.offset(tap.at)
        if tap.inside is not True:
            at = b.ir.select(b.truth(tap.inside), b.value(at), b.value(0))
        return b.vload(self.x, at)

    def add(self, tap: _Tap, won: ir.Value, dy: ir.Value) -> None:
        b = self.b
        with b.when(tap.inside):
            at = self.offset(tap.at)
            before = b.vload(self.dx, at)
            b.vstore(b.ir.select(won, b.ir.fadd(before, dy), before), self.dx, at)

    def put(self, at: tuple[Index, ...], value: ir.Value) -> None:
        """Store an element, after what follows."""
        b, offset = self.b, self.offset(at)
        if self.epilogue is not None:
            place = Place(b.add(self.base, offset), self.coordinates(at), b.lanes)
            value = self.epilogue(b, value, place)
        b.vstore(value, self.dx, offset)

    def coordinates(self, at: tuple[Index, ...]) -> Callable:
        spatial = at[3 - len(self.spec.sizes) :]
        return partial(tuple, (self.block, self.image, *spatial))
