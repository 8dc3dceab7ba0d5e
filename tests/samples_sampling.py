"""Samples of grid_sample and roi_align."""

from __future__ import annotations

import itertools

import numpy as np
from samples import Sample, add

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("zeros", "border", "reflection")
ODD_GRID = np.array(
    [[-1, 1], [0, 0], [np.inf, 0.1], [-np.inf, 0.2], [1e30, -1e30], [1.0001, -1.2], [3.1, 5.3]],
    np.float32,
).reshape(1, 1, 7, 2)
for mode, padding, align in itertools.product(MODES, PADDINGS, (False, True)):
    attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
    near = {1: (-1.6, 1.6)}
    add("grid_sample", Sample(("f32[2,3,4,5]", "f32[2,3,7,2]"), attrs, ranges=near))
    add("grid_sample", Sample(("f64[1,2,3,2]", "f64[1,2,9,2]"), attrs, ranges={1: (-9, 9)}))
    add("grid_sample", Sample(("f32[1,2,3,2,4]", "f32[1,2,2,3,3]"), attrs, ranges=near))
    add("grid_sample", Sample(("f32[1,1,1,1]", "f32[1,2,3,2]"), attrs, ranges=near))
    add("grid_sample", Sample(("f32[1,1,4,4]", ODD_GRID), attrs))
for dtype in ("f16", "bf16"):
    add("grid_sample", Sample((f"{dtype}[1,2,4,5]", f"{dtype}[1,3,3,2]"), ranges={1: (-1, 1)}))
add("grid_sample", Sample(("f32[0,2,4,5]", "f32[0,3,3,2]")))
add("grid_sample", Sample(("f32[1,2,4,5]", "f32[1,0,3,2]")))

ROIS = np.array(
    [
        [0, 0, 9, 7],
        [2.3, 1.1, 7.9, 4.2],
        [4, 4, 4, 4],
        [-3, -2, 5, 3],
        [6, 5, 2, 1],
        [5, 3, 19, 16],
    ],
    np.float32,
)
MEMBERS = np.array([0, 1, 0, 1, 1, 0])
for mode, coordinates, ratio in itertools.product(
    ("avg", "max"), ("half_pixel", "output_half_pixel"), (0, 1, 2)
):
    attrs = {
        "mode": mode,
        "coordinates": coordinates,
        "sampling_ratio": ratio,
        "output_size": (3, 2),
        "spatial_scale": 0.75,
    }
    add("roi_align", Sample(("f32[2,3,8,7]", ROIS, MEMBERS), attrs))
    add("roi_align", Sample(("f64[2,1,8,7]", ROIS.astype(np.float64), MEMBERS), attrs))
