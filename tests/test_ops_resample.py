"""resize, grid_sample and roi_align against their formulas, torch, onnxruntime and the reference.

The reference is the evaluator in the onnx wheel, which is written for clearness.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from samples import SAMPLES, Sample, assert_close, compute, run

from cnnir.errors import IRError, RuntimeError
from cnnir.loops import expr
from cnnir.loops.algebra import ElementAlgebra
from cnnir.ops.interpolation import positions

onnxruntime.set_default_logger_severity(4)
Attrs = dict[str, Any]


def single(op: str, operands: Sequence[np.ndarray | None], attrs: Attrs, opset: int) -> Any:
    """A model of one node on the present operands x0, x1, ..."""
    inputs = [f"x{k}" if a is not None else "" for k, a in enumerate(operands)]
    infos = [
        onnx.helper.make_tensor_value_info(
            f"x{k}", onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for k, a in enumerate(operands)
        if a is not None
    ]
    node = onnx.helper.make_node(op, inputs, ["y"], **attrs)
    graph = onnx.helper.make_graph([node], "single", infos, [onnx.ValueInfoProto(name="y")])
    sets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=sets, ir_version=8)


def by_onnxruntime(
    op: str, operands: Sequence[np.ndarray | None], attrs: Attrs, opset: int = 20
) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = single(op, operands, attrs, opset).SerializeToString()
    feeds = {f"x{k}": a for k, a in enumerate(operands) if a is not None}
    return onnxruntime.InferenceSession(model, options).run(None, feeds)[0]


# ---------------------------------------------------------------- resize

RESIZES = [s for s in SAMPLES["resize"] if 0 not in s.attrs["sizes"]]


def position(a: Attrs, axis: int, extent: int, i: int) -> float:
    """Where result i reads, by the formulas of the operator's specification."""
    size, s, kind = a["sizes"][axis], a["scales"][axis], a.get("coordinates", "half_pixel")
    length = s * extent
    if s == 1 and size == extent and kind != "tf_crop_and_resize":
        return i  # an axis that is not resized
    if kind == "align_corners":
        return 0.0 if length == 1 else i * (extent - 1) / (length - 1)
    if kind == "asymmetric":
        return i / s
    if kind == "tf_half_pixel_for_nn":
        return (i + 0.5) / s
    if kind == "tf_crop_and_resize":
        start, end = a["roi"][axis], a["roi"][axis + len(a["sizes"])]
        if length == 1:
            return (start + end) * (extent - 1) / 2
        return start * (extent - 1) + i * (end - start) * (extent - 1) / (length - 1)
    if kind == "pytorch_half_pixel" and size == 1:
        return 0.0
    at = (i + 0.5) / s - 0.5
    return at + extent / 2 * (1 - size / length) if kind == "half_pixel_symmetric" else at


def rounded(at: float, mode: str, extent: int) -> set[int]:
    """The elements that a position may be rounded to; two where rounding errors decide."""
    found = set()
    for near in (at - 1e-5, at + 1e-5, round(at * 2) / 2 if abs(at * 2 % 1) < 1e-12 else at):
        whole = {
            "floor": math.floor(near),
            "ceil": math.ceil(near),
            "round_prefer_floor": math.ceil(near - 0.5),
            "round_prefer_ceil": math.floor(near + 0.5),
        }[mode]
        found.add(min(max(whole, 0), extent - 1))
    return found


@pytest.mark.parametrize(
    "sample", [s for s in RESIZES if s.attrs.get("mode", "nearest") == "nearest"], ids=str
)
def test_nearest_by_the_formulas(sample: Sample) -> None:
    a = dict(sample.attrs)
    x, y = sample.arrays(np.random.default_rng(7))[0], run("resize", sample, 7)[0]
    mode = a.get("nearest", "round_prefer_floor")
    for at in np.ndindex(*y.shape):
        places = [position(a, k, d, i) for k, (d, i) in enumerate(zip(x.shape, at, strict=True))]
        crop = a.get("coordinates") == "tf_crop_and_resize"
        if crop and any(not 0 <= p <= d - 1 for p, d in zip(places, x.shape, strict=True)):
            assert y[at] == a["extrapolation"]
            continue
        choices = [rounded(p, mode, d) for p, d in zip(places, x.shape, strict=True)]
        assert y[at] in {x[index] for index in itertools.product(*choices)}, at


def in_the_reference(sample: Sample) -> bool:
    """Whether the evaluator in the onnx wheel has it, and means the same."""
    a = sample.attrs
    kind = a.get("coordinates", "half_pixel")
    # its cubic for a length of 1 reads at -0.5, where the specification says 0
    one = kind == "pytorch_half_pixel" and 1 in (s for s in a["sizes"][2:])
    known = sample.types[0].dtype in ("f32", "f64")
    return (
        known
        and a.get("mode", "nearest") != "nearest"
        and kind != "tf_half_pixel_for_nn"
        and not one
    )


@pytest.mark.parametrize("sample", [*filter(in_the_reference, RESIZES)], ids=str)
def test_weighing_is_that_of_the_reference(sample: Sample) -> None:
    a = dict(sample.attrs)
    x = sample.arrays(np.random.default_rng(8))[0]
    names = {"mode": "mode", "coordinates": "coordinate_transformation_mode"}
    names |= {"cubic_coeff": "cubic_coeff_a", "extrapolation": "extrapolation_value"}
    names |= {"antialias": "antialias", "exclude_outside": "exclude_outside"}
    attrs = {names[k]: int(v) if isinstance(v, bool) else v for k, v in a.items() if k in names}
    roi = np.array(a.get("roi", ()), np.float32)
    by_size = all(n / d == s for n, d, s in zip(a["sizes"], x.shape, a["scales"], strict=True))
    scales = None if by_size else np.array(a["scales"], np.float32)
    sizes = np.array(a["sizes"], np.int64) if by_size else None
    operands = [x, roi if roi.size else None, scales, sizes][: 4 if by_size else 3]
    feeds = {f"x{k}": v for k, v in enumerate(operands) if v is not None}
    wanted = ReferenceEvaluator(single("Resize", operands, attrs, 19)).run(None, feeds)[0]
    assert_close(run("resize", sample, 8)[0], wanted, 1e-5)


TORCH = (
    ("nearest", {}, {"mode": "nearest", "coordinates": "asymmetric", "nearest": "floor"}),
    ("nearest-exact", {}, {"coordinates": "tf_half_pixel_for_nn", "nearest": "floor"}),
    ("bilinear", {"align_corners": False}, {"mode": "linear"}),
    ("bilinear", {"align_corners": True}, {"mode": "linear", "coordinates": "align_corners"}),
    ("bicubic", {"align_corners": False}, {"mode": "cubic"}),
    ("bicubic", {"align_corners": True}, {"mode": "cubic", "coordinates": "align_corners"}),
    (
        "bilinear", {"antialias": True},
        {"mode": "linear", "antialias": True, "exclude_outside": True},
    ),
    (
        "bicubic", {"antialias": True},
        {"mode": "cubic", "antialias": True, "exclude_outside": True, "cubic_coeff": -0.5},
    ),
)  # fmt: skip


@pytest.mark.parametrize("size", [(7, 31), (17, 1), (34, 14), (5, 62), (3, 3)])
@pytest.mark.parametrize(("mode", "theirs", "ours"), TORCH)
def test_torch_agrees(mode: str, theirs: Attrs, ours: Attrs, size: tuple[int, int]) -> None:
    x = np.random.default_rng(9).standard_normal((2, 3, 17, 7))
    torch = pytest.importorskip("torch")
    resized = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode=mode, **theirs)
    wanted = resized.numpy()
    scales = (1.0, 1.0, size[0] / 17, size[1] / 7)
    assert_close(compute("resize", x, sizes=(2, 3, *size), scales=scales, **ours), wanted, 1e-10)


@pytest.mark.parametrize(
    ("coordinates", "nearest"),
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"),
     ("half_pixel", "round_prefer_ceil"), ("pytorch_half_pixel", "round_prefer_floor")],
)  # fmt: skip
@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_whole_factors_need_one_division(coordinates: str, nearest: str, k: int) -> None:
    m, i = ElementAlgebra(), expr.Var("i", 5 * k)
    line = positions(5, 5 * k, float(k), coordinates, (0.0, 1.0), False)
    if (coordinates, k % 2, nearest) == ("half_pixel", 0, "round_prefer_ceil"):
        pytest.skip("an even factor reads halfway between elements, never at a tie")
    assert line.nearest(m, i, nearest) is i // k


def test_a_factor_that_f32_cannot_hold_means_the_fraction() -> None:
    scale = float(np.float32(1.2))  # a little more, so that 6 / 1.2 would be less than 5
    x = np.arange(10.0)
    y = compute("resize", x, sizes=(12,), scales=(scale,), coordinates="asymmetric",
                nearest="floor")  # fmt: skip
    assert y[6] == 5


@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_axes_that_are_not_resized_stay_as_in_onnxruntime(mode: str, nearest: str) -> None:
    """The shift of tf_half_pixel_for_nn must not mix the channels."""
    x = np.random.default_rng(14).standard_normal((2, 3, 4, 5)).astype(np.float32)
    attrs = {"mode": mode, "nearest_mode": nearest}
    attrs["coordinate_transformation_mode"] = "tf_half_pixel_for_nn"
    operands = [x, np.zeros(0, np.float32), np.array([1, 1, 2, 3], np.float32)]
    wanted = by_onnxruntime("Resize", operands, attrs, opset=11)
    got = compute(
        "resize", x, sizes=(2, 3, 8, 15), scales=(1.0, 1.0, 2.0, 3.0), mode=mode, nearest=nearest,
        coordinates="tf_half_pixel_for_nn",
    )  # fmt: skip
    assert_close(got, wanted, 1e-5)


# ---------------------------------------------------------------- grid_sample

GRIDS = [s for s in SAMPLES["grid_sample"] if s.types[0].size and s.types[1].size]
FINITE = [s for s in GRIDS if isinstance(s.operands[1], str)]


@pytest.mark.parametrize(
    "sample", [s for s in FINITE if s.types[0].dtype in ("f32", "f64")], ids=str
)
def test_grid_sample_as_torch(sample: Sample) -> None:
    torch = pytest.importorskip("torch")
    a = {"mode": "linear", "padding_mode": "zeros", "align_corners": False, **sample.attrs}
    x, grid = sample.arrays(np.random.default_rng(10))
    if a["mode"] == "cubic" and x.ndim == 5:
        pytest.skip("torch has no 5-D cubic")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(a["mode"], a["mode"])
    wanted = torch.nn.functional.grid_sample(
        torch.from_numpy(x.astype("f8")), torch.from_numpy(grid.astype("f8")), mode,
        a["padding_mode"], a["align_corners"],
    )  # fmt: skip
    assert_close(run("grid_sample", sample, 10)[0], wanted.numpy(), 2e-5)


@pytest.mark.parametrize("sample", [s for s in FINITE if s.types[0].dtype == "f32"], ids=str)
def test_grid_sample_as_onnxruntime(sample: Sample) -> None:
    a = dict(sample.attrs)
    x, grid = sample.arrays(np.random.default_rng(11))
    if x.ndim == 5 and a["mode"] == "cubic":
        pytest.skip("onnxruntime has no 5-D cubic")
    attrs = a | {"align_corners": int(a["align_corners"])}
    wanted = by_onnxruntime("GridSample", [x, grid], attrs)
    assert_close(run("grid_sample", sample, 11)[0], wanted, 2e-5)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_any_grid_value_has_a_finite_sample(mode: str, padding: str) -> None:
    x = np.random.default_rng(12).standard_normal((1, 2, 3, 4)).astype(np.float32)
    bad = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e10], np.float32)
    grid = np.stack(np.meshgrid(bad, bad), -1)[None]
    attrs = {"mode": mode, "padding_mode": padding}
    y = compute("grid_sample", x, grid, **attrs)
    assert np.isfinite(y).all()
    start = compute("grid_sample", x, np.full((1, 1, 1, 2), -1, np.float32), **attrs)
    np.testing.assert_array_equal(y[..., :1, :1], start)  # NaN is -1


# ---------------------------------------------------------------- roi_align


@pytest.mark.parametrize("sample", SAMPLES["roi_align"], ids=str)
def test_roi_align_as_onnxruntime(sample: Sample) -> None:
    a = dict(sample.attrs)
    x, rois, members = sample.arrays(np.random.default_rng(13))
    if a["mode"] == "max":
        x = np.abs(x)  # where onnxruntime takes zeros for largest elements differs
    attrs = {
        "mode": a["mode"],
        "output_height": a["output_size"][0],
        "output_width": a["output_size"][1],
        "sampling_ratio": a["sampling_ratio"],
        "spatial_scale": a["spatial_scale"],
        "coordinate_transformation_mode": a["coordinates"],
    }
    operands = [x.astype("f4"), rois.astype("f4"), members]
    wanted = by_onnxruntime("RoiAlign", operands, attrs)
    got = compute("roi_align", x, rois, members, **a)
    assert_close(got, wanted, 2e-5)


def test_a_region_of_a_member_that_is_not_there() -> None:
    x, rois = np.zeros((2, 1, 4, 4), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(RuntimeError, match="batch_indices out of range: 2, wanted -2 to 1"):
        compute("roi_align", x, rois, np.array([0, 2]))


def test_regions_far_larger_than_x_take_bounded_time() -> None:
    x = np.ones((1, 1, 4, 4), np.float32)
    rois = np.array([[-1e9, -1e9, 1e9, 1e9], [0, 0, np.inf, 3], [np.nan, 0, 3, 3]], np.float32)
    assert compute("roi_align", x, rois, np.zeros(3, np.int64), output_size=(2, 2)).shape[0] == 3


# ---------------------------------------------------------------- errors

UP = {"sizes": (4, 6), "scales": (2.0, 2.0)}
BAD: list[tuple[str, tuple[str, ...], Attrs, str]] = [
    ("resize", ("f32[2,3]",), {"sizes": (4,), "scales": (2.0, 2.0)}, "wanted 2 integers"),
    ("resize", ("f32[2,3]",), {"sizes": (4, -1), "scales": (2.0, 2.0)}, "wanted integers >= 0"),
    ("resize", ("f32[2,3]",), {"sizes": (4, 6), "scales": (2.0,)}, "wanted 2 finite numbers"),
    ("resize", ("f32[2,3]",), {"sizes": (4, 6), "scales": (2.0, 0.0)}, "wanted numbers > 0"),
    ("resize", ("f32[2,3]",), {**UP, "mode": "area"}, "wanted one of nearest, linear, cubic"),
    ("resize", ("f32[2,3]",), {**UP, "coordinates": "x"}, "wanted one of half_pixel, half"),
    ("resize", ("f32[2,3]",), {**UP, "nearest": "round"}, "wanted one of round_prefer_floor"),
    ("resize", ("f32[2,3]",), {**UP, "antialias": 1}, "wanted True or False"),
    ("resize", ("f32[2,3]",), {**UP, "roi": (0.0,)}, "wanted 0 finite numbers"),
    ("resize", ("f32[2,3]",), {**UP, "coordinates": "tf_crop_and_resize"}, "wanted 4 finite"),
    ("resize", ("i32[2,3]",), {**UP, "mode": "linear"}, "element type is i32, wanted float"),
    ("resize", ("i32[2,3]",), {**UP, "extrapolation": 0.5}, "wanted a whole number"),
    ("resize", ("f32[0,3]",), UP, "axis 0 is empty"),
    ("grid_sample", ("f32[1,2,3,4]", "f32[1,2,3,3]"), {}, "wanted f32[1,?,?,2]"),
    ("grid_sample", ("f32[1,2,3,4]", "f32[2,2,3,2]"), {}, "wanted f32[1,?,?,2]"),
    ("grid_sample", ("f32[1,2,3,4]", "f64[1,2,3,2]"), {}, "element types f32, f64 differ"),
    ("grid_sample", ("f32[1,2,3]", "f32[1,2,1]"), {}, "wanted 4 or 5"),
    ("grid_sample", ("f32[1,2,0,4]", "f32[1,2,3,2]"), {}, "x has no elements"),
    ("grid_sample", ("f32[1,2,3,4]", "f32[1,2,3,2]"), {"mode": "bilinear"}, "wanted one of"),
    ("roi_align", ("f32[1,2,3,4]", "f32[2,5]", "i64[2]"), {}, "wanted f32[R,4]"),
    ("roi_align", ("f32[1,2,3,4]", "f32[2,4]", "i64[3]"), {}, "wanted shape [2]"),
    ("roi_align", ("f32[1,2,3,4]", "f32[2,4]", "f32[2]"), {}, "wanted i32 or i64"),
    ("roi_align", ("f32[1,2,3]", "f32[2,4]", "i64[2]"), {}, "wanted 4: [N,C,H,W]"),
    (
        "roi_align", ("f32[1,2,3,4]", "f32[2,4]", "i64[2]"), {"output_size": (0, 1)},
        "wanted two integers >= 1",
    ),
    (
        "roi_align", ("f32[1,2,3,4]", "f32[2,4]", "i64[2]"), {"sampling_ratio": -1},
        "wanted an int >= 0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "types", "attrs", "message"), BAD)
def test_errors_say_what_was_wanted(
    name: str, types: tuple[str, ...], attrs: Attrs, message: str
) -> None:
    with pytest.raises(IRError) as caught:
        Sample(types, attrs).graph(name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)
