"""The gradients of grid_sample: by what is sampled, and by the positions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from cnnir.errors import IRError
from cnnir.ops.algebra import NUMPY
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import Undefined
from cnnir.ops.dual import DualAlgebra
from cnnir.ops.grid_sample import GridSample, position_taps, sample_position, weighed
from cnnir.ops.reduce import unravel
from cnnir.tensortype import compute_dtype


def _axes(m: Any, grid: Any, sizes: tuple[int, ...], how: tuple) -> list[list[tuple]]:
    """The taps of each axis; `grid` gives the number that a row holds for an axis."""
    taps = []
    for axis, extent in enumerate(sizes):
        at = sample_position(m, grid(len(sizes) - 1 - axis), extent, *how)
        taps.append(position_taps(m, at, extent, *how))
    return taps


def _meeting(taps: list[list[tuple]]) -> Iterator[tuple[tuple, Any, Any]]:
    """Index, whether it is inside, and weight (None is 1) where the axes' taps meet."""
    for chosen in itertools.product(*taps):
        inside, weight = True, None
        for _, here, own in chosen:
            inside = here if inside is True else inside if here is True else inside & here
            weight = own if weight is None else weight if own is None else weight * own
        yield tuple(j for j, _, _ in chosen), inside, weight


class GridSampleGrad(Op):
    """The cotangent [N,C,*sizes] of x in grid_sample(x, grid), from that of the result.

    Every element of dy is added to the elements that it was sampled from, times their weights.
    """

    name = "grid_sample_grad"

    def infer(dy, grid, *, sizes, mode="linear", padding_mode="zeros", align_corners=False):
        if not isinstance(sizes, tuple) or any(type(n) is not int or n < 0 for n in sizes):
            raise IRError(f"attribute sizes is {sizes!r}, wanted integers >= 0")
        x = dy.with_shape((*dy.shape[:2], *sizes))
        attrs = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        if (y := GridSample.infer(x, grid, **attrs)) != dy:
            raise IRError(f"dy is {dy}, wanted the result of grid_sample, {y}")
        return x

    def evaluate(dy, grid, *, sizes, mode, padding_mode, align_corners):
        dx = np.zeros((*dy.shape[:2], *sizes), dy.dtype)
        if dy.size == 0:
            return dx
        # [C,N,*results], so that one index serves all channels
        last, moved = np.moveaxis(dx, 1, -1), np.moveaxis(dy, 1, -1)
        member = np.arange(len(dy)).reshape(-1, *[1] * (grid.ndim - 2))
        taps = _axes(NUMPY, lambda k: grid[..., k], sizes, (mode, padding_mode, align_corners))
        for index, inside, weight in _meeting(taps):
            part = np.where(np.expand_dims(inside, -1), moved, 0)
            part = part if weight is None else part * weight[..., None]
            np.add.at(last, (member, *index), part)
        return dx

    def procedure(m, outs, dy, grid, *, sizes, mode, padding_mode, align_corners):
        results, out = dy.shape[2:], outs[0]
        with m.loop(dy.shape[0] * dy.shape[1], parallel=True) as plane:
            n, c = plane // max(dy.shape[1], 1), plane % max(dy.shape[1], 1)
            with m.loop(int(np.prod(sizes))) as i:
                m.store(out, (n, c, *unravel(i, sizes)), m.const(0, dy.dtype))
            with m.loop(int(np.prod(results))) as i:
                at = unravel(i, results)
                value = dy[(n, c, *at)]
                taps = _axes(
                    m, lambda k: grid[(n, *at, k)], sizes, (mode, padding_mode, align_corners)
                )
                for index, inside, weight in _meeting(taps):
                    part = value if weight is None else value * weight
                    place = (n, c, *index)
                    with m.when(inside):
                        m.store(out, place, out[place] + part)

    def vjp(g, node, dx):
        grid, attrs = node.operands[1], dict(node.attrs)
        del attrs["sizes"]
        back = g.add("grid_sample", dx, grid, **attrs)
        return back, Undefined("grid_sample has no second derivative by positions")

    @staticmethod
    def cost(node: Any) -> Cost:
        """As that of sampling."""
        moved, dy = Op.cost(node), node.operands[0].type
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[node.attrs["mode"]]
        return Cost(2 * taps ** (dy.rank - 2) * dy.size, moved.read, moved.written)


class GridSlopes(Op):
    """The slopes of a grid_sample by the numbers in the grid: [N,C,*results,axes], by dual numbers.

    y[n,c,i...,k] = the derivative of element n,c,i... of the sample by grid[n,i...,k]; 0 with mode
    nearest, and where a position is kept from leaving x. There is no second derivative.
    """

    name = "grid_slopes"

    def infer(x, grid, *, mode="linear", padding_mode="zeros", align_corners=False):
        attrs = {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
        y = GridSample.infer(x, grid, **attrs)
        return y.with_shape((*y.shape, grid.shape[-1]))

    def evaluate(x, grid, *, mode, padding_mode, align_corners):
        shape = (*x.shape[:2], *grid.shape[1:])
        if 0 in shape:
            return np.zeros(shape, x.dtype)
        last = np.moveaxis(x, 1, -1)
        member = np.arange(len(x)).reshape(-1, *[1] * (grid.ndim - 1))
        d, one = DualAlgebra(NUMPY, grid.shape[-1]), grid.dtype.type(1)
        taps = _axes(
            d,
            lambda k: d.variable(grid[..., k, None], k, one),
            x.shape[2:],
            (mode, padding_mode, align_corners),
        )

        def fetch(index, inside):
            found = last[(member, *map(d.value, index), np.arange(x.shape[1]))]
            return d.fixed(np.where(inside, found, x.dtype.type(0)))

        y = np.zeros(shape, x.dtype)
        slopes = d.slopes(weighed(taps, fetch))
        for k, slope in enumerate(slopes):
            y[..., k] = np.moveaxis(np.broadcast_to(slope, (*grid.shape[:-1], x.shape[1])), -1, 1)
        return y

    def element(m, at, x, grid, *, mode, padding_mode, align_corners):
        n, c, *position, k = at
        d = DualAlgebra(m, grid.shape[-1])

        def number(axis):
            value = grid[(n, *position, axis)]
            return d.variable(value, axis, m.const(1, m.dtype(value)))

        def fetch(index, inside):
            return d.fixed(x.get((n, c, *map(d.value, index)), inside, 0))

        taps = _axes(d, number, x.shape[2:], (mode, padding_mode, align_corners))
        chosen = m.const(0, compute_dtype(x.dtype))
        for axis, slope in enumerate(d.slopes(weighed(taps, fetch))):
            chosen = m.select(m.equal(k, axis), slope, chosen)
        return chosen

    def vjp(g, node, dy):
        reason = "grid_sample has no second derivative by positions"
        return Undefined(reason), Undefined(reason)

    @staticmethod
    def cost(node: Any) -> Cost:
        """Four operations for each element that is read."""
        moved, y = Op.cost(node), node.results[0].type
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[node.attrs["mode"]]
        return Cost(4 * taps ** (y.rank - 3) * y.size, moved.read, moved.written)
