"""Movement, indexing and sorting against onnxruntime, numpy and plain Python, on all samples.

Each sample becomes an ONNX model of one node. What onnxruntime does not do is left out in
`taken` and tested in another way below.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from samples import RELATIVE, SAMPLES, Sample, assert_close, case_id, compute, run

from cnnir.errors import IRError, RuntimeError
from cnnir.tensortype import TensorType

onnxruntime.set_default_logger_severity(4)
Attrs = dict[str, Any]
Call = tuple[str, Attrs, Sequence[np.ndarray]]
"""An ONNX operator, its attributes, and the operands that come after those of the sample."""


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def ort(
    op: str, operands: Sequence[np.ndarray | None], attrs: Attrs, results: int = 1
) -> list[np.ndarray]:
    """The results of a single ONNX node by onnxruntime."""
    named = {f"x{k}": a for k, a in enumerate(operands) if a is not None}
    inputs = [f"x{k}" if a is not None else "" for k, a in enumerate(operands)]
    outputs = [f"y{k}" for k in range(results)]
    node = onnx.helper.make_node(op, inputs, outputs, **attrs)
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for name, a in named.items()
    ]
    outs = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = onnx.helper.make_graph([node], "single", infos, outs)
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, named)


# ---------------------------------------------------------------- samples as ONNX calls


def pad(a: Attrs, rank: int) -> Call:
    return "Pad", {"mode": a.get("mode", "constant")}, (i64(*a["padding"]), a.get("value", 0))


def slices(a: Attrs, rank: int) -> Call:
    ends = [
        start + size * step if start + size * step >= 0 else -(1 << 40)
        for start, size, step in zip(a["starts"], a["sizes"], a["steps"], strict=True)
    ]
    return "Slice", {}, (i64(*a["starts"]), i64(*ends), i64(*range(rank)), i64(*a["steps"]))


def along(op: str) -> Callable[[Attrs, int], Call]:
    return lambda a, rank: (op, dict(a), ())


CALLS: dict[str, Callable[[Attrs, int], Call]] = {
    "reshape": lambda a, rank: ("Reshape", {"allowzero": 1}, (i64(*a["shape"]),)),
    "transpose": along("Transpose"),
    "concat": along("Concat"),
    "slice": slices,
    "pad": pad,
    "expand": lambda a, rank: ("Expand", {}, (i64(*a["shape"]),)),
    "tile": lambda a, rank: ("Tile", {}, (i64(*a["repeats"]),)),
    "trilu": lambda a, rank: (
        "Trilu", {"upper": int(a.get("upper", True))}, (np.array(a.get("k", 0)),)
    ),
    "gather": along("Gather"),
    "gather_nd": along("GatherND"),
    "gather_elements": along("GatherElements"),
    "scatter_nd": along("ScatterND"),
    "scatter_elements": along("ScatterElements"),
    "topk": lambda a, rank: (
        "TopK", {"axis": a["axis"], "largest": int(a.get("largest", True))}, (i64(a["k"]),)
    ),
}  # fmt: skip


def taken(name: str, sample: Sample) -> bool:
    """Whether onnxruntime has the op for these operands, and means the same."""
    types = [t for t in sample.types if t is not None]
    if any(t.dtype in ("f16", "bf16", "f64", "bool", "u8", "i8") for t in types):
        return False
    if name not in ("reshape", "concat") and any(t.size == 0 for t in types):
        return False
    if name in ("transpose", "slice", "pad") and types[0].rank == 0:
        return False
    if name == "gather_nd" and types[1].dtype == "i32":
        return False
    # topk of onnxruntime leaves NaN wherever it happens to be
    arrays = [o for o in sample.operands if isinstance(o, np.ndarray)]
    return not any(a.dtype.kind == "f" and np.isnan(a).any() for a in arrays)


CASES = [(name, s) for name in CALLS for s in SAMPLES[name] if taken(name, s)]


@pytest.mark.parametrize(("name", "sample"), CASES, ids=case_id)
def test_onnxruntime_agrees(name: str, sample: Sample) -> None:
    arrays = list(sample.arrays(np.random.default_rng(3)))
    op, attrs, more = CALLS[name](dict(sample.attrs), sample.types[0].rank)
    if op == "Pad":
        more = (more[0], np.asarray(more[1]).astype(arrays[0].dtype))
    wanted = ort(op, [*arrays, *more], attrs, 2 if name == "topk" else 1)
    for mine, theirs in zip(run(name, sample, 3), wanted, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        if name.startswith("scatter") and mine.dtype.kind == "f":
            assert_close(mine, theirs, 8 * RELATIVE["f32"])
        else:
            np.testing.assert_array_equal(mine, theirs)


# ---------------------------------------------------------------- what onnxruntime leaves out


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "bool", "u8", "i8"])
@pytest.mark.parametrize("name", ["transpose", "concat", "slice", "pad", "gather", "trilu"])
def test_movement_of_every_element_type_is_that_of_f32(name: str, dtype: str) -> None:
    for sample in SAMPLES[name]:
        if sample.types[0].dtype != dtype or sample.attrs.get("value"):
            continue
        arrays = [np.asarray(a) for a in sample.arrays(np.random.default_rng(4))]
        moved = [a if k and name == "gather" else a.astype("f4") for k, a in enumerate(arrays)]
        wanted = compute(name, *moved, **sample.attrs)
        np.testing.assert_array_equal(run(name, sample, 4)[0].astype("f4"), wanted)


def best_first(line: Sequence[float], largest: bool) -> list[int]:
    """Positions of a line's elements in the order of topk, by Python's stable sort."""

    def rank(i: int) -> tuple[bool, float]:
        return (True, 0.0) if math.isnan(line[i]) else (False, line[i])

    order = sorted(range(len(line)), key=rank)
    if not largest:
        return order
    groups = [list(g) for _, g in itertools.groupby(order, key=rank)]
    return [i for group in reversed(groups) for i in group]


TOPS = [s for s in SAMPLES["topk"] if s.types[0].size]


@pytest.mark.parametrize("sample", TOPS, ids=str)
def test_topk_is_a_stable_sort_with_nan_largest(sample: Sample) -> None:
    x = sample.arrays(np.random.default_rng(5))[0]
    values, indices = run("topk", sample, 5)
    axis, largest = sample.attrs["axis"], sample.attrs.get("largest", True)
    for at in np.ndindex(*values.shape[:axis], *values.shape[axis + 1 :]):
        place = (*at[:axis], slice(None), *at[axis:])
        wanted = best_first([float(v) for v in x[place]], largest)[: sample.attrs["k"]]
        assert indices[place].tolist() == wanted
        np.testing.assert_array_equal(values[place], x[place][wanted])


@pytest.mark.parametrize("sample", SAMPLES["one_hot"], ids=str)
def test_one_hot_by_hand(sample: Sample) -> None:
    indices, values = sample.arrays(np.random.default_rng(6))
    result = np.moveaxis(run("one_hot", sample, 6)[0], sample.attrs["axis"], -1)
    depth = sample.attrs["depth"]
    for at in np.ndindex(*indices.shape):
        i = int(indices[at])
        chosen = i + depth if i < 0 else i
        assert result[at].tolist() == [values[int(d == chosen)] for d in range(depth)]


@pytest.mark.parametrize("name", ["scatter_nd", "scatter_elements"])
def test_updates_take_place_in_order(name: str) -> None:
    rows = np.zeros((4, 1), np.int64) if name == "scatter_nd" else np.zeros(4, np.int64)
    attrs = {} if name == "scatter_nd" else {"axis": 0}
    x, updates = np.array([5.0, 7.0]), np.array([1.0, 2.0, 4.0, 3.0])
    for reduction, wanted in (("none", 3), ("add", 15), ("mul", 120), ("max", 5), ("min", 1)):
        y = compute(name, x, rows, updates, **attrs, reduction=reduction)
        assert y.tolist() == [wanted, 7]


# ---------------------------------------------------------------- errors

OUTSIDE: list[tuple[str, tuple[str, ...], Attrs]] = [
    ("gather", ("f32[3,4]", "indices[2]"), {"axis": 0}),
    ("gather_nd", ("f32[3,4]", "indices[2,1]"), {}),
    ("gather_elements", ("f32[3,4]", "indices[2,4]"), {"axis": 0}),
    ("scatter_nd", ("f32[3,4]", "indices[2,1]", "f32[2,4]"), {}),
    ("scatter_elements", ("f32[3,4]", "indices[2,4]", "f32[2,4]"), {"axis": 0}),
]


@pytest.mark.parametrize("bad", [3, -4, 1 << 40, -(1 << 62)])
@pytest.mark.parametrize(("name", "operands", "attrs"), OUTSIDE)
def test_indices_out_of_range_are_named(
    name: str, operands: tuple[str, ...], attrs: Attrs, bad: int
) -> None:
    arrays: list[Any] = list(operands)
    indices = np.zeros(TensorType.parse(operands[1].replace("indices", "i64")).shape, np.int64)
    indices.flat[-1] = bad
    arrays[1] = indices
    with pytest.raises(RuntimeError, match=f"indices out of range: {bad}, wanted -3 to 2"):
        run(name, Sample(tuple(arrays), attrs))


BAD: list[tuple[str, tuple[str, ...], Attrs, str]] = [
    ("gather", ("f32[3]", "f32[2]"), {"axis": 0}, "indices are f32, wanted i32 or i64"),
    ("gather", ("f32[3]", "i64[2]"), {"axis": 1}, "wanted one from 0 to 0"),
    ("gather", ("f32[0,3]", "i64[2]"), {"axis": 0}, "axis 0 is empty"),
    ("gather_nd", ("f32[3]", "i64[2,2]"), {}, "index tuples have 2 entries, wanted at most 1"),
    ("gather_nd", ("f32[2,3]", "i64[3,1]"), {"batch_dims": 1}, "dimensions differ"),
    ("gather_nd", ("f32[2,3]", "i64[2]"), {"batch_dims": 1}, "wanted one from 0 to 0"),
    ("gather_nd", ("f32[2,3]", "i64[]"), {}, "indices are a single number"),
    ("gather_elements", ("f32[3,4]", "i64[3]"), {"axis": 0}, "wanted that of x, 2"),
    ("gather_elements", ("f32[3,4]", "i64[3,5]"), {"axis": 0}, "wanted at most 4"),
    ("one_hot", ("i64[3]", "f32[3]"), {"depth": 2, "axis": 0}, "wanted f32[2]: off and on"),
    ("one_hot", ("i64[3]", "f32[2]"), {"depth": -1, "axis": 0}, "wanted an integer >= 0"),
    ("one_hot", ("i64[3]", "f32[2]"), {"depth": 2, "axis": 2}, "wanted one from 0 to 1"),
    ("scatter_nd", ("f32[3]", "i64[2,1]", "f32[3]"), {}, "updates are f32[3], wanted f32[2]"),
    ("scatter_nd", ("f32[3]", "i64[2,1]", "f64[2]"), {}, "updates are f64[2], wanted f32[2]"),
    ("scatter_nd", ("f32[3]", "i64[1,2]", "f32[1]"), {}, "tuples of at most 1 entries"),
    (
        "scatter_elements", ("f32[3]", "i64[2]", "f32[2]"), {"axis": 0, "reduction": "sub"},
        "wanted one of none, add, mul, max, min",
    ),
    (
        "scatter_elements", ("bool[3]", "i64[2]", "bool[2]"), {"axis": 0, "reduction": "max"},
        "wanted float or int",
    ),
    ("topk", ("f32[3]",), {"k": 4, "axis": 0}, "attribute k is 4, wanted one from 0 to 3"),
    ("topk", ("bool[3]",), {"k": 1, "axis": 0}, "wanted float or int"),
    ("topk", ("f32[3]",), {"k": 1, "axis": 0, "largest": 1}, "wanted True or False"),
    ("reshape", ("f32[2,3]",), {"shape": (5,)}, "has 5 elements, x has 6"),
    ("transpose", ("f32[2,3]",), {"perm": (0, 0)}, "wanted the axes 0 to 1 once each"),
    ("concat", ("f32[2,3]", "f32[3,3]"), {"axis": 1}, "wanted all other dimensions equal"),
    ("slice", ("f32[4]",), {"starts": (2,), "sizes": (3,), "steps": (1,)}, "leave 0 to 3"),
    ("pad", ("f32[3]",), {"padding": (3, 0), "mode": "reflect"}, "wanted less than 3"),
    ("pad", ("f32[3]",), {"padding": (-1, 0)}, "wanted 2 integers >= 0"),
    ("expand", ("f32[2,3]",), {"shape": (3, 3)}, "do not broadcast"),
    ("tile", ("f32[2]",), {"repeats": (1, 2)}, "wanted 1 integers"),
    ("trilu", ("f32[2]",), {}, "wanted at least 2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "types", "attrs", "message"), BAD)
def test_errors_say_what_was_wanted(
    name: str, types: tuple[str, ...], attrs: Attrs, message: str
) -> None:
    with pytest.raises(IRError) as caught:
        Sample(types, attrs).graph(name)
    assert message in str(caught.value)
    assert str(caught.value).startswith(name)
