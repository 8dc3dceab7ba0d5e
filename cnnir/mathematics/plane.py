"""All linear regions of a net on a plane of its inputs, exactly: convex polygons.

From a point the region around it is the box cut by the lines on which its margins are 0; beyond
each of its sides lies the next one. So all are found, one after another, and they cover the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import InputError
from cnnir.mathematics.operators import graph_of
from cnnir.mathematics.regions import Piecewise

_BEYOND = 1e-7
"""How far beyond a side the next region is looked for, as a share of the box."""
_MOST_REGIONS = 100_000

Plane = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Region:
    """A polygon of the plane on which a net is one affine map of its coordinates."""

    corners: np.ndarray
    """[corners, 2], in order."""
    matrix: np.ndarray
    """net = matrix @ [s, t] + shift, [outputs, 2]."""
    shift: np.ndarray
    """[outputs]."""

    @property
    def area(self) -> float:
        """In units of the coordinates."""
        return _area(self.corners)


def plane_regions(source: Any, low: float, high: float, plane: Plane | None = None) -> list[Region]:
    """The linear regions of a net for coordinates s and t between low and high.

    plane: (origin, u, v), arrays of the input's shape: the inputs are origin + s u + t v. None is
    for nets of two inputs, [1, 2], which are s and t themselves. Regions are told apart by what
    each relu, clip and maximum does, so neighbours may have the same map.

    Raises InputError for nets that are not piecewise linear, as `local_affine` does.
    """
    if not low < high:
        raise InputError(f"from {low} to {high}: wanted the lower end first")
    origin, *axes = _plane(plane)
    net = Piecewise(graph_of(source, (origin.shape,)))
    net.check(origin)
    search = _Search(net, origin, axes, low, high)
    search.run()
    return search.found


def _plane(plane: Plane | None) -> list[np.ndarray]:
    given = plane or (np.zeros((1, 2)), np.array([[1.0, 0]]), np.array([[0, 1.0]]))
    arrays = [np.asarray(a, np.float64) for a in given]
    if len({a.shape for a in arrays}) != 1 or len(arrays) != 3:
        raise InputError(f"plane has shapes {[a.shape for a in arrays]}, wanted three alike")
    return arrays


class _Search:
    """From region to region, through all sides."""

    def __init__(
        self, net: Piecewise, origin: np.ndarray, axes: Sequence[np.ndarray], low: float,
        high: float,
    ) -> None:  # fmt: skip
        self.net, self.origin, self.axes = net, origin, axes
        self.box = np.array([[low, low], [high, low], [high, high], [low, high]])
        self.low, self.high = low, high
        self.found: list[Region] = []

    def run(self) -> None:
        """Find all regions of the box."""
        first = self.box.mean(0) + (self.high - self.low) * np.array([1.234e-4, 2.345e-4])
        known, waiting = {self.net.key(self._at(first))}, [first]
        while waiting:
            at = waiting.pop()
            polygon = self._polygon(at)
            if _area(polygon) <= _BEYOND**2 * (self.high - self.low) ** 2:
                continue  # a sliver, thinner than what is looked beyond
            self.found.append(self._region(polygon))
            if len(self.found) > _MOST_REGIONS:
                raise InputError(f"the net has more than {_MOST_REGIONS} regions there")
            for neighbour in self._neighbours(polygon):
                key = self.net.key(self._at(neighbour))
                if key not in known:
                    known.add(key)
                    waiting.append(neighbour)

    def _at(self, point: np.ndarray) -> np.ndarray:
        u, v = self.axes
        return self.origin + point[0] * u + point[1] * v

    def _polygon(self, at: np.ndarray) -> np.ndarray:
        """The box cut by the lines where a margin of this region is 0."""
        now, above, slopes = self.net.margins(self._at(at), *self.axes)
        polygon = self.box
        inward = np.where(above, 1, -1)
        for offset, normal in zip(now * inward, (np.stack(slopes) * inward).T, strict=True):
            if normal.any():
                polygon = _cut(polygon, normal, offset - normal @ at)
        return polygon

    def _region(self, polygon: np.ndarray) -> Region:
        """The map of a region, from the net at three points of it."""
        middle = polygon.mean(0)
        step = 0.5 * (polygon[:2] - middle)
        here, *ahead = (self.net(self._at(p)).ravel() for p in (middle, *(middle + step)))
        matrix = np.linalg.solve(step, np.stack(ahead) - here).T
        return Region(polygon, matrix, here - matrix @ middle)

    def _neighbours(self, polygon: np.ndarray) -> list[np.ndarray]:
        """Points just beyond each side that is not the box's."""
        found = []
        middle, reach = polygon.mean(0), _BEYOND * (self.high - self.low)
        for a, b in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            side = b - a
            size = np.linalg.norm(side)
            if size <= reach:
                continue
            normal = np.array([side[1], -side[0]]) / size
            normal = normal if normal @ (a - middle) > 0 else -normal
            beyond = (a + b) / 2 + reach * normal
            if (beyond > self.low).all() and (beyond < self.high).all():
                found.append(beyond)
        return found


def _area(polygon: np.ndarray) -> float:
    """By the shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _cut(polygon: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    """The part of a convex polygon where normal @ p + offset >= 0 (Sutherland, Hodgman 1974)."""
    values = polygon @ normal + offset
    if (values >= 0).all():
        return polygon
    kept: list[np.ndarray] = []
    following = zip(np.roll(polygon, -1, 0), np.roll(values, -1), strict=True)
    for (p, value), (q, after) in zip(zip(polygon, values, strict=True), following, strict=True):
        if value >= 0:
            kept.append(p)
        if value * after < 0:
            kept.append(p + value / (value - after) * (q - p))
    return np.array(kept).reshape(-1, 2)
