"""Params for the page: figures, a histogram, and the filters of convolutions on images.

A large array is sampled for its histogram, evenly; its figures are of all numbers.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from cnnir.ir import Graph, Value
from cnnir.tensortype import is_float

BINS = 48
SAMPLES = 100_000
MOST_FILTERS = 64
LARGEST_FILTER = 15
"""Taps along an axis."""


class Weights:
    """The params that nodes of any stage use, each array once."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._kept: list[np.ndarray] = []  # an id is an array's only while it lives

    def number(self, graph: Graph, value: Value) -> int:
        """The number of a param's row."""
        array = graph.array(value)
        assert array is not None
        key = (str(value.name), id(array))
        if key not in self._numbers:
            self._numbers[key] = len(self.rows)
            self._kept.append(array)
            self.rows.append(described(str(value.name), str(value.type), array))
        return self._numbers[key]


def described(name: str, type: str, array: np.ndarray) -> dict[str, Any]:
    """One param; `histogram` counts equal bins from `least` to `most`, of finite numbers."""
    row: dict[str, Any] = {"name": name, "type": type}
    if not array.size:
        return row
    if array.size <= 8:
        row["values"] = [str(number) for number in array.reshape(-1)]
    if not (is_float(type.partition("[")[0]) or array.dtype.kind in "iu"):
        return row
    numbers = array.reshape(-1)
    sample = numbers[:: -(-numbers.size // SAMPLES)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    least, most = (float(f(numbers.astype(np.float32, copy=False))) for f in (np.min, np.max))
    if not (sample.size and np.isfinite([least, most]).all()):
        return row | {"special": int(np.sum(~np.isfinite(numbers.astype(np.float32))))}
    counts, _ = np.histogram(sample, BINS, (least, most) if most > least else None)
    row |= {"least": least, "most": most, "histogram": counts.tolist()}
    row |= {"mean": float(sample.mean()), "deviation": float(sample.std())}
    row |= {"zeros": float(np.mean(sample == 0)), "sampled": sample.size < numbers.size}
    if (picture := _filters(array)) is not None:
        row["filters"] = picture
    return row


def _filters(array: np.ndarray) -> dict[str, Any] | None:
    """Filters [O,C,h,w] of one channel, or of three, which are shown as colours: 128 is zero."""
    if array.ndim != 4 or array.shape[1] not in (1, 3) or array.dtype.kind != "f":
        return None
    sizes = array.shape[2:]
    if max(sizes) > LARGEST_FILTER or max(sizes) < 2:
        return None
    some = array[:MOST_FILTERS].astype(np.float64)
    largest = np.abs(some).max() or 1.0
    pixels = np.clip(np.rint(some / largest * 127 + 128), 0, 255).astype(np.uint8)
    count, channels, height, width = pixels.shape
    return {
        "count": count,
        "of": array.shape[0],
        "channels": channels,
        "height": height,
        "width": width,
        "pixels": base64.b64encode(pixels.tobytes()).decode(),
    }
