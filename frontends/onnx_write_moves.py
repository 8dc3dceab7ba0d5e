"""Exports of ops that move or pick elements: shapes, indexing, padding, resizing, detection."""

from __future__ import annotations

import math

import numpy as np

from cnnir.errors import UnsupportedError
from cnnir.frontends.onnx_writer import Writer, number, writes
from cnnir.ir import Node

FARTHEST = -(1 << 62)
"""An end that a slice with a negative step runs over at the front."""


@writes("reshape")
def reshape(w: Writer, node: Node, x: str) -> None:
    """Reshape to a constant shape, in which 0 is 0."""
    shape = node.attrs["shape"]
    if 0 not in shape and shape[:1] == w.types[x].shape[:1] == (w.batch,):
        w.emit("Reshape", [x, w.constant((0, *shape[1:]))], node)  # 0 keeps what there is
        return
    w.emit("Reshape", [x, w.constant(shape)], node, allowzero=1 if 0 in shape else None)


@writes("transpose")
def transpose(w: Writer, node: Node, x: str) -> None:
    """Transpose."""
    perm = list(node.attrs["perm"])
    w.emit("Transpose" if perm else "Identity", [x], node, perm=perm or None)


@writes("concat")
def concat(w: Writer, node: Node, *xs: str) -> None:
    """Concat."""
    w.emit("Concat", xs, node, axis=node.attrs["axis"])


@writes("slice")
def slice_axes(w: Writer, node: Node, x: str) -> None:
    """Slice of the axes that are cut."""
    starts, sizes, steps = (node.attrs[k] for k in ("starts", "sizes", "steps"))
    rows = []
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        if (start, size, step) != (0, w.types[x].shape[axis], 1):
            end = start + size * step
            rows.append((start, end if end >= 0 else FARTHEST, axis, step))
    if not rows:
        w.emit("Identity", [x], node)
        return
    begins, ends, axes, strides = zip(*rows, strict=True)
    w.emit("Slice", [x, *(w.constant(v) for v in (begins, ends, axes, strides))], node)


@writes("pad")
def pad(w: Writer, node: Node, x: str) -> None:
    """Pad; a constant that is not 0 is an operand."""
    value, mode, dtype = node.attrs["value"], node.attrs["mode"], w.types[x].dtype
    given = mode == "constant" and (value != 0 or math.copysign(1, value) < 0)
    operands = [x, w.constant(node.attrs["padding"]), w.constant(value, dtype) if given else ""]
    w.emit("Pad", operands, node, mode=mode)


@writes("expand")
def expand(w: Writer, node: Node, x: str) -> None:
    """Expand to a constant shape."""
    w.emit("Expand", [x, w.constant(node.attrs["shape"])], node)


@writes("tile")
def tile(w: Writer, node: Node, x: str) -> None:
    """Tile by constant repeats."""
    w.emit("Tile", [x, w.constant(node.attrs["repeats"])], node)


@writes("trilu")
def trilu(w: Writer, node: Node, x: str) -> None:
    """Trilu about a constant diagonal."""
    w.emit("Trilu", [x, w.constant(node.attrs["k"])], node, upper=int(node.attrs["upper"]))


# ---------------------------------------------------------------- indexing


@writes("gather", "gather_elements")
def gather(w: Writer, node: Node, x: str, indices: str) -> None:
    """Gather and GatherElements."""
    op = "Gather" if node.name == "gather" else "GatherElements"
    w.emit(op, [x, indices], node, axis=node.attrs["axis"])


@writes("gather_nd")
def gather_nd(w: Writer, node: Node, x: str, indices: str) -> None:
    """GatherND."""
    w.emit("GatherND", [x, indices], node, batch_dims=node.attrs["batch_dims"])


@writes("scatter_nd", "scatter_elements")
def scatter(w: Writer, node: Node, x: str, indices: str, updates: str) -> None:
    """ScatterND and ScatterElements."""
    op = "ScatterND" if node.name == "scatter_nd" else "ScatterElements"
    operands = [x, indices, updates]
    w.emit(op, operands, node, axis=node.attrs.get("axis"), reduction=node.attrs["reduction"])


@writes("one_hot")
def one_hot(w: Writer, node: Node, indices: str, values: str) -> None:
    """OneHot of a constant depth."""
    operands = [indices, w.constant(node.attrs["depth"]), values]
    w.emit("OneHot", operands, node, axis=node.attrs["axis"])


# ---------------------------------------------------------------- between elements


@writes("resize")
def resize(w: Writer, node: Node, x: str) -> None:
    """Resize by sizes, or where scales are not their quotients, by scales."""
    attrs, shape = node.attrs, w.types[x].shape
    crop = attrs["coordinates"] == "tf_crop_and_resize"
    roi = w.constant(attrs["roi"], w.types[x].dtype) if crop else ""
    # a batch of any size is not to be resized
    axes = list(range(1 if w.batch and not crop else 0, len(shape)))
    along = [(shape[a], attrs["sizes"][a], attrs["scales"][a]) for a in axes]
    w.emit(
        "Resize", [x, roi, *_scales_or_sizes(w, along)], node,
        mode=attrs["mode"], coordinate_transformation_mode=attrs["coordinates"],
        nearest_mode=attrs["nearest"], antialias=int(attrs["antialias"]),
        exclude_outside=int(attrs["exclude_outside"]),
        cubic_coeff_a=number(attrs["cubic_coeff"], -0.75),
        extrapolation_value=number(attrs["extrapolation"], 0.0),
        axes=axes if axes and axes[0] else None,
    )  # fmt: skip


def _scales_or_sizes(w: Writer, along: list[tuple[int, int, float]]) -> tuple[str, str]:
    """The operands scales and sizes, one of them given, for (old size, new size, scale)."""
    sizes, scales = [n for _, n, _ in along], [s for _, _, s in along]
    if all(d and n and s == n / d for d, n, s in along):
        return "", w.constant(sizes)
    held = np.array(scales, np.float32)
    if all(
        float(f) == s and math.floor(np.float32(f * np.float32(d))) == n
        for f, (d, n, s) in zip(held, along, strict=True)
    ):
        return w.constant(held, "f32"), ""
    raise UnsupportedError(f"scales {scales} do not give the sizes {sizes} in f32")


@writes("grid_sample")
def grid_sample(w: Writer, node: Node, x: str, grid: str) -> None:
    """GridSample."""
    attrs = node.attrs
    align = int(attrs["align_corners"])
    w.emit(
        "GridSample", [x, grid], node, mode=attrs["mode"], padding_mode=attrs["padding_mode"],
        align_corners=align,
    )  # fmt: skip


@writes("roi_align")
def roi_align(w: Writer, node: Node, x: str, rois: str, members: str) -> None:
    """RoiAlign."""
    attrs = node.attrs
    w.emit(
        "RoiAlign", [x, rois, members], node, mode=attrs["mode"],
        coordinate_transformation_mode=attrs["coordinates"],
        output_height=attrs["output_size"][0], output_width=attrs["output_size"][1],
        sampling_ratio=attrs["sampling_ratio"], spatial_scale=number(attrs["spatial_scale"], 1.0),
    )  # fmt: skip


# ---------------------------------------------------------------- as long as data says


def _cut(w: Writer, node: Node) -> list[str]:
    """The one output of an op whose result ONNX cuts to its length: nothing else may read it."""
    if node not in w.cut:
        raise UnsupportedError("its result is read before it is cut at run time")
    return w.results(node)[:1]


@writes("nms")
def nms(w: Writer, node: Node, boxes: str, scores: str) -> None:
    """NonMaxSuppression with constant limits."""
    attrs = node.attrs
    least = attrs["score_threshold"]
    limits = [
        w.constant([attrs["max_per_class"]]),
        w.constant([attrs["iou_threshold"]], "f32"),
        "" if least is None else w.constant([least], "f32"),
    ]
    center = int(attrs["center_point"]) or None
    w.emit("NonMaxSuppression", [boxes, scores, *limits], _cut(w, node), center_point_box=center)


@writes("nonzero")
def nonzero(w: Writer, node: Node, x: str) -> None:
    """NonZero."""
    w.emit("NonZero", [x], _cut(w, node))
