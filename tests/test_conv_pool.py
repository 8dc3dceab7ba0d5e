"""Convolution and pooling against plain Python over every window, torch and onnxruntime."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx_models import info, model, node
from samples import RELATIVE, SAMPLES, Sample, assert_close, case_id, cases, compute, run

from cnnir.errors import IRError
from cnnir.evaluate import evaluate
from cnnir.tensortype import TensorType

CASES = cases()
MODES = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
POOLS = ("max_pool", "max_pool_index", "avg_pool", "lp_pool")


def of(*names: str) -> list[Any]:
    """The samples of some ops."""
    return [case for case in CASES if case[0] in names]


def spatial(attrs: Any, name: str, count: int, default: int) -> tuple[int, ...]:
    """An attribute for each spatial axis."""
    return attrs.get(name) or (default,) * count


def taps_inside(
    position: tuple[int, ...], kernel: tuple[int, ...], sizes: tuple[int, ...], attrs: Any
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(tap, index in x) for the taps of a window that are inside of x, row-major."""
    rank = len(sizes)
    stride, dilation = (spatial(attrs, n, rank, 1) for n in ("stride", "dilation"))
    padding = spatial(attrs, "padding", 2 * rank, 0)
    begins, words = padding[:rank], attrs.get("boundary") or ("zero",) * rank
    pairs = zip(begins, padding[rank:], strict=True)
    numbers = [
        np.pad(np.arange(size), pair, MODES[word]) if word in MODES else None
        for size, pair, word in zip(sizes, pairs, words, strict=True)
    ]
    found = []
    for tap in itertools.product(*map(range, kernel)):
        index = tuple(
            i * s + u * d - p
            for i, s, u, d, p in zip(position, stride, tap, dilation, begins, strict=True)
        )
        index = tuple(
            i if number is None else int(number[i + p])
            for i, number, p in zip(index, numbers, begins, strict=True)
        )
        if all(0 <= i < n for i, n in zip(index, sizes, strict=True)):
            found.append((tap, index))
    return found


# ---------------------------------------------------------------- convolution


def convolved(x: np.ndarray, w: np.ndarray, b: Any, attrs: Any, out: tuple[int, ...]) -> Any:
    """Convolution by its definition."""
    y = np.zeros((x.shape[0], w.shape[0], *out), x.dtype)
    groups = attrs.get("groups", 1)
    for o in range(w.shape[0]):
        first = o // (w.shape[0] // groups) * w.shape[1]
        part = x[:, first : first + w.shape[1]]
        for position in np.ndindex(*out):
            for tap, index in taps_inside(position, w.shape[2:], x.shape[2:], attrs):
                weights = w[(o, slice(None), *tap)]
                y[(slice(None), o, *position)] += part[(slice(None), slice(None), *index)] @ weights
    return y if b is None else y + b.reshape(-1, *[1] * len(out))


@pytest.mark.parametrize(("name", "sample"), of("conv"), ids=case_id)
def test_conv_by_definition(name: str, sample: Sample) -> None:
    arrays = sample.arrays(np.random.default_rng(0))
    wide = [a.astype(np.float64) for a in arrays if a is not None]
    x, w = wide[:2]
    (got,) = run(name, sample)
    dilation = spatial(sample.attrs, "dilation", x.ndim - 2, 1)
    kernel = [d * (k - 1) + 1 for d, k in zip(dilation, w.shape[2:], strict=True)]
    padding = spatial(sample.attrs, "padding", 2 * len(kernel), 0)
    stride = spatial(sample.attrs, "stride", len(kernel), 1)
    out = tuple(
        (x.shape[2 + a] + padding[a] + padding[len(kernel) + a] - k) // stride[a] + 1
        for a, k in enumerate(kernel)
    )
    wanted = convolved(x, w, wide[2] if len(wide) > 2 else None, sample.attrs, out)
    assert_close(got, wanted, 20 * RELATIVE.get(TensorType.of(got).dtype, 0))


@pytest.mark.parametrize(("name", "sample"), of("conv_transpose"), ids=case_id)
def test_conv_transpose_is_the_adjoint_of_conv(name: str, sample: Sample) -> None:
    """<conv_transpose(x), z> = <x, conv(z)> with the same weights, for any z."""
    graph = sample.graph(name, "f64")
    arrays = sample.arrays(np.random.default_rng(0))
    x, w, *b = [a.astype(np.float64) for a in arrays if a is not None]
    attrs = {k: v for k, v in sample.attrs.items() if k != "output_padding"}
    got = evaluate(graph, [x, w, *b])[0]
    if b:
        got = got - b[0].reshape(-1, *[1] * (x.ndim - 2))
    z = np.random.default_rng(1).standard_normal(got.shape)
    # conv's w is [O,C/g,*kernel] of the same array: the transposed x has its filters
    back = convolved(z, w, None, attrs, x.shape[2:])
    np.testing.assert_allclose((got * z).sum(), (x * back).sum(), rtol=1e-10)
    for value, size in zip(got.shape[2:], expected_sizes(x, w, sample.attrs), strict=True):
        assert value == size


def expected_sizes(x: np.ndarray, w: np.ndarray, attrs: Any) -> list[int]:
    """The sizes of a transposed convolution."""
    rank = x.ndim - 2
    stride, dilation = (spatial(attrs, n, rank, 1) for n in ("stride", "dilation"))
    padding = spatial(attrs, "padding", 2 * rank, 0)
    more = spatial(attrs, "output_padding", rank, 0)
    return [
        (x.shape[2 + a] - 1) * stride[a] + dilation[a] * (w.shape[2 + a] - 1) + 1
        + more[a] - padding[a] - padding[rank + a]
        for a in range(rank)
    ]  # fmt: skip


TORCH_CONV = (
    ("[2,8,13,11]", "[12,4,3,5]", {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
    ("[1,6,33]", "[9,2,7]", {"stride": (3,), "padding": (4,), "dilation": (2,), "groups": 3}),
    ("[2,4,6,7,5]", "[4,1,3,2,3]", {"padding": (1, 0, 2), "groups": 4, "dilation": (1, 2, 1)}),
    ("[1,64,17,17]", "[96,64,3,3]", {"padding": (1, 1)}),
    ("[1,64,15,15]", "[64,1,3,3]", {"padding": (1, 1), "groups": 64, "stride": (2, 2)}),
)


@pytest.mark.parametrize(("shape", "weights", "attrs"), TORCH_CONV)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_conv_against_torch(
    shape: str, weights: str, attrs: dict[str, Any], transposed: bool, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    x = rng.standard_normal(TensorType.parse(dtype + shape).shape)
    w = rng.standard_normal(TensorType.parse(dtype + weights).shape)
    if transposed:
        x = rng.standard_normal((x.shape[0], w.shape[0], *x.shape[2:]))
    filters = w.shape[1] * attrs.get("groups", 1) if transposed else w.shape[0]
    b = rng.standard_normal(filters)
    kind = "conv_transpose" if transposed else "conv"
    function = getattr(torch.nn.functional, f"{kind}{x.ndim - 2}d")
    wanted = function(*map(torch.from_numpy, (x, w, b)), **attrs).numpy()
    mine = attrs | {"padding": attrs["padding"] * 2}
    typed = [a.astype(np.dtype(dtype.replace("f", "float"))) for a in (x, w, b)]
    assert_close(compute(kind, *typed, **mine), wanted, 10 * RELATIVE[dtype])


def test_conv_is_quick() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 64, 56, 56)).astype(np.float32)
    w = rng.standard_normal((64, 64, 3, 3)).astype(np.float32)
    y = compute("conv", x, w, padding=(1,) * 4)
    np.testing.assert_allclose(y[0, 5, 0, 0], (w[5, :, 1:, 1:] * x[0, :, :2, :2]).sum(), rtol=1e-3)


@pytest.mark.parametrize("slab", [1, 700, 1 << 30])
def test_conv_in_slabs(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little memory the windows may take, the result is the same."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 4, 9, 7)), rng.standard_normal((6, 2, 3, 2))
    attrs = {"groups": 2, "stride": (2, 1), "padding": (1, 0, 2, 1)}
    monkeypatch.setattr("cnnir.ops.conv.COPIED_BYTES", slab)
    wanted = convolved(x, w, None, attrs, (5, 7))
    assert_close(compute("conv", x, w, **attrs), wanted, 1e-12)


# ---------------------------------------------------------------- pooling


def pooled(name: str, x: np.ndarray, attrs: Any, out: tuple[int, ...]) -> np.ndarray:
    """Pooling by its definition, in Python."""
    kind = np.int64 if name == "max_pool_index" else x.dtype
    y = np.zeros((*x.shape[:2], *out), kind)
    for n, c in np.ndindex(*x.shape[:2]):
        for position in np.ndindex(*out):
            inside = [i for _, i in taps_inside(position, attrs["kernel"], x.shape[2:], attrs)]
            seen = [x[(n, c, *i)] for i in inside]
            y[(n, c, *position)] = pooled_one(name, seen, inside, (n, c, *position), x, attrs)
    return y


def pooled_one(
    name: str, seen: list[Any], inside: list[Any], at: tuple[int, ...], x: np.ndarray, attrs: Any
) -> Any:
    """One window: the numbers it sees and their indices."""
    if name == "avg_pool":
        total = math.fsum(seen) if all(map(math.isfinite, seen)) else sum(seen)
        return total / (counted(at[2:], x.shape[2:], attrs) or len(seen))
    if name == "lp_pool":
        p = attrs.get("p", 2)
        return math.fsum(abs(float(v)) ** p for v in seen) ** (1 / p)
    nan = [k for k, v in enumerate(seen) if v != v]
    best = nan[0] if nan else seen.index(max(seen))
    if name == "max_pool":
        return seen[best]
    order = "F" if attrs.get("storage_order") else "C"
    channel = (at[0] * x.shape[1] + at[1]) * math.prod(x.shape[2:])
    return channel + np.ravel_multi_index(inside[best], x.shape[2:], order=order)


def counted(position: tuple[int, ...], sizes: tuple[int, ...], attrs: Any) -> int:
    """How many taps are inside of the padded x, 0 if those inside of x count."""
    if not attrs.get("count_include_pad"):
        return 0
    rank = len(sizes)
    padding = spatial(attrs, "padding", 2 * rank, 0)
    wide = tuple(s + padding[a] + padding[rank + a] for a, s in enumerate(sizes))
    plain = {k: v for k, v in attrs.items() if k != "padding"}
    return len(taps_inside(position, attrs["kernel"], wide, plain))


@pytest.mark.parametrize(("name", "sample"), of(*POOLS), ids=case_id)
def test_pools_by_definition(name: str, sample: Sample) -> None:
    (x,) = sample.arrays(np.random.default_rng(0))
    assert x is not None
    (got,) = run(name, sample)
    dtype = TensorType.of(x).dtype
    wide = x if x.dtype.kind in "iu" else x.astype(np.float64)
    wanted = pooled(name, wide, sample.attrs, got.shape[2:])
    if dtype in RELATIVE:
        assert_close(got, wanted, 4 * RELATIVE[dtype])
    else:
        np.testing.assert_array_equal(got, wanted)


SIZES = list(itertools.product((3, 6, 7), (2, 3), (1, 2, 3), (0, 1), (0, 1), (False, True)))


@pytest.mark.parametrize(("size", "kernel", "stride", "begin", "end", "ceil"), SIZES)
def test_pooling_against_onnxruntime(
    size: int, kernel: int, stride: int, begin: int, end: int, ceil: bool
) -> None:
    """The number of windows, which ceil_mode makes subtle, and what an average counts."""
    x = np.random.default_rng(5).standard_normal((1, 2, size, 4)).astype(np.float32)
    names = {"kernel_shape": (kernel, 2), "strides": (stride, 1), "pads": (begin, 0, end, 1)}
    mine = {"kernel": (kernel, 2), "stride": (stride, 1), "padding": (begin, 0, end, 1)}
    for op, theirs in (("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count": True})):
        more = {"count_include_pad": 1} if theirs else {}
        proto = model(
            [node(op, ["x"], ceil_mode=int(ceil), **names, **more)],
            [info("x", x.shape)],
            [info("y", (None,) * 4)],
            opset=19,
        )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(proto.SerializeToString(), options)
        wanted = session.run(None, {"x": x})[0]
        name = {"MaxPool": "max_pool", "AveragePool": "avg_pool"}[op]
        given = {"count_include_pad": True} if theirs else {}
        assert_close(compute(name, x, ceil_mode=ceil, **mine, **given), wanted, 1e-6)


# ---------------------------------------------------------------- errors

BAD: list[tuple[str, tuple[str, ...], dict[str, Any], str]] = [
    ("conv", ("f32[1,3]", "f32[4,3]"), {}, "wanted at least 3"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3]"), {}, "w has rank 3, wanted 4"),
    ("conv", ("f32[1,3,5,5]", "f64[4,3,3,3]"), {}, "differ"),
    ("conv", ("f32[1,4,5,5]", "f32[4,3,3,3]"), {}, "x has 4 channels, w wants 3"),
    ("conv", ("f32[1,6,5,5]", "f32[4,2,3,3]"), {"groups": 3}, "wanted a multiple of 3"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"groups": 0}, "wanted an integer >= 1"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]", "f32[3]"), {}, "wanted [4]"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,6,3]"), {}, "more than the padded size 5"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"dilation": (1, 3)}, "spans 7, more than"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"stride": (0, 1)}, "wanted 2 integers >= 1"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"stride": (1,)}, "wanted 2 integers >= 1"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"padding": (0, 0, 0, -1)}, "4 integers >= 0"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"padding": (1, 1)}, "wanted 4 integers"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,0,3]"), {}, "wanted at least 1 on every axis"),
    ("conv", ("f32[1,3,5]", "f32[4,3,3]"), {"boundary": ("loop",)}, "wanted 1 of zero, circular"),
    ("conv", ("f32[1,3,5]", "f32[4,3,3]"), {"boundary": "circular"}, "wanted 1 of zero, circular"),
    ("conv", ("f32[1,3,5,5]", "f32[4,3,3,3]"), {"boundary": ("zero",)}, "wanted 2 of zero"),
    (
        "conv",
        ("f32[1,3,5,2]", "f32[4,3,3,3]"),
        {"padding": (2, 2, 2, 1), "boundary": ("reflect", "reflect")},
        "spatial axis 1: reflect padding 2, wanted less than 2",
    ),
    (
        "conv",
        ("f32[1,3,0]", "f32[4,3,3]"),
        {"padding": (2, 2), "boundary": ("replicate",)},
        "spatial axis 0 is empty",
    ),
    ("conv", ("bool[1,3,5,5]", "bool[4,3,3,3]"), {}, "wanted float or int"),
    ("conv_transpose", ("f32[1,3,5]", "f32[4,3,3]"), {}, "x has 3 channels, w has 4"),
    ("conv_transpose", ("f32[1,3,5]", "f32[3,3,3]"), {"padding": (4, 4)}, "wanted at least 1"),
    ("conv_transpose", ("f32[1,3,5]", "f32[3,3,3]"), {"output_padding": (1,)}, "less than"),
    ("max_pool", ("f32[1,3,5]",), {"kernel": (6,)}, "more than the padded size 5"),
    ("max_pool", ("f32[1,3,5]",), {"kernel": (0,)}, "wanted 1 integers >= 1"),
    ("max_pool", ("f32[1,3,5]",), {"kernel": (2,), "padding": (2, 0)}, "see nothing of x"),
    ("max_pool", ("f32[1,3,5]",), {"kernel": (2,), "ceil_mode": 1}, "wanted True or False"),
    ("max_pool", ("f32[1,3,5]",), {}, "missing attribute"),
    ("max_pool_index", ("f32[1,3,5]",), {"kernel": (2,), "storage_order": 2}, "wanted 0 or 1"),
    ("avg_pool", ("i32[1,3,5]",), {"kernel": (2,)}, "wanted float"),
    ("lp_pool", ("f32[1,3,5]",), {"kernel": (2,), "p": 0}, "wanted a number >= 1"),
]


@pytest.mark.parametrize(("name", "types", "attrs", "message"), BAD)
def test_errors(name: str, types: tuple[str, ...], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(IRError) as caught:
        Sample(types, attrs).graph(name)
    assert message in str(caught.value) and str(caught.value).startswith(name)


def test_all_window_ops_have_samples() -> None:
    assert all(SAMPLES[name] for name in ("conv", "conv_transpose", *POOLS))
