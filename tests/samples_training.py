"""Samples of what training needs: gradient ops, losses, batch statistics."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from samples import SAMPLES, Sample, add, compute

from cnnir.ops.conv import window_sizes

FLOATS = ("f32", "f64", "f16", "bf16")


def text(dtype: str, *shape: int) -> str:
    """A type as samples write it."""
    return f"{dtype}[{','.join(map(str, shape))}]"


# ---------------------------------------------------------------- convolutions and pools


def weight_grad(sizes: tuple, filters: int, dtype: str = "f32", **attrs: Any) -> Sample:
    """conv_weight_grad of x with these sizes (N, C, ...), with dy as the windows are."""
    rank = len(sizes) - 2
    stride, dilation = (attrs.get(n, (1,) * rank) for n in ("stride", "dilation"))
    padding = attrs.get("padding", (0,) * (2 * rank))
    out = window_sizes(sizes[2:], attrs["kernel"], stride, dilation, padding)
    return Sample((text(dtype, *sizes), text(dtype, sizes[0], filters, *out)), attrs)


for stride, dilation, groups in itertools.product((1, 2, 3), (1, 2), (1, 2, 6)):
    attrs: dict[str, Any] = {
        "kernel": (3, 2),
        "stride": (stride, 1),
        "dilation": (dilation, 1),
        "padding": (2, 1, 0, 1),
        "groups": groups,
    }
    add("conv_weight_grad", weight_grad((2, 6, 3 + 2 * stride, 5), 6, **attrs))
add(
    "conv_weight_grad",
    weight_grad((2, 3, 17), 5, kernel=(3,)),
    weight_grad((1, 2, 3, 5, 4), 3, kernel=(2, 3, 1), padding=(1, 0, 0, 0, 2, 0)),
    weight_grad((2, 5, 6, 7), 4, kernel=(2, 2), padding=(-1, 0, -2, 1)),
    weight_grad((1, 17, 5, 5), 19, kernel=(1, 1)),
    weight_grad((0, 3, 5, 5), 2, kernel=(3, 3)),
    *(weight_grad((2, 3, 5, 6), 4, dtype, kernel=(3, 3)) for dtype in FLOATS),
)


def drawn_index(shape: tuple, sizes: tuple, attrs: dict[str, Any]) -> np.ndarray:
    """What max_pool_index gives for some x."""
    x = np.random.default_rng(len(shape)).standard_normal((*shape, *sizes)).astype(np.float32)
    return compute("max_pool_index", x, **attrs)


for stride, dilation, ceil in itertools.product((1, 2, 3), (1, 2), (False, True)):
    attrs = {
        "kernel": (3, 2),
        "stride": (stride, 2),
        "dilation": (dilation, 1),
        "padding": (1, 0, 2, 1),
        "ceil_mode": ceil,
    }
    index = drawn_index((2, 3), (7, 6), attrs)
    operands = (text("f32", *index.shape), index)
    add("max_pool_grad", Sample(operands, {**attrs, "sizes": (7, 6)}))
for dtype in FLOATS:
    index = drawn_index((1, 2), (11,), {"kernel": (3,)})
    operands = (text(dtype, *index.shape), index)
    add("max_pool_grad", Sample(operands, {"kernel": (3,), "sizes": (11,)}))

# ---------------------------------------------------------------- losses

PAIRS = (("[]", "[]"), ("[17]", "[17]"), ("[2,3,5]", "[3,1]"), ("[0,3]", "[3]"))
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 1e30, -1e30, 104.0, -104.0, np.inf, -np.inf, np.nan])
for name in ("squared_error", "huber", "bce_with_logits", "kl_divergence"):
    add(name, *(Sample((f"f32{x}", f"f32{y}"), ranges={1: (0.0, 1.0)}) for x, y in PAIRS))
    add(name, *(Sample((f"{d}[3,7]", f"{d}[7]"), ranges={1: (0.1, 1.0)}) for d in FLOATS))
    add(name, Sample((SPECIAL.astype(np.float32)[:, None], SPECIAL.astype(np.float32))))
add("huber", Sample(("f32[31]", "f32[31]"), {"delta": 0.3}))
add("kl_divergence", Sample(("f32[2]", np.array([0.0, 1.0], np.float32))))

LABELS = np.array([2, 0, -1, 3, 2], np.int64)
GRID = np.array([[[0, 1, 3], [2, 4, 4]], [[4, 0, 2], [1, 3, 9]]], np.int32)
for name in ("nll", "nll_loss", "cross_entropy"):
    for reduction in ("none", "mean", "sum") if name != "nll" else ("",):
        attrs = {"reduction": reduction} if reduction else {}
        add(name, Sample(("f32[5,4]", np.abs(LABELS)), attrs))
        add(name, Sample(("f32[5,4]", LABELS, "f32[4]"), {**attrs, "ignore_index": -1}))
        add(name, Sample(("f64[2,5,2,3]", GRID), {**attrs, "ignore_index": 9}))
        add(name, Sample(("f16[2,7,2,3]", GRID % 7, "f16[7]"), attrs, ranges={2: (0.5, 2)}))
    add(name, Sample(("f32[0,4]", np.zeros(0, np.int64))))
add("nll_grad", Sample(("f32[5]", np.abs(LABELS)), {"classes": 4}))
add("nll_grad", Sample(("f32[5]", LABELS, "f32[4]"), {"classes": 4, "ignore_index": -1}))
add("nll_grad", Sample(("f64[2,2,3]", GRID), {"classes": 5, "ignore_index": 9}))
add("nll_grad", Sample(("bf16[2,2,3]", GRID % 7, "bf16[7]"), {"classes": 7}))

# ---------------------------------------------------------------- batch statistics

for shape in ((2, 3, 5, 7), (2, 17, 3), (7, 31), (1, 2, 1, 1), (2, 1, 2, 2, 3)):
    channels = text("f32", shape[1])
    add("batch_norm_training", Sample((text("f32", *shape), channels, channels)))
for dtype in FLOATS:
    operands = (f"{dtype}[2,7,3,5]", f"{dtype}[7]", f"{dtype}[7]")
    add("batch_norm_training", Sample(operands, {"epsilon": 1e-3}))

# ---------------------------------------------------------------- resize

for resized in SAMPLES["resize"][::17]:  # the tests of derivatives see all of them
    (before,), attrs = resized.types, dict(resized.attrs)
    if before is not None and before.dtype == "f32":
        after = text("f32", *attrs["sizes"])
        add("resize_grad", Sample((after,), {**attrs, "shape": before.shape}))
for dtype in FLOATS:
    attrs = {"shape": (2, 3), "sizes": (2, 6), "scales": (1.0, 2.0), "mode": "linear"}
    add("resize_grad", Sample((f"{dtype}[2,6]",), attrs))
STARTS = np.array([-1, 0, 2, 1, 4])
for axis, dtype in itertools.product(range(3), FLOATS):
    operands = (f"{dtype}[5,5,5]", STARTS, f"{dtype}[5,3]")
    add("banded", Sample(operands, {"axis": axis}))

# ---------------------------------------------------------------- sampling

for sampled in SAMPLES["grid_sample"][::4]:
    dx, near = sampled.types[0], sampled.types[1]
    assert dx is not None and near is not None
    if dx.size and near.size:
        after = text(dx.dtype, *dx.shape[:2], *near.shape[1:-1])
        operands = (after, sampled.operands[1])
        attrs = {**sampled.attrs, "sizes": dx.shape[2:]}
        add("grid_sample_grad", Sample(operands, attrs, ranges=sampled.ranges))
        add("grid_slopes", Sample(sampled.operands, sampled.attrs, ranges=sampled.ranges))
for region in SAMPLES["roi_align"]:
    if region.attrs["mode"] == "avg":
        dx, rois = region.types[0], region.types[1]
        assert dx is not None and rois is not None
        attrs = {k: v for k, v in region.attrs.items() if k != "mode"} | {"shape": dx.shape}
        after = text(dx.dtype, rois.shape[0], dx.shape[1], *attrs["output_size"])
        add("roi_align_grad", Sample((after, *region.operands[1:]), attrs))

for dtype in (*FLOATS, "i8", "bool"):
    add("barrier", Sample((f"{dtype}[2,3,5]", "f32[7]")))
add("barrier", Sample(("f32[]", "i64[0,2]")))
