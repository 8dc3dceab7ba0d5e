"""Samples of the elementwise ops, reductions, matmul and normalisations."""

from __future__ import annotations

import itertools

import numpy as np
from samples import Sample, add

from cnnir.ir import Graph
from cnnir.tensortype import TensorType

FLOATS = ("f32", "f64", "f16", "bf16")
SIGNED = ("i8", "i16", "i32", "i64")
UNSIGNED = ("u8", "u16", "u32", "u64")
INTS = SIGNED + UNSIGNED
ODD = ("[]", "[1]", "[7]", "[17]", "[31]", "[2,3,5,7]", "[0,3]")
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-42, 1e30, -1e30]
SPECIAL += [88.0, -88.0, 104.0, -104.0, np.inf, -np.inf, np.nan]


def special(dtype: type = np.float32) -> np.ndarray:
    """The numbers at which float functions go wrong."""
    return np.array(SPECIAL, dtype)


def extremes(dtype: str) -> np.ndarray:
    """The numbers at which integer functions go wrong."""
    info = np.iinfo({"i": "int", "u": "uint"}[dtype[0]] + dtype[1:])
    near = {0, 1, 2, 3, 7, info.max, info.max - 1, info.max // 2 + 1}
    if dtype[0] == "i":
        near |= {-1, -2, -3, -7, info.min, info.min + 1}
    return np.array(sorted(near), info.dtype)


def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every value against every value, by broadcasting."""
    return values[:, None], values[None, :]


# ---------------------------------------------------------------- elementwise, one operand

UNARY = ("relu", "sigmoid", "tanh", "exp", "erf", "sin", "cos", "floor", "ceil", "round", "sign")
UNARY += ("abs", "neg", "softplus", "hard_sigmoid", "hard_swish", "elu", "selu", "leaky_relu")
UNARY += ("gelu", "mish", "swish", "identity", "is_nan", "is_inf")
for name in UNARY:
    add(name, *(Sample((f"f32{shape}",)) for shape in ODD))
    add(name, *(Sample((f"{dtype}[3,17]",), low=-8, high=8) for dtype in FLOATS))
    add(name, Sample((special(),)), Sample((special(np.float64),)))
for name in ("log", "sqrt", "reciprocal"):
    add(name, *(Sample((f"f32{shape}",), low=0.1, high=9) for shape in ODD))
    add(name, *(Sample((f"{dtype}[3,17]",), low=0.1, high=30) for dtype in FLOATS))
    add(name, Sample((special(),)), Sample((special(np.float64),)))
for name, dtype in itertools.product(("abs", "neg", "sign", "relu"), INTS):
    add(name, Sample((f"{dtype}[3,7]",), low=-100, high=100), Sample((extremes(dtype),)))
add("identity", Sample(("bool[3,7]",)), Sample(("u8[17]",), high=200), Sample(("i64[]",)))
add("hard_sigmoid", Sample(("f32[31]",), {"alpha": 1 / 6, "beta": 0.5}, low=-5, high=5))
add("elu", Sample(("f32[31]",), {"alpha": 2.0}), Sample(("f32[31]",), {"alpha": 0}))
add("selu", Sample(("f32[31]",), {"alpha": 2.0, "gamma": 3.0}))
add("leaky_relu", Sample(("f32[31]",), {"alpha": 0.3}), Sample(("f32[31]",), {"alpha": -2.0}))
add("swish", Sample(("f32[31]",), {"alpha": 1.702}))
for array in ("f32[3,17]", "f64[31]", "f16[31]", special()):
    add("gelu", Sample((array,), {"approximate": "tanh"}))
for positive, negative in itertools.product((True, False), repeat=2):
    add("is_inf", Sample((special(),), {"positive": positive, "negative": negative}))
BOUNDS = ((None, None), (0.0, None), (None, 6.0), (-1.0, 1.0), (0, 6), (1.0, -1.0))
for lo, hi in (*BOUNDS, (-np.inf, np.inf), (0.25, np.inf)):
    add("clip", Sample(("f32[2,31]",), {"lo": lo, "hi": hi}, low=-8, high=8))
    add("clip", Sample((special(),), {"lo": lo, "hi": hi}))
for dtype in (*FLOATS, *INTS):
    add("clip", Sample((f"{dtype}[17]",), {"lo": -1.0, "hi": 2.0}, low=-8, high=8))
for dtype in INTS:
    add("clip", Sample((extremes(dtype),), {"lo": -1000, "hi": np.inf}))
    add("clip", Sample((extremes(dtype),), {"lo": -np.inf, "hi": 1e30}))
add("clip", Sample(("f32[]",), {"hi": 0.0}), Sample(("u8[17]",), {"lo": 3, "hi": 1}, high=9))
add("logical_not", *(Sample((f"bool{shape}",)) for shape in ODD))
for dtype in INTS:
    add("bitwise_not", Sample((f"{dtype}[2,7]",), high=90), Sample((extremes(dtype),)))
for source, target in itertools.product(("bool", *FLOATS, *INTS), repeat=2):
    add("cast", Sample((f"{source}[3,7]",), {"dtype": target}, low=-9, high=9))
for target in ("bool", *FLOATS, *INTS):
    limits = np.array([*SPECIAL, 3e9, -3e9, 2.0**63, -(2.0**63), 2.0**64, 255.5, -0.9, 127.9])
    add("cast", Sample((limits,), {"dtype": target}))
    add("cast", Sample((limits.astype(np.float32),), {"dtype": target}))
    add("cast", *(Sample((extremes(dtype),), {"dtype": target}) for dtype in INTS))

# ---------------------------------------------------------------- elementwise, more operands

BROADCASTS = (
    ("[]", "[]"),
    ("[17]", "[17]"),
    ("[2,3,5,7]", "[2,3,5,7]"),
    ("[2,3,5,7]", "[]"),
    ("[]", "[31]"),
    ("[2,3,5,7]", "[3,1,1]"),
    ("[2,3,5,7]", "[7]"),
    ("[3,1]", "[1,17]"),
    ("[1,1,31]", "[2,1,1]"),
    ("[1]", "[0]"),
)
ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum")
for name in (*ARITHMETIC, "equal", "less", "less_equal", "prelu"):
    add(name, *(Sample((f"f32{x}", f"f32{y}")) for x, y in BROADCASTS))
    add(name, *(Sample((f"{d}[3,7]", f"{d}[3,1]"), low=-5, high=5) for d in (*FLOATS, *INTS)))
    add(name, Sample(pairs(special())), Sample(pairs(special(np.float64))))
for name, dtype in itertools.product((*ARITHMETIC, "less", "equal"), INTS):
    add(name, Sample(pairs(extremes(dtype))))
add("equal", Sample(("bool[3,7]", "bool[7]")))
add("mod", *(Sample((f"f32{x}", f"f32{y}"), {"fmod": True}) for x, y in BROADCASTS))
add(
    "mod",
    *(Sample(("f64[17]", "f64[17]"), {"fmod": True}), Sample(pairs(special()), {"fmod": True})),
)
for dtype, fmod in itertools.product(INTS, (False, True)):
    add("mod", Sample((f"{dtype}[7,17]", f"{dtype}[17]"), {"fmod": fmod}, low=-9, high=9))
    add("mod", Sample(pairs(extremes(dtype)), {"fmod": fmod}))
positive = {0: (0.1, 4.0)}
add("pow", *(Sample((f"f32{x}", f"f32{y}"), ranges=positive) for x, y in BROADCASTS))
add("pow", *(Sample((f"{d}[3,7]", f"{d}[1]"), ranges=positive) for d in FLOATS))
for base, exponent in (
    ("f32", "i64"),
    ("f32", "i32"),
    ("f32", "f64"),
    ("f64", "f32"),
    ("f16", "u8"),
):
    add("pow", Sample((f"{base}[3,7]", f"{exponent}[3,7]"), low=-4, high=4, ranges=positive))
for dtype in INTS:
    add("pow", Sample((f"{dtype}[31]", f"{dtype}[31]"), low=-4, high=9))
add("pow", Sample(pairs(np.arange(-3, 4, dtype=np.int32))))
add("pow", Sample(("i32[31]", "i64[31]"), low=-4, high=4), Sample(("i8[31]", "u8[31]"), high=9))
add("pow", Sample(("i32[31]", "f32[31]"), ranges={0: (1, 9)}), Sample(("i64[7]", "f64[]"), low=1))
add("pow", Sample((special(), np.float32(2.0))), Sample((special(), np.float32(0.5))))
add(
    "pow",
    Sample(
        (
            np.array([-2.0, -1.0, 0.0, 3.0], np.float32)[:, None],
            np.array([-3, -2, -1, 0, 1, 2, 3], np.float32),
        )
    ),
)
for name in ("logical_and", "logical_or", "logical_xor"):
    add(name, *(Sample((f"bool{x}", f"bool{y}")) for x, y in BROADCASTS))
for name, dtype in itertools.product(("bitwise_and", "bitwise_or", "bitwise_xor"), INTS):
    add(name, Sample((f"{dtype}[7,17]", f"{dtype}[17]"), low=-90, high=90))
    add(name, Sample(pairs(extremes(dtype))))
for name, dtype in itertools.product(("shift_left", "shift_right"), INTS):
    add(name, Sample((f"{dtype}[7,17]", f"{dtype}[17]"), low=-90, high=90, ranges={1: (0, 7)}))
    shifts = [s for s in (-1, 0, 1, 7, 8, 15, 31, 32, 63, 64, 127) if s >= 0 or dtype[0] == "i"]
    add(name, Sample((extremes(dtype)[:, None], np.array(shifts, extremes(dtype).dtype))))
for x, y in BROADCASTS:
    add("where", Sample((f"bool{y}", f"f32{x}", f"f32{y}")))
for dtype in (*FLOATS, *INTS, "bool"):
    add("where", Sample(("bool[3,7]", f"{dtype}[7]", f"{dtype}[3,1]")))
add("where", Sample(("bool[19]", special(), special()[::-1].copy())))

# ---------------------------------------------------------------- reductions

REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")
AXES = (
    ("[]", ()),
    ("[7]", ()),
    ("[31]", (0,)),
    ("[2,3,5,7]", (2, 3)),
    ("[2,17,1,1]", (2, 3)),
    ("[3,5,7]", (0,)),
    ("[3,5,7]", (1,)),
    ("[3,5,7]", (0, 2)),
    ("[3,5,7]", (0, 1, 2)),
    ("[2,1,17,31]", (3,)),
    ("[3,0,2]", (1,)),
    ("[0]", (0,)),
    ("[0,3]", (1,)),
)
for name, (shape, axes), keep in itertools.product(REDUCTIONS, AXES, (True, False)):
    add(name, Sample((f"f32{shape}",), {"axes": axes, "keepdims": keep}))
for name, dtype in itertools.product(REDUCTIONS, (*FLOATS, *INTS)):
    add(name, Sample((f"{dtype}[3,7,5]",), {"axes": (1,)}, low=-2, high=2))
    add(name, Sample((f"{dtype}[3,0,2]",), {"axes": (1,)}))
for name, dtype in itertools.product(
    ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min"), INTS
):
    add(name, Sample((np.tile(extremes(dtype), (3, 1)),), {"axes": (1,), "keepdims": False}))
for name in ("reduce_max", "reduce_min"):
    add(name, Sample(("bool[7,2]",), {"axes": (1,)}), Sample(("bool[2,0]",), {"axes": (1,)}))
NANS = np.array([[1, np.nan, 3], [np.nan, 2, 3], [-np.inf, -np.inf, -np.inf], [1, np.inf, 2]])
for name in REDUCTIONS:
    add(name, Sample((NANS.astype(np.float32),), {"axes": (1,), "keepdims": False}))
TIES = np.array([[1, 3, 3, 2, 3], [4, 4, 4, 4, 4], [5, 1, 1, 5, 2]], np.float32)
for name, last in itertools.product(("argmax", "argmin"), (False, True)):
    for shape, axis in (("[17]", 0), ("[3,5,7]", 0), ("[3,5,7]", 1), ("[2,3,31]", 2), ("[0,2]", 1)):
        for keep in (True, False):
            attrs = {"axis": axis, "keepdims": keep, "select_last": last}
            add(name, Sample((f"f32{shape}",), attrs))
    for array in (TIES, TIES.astype(np.int32), TIES.astype(np.uint8), NANS.astype(np.float32)):
        add(name, Sample((array,), {"axis": 1, "select_last": last}))
    for dtype in (*FLOATS, *INTS):
        add(name, Sample((f"{dtype}[5,7]",), {"axis": 1, "select_last": last}))
add("argmax", Sample((np.array([[1, np.nan, np.nan, 3]], np.float32),), {"axis": 1}))
add("argmin", Sample((np.array([[1, np.nan, np.nan, 3]], np.float32),), {"axis": 1}))
for exclusive, reverse in itertools.product((False, True), repeat=2):
    flags = {"exclusive": exclusive, "reverse": reverse}
    for shape, axis in (("[17]", 0), ("[3,5,7]", 0), ("[3,5,7]", 1), ("[3,5,1]", 2), ("[2,0]", 1)):
        add("cumsum", Sample((f"f32{shape}",), {"axis": axis, **flags}))
    for dtype in (*FLOATS, *INTS):
        add("cumsum", Sample((f"{dtype}[2,7]",), {"axis": 1, **flags}))

# ---------------------------------------------------------------- matmul

PRODUCTS = (
    ("[1,1]", "[1,1]"),
    ("[7,17]", "[17,31]"),
    ("[1,31]", "[31,7]"),
    ("[31,7]", "[7,1]"),
    ("[2,3,7,5]", "[2,3,5,17]"),
    ("[3,7,5]", "[5,17]"),
    ("[7,5]", "[3,5,17]"),
    ("[2,1,7,5]", "[3,5,4]"),
    ("[64,33]", "[33,50]"),
    ("[3,0]", "[0,5]"),
    ("[0,3]", "[3,5]"),
    ("[0,2,3]", "[3,5]"),
)
add("matmul", *(Sample((f"f32{x}", f"f32{y}")) for x, y in PRODUCTS))
add("matmul", *(Sample((f"{d}[3,7,17]", f"{d}[17,5]")) for d in (*FLOATS, *INTS)))
add("matmul", Sample(("i8[7,17]", "i8[17,5]"), low=-128, high=127))

# ---------------------------------------------------------------- normalisation

LINES = (("[17]", 0), ("[3,31]", 1), ("[2,3,5,7]", 1), ("[3,5,7]", 0), ("[7,1]", 1), ("[0,3]", 1))
FAR = np.array(
    [[1e4, -1e4, 0], [-np.inf] * 3, [np.inf, 0, 1], [np.nan, 0, 1], [-1e4, 0, 0]], np.float32
)
for name in ("softmax", "log_softmax"):
    add(name, *(Sample((f"f32{shape}",), {"axis": axis}) for shape, axis in LINES))
    add(name, *(Sample((f"{dtype}[3,17]",), {"axis": 1}, low=-9, high=9) for dtype in FLOATS))
    add(name, Sample((FAR,), {"axis": 1}))
STATISTICS = {4: (0.1, 3.0)}
for shape in ("[1,1,1,1]", "[2,3,5,7]", "[2,17,3]", "[7,31]", "[1,17,2,3,5]", "[0,3,2]"):
    channels = shape[1:-1].split(",")[1]
    parameter = f"f32[{channels}]"
    add("batch_norm", Sample((f"f32{shape}", *[parameter] * 4), ranges=STATISTICS))
    for groups in sorted({1, int(channels)} | ({3} if channels == "3" else set())):
        operands = (f"f32{shape}", parameter, parameter)
        add("group_norm", Sample(operands, {"groups": groups, "epsilon": 1e-3}))
for dtype in FLOATS:
    operands = (f"{dtype}[2,7,3,5]", *[f"{dtype}[7]"] * 4)
    add("batch_norm", Sample(operands, {"epsilon": 1e-3}, ranges=STATISTICS))
    add("group_norm", Sample((f"{dtype}[2,6,3,5]", f"{dtype}[6]", f"{dtype}[6]"), {"groups": 2}))
    add("layer_norm", Sample((f"{dtype}[3,17]", f"{dtype}[17]", f"{dtype}[17]"), {"axis": 1}))
add("group_norm", Sample(("f32[2,6]", "f32[6]", "f32[6]"), {"groups": 3}))
add("layer_norm", *(Sample((f"f32{shape}",), {"axis": axis}) for shape, axis in LINES[:5]))
add("layer_norm", Sample(("f32[2,3,5,7]", "f32[5,7]", None), {"axis": 2, "epsilon": 1e-3}))
add("layer_norm", Sample(("f32[2,3,5,7]", None, "f32[3,1,1]"), {"axis": 1}))
add("layer_norm", Sample(("f32[2,3,31]", "f32[31]", "f32[31]"), {"axis": 2}, low=99, high=101))
for size in (1, 2, 3, 4, 5, 9):
    add("lrn", Sample(("f32[2,7,3,5]",), {"size": size, "alpha": 0.3, "bias": 1.5}))
for beta in (0.5, 1.0, 0.6):
    add("lrn", Sample(("f32[1,17,3]",), {"size": 5, "alpha": 0.3, "beta": beta}))
add("lrn", *(Sample((f"{dtype}[1,5,3,3]",), {"size": 3, "alpha": 0.1}) for dtype in FLOATS))
add("lrn", Sample(("f32[2,1]",), {"size": 3}), Sample(("f32[0,3,2]",), {"size": 3}))

# ---------------------------------------------------------------- fused


def chain() -> Graph:
    """leaky_relu(x * y - x), and the product."""
    g = Graph("chain")
    x, y = (g.input(TensorType.parse("f32[3,7]"), name) for name in "xy")
    product = g.add("mul", x, y)
    g.output(g.add("leaky_relu", g.add("sub", product, x), alpha=0.2))
    g.output(product)
    return g


def anchored() -> Graph:
    """A reduction with work before and after it."""
    g = Graph("anchored")
    x = g.input(TensorType.parse("f16[3,17]"), "x")
    total = g.add("reduce_sum", g.add("mul", x, x), axes=(1,), keepdims=False)
    g.output(g.add("sqrt", total))
    return g


add("fused", Sample(("f32[3,7]", "f32[3,7]"), {"body": chain()}))
add("fused", Sample(("f16[3,17]",), {"body": anchored()}))
