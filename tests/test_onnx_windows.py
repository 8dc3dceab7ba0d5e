"""Convolution, pooling, products and resampling as they are imported, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import RNG as rng
from onnx_models import against_runtime, random

W = random(4, 3, 3, 2)
IMAGE = random(2, 6, 9, 8)
CONVOLUTIONS = [
    {"group": 2},
    {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]},
    {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 3]},
    {"group": 2, "auto_pad": "SAME_LOWER", "strides": [2, 1]},
    {"group": 2, "auto_pad": "VALID", "kernel_shape": [3, 2]},
]


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
@pytest.mark.parametrize("opset", [7, 11, 22])
def test_convolution(attributes, opset):
    against_runtime("Conv", [IMAGE, W, random(4)], attributes, opset)


TRANSPOSED = [
    {},
    {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]},
    {"strides": [2, 3], "output_shape": [19, 25]},
    {"strides": [2, 3], "output_shape": [18, 23], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"dilations": [2, 1], "group": 2},
]


@pytest.mark.parametrize("attributes", TRANSPOSED)
def test_transposed_convolution(attributes):
    w = random(6, 2, 3, 3)
    against_runtime("ConvTranspose", [IMAGE, w], attributes, 11)


POOLS = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 2, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
]


@pytest.mark.parametrize("attributes", POOLS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pooling(op, attributes):
    against_runtime(op, [IMAGE], attributes, 22 if op != "LpPool" else 18)
    if op == "MaxPool":
        against_runtime(op, [IMAGE], attributes, 12, outputs=2)
    if op == "AveragePool" and "auto_pad" not in attributes:
        against_runtime(op, [IMAGE], attributes | {"count_include_pad": 1}, 19)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pooling(op):
    against_runtime(op, [IMAGE], {}, 7)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pooling(p):
    against_runtime("GlobalLpPool", [IMAGE], {"p": p}, 7)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"strides": [2, 1], "pads": [1, 0, 1, 2]}, {"dilations": [2, 1], "strides": [3, 2]}],
)
def test_col2im(attributes):
    sizes, kernel = (9, 8), (2, 3)
    stride, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0] * 4)
    spread = attributes.get("dilations", [1, 1])
    count = 1
    for i in range(2):
        extent = (kernel[i] - 1) * spread[i] + 1
        count *= (sizes[i] + pads[i] + pads[i + 2] - extent) // stride[i] + 1
    operands = [random(2, 3 * 6, count), np.array(sizes), np.array(kernel)]
    against_runtime("Col2Im", operands, attributes, 18)


PRODUCTS = [
    ((3, 4), (4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((4,), (4, 5)),
    ((2, 3, 4), (4,)),
    ((4,), (4,)),
]


@pytest.mark.parametrize("shapes", PRODUCTS)
def test_matrix_products(shapes):
    against_runtime("MatMul", [random(*s) for s in shapes], {}, 13)


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(opset, transposed):
    x, y = random(4, 3) if transposed else random(3, 4), random(5, 4)
    attributes = {"alpha": 0.5, "beta": 2.0, "transA": transposed, "transB": 1}
    for c in (random(5), random(3, 1), random(1)):
        against_runtime("Gemm", [x, y, c], attributes, opset)


MODES = [
    {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
    {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    {"mode": "cubic", "coordinate_transformation_mode": "half_pixel", "cubic_coeff_a": -0.5},
]


@pytest.mark.parametrize("attributes", MODES)
@pytest.mark.parametrize("opset", [11, 13, 18, 19])
def test_resize(attributes, opset):
    scales = np.array([1, 1, 1.7, 0.6], np.float32)
    roi = np.zeros(0, np.float32) if opset == 11 else None
    if attributes["coordinate_transformation_mode"] != "align_corners":
        # there ONNX Runtime rounds the length that scales give, unlike the suite of ONNX
        against_runtime("Resize", [IMAGE, roi, scales], attributes, opset)
    empty = np.zeros(0, np.float32) if opset == 11 else None
    against_runtime("Resize", [IMAGE, roi, empty, np.array([2, 6, 13, 5])], attributes, opset)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resize_of_some_axes(policy):
    attributes = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy}
    against_runtime("Resize", [IMAGE, None, None, np.array([13, 5])], attributes, 19)


def test_resize_before_opset_11():
    scales = np.array([1, 1, 2, 3], np.float32)
    against_runtime("Resize", [IMAGE, scales], {"mode": "nearest"}, 10)
    against_runtime("Upsample", [IMAGE, scales], {"mode": "nearest"}, 9)
    against_runtime("Upsample", [IMAGE], {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 3.0]}, 7)
    against_runtime("Upsample", [IMAGE, scales], {"mode": "linear"}, 9)


@pytest.mark.parametrize("opset", [16, 20])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(opset, mode):
    old = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
    name = mode if opset >= 20 else old[mode]
    # positions outside with cubic and border: ONNX Runtime and the reference of ONNX differ
    attributes = {"mode": name, "padding_mode": "zeros" if mode == "cubic" else "border"}
    grid = rng.uniform(-1.2, 1.2, (2, 4, 3, 2)).astype(np.float32)
    against_runtime("GridSample", [IMAGE, grid], attributes, opset)


@pytest.mark.parametrize("opset", [11, 16])
def test_roi_align(opset):
    rois = np.array([[0.3, 0.9, 5.1, 6.2], [1, 1, 3, 3]], np.float32)
    attributes = {"output_height": 3, "output_width": 2, "sampling_ratio": 2, "spatial_scale": 0.8}
    against_runtime("RoiAlign", [IMAGE, rois, np.array([1, 0])], attributes, opset)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("spatial", [(4, 5), (2, 4, 3)])
def test_affine_grid(corners, spatial):
    theta = random(2, len(spatial), len(spatial) + 1)
    operands = [theta, np.array([2, 3, *spatial])]
    against_runtime("AffineGrid", operands, {"align_corners": corners}, 20)


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(masked):
    w, bias = random(4, 3, 3, 2), random(4)
    attributes = {
        "group": 2, "offset_group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2],
    }  # fmt: skip
    out = (5, 7)
    mask = [rng.uniform(0, 1, (2, 12, *out)).astype(np.float32)] if masked else []
    operands = [IMAGE, w, random(2, 24, *out), bias, *mask]
    against_runtime("DeformConv", operands, attributes, 19)


def test_quantised_convolution():
    x = rng.integers(0, 255, IMAGE.shape).astype(np.uint8)
    w = rng.integers(-127, 127, (4, 3, 3, 2)).astype(np.int8)
    attributes = {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}
    scales = np.abs(random(4)) * 0.01 + 0.001
    operands = [
        x, np.float32(0.02), np.uint8(117), w, scales, np.zeros(4, np.int8), np.float32(0.05),
        np.uint8(90), rng.integers(-999, 999, 4).astype(np.int32),
    ]  # fmt: skip
    against_runtime("QLinearConv", operands, attributes, 10)
    against_runtime("ConvInteger", [x, w.view(np.uint8), np.uint8(3)], attributes, 10)
