"""Operators as the importer takes them, one node each, against ONNX Runtime or by hand.

Opsets are chosen around the changes of each operator. ONNX Runtime starts at opset 7, so what
only older ones have is computed with numpy.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper
from onnx_models import RNG as rng
from onnx_models import against_runtime, random, single, values

X4 = random(2, 6, 7, 5)
LONG = np.int64

ELEMENTWISE = [
    *((op, [X4], {}, v) for v in (7, 14) for op in (
        "Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Exp", "Floor", "Ceil", "Reciprocal", "Softplus",
        "Elu", "Selu", "LeakyRelu", "HardSigmoid", "Softsign", "Sin", "Cos", "Tan",
    )),
    *((op, [X4], {}, 14) for op in (
        "Erf", "Round", "Sign", "HardSwish", "Celu", "Sinh", "Cosh", "Asinh", "ThresholdedRelu",
        "Shrink", "IsNaN", "IsInf",
    )),
    ("Acosh", [np.abs(X4) + 1], {}, 9), ("Atanh", [np.tanh(X4)], {}, 9),
    ("Sqrt", [np.abs(X4)], {}, 13), ("Log", [np.abs(X4)], {}, 13), ("Mish", [X4], {}, 18),
    ("Elu", [X4], {"alpha": 0.3}, 7), ("Selu", [X4], {"alpha": 0.3, "gamma": 2.0}, 7),
    ("Celu", [X4], {"alpha": 0.3}, 12), ("Shrink", [X4], {"bias": 0.2, "lambd": 0.9}, 9),
    ("Gelu", [X4], {}, 20), ("Gelu", [X4], {"approximate": "tanh"}, 20),
    ("Clip", [X4], {"min": -0.5, "max": 0.25}, 9), ("Clip", [X4], {}, 9),
    ("Clip", [X4, np.float32(-0.5), np.float32(0.25)], {}, 12),
    ("Clip", [X4, None, np.float32(0.25)], {}, 13), ("Clip", [X4, np.float32(0.25)], {}, 13),
    ("Clip", [(X4 * 9).astype(np.int32), np.int32(-3), np.int32(4)], {}, 13),
    *((op, [X4, random(6, 1, 5)], {}, v) for v in (7, 14) for op in ("Add", "Sub", "Mul", "Div")),
    *((op, [X4, random(6, 1, 5)], {}, v) for v in (9, 16) for op in ("Less", "Greater")),
    *((op, [X4, random(6, 1, 5)], {}, 16) for op in ("LessOrEqual", "GreaterOrEqual", "Equal")),
    *((op, [X4 > 0, random(5) > 0], {}, 13) for op in ("And", "Or", "Xor")),
    *((op, [X4, random(6, 1, 5), random(5)], {}, 13) for op in ("Sum", "Mean", "Max", "Min")),
    *((op, [X4], {}, 8) for op in ("Sum", "Mean", "Max", "Min")),
    ("Pow", [np.abs(X4), random(5)], {}, 7), ("Pow", [X4, LONG(3)], {}, 13),
    ("Pow", [np.arange(5, dtype=np.int32), np.float32(0.5)], {}, 13),
    ("PRelu", [X4, random(6, 1, 1)], {}, 9), ("PRelu", [X4, random(1)], {}, 16),
    ("Mod", [rng.integers(-9, 9, (4, 5)), np.array([3, -3, 5, -5, 7])], {}, 13),
    ("Mod", [X4, random(5)], {"fmod": 1}, 13),
    ("BitShift", [np.arange(9, dtype=np.uint8), np.uint8(2)], {"direction": "LEFT"}, 11),
    ("BitShift", [np.arange(9, dtype=np.uint8), np.uint8(2)], {"direction": "RIGHT"}, 11),
    ("Where", [X4 > 0, X4, random(5)], {}, 16), ("Not", [X4 > 0], {}, 13),
    *(("Cast", [X4 * 5], {"to": t}, v) for v in (9, 19) for t in (
        TensorProto.INT32, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL)),
    ("CastLike", [X4, np.float64(0)], {}, 15), ("Dropout", [X4], {"ratio": 0.3}, 7),
    ("Dropout", [X4, np.float32(0.3)], {}, 13),
]  # fmt: skip

NORMAL = [
    *(("Softmax", [X4], a, v) for v in (7, 11, 13) for a in ({}, {"axis": 2}, {"axis": 3})),
    *(("LogSoftmax", [X4], a, v) for v in (7, 13) for a in ({}, {"axis": 0})),
    *(("Hardmax", [X4], a, v) for v in (7, 13) for a in ({}, {"axis": 2})),
    *(("BatchNormalization", [X4, random(6), random(6), random(6), np.abs(random(6))],
       {"epsilon": 0.01}, v) for v in (7, 9, 14, 15)),
    ("InstanceNormalization", [X4, random(6), random(6)], {"epsilon": 0.01}, 7),
    ("GroupNormalization", [X4, random(3), random(3)], {"num_groups": 3}, 18),
    ("GroupNormalization", [X4, random(6), random(6)], {"num_groups": 3}, 21),
    *(("LayerNormalization", [X4, s, s + 1], {"axis": a}, 17)
      for a, s in ((-1, random(5)), (2, random(7, 5)), (1, random(6, 7, 5)))),
    ("LRN", [X4], {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}, 13),
    ("LRN", [X4], {"size": 5}, 7),
    *(("LpNormalization", [X4], {"p": p, "axis": a}, 7) for p in (1, 2) for a in (-1, 1)),
    ("MeanVarianceNormalization", [X4], {}, 13),
    ("MeanVarianceNormalization", [X4], {"axes": [0, -1]}, 9),
]  # fmt: skip

REDUCTIONS = "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split()
REDUCE = [
    *((f"Reduce{r}", [np.abs(X4)], {"axes": [-1, 1], "keepdims": k}, 11)
      for r in REDUCTIONS for k in (0, 1)),
    *((f"Reduce{r}", [np.abs(X4)], {}, 11) for r in REDUCTIONS),
    *((f"Reduce{r}", [np.abs(X4), np.array([2, 0])], {"keepdims": 0}, 18) for r in REDUCTIONS),
    ("ReduceSum", [X4, np.array([2, 0])], {}, 13),
    ("ReduceSum", [X4], {"noop_with_empty_axes": 1}, 13),
    ("ReduceSum", [rng.integers(-99, 99, (4, 5)), np.array([1])], {}, 13),
    *((op, [np.round(X4)], {"axis": a, "keepdims": 0, "select_last_index": s}, 13)
      for op in ("ArgMax", "ArgMin") for a in (0, -1) for s in (0, 1)),
    *(("CumSum", [X4, LONG(-2)], {"exclusive": e, "reverse": r}, 14)
      for e in (0, 1) for r in (0, 1)),
]  # fmt: skip

SHAPE = [
    ("Reshape", [X4, np.array([0, -1, 5])], {}, 7),
    ("Reshape", [X4, np.array([30, 14])], {"allowzero": 1}, 14),
    *(("Flatten", [X4], {"axis": a}, 9) for a in (0, 1, 3, 4)), ("Flatten", [X4], {"axis": -1}, 13),
    ("Squeeze", [random(1, 3, 1)], {}, 11), ("Squeeze", [random(1, 3, 1)], {"axes": [-1]}, 11),
    ("Squeeze", [random(1, 3, 1), np.array([0])], {}, 13), ("Squeeze", [random(1, 3, 1)], {}, 13),
    ("Unsqueeze", [X4], {"axes": [0, -1]}, 11), ("Unsqueeze", [X4, np.array([2, 0])], {}, 13),
    ("Transpose", [X4], {}, 7), ("Transpose", [X4], {"perm": [0, 2, 3, 1]}, 13),
    ("Concat", [X4, random(2, 1, 7, 5)], {"axis": 1}, 7), ("Concat", [X4, X4], {"axis": -1}, 13),
    ("Slice", [X4], {"starts": [1, -4], "ends": [9, -1], "axes": [1, 2]}, 7),
    ("Slice", [X4, np.array([1, -1]), np.array([9, -9]), np.array([1, -2]), np.array([2, -3])],
     {}, 11),
    ("Slice", [X4, np.array([4]), np.array([2]), np.array([1])], {}, 13),
    ("Slice", [X4, np.array([2**63 - 1]), np.array([-(2**63)]), np.array([1]), np.array([-2])],
     {}, 13),
    ("Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 1.5}, 7),
    *(("Pad", [X4, np.array([0, 0, 1, 2, 0, 0, 3, 0])], {"mode": m}, 13)
      for m in ("constant", "reflect", "edge")),
    ("Pad", [X4, np.array([0, 0, -1, 2, 0, 1, 3, -2]), np.float32(2.5)], {}, 13),
    ("Pad", [X4, np.array([0, 0, 0, 2, 0, 0, -1, 1])], {"mode": "reflect"}, 13),
    ("Pad", [X4, np.array([1, 2]), None, np.array([-1])], {}, 18),
    ("Pad", [X4, np.array([2, 3, 4, 1]), None, np.array([2, 3])], {"mode": "wrap"}, 19),
    ("Expand", [random(6, 1, 5), np.array([2, 1, 7, 1])], {}, 8),
    ("Tile", [X4, np.array([1, 2, 1, 3])], {}, 7),
    ("DepthToSpace", [random(2, 12, 3, 5)], {"blocksize": 2}, 7),
    ("DepthToSpace", [random(2, 12, 3, 5)], {"blocksize": 2, "mode": "CRD"}, 13),
    ("SpaceToDepth", [random(2, 3, 4, 6)], {"blocksize": 2}, 13),
    *(("Shape", [X4], a, 15) for a in ({}, {"start": 1}, {"start": -3, "end": -1}, {"end": 99})),
    ("Size", [X4], {}, 13), ("EyeLike", [random(3, 5)], {"k": 1}, 9),
    ("EyeLike", [random(3, 5)], {"k": -1, "dtype": TensorProto.INT64}, 9),
    ("Trilu", [X4], {"upper": 0}, 14), ("Trilu", [X4, LONG(-1)], {}, 14),
    ("CenterCropPad", [X4, np.array([9, 2])], {"axes": [1, -1]}, 18),
    ("CenterCropPad", [X4, np.array([3, 5, 4, 8])], {}, 18),
]  # fmt: skip

PLACES = rng.permuted(np.tile(np.arange(6)[:, None, None], (2, 1, 7, 5)), axis=1)
INDEX = [
    ("Gather", [X4, np.array([[0, -1], [3, 2]])], {"axis": 2}, 13),
    ("Gather", [X4, LONG(1)], {"axis": -1}, 7),
    ("GatherElements", [X4, rng.integers(-6, 6, (2, 3, 7, 5))], {"axis": 1}, 13),
    ("GatherND", [X4, rng.integers(-2, 2, (4, 3))], {}, 12),
    ("GatherND", [X4, rng.integers(0, 5, (2, 3, 2))], {"batch_dims": 1}, 13),
    ("ScatterND", [X4, np.array([[0, 1], [1, -2]]), random(2, 7, 5)], {}, 13),
    ("ScatterND", [X4, np.array([[0], [0]]), random(2, 6, 7, 5)], {"reduction": "add"}, 18),
    ("ScatterElements", [X4, PLACES, random(2, 6, 7, 5)], {"axis": 1}, 13),
    ("ScatterElements", [X4, rng.integers(0, 6, (2, 6, 7, 5)), random(2, 6, 7, 5)],
     {"axis": 1, "reduction": "max"}, 18),
    ("OneHot", [np.array([[1, -1], [9, 0]]), LONG(4), np.float32([2, 5])], {"axis": 1}, 11),
    ("Compress", [X4, np.array([True, False, True])], {"axis": 2}, 11),
    ("Compress", [X4, np.array([True, False, True])], {}, 11),
]  # fmt: skip


@pytest.mark.parametrize("case", ELEMENTWISE + NORMAL, ids=lambda c: f"{c[0]}-{c[3]}")
def test_elementwise_and_normalisation(case):
    against_runtime(*case)


@pytest.mark.parametrize("case", REDUCE + SHAPE + INDEX, ids=lambda c: f"{c[0]}-{c[3]}")
def test_reductions_shapes_and_indices(case):
    against_runtime(*case)


EQUATIONS = [
    ("ij->ji", (3, 4)), ("ij->", (3, 4)), ("...ii->...i", (2, 3, 3)), ("iji->j", (3, 4, 3)),
    ("ij,jk", (3, 4), (4, 5)), ("bij, bjk -> bik", (2, 3, 4), (2, 4, 5)), ("i,i", (3,), (3,)),
    ("i,j->ij", (3,), (4,)), ("...ij,...jk->...ik", (2, 1, 3, 4), (5, 4, 2)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("nctkv,kvw->nctw", (2, 3, 4, 2, 5), (2, 5, 5)), ("ba,cad->bd", (2, 3), (4, 3, 5)),
]  # fmt: skip


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0])
def test_einsum(case):
    equation, *shapes = case
    arrays = [random(*s) for s in shapes]
    names = set(range(len(arrays)))
    for constant in (set(), names):
        proto, feeds = single("Einsum", arrays, {"equation": equation}, 12, constant, 1)
        expected = np.einsum(equation, *arrays)
        np.testing.assert_allclose(values(proto, *feeds)[0], expected, rtol=1e-4, atol=1e-5)


def test_splits():
    for opset, attributes, sizes in (
        (11, {"axis": 1}, None),
        (11, {"axis": 1, "split": [1, 3, 2]}, None),
        (13, {"axis": -3}, np.array([1, 3, 2])),
        (13, {"axis": 1}, None),
        (18, {"axis": 2, "num_outputs": 3}, None),
    ):
        operands = [X4] if sizes is None else [X4, sizes]
        against_runtime("Split", operands, attributes, opset, outputs=3)


@pytest.mark.parametrize(("k", "opset"), [(None, 7), (3, 10), (3, 11)])
def test_top_k(k, opset):
    x = rng.permutation(60).reshape(3, 20).astype(np.float32)
    attributes = {"k": 3} if k is None else {}
    operands = [x] if k is None else [x, np.array([k])]
    against_runtime("TopK", operands, attributes, opset, outputs=2)
    if opset == 11:
        against_runtime("TopK", operands, {"largest": 0, "axis": 0}, opset, outputs=2)


def test_ranges():
    for numbers in ((1, 10, 3), (10, 1, -4), (5, 1, 1), (0.5, 2.0, 0.3)):
        operands = [np.asarray(n, np.float32 if 0.5 in numbers else LONG) for n in numbers]
        proto, _ = single("Range", operands, {}, 11, {0, 1, 2}, 1)
        expected = np.arange(*(o.item() for o in operands))
        np.testing.assert_allclose(values(proto)[0], expected, rtol=1e-6)


def test_constant_of_shape():
    for value, expected in (
        (None, np.zeros((2, 3), np.float32)),
        (np.array([7]), np.full((2, 3), 7)),
    ):
        attributes = {} if value is None else {"value": numpy_helper.from_array(value)}
        proto, _ = single("ConstantOfShape", [np.array([2, 3])], attributes, 9, {0}, 1)
        (got,) = values(proto)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_selections_of_constants():
    x = np.array([[0, 3, 0], [4, 0, 5]])
    proto, _ = single("NonZero", [x], {}, 13, {0}, 1)
    np.testing.assert_array_equal(values(proto)[0], np.stack(np.nonzero(x)))
    corners = rng.uniform(0, 1, (2, 30, 4)).astype(np.float32)
    operands = [corners, rng.uniform(0, 1, (2, 3, 30)).astype(np.float32), LONG(5), np.float32(0.3),
                np.float32(0.2)]  # fmt: skip
    for centred in (0, 1):
        attributes = {"center_point_box": centred}
        proto, _ = single("NonMaxSuppression", operands, attributes, 11, set(range(5)), 1)
        session = ort.InferenceSession(proto.SerializeToString())
        np.testing.assert_array_equal(values(proto)[0], session.run(None, {})[0])


def test_quantisation():
    x = random(2, 4, 5) * 20
    scale, zero = np.abs(random(4)) + 0.1, np.array([3, -5, 0, 7], np.int8)
    quantised = rng.integers(-128, 127, (2, 4, 5)).astype(np.int8)
    for opset in (13, 21):
        against_runtime("QuantizeLinear", [x, scale, zero], {"axis": 1}, opset)
        against_runtime("QuantizeLinear", [x, np.float32(0.3)], {}, opset)
        against_runtime("DequantizeLinear", [quantised, scale, zero], {"axis": -2}, opset)
    against_runtime("DynamicQuantizeLinear", [x], {}, 11, outputs=3)
    blocks = np.abs(random(2, 2, 5)) + 0.1
    against_runtime("DequantizeLinear", [quantised, blocks], {"axis": 1, "block_size": 2}, 21)
    bytes_ = rng.integers(0, 255, (3, 4)).astype(np.uint8)
    operands = [bytes_, bytes_.T.copy(), np.uint8(7), np.uint8(120)]
    against_runtime("MatMulInteger", operands, {}, 10)


# ---------------------------------------------------------------------- by hand


def test_broadcasting_before_opset_7():
    x, y = random(2, 3, 4, 5), random(3, 4)
    for attributes, shaped in (({"axis": 1}, y[:, :, None]), ({"axis": -3}, y[:, :, None])):
        proto, feeds = single("Add", [x, y], {"broadcast": 1, **attributes}, 6, {1}, 1)
        np.testing.assert_allclose(values(proto, *feeds)[0], x + shaped, rtol=1e-6)
    proto, feeds = single("Mul", [x, random(4, 5)], {"broadcast": 1}, 6, set(), 1)
    np.testing.assert_allclose(values(proto, *feeds)[0], x * feeds[1], rtol=1e-6)


def test_prelu_before_opset_7_has_a_slope_per_channel():
    slope = random(6)
    proto, feeds = single("PRelu", [X4, slope], {}, 6, {1}, 1)
    expected = np.where(X4 > 0, X4, X4 * slope[:, None, None])
    np.testing.assert_allclose(values(proto, *feeds)[0], expected, rtol=1e-6)


def test_batch_normalisation_of_single_elements():
    x, parameters = random(4, 3, 5), [np.abs(random(3, 5)) for _ in range(4)]
    scale, bias, mean, var = parameters
    attributes = {"spatial": 0, "epsilon": 0.01, "is_test": 1}
    proto, feeds = single("BatchNormalization", [x, *parameters], attributes, 6, {1, 2, 3, 4}, 1)
    expected = (x - mean) / np.sqrt(var + 0.01) * scale + bias
    np.testing.assert_allclose(values(proto, *feeds)[0], expected, rtol=1e-5)


def test_mod_of_floats_has_the_sign_of_the_divisor_since_opset_28():
    x, y = np.array([7.5, -7.5, 7.5, -7.5, 6], np.float32), np.array([2, 2, -2, -2, 3], np.float32)
    proto, feeds = single("Mod", [x, y], {}, 28, {1}, 1)
    np.testing.assert_allclose(values(proto, *feeds)[0], np.mod(x, y))


@pytest.mark.parametrize("upper", [0, 1])
def test_dropout_masks(upper):
    proto, feeds = single("Dropout", [X4], {}, 13 if upper else 7, set(), 2)
    y, mask = values(proto, *feeds)
    np.testing.assert_array_equal(y, X4)
    assert mask.dtype == (bool if upper else np.float32) and mask.all()
