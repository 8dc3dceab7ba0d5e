"""ONNX operators that sample between elements: Resize, Upsample, GridSample, RoiAlign."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnir.errors import LimitError
from cnnir.frontends.onnx_builder import LARGEST_DIMENSION, Builder, onnx_op
from cnnir.ir import Value

Ints = Sequence[int]
_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_half_pixel_for_nn", "tf_crop_and_resize",
)  # fmt: skip
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_POLICIES = ("stretch", "not_larger", "not_smaller")


@onnx_op("Resize")
def resize(
    b: Builder,
    x: Value,
    second: Value | None = None,
    third: Value | None = None,
    fourth: Value | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Value:
    """x at another resolution. The operands are scales (opset 10), else roi, scales, sizes."""
    if b.opset < 11:
        return _upsample(b, x, second, None, mode)
    rank = x.type.rank
    along = b.axes(tuple(range(rank)) if axes is None else axes, rank)
    b.choice("mode", mode, ("nearest", "linear", "cubic"))
    b.choice("nearest_mode", nearest_mode, _NEAREST)
    b.choice("coordinate_transformation_mode", coordinate_transformation_mode, _COORDINATES)
    b.choice("keep_aspect_ratio_policy", keep_aspect_ratio_policy, _POLICIES)
    sizes, scales = _targets(b, x, along, third, fourth, keep_aspect_ratio_policy)
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    roi = _roi(b, second, along, rank) if crop else ()
    if sizes == x.type.shape and all(s == 1 for s in scales) and not crop:
        return x
    return b.add(
        "resize", x, sizes=sizes, scales=scales, mode=mode,
        coordinates=coordinate_transformation_mode, nearest=nearest_mode,
        cubic_coeff=cubic_coeff_a, exclude_outside=bool(exclude_outside),
        extrapolation=extrapolation_value, roi=roi, antialias=bool(antialias),
    )  # fmt: skip


def _targets(
    b: Builder, x: Value, along: Ints, third: Value | None, fourth: Value | None, policy: str
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Sizes and scales of all axes, from whichever of the two operands is given."""
    # an empty tensor stands for an operand that is left out
    given = [None if v is None or v.type.size == 0 else v for v in (third, fourth)]
    if (given[0] is None) == (given[1] is None):
        b.reject("wanted either scales or sizes, and not both")
    if given[0] is not None:
        return _scaled(b, x, along, b.array(given[0], "scales"))
    assert given[1] is not None
    wanted = b.ints(given[1], "sizes")
    if len(wanted) != len(along) or any(s < 1 for s in wanted):
        b.reject(f"sizes {list(wanted)} must have {len(along)} entries, all >= 1")
    sizes, scales = list(x.type.shape), [1.0] * x.type.rank
    b.require(all(sizes[a] for a in along), "an empty axis cannot be resized")
    ratios = [w / sizes[a] for a, w in zip(along, wanted, strict=True)]
    common = {"stretch": None, "not_larger": min, "not_smaller": max}[policy]
    for axis, size, ratio in zip(along, wanted, ratios, strict=True):
        if common is not None:
            ratio = common(ratios)
            size = math.floor(ratio * sizes[axis] + 0.5)
        sizes[axis], scales[axis] = size, ratio
    return tuple(sizes), tuple(scales)


def _scaled(
    b: Builder, x: Value, along: Ints, array: np.ndarray
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if array.shape != (len(along),):
        b.reject(f"scales has shape {list(array.shape)}, wanted [{len(along)}]")
    if not (np.isfinite(array) & (array > 0)).all():
        b.reject(f"scales must be positive and finite, got {array.tolist()}")
    sizes, scales = list(x.type.shape), [1.0] * x.type.rank
    for axis, scale in zip(along, array, strict=True):
        # in f32, as everyone else: 0.7 (which is a little less) times 10 must be 7
        size = float(np.float32(scale)) * float(np.float32(sizes[axis]))
        if size > LARGEST_DIMENSION:
            raise LimitError(f"scale {scale} of axis {axis} gives a size that is too large")
        sizes[axis] = math.floor(np.float32(size))
        scales[axis] = float(scale)
    return tuple(sizes), tuple(scales)


def _roi(b: Builder, value: Value | None, along: Ints, rank: int) -> tuple[float, ...]:
    """The region of interest: begins, then ends, of all axes."""
    if value is None:
        b.reject("tf_crop_and_resize wants a roi")
    numbers = b.array(value, "roi").reshape(-1).tolist()
    if len(numbers) != 2 * len(along):
        b.reject(f"roi has {len(numbers)} entries, wanted {2 * len(along)}")
    begins, ends = [0.0] * rank, [1.0] * rank
    for position, axis in enumerate(along):
        begins[axis], ends[axis] = numbers[position], numbers[position + len(along)]
    return (*begins, *ends)


@onnx_op("Upsample")
def upsample(
    b: Builder,
    x: Value,
    factors: Value | None = None,
    *,
    mode: str = "nearest",
    scales: Sequence[float] | None = None,
) -> Value:
    """The older Resize: scales are an attribute before opset 9, then an operand."""
    return _upsample(b, x, factors, scales, mode)


def _upsample(
    b: Builder, x: Value, factors: Value | None, scales: Sequence[float] | None, mode: str
) -> Value:
    array = b.array(factors, "scales") if factors is not None else np.array(scales, np.float32)
    sizes, full = _scaled(b, x, tuple(range(x.type.rank)), array)
    mode = {"bilinear": "linear"}.get(mode, mode)
    b.choice("mode", mode, ("nearest", "linear"))
    if sizes == x.type.shape:
        return x
    return b.add(
        "resize", x, sizes=sizes, scales=full, mode=mode, coordinates="asymmetric",
        nearest="floor",
    )  # fmt: skip


@onnx_op("GridSample")
def grid_sample(
    b: Builder,
    x: Value,
    grid: Value,
    *,
    align_corners: int = 0,
    mode: str | None = None,
    padding_mode: str = "zeros",
) -> Value:
    """x sampled at the positions of a grid that covers it from -1 to 1."""
    old = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
    new = {"linear": "linear", "nearest": "nearest", "cubic": "cubic"}
    modes = new if b.opset >= 20 else old
    chosen = modes[b.choice("mode", mode, tuple(modes))] if mode is not None else "linear"
    b.choice("padding_mode", padding_mode, ("zeros", "border", "reflection"))
    wide = b.cast(grid, x.type.dtype)
    return b.add(
        "grid_sample", x, wide, mode=chosen, padding_mode=padding_mode,
        align_corners=bool(align_corners),
    )  # fmt: skip


@onnx_op("RoiAlign")
def roi_align(
    b: Builder,
    x: Value,
    rois: Value,
    batch_indices: Value,
    *,
    coordinate_transformation_mode: str | None = None,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Value:
    """Regions of x at one small size each."""
    default = "half_pixel" if b.opset >= 16 else "output_half_pixel"
    coordinates = coordinate_transformation_mode or default
    b.choice("coordinate_transformation_mode", coordinates, ("half_pixel", "output_half_pixel"))
    b.choice("mode", mode, ("avg", "max"))
    size = (output_height, output_width)
    b.require(min(size) >= 1, f"output_height and output_width must be >= 1, got {size}")
    b.require(sampling_ratio >= 0, f"sampling_ratio must be >= 0, got {sampling_ratio}")
    return b.add(
        "roi_align", x, rois, batch_indices, mode=mode, output_size=size,
        sampling_ratio=sampling_ratio, spatial_scale=spatial_scale, coordinates=coordinates,
    )  # fmt: skip


@onnx_op("AffineGrid")
def affine_grid(b: Builder, theta: Value, size: Value, *, align_corners: int = 0) -> Value:
    """The positions that `theta` moves a regular grid to: [N, *spatial, dimensions]."""
    sizes = b.ints(size, "size")
    n, spatial = sizes[0], sizes[2:]
    count = len(spatial)
    if count not in (2, 3) or theta.type.shape != (n, count, count + 1) or min(sizes) < 1:
        b.reject(f"theta of shape {list(theta.type.shape)} does not fit the size {list(sizes)}")
    b.check_bytes((*spatial, count + 1), 8)
    points = _regular_grid(spatial, bool(align_corners))
    base = b.constant(points, theta.type.dtype)
    moved = b.add("matmul", base, b.transpose(theta, (0, 2, 1)))
    return b.reshape(moved, (n, *spatial, count))


def _regular_grid(spatial: Ints, align_corners: bool) -> np.ndarray:
    """Homogeneous coordinates, the last axis first: rows of (x, y, ..., 1)."""
    lines: list[Any] = []
    for extent in spatial:
        at = np.arange(extent, dtype=np.float64)
        if align_corners:
            lines.append(at * (2 / max(extent - 1, 1)) - 1)
        else:
            lines.append((at * 2 + 1) / extent - 1)
    mesh = np.meshgrid(*lines, indexing="ij")
    columns = [m.reshape(-1) for m in reversed(mesh)]
    return np.stack([*columns, np.ones(math.prod(spatial))], axis=1)
