"""Samples of convolution, pooling, movement, indexing, sorting, resizing and sampling ops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from samples import Sample, add

FLOATS = ("f32", "f64", "f16", "bf16")


def ints(*values: Any, dtype: str = "int64") -> np.ndarray:
    """An index tensor."""
    return np.array(values, dtype)


def drawn(extent: int, *shape: int, dtype: str = "int64") -> np.ndarray:
    """Valid indices of an axis, negative ones among them, the same for the same arguments."""
    rng = np.random.default_rng([extent, *shape])
    return rng.integers(-extent, extent, shape).astype(dtype)


# ---------------------------------------------------------------- convolution

for stride, dilation, groups in itertools.product((1, 2, 3), (1, 2), (1, 2, 6)):
    attrs: dict[str, Any] = {
        "stride": (stride, 1),
        "dilation": (dilation, 1),
        "padding": (2, 1, 0, 1),
        "groups": groups,
    }
    add("conv", Sample((f"f32[2,6,{3 + 2 * stride},5]", f"f32[6,{6 // groups},3,2]"), attrs))
    attrs = attrs | {"padding": (1, 1, 0, 1), "output_padding": (max(stride, dilation) - 1, 0)}
    add("conv_transpose", Sample(("f32[2,6,3,4]", f"f32[6,{6 // groups},3,2]"), attrs))
for shape, kernel in (("[1,3,17]", "[5,3,3]"), ("[1,2,3,5,4]", "[3,2,2,3,1]")):
    add("conv", Sample((f"f32{shape}", f"f32{kernel}")))
    add("conv", Sample((f"f64{shape}", f"f64{kernel}", f"f64[{kernel[1]}]")))
    add("conv", Sample((f"i32{shape}", f"i32{kernel}")))
for dtype in FLOATS:
    add("conv", Sample((f"{dtype}[1,3,5,7]", f"{dtype}[4,3,3,3]", f"{dtype}[4]")))
    add("conv_transpose", Sample((f"{dtype}[1,3,5,4]", f"{dtype}[3,4,3,3]", f"{dtype}[4]")))
add(
    "conv",
    Sample(("f32[1,17,7,9]", "f32[19,17,1,1]", "f32[19]")),
    Sample(("f32[1,8,6,6]", "f32[16,1,3,3]", "f32[16]"), {"padding": (1,) * 4, "groups": 8}),
    Sample(("f32[1,3,9,8]", "f32[5,3,7,7]"), {"padding": (3,) * 4, "stride": (2, 2)}),
    Sample(("f32[0,3,5,5]", "f32[2,3,3,3]")),
    Sample(("f32[1,0,5,5]", "f32[2,0,3,3]", "f32[2]")),
    Sample(("f32[1,2,2,2,2,3]", "f32[3,2,1,2,2,2]"), {"padding": (0, 1, 0, 1) * 2}),
    # more padding than kernel: the outermost windows see nothing
    Sample(("f32[1,1,2,2]", "f32[1,1,1,2]", "f32[1]"), {"padding": (3, 2, 1, 4)}),
)
# boundaries: alone, mixed, with a stride; more padding than the image has, or than the kernel reads
for words in itertools.product(("circular", "reflect", "replicate", "zero"), repeat=2):
    attrs = {"padding": (2, 1, 1, 2), "stride": (1, 2), "dilation": (2, 1), "boundary": words}
    add("conv", Sample(("f32[2,4,7,5]", "f32[6,2,3,4]", "f32[6]"), attrs | {"groups": 2}))
    attrs = {"padding": (3, 1, 0, 1), "boundary": words}
    add("conv", Sample(("f32[1,2,4,7]", "f32[3,2,4,3]"), attrs))
for word in ("circular", "replicate"):
    attrs = {"padding": (4, 3), "boundary": (word,)}
    add("conv", Sample(("f64[1,2,2]", "f64[3,2,5]"), attrs))
    add("conv", Sample(("i32[1,2,1]", "i32[3,2,7]"), attrs))
attrs = {"padding": (1, 2, 1, 1, 0, 1), "boundary": ("reflect", "zero", "circular")}
add("conv", Sample(("f32[1,2,3,4,3]", "f32[2,2,3,3,3]"), attrs))
add(
    "conv_transpose",
    Sample(("f32[1,3,5]", "f32[3,2,4]", "f32[2]"), {"stride": (3,), "padding": (1, 2)}),
    Sample(("f32[1,2,2,3,2]", "f32[2,1,2,2,3]"), {"stride": (2, 1, 2), "groups": 2}),
    Sample(("f32[1,2,1,1]", "f32[2,3,2,2]"), {"stride": (2, 2)}),
)

# ---------------------------------------------------------------- pooling

POOLS = ("max_pool", "max_pool_index", "avg_pool", "lp_pool")
for name, stride, dilation, ceil in itertools.product(POOLS, (1, 2, 3), (1, 2), (False, True)):
    attrs = {
        "kernel": (3, 2),
        "stride": (stride, 2),
        "dilation": (dilation, 1),
        "padding": (1, 0, 2, 1),
        "ceil_mode": ceil,
    }
    add(name, Sample(("f32[2,3,7,6]",), attrs))
    if name == "avg_pool":
        add(name, Sample(("f32[1,3,8,6]",), attrs | {"count_include_pad": True}))
    if name == "lp_pool":
        add(name, *(Sample(("f32[1,2,8,6]",), attrs | {"p": p}) for p in (1, 3)))
    if name == "max_pool_index":
        add(name, Sample(("f32[2,2,8,6]",), attrs | {"storage_order": 1}))
for name in POOLS:
    add(name, Sample(("f32[2,3,11]",), {"kernel": (4,), "stride": (3,), "ceil_mode": True}))
    add(name, Sample(("f32[1,2,3,5,4]",), {"kernel": (2, 3, 1), "padding": (1, 0, 0, 0, 2, 0)}))
    add(name, Sample(("f32[0,3,5,5]",), {"kernel": (2, 2)}))
    add(name, Sample(("f32[1,1,9,9]",), {"kernel": (9, 9)}))
    add(name, *(Sample((f"{d}[1,3,5,7]",), {"kernel": (3, 3), "stride": (2, 2)}) for d in FLOATS))
for name, dtype in itertools.product(("max_pool", "max_pool_index"), ("i8", "u8", "i64")):
    attrs = {"kernel": (3, 3), "padding": (1,) * 4}
    add(name, Sample((f"{dtype}[1,2,5,5]",), attrs, low=-9, high=9))
TIES = np.array([[[[1, 1, 0, np.nan], [1, 2, 2, 0], [-np.inf] * 4, [-np.inf] * 4]]], np.float32)
for name in ("max_pool", "max_pool_index", "avg_pool"):
    add(name, Sample((TIES,), {"kernel": (2, 2)}))
    add(name, Sample((TIES,), {"kernel": (2, 2), "padding": (1, 1, 1, 1), "stride": (2, 2)}))

# ---------------------------------------------------------------- movement

RESHAPES = (
    ("[2,3,4]", (6, 4)), ("[2,3,4]", (24,)), ("[6]", (1, 2, 1, 3)), ("[]", (1, 1)), ("[1]", ()),
    ("[2,6,5]", (3, 4, 5)), ("[0,3]", (7, 0)), ("[3,1,5]", (5, 3)), ("[2,3,4,5]", (2, 12, 5)),
)  # fmt: skip
for shape, after in RESHAPES:
    add("reshape", Sample((f"f32{shape}",), {"shape": after}))
for dtype in (*FLOATS, "bool", "u8", "i64"):
    add("reshape", Sample((f"{dtype}[3,4]",), {"shape": (2, 6)}))
    add("transpose", Sample((f"{dtype}[3,5]",), {"perm": (1, 0)}))
    add("concat", Sample((f"{dtype}[2,3]", f"{dtype}[1,3]"), {"axis": 0}))
    attrs = {"starts": (2, 0), "sizes": (3, 2), "steps": (-1, 2)}
    add("slice", Sample((f"{dtype}[4,3]",), attrs))
    for mode in ("constant", "edge", "reflect", "wrap"):
        add("pad", Sample((f"{dtype}[4,3]",), {"padding": (1, 0, 2, 2), "mode": mode}))
    add("expand", Sample((f"{dtype}[3,1]",), {"shape": (2, 3, 4)}))
    add("tile", Sample((f"{dtype}[2,3]",), {"repeats": (3, 2)}))
    add("trilu", Sample((f"{dtype}[4,5]",)))
    add("gather", Sample((f"{dtype}[4,3]", ints(0, -1, 3, 3)), {"axis": 0}))
for perm in itertools.permutations(range(3)):
    add("transpose", Sample(("f32[2,3,5]",), {"perm": perm}))
add("transpose", Sample(("f32[]",), {"perm": ()}), Sample(("f32[0,2]",), {"perm": (1, 0)}))
add("transpose", Sample(("f32[2,3,4,5,2]",), {"perm": (0, 3, 1, 4, 2)}))
for axis in range(3):
    shapes = [tuple(k if a == axis else d for a, d in enumerate((2, 3, 4))) for k in (1, 5, 0, 3)]
    operands = tuple(f"f32[{','.join(map(str, s))}]" for s in shapes)
    add("concat", Sample(operands, {"axis": axis}))
add("concat", Sample(("f32[2,3]",), {"axis": 1}), Sample(("f32[0]", "f32[0]"), {"axis": 0}))
add("concat", Sample(tuple(f"f32[1,{c},3,3]" for c in range(1, 9)), {"axis": 1}))
SLICES = (
    ("[7]", (1,), (3,), (2,)), ("[7]", (6,), (4,), (-2,)), ("[7]", (3,), (1,), (-100,)),
    ("[2,3,5]", (0, 2, 1), (2, 3, 2), (1, -1, 3)), ("[]", (), (), ()), ("[4]", (4,), (0,), (1,)),
    ("[4]", (0,), (0,), (-1,)), ("[0,3]", (0, 1), (0, 2), (1, 1)), ("[5]", (4,), (5,), (-1,)),
)  # fmt: skip
for shape, starts, sizes, steps in SLICES:
    add("slice", Sample((f"f32{shape}",), {"starts": starts, "sizes": sizes, "steps": steps}))
PADS = (("[2,3,5]", (1, 0, 2, 0, 3, 1)), ("[]", ()), ("[3]", (0, 0)), ("[1,1]", (2, 3, 0, 1)))
for shape, padding in PADS:
    add("pad", Sample((f"f32{shape}",), {"padding": padding, "value": -1.5}))
    add("pad", Sample((f"f32{shape}",), {"padding": padding, "mode": "edge"}))
    add("pad", Sample((f"f32{shape}",), {"padding": padding, "mode": "wrap"}))
add("pad", Sample(("f32[2,3,7]",), {"padding": (1, 2, 6, 0, 1, 5), "mode": "reflect"}))
add("pad", Sample(("f32[5]",), {"padding": (11, 13), "mode": "wrap"}))
add("pad", Sample(("f32[0,2]",), {"padding": (1, 0, 2, 1), "value": float("-inf")}))
add("pad", Sample(("bool[3]",), {"padding": (1, 1), "value": True}))
EXPANDS = (("[]", (2, 3)), ("[1]", (0,)), ("[3,1,1]", (2, 3, 1, 4)), ("[2,3]", (2, 3)))
for shape, after in EXPANDS:
    add("expand", Sample((f"f32{shape}",), {"shape": after}))
TILES = (("[3]", (4,)), ("[]", ()), ("[2,3,1]", (1, 2, 5)), ("[2]", (0,)), ("[0,2]", (3, 1)))
for shape, repeats in TILES:
    add("tile", Sample((f"f32{shape}",), {"repeats": repeats}))
for k, upper in itertools.product((-6, -1, 0, 2, 7), (True, False)):
    add("trilu", Sample(("f32[2,4,5]",), {"k": k, "upper": upper}))
add("trilu", Sample(("f32[5,3]",), {"upper": False}), Sample(("f32[0,3]",)))

# ---------------------------------------------------------------- indexing

for axis, dtype in itertools.product(range(3), ("int32", "int64")):
    extent = (3, 4, 5)[axis]
    add("gather", Sample(("f32[3,4,5]", drawn(extent, 2, 3, dtype=dtype)), {"axis": axis}))
    shape = tuple(7 if a == axis else d for a, d in enumerate((3, 3, 5)))
    add("gather_elements", Sample(("f32[3,4,5]", drawn(extent, *shape, dtype=dtype)),
                                  {"axis": axis}))  # fmt: skip
    add("scatter_elements", Sample(
        ("f32[3,4,5]", drawn(extent, *shape, dtype=dtype), f"f32[{','.join(map(str, shape))}]"),
        {"axis": axis},
    ))  # fmt: skip
add(
    "gather",
    Sample(("f32[5]", ints(3).reshape(())), {"axis": 0}),
    Sample(("f32[5,2]", ints(-5).reshape(())), {"axis": 0}),
    Sample(("f32[3,0]", ints(2, 0)), {"axis": 0}),
    Sample(("f32[0,3]", np.zeros((0, 2), np.int64)), {"axis": 0}),
)
GATHERS = (
    ("f32[3,4,5]", (ints([0, 1], [-1, -4]), 0)), ("f32[3,4,5]", (ints([2], [0], [1]), 0)),
    ("f32[3,4,5]", (ints([0, 1, 4], [-1, 3, 0]), 0)), ("f32[2,4,5]", (drawn(4, 2, 3, 1), 1)),
    ("f32[2,3,4]", (drawn(4, 2, 3, 1), 2)), ("f32[2,3]", (np.zeros((4, 0), np.int64), 0)),
    ("i64[2,3]", (ints([0], [1], dtype="int32"), 0)), ("f32[5]", (ints(2), 0)),
    ("f32[2,3]", (np.zeros((0, 2), np.int64), 0)),
)  # fmt: skip
for operand, (indices, batch_dims) in GATHERS:
    add("gather_nd", Sample((operand, indices), {"batch_dims": batch_dims}))
for reduction, dtype in itertools.product(
    ("none", "add", "mul", "max", "min"), ("f32", "f64", "i32")
):
    attrs = {"reduction": reduction}
    rows = ints([0, 1], [-1, 3], [0, 1], [2, 0])
    add("scatter_nd", Sample((f"{dtype}[3,4,2]", rows, f"{dtype}[4,2]"), attrs))
    add("scatter_nd", Sample((f"{dtype}[6]", drawn(6, 9, 1), f"{dtype}[9]"), attrs))
    add("scatter_nd", Sample((f"{dtype}[3,4]", drawn(3, 2, 3, 1), f"{dtype}[2,3,4]"), attrs))
    operands = (f"{dtype}[3,4]", drawn(4, 2, 9), f"{dtype}[2,9]")
    add("scatter_elements", Sample(operands, attrs | {"axis": 1}))
add(
    "scatter_nd",
    Sample(("f32[2,3]", np.zeros((0, 1), np.int64), "f32[0,3]")),
    Sample(("f32[2,3]", np.zeros((2, 0), np.int64), "f32[2,2,3]"), {"reduction": "add"}),
    Sample(("bool[4]", ints([1], [3], dtype="int32"), "bool[2]")),
    Sample(("f16[4]", ints([1], [1]), "f16[2]"), {"reduction": "add"}),
)
add("scatter_elements", Sample(("f32[3]", np.zeros(0, np.int64), "f32[0]"), {"axis": 0}))
add("scatter_elements", Sample(("u8[3,3]", drawn(3, 2, 2), "u8[2,2]"), {"axis": 0}))
for axis, values in itertools.product(range(3), (ints(0, 1), np.array([-1.5, 2.5], np.float32))):
    indices = ints([0, 3, -1], [-4, 4, -5])  # the last two are no positions
    add("one_hot", Sample((indices, values), {"depth": 4, "axis": axis}))
add("one_hot", Sample((ints(1, dtype="int32").reshape(()), "f64[2]"), {"depth": 3, "axis": 0}))
add("one_hot", Sample((ints(1, 0), "f32[2]"), {"depth": 0, "axis": 1}))
add("one_hot", Sample((ints(1, 0), np.array([False, True])), {"depth": 2, "axis": 0}))

# ---------------------------------------------------------------- sorting

for axis, largest, k in itertools.product(range(3), (True, False), (1, 3)):
    add("topk", Sample(("f32[3,4,5]",), {"k": k, "axis": axis, "largest": largest}))
for largest, k in itertools.product((True, False), (0, 1, 2, 7, 17)):
    line = np.array([3, 1, 3, -2, np.nan, 0, 3, -np.inf, np.nan, 1, 8, np.inf, 0, 1, 1, 3, 2])
    for dtype in (np.float32, np.float64):
        add("topk", Sample((line.astype(dtype),), {"k": k, "axis": 0, "largest": largest}))
    add("topk", Sample(("i32[2,17]",), {"k": k, "axis": 1, "largest": largest}))
    add("topk", Sample(("u8[17]",), {"k": k, "axis": 0, "largest": largest}, high=5))
add("topk", Sample(("f16[2,31]",), {"k": 5, "axis": 1, "sorted": False}))
add(
    "topk",
    Sample(("f32[0,4]",), {"k": 2, "axis": 1}),
    Sample(("f32[1,257]",), {"k": 100, "axis": 1}),
)
