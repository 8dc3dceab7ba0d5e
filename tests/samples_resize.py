"""Samples of resize: every mode of coordinates, weighing and rounding, up, down and sideways."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from samples import Sample, add

COORDINATES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners"),
    *("asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"),
)
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def by_sizes(shape: tuple[int, ...], sizes: tuple[int, ...], **attrs: Any) -> dict[str, Any]:
    """The attributes of a resize to given sizes."""
    scales = tuple(n / d for n, d in zip(sizes, shape, strict=True))
    return {"sizes": sizes, "scales": scales, **_region(shape, attrs)}


def by_scales(shape: tuple[int, ...], scales: tuple[float, ...], **attrs: Any) -> dict[str, Any]:
    """The attributes of a resize by factors, which models hold as f32."""
    held = tuple(float(np.float32(s)) for s in scales)
    sizes = tuple(math.floor(d * s) for d, s in zip(shape, held, strict=True))
    return {"sizes": sizes, "scales": held, **_region(shape, attrs)}


def _region(shape: tuple[int, ...], attrs: dict[str, Any]) -> dict[str, Any]:
    """Cropping reads from inside of the last two axes to beyond their ends."""
    if attrs.get("coordinates") != "tf_crop_and_resize":
        return attrs
    plain = len(shape) - 2
    begins, ends = (0.0,) * plain + (0.25, -0.125), (1.0,) * plain + (0.75, 1.25)
    return {"roi": begins + ends, "extrapolation": 7.5, **attrs}


IMAGE = (1, 2, 4, 5)
TO_SIZES = ((1, 2, 7, 3), (1, 2, 1, 11), (1, 2, 8, 15))
BY_SCALES = ((1.0, 1.0, 0.6, 1.7), (1.0, 1.0, 2.0, 3.0), (1.0, 1.0, 0.8, 0.4))
for coordinates in COORDINATES:
    targets = [by_sizes(IMAGE, s, coordinates=coordinates) for s in TO_SIZES]
    targets += [by_scales(IMAGE, s, coordinates=coordinates) for s in BY_SCALES]
    for target in targets:
        for nearest in NEAREST:
            add("resize", Sample(("f32[1,2,4,5]",), {**target, "nearest": nearest}))
        for mode, outside in itertools.product(("linear", "cubic"), (False, True)):
            attrs = {**target, "mode": mode, "exclude_outside": outside}
            add("resize", Sample(("f32[1,2,4,5]",), attrs))
for mode, outside in itertools.product(("linear", "cubic"), (False, True)):
    more = {"mode": mode, "exclude_outside": outside, "antialias": True}
    for sizes in ((1, 1, 3, 2), (1, 1, 2, 13), (1, 1, 1, 1)):
        add("resize", Sample(("f32[1,1,9,7]",), by_sizes((1, 1, 9, 7), sizes, **more)))
    add("resize", Sample(("f32[1,1,9,7]",), by_scales((1, 1, 9, 7), (1, 1, 0.6, 0.3), **more)))
for dtype, mode in itertools.product(("f16", "bf16", "f32", "f64"), ("nearest", "linear", "cubic")):
    add("resize", Sample((f"{dtype}[1,1,3,4]",), by_sizes((1, 1, 3, 4), (1, 1, 5, 6), mode=mode)))
for dtype in ("u8", "i64", "bool"):
    add("resize", Sample((f"{dtype}[1,1,3,4]",), by_sizes((1, 1, 3, 4), (1, 1, 5, 2))))
for mode in ("nearest", "linear", "cubic"):
    add("resize", Sample(("f32[5]",), by_sizes((5,), (8,), mode=mode)))
    add(
        "resize", Sample(("f32[2,3,4,2,3]",), by_sizes((2, 3, 4, 2, 3), (2, 3, 3, 5, 3), mode=mode))
    )
    add("resize", Sample(("f32[2,3]",), by_sizes((2, 3), (2, 3), mode=mode)))
    add("resize", Sample(("f32[2,3]",), by_sizes((2, 3), (0, 3), mode=mode)))
add("resize", Sample(("f32[5,3]",), by_sizes((5, 3), (8, 2), mode="cubic", cubic_coeff=-0.5)))
