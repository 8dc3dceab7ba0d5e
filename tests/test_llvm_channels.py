"""Channels that change places in blocks: the kernel, and when the plan puts them together so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from kernel_harness import LANES, Guarded, from_blocked, run_kernel, to_blocked

import cnnir
import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.kernels import channels
from cnnir.backends.llvm.kernels.channels import ChannelsSpec, Run, mixtures
from cnnir.backends.llvm.target import CpuTarget
from cnnir.ir import Graph, Value
from cnnir.tensortype import TensorType

RUNS = {
    "joined": (3, [Run(0, 0, 54), Run(1, 0, 7), Run(2, 0, 54)]),
    "cut": (1, [Run(0, 5, 40)]),
    "moved by a block": (1, [Run(0, 16, 33)]),
    "in turn": (2, [Run(i % 2, i // 2, 1) for i in range(58)]),
    "backwards": (1, [Run(0, 36 - i, 1) for i in range(37)]),
    "any": (3, [Run(i % 3, 37 * i % 60, 1) for i in range(70)]),
    "one": (1, [Run(0, 59, 1)]),
}


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("sizes", [(1, 1), (7, 17), (33, 32)])
@pytest.mark.parametrize("name", RUNS)
def test_the_kernel(name: str, sizes: tuple[int, int], lanes: int) -> None:
    operands, runs = RUNS[name]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal((2, 60, *sizes), dtype=np.float32) for _ in range(operands)]
    wanted = np.concatenate([arrays[r.operand][:, r.first : r.first + r.count] for r in runs], 1)
    spec = ChannelsSpec(wanted[:, 0].size, tuple(runs), lanes)
    blocked = [to_blocked(array, lanes) for array in arrays]
    y = Guarded((spec.blocks, 2, *sizes, lanes))
    code = channels.emit(ir.Module(), "kernel", spec)
    run_kernel(code, [Guarded(array.shape, array) for array in blocked], y)
    np.testing.assert_array_equal(from_blocked(y.array, spec.channels), wanted)


def test_blocks_that_are_made_alike_share_their_code() -> None:
    whole = ChannelsSpec(9, (Run(0, 0, 40), Run(1, 0, 64)), 16)
    assert [(m.first, m.count, len(m.parts)) for m in mixtures(whole)] == [
        (0, 2, 1),  # of the first operand as they are
        (2, 1, 2),  # half of each
        (3, 3, 2),  # two halves of the second one's neighbours
        (6, 1, 1),
    ]


def _slice(g: Graph, x: Value, start: int, size: int, step: int = 1) -> Value:
    images, _, *sizes = x.type.shape
    none = [0] * len(sizes)
    starts, steps = (0, start, *none), (1, step, *(1 for _ in sizes))
    return g.add("slice", x, starts=starts, sizes=(images, size, *sizes), steps=steps)


def _shuffle(g: Graph, x: Value, groups: int) -> Value:
    images, count, *sizes = x.type.shape
    split = g.add("reshape", x, shape=(images, groups, count // groups, *sizes))
    perm = (0, 2, 1, *range(3, split.type.rank))
    turned = g.add("transpose", split, perm=perm)
    return g.add("reshape", turned, shape=x.type.shape)


def _join(g: Graph, *parts: Value) -> Value:
    return g.add("concat", *parts, axis=1)


def _constant(g: Graph, like: Value) -> Value:
    shape = (like.type.shape[0], 2, *like.type.shape[2:])
    return g.param("k", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


def _halves(g: Graph, a: Value, b: Value) -> Value:
    """The unit of ShuffleNetV2: the shuffle makes no tensor, and the concatenation none either."""
    mixed = _shuffle(g, _join(g, a, b), 2)
    left, right = _slice(g, mixed, 0, 17), _slice(g, mixed, 17, 17)
    return _join(g, g.add("relu", right), left)


def _unequal(g: Graph, a: Value, b: Value) -> Value:
    """Slices of a concatenation that others read too, which has to be made."""
    both = _join(g, a, b)
    return _join(g, _slice(g, both, 3, 20), g.add("tanh", both))


NETS: dict[str, tuple[Callable[[Graph, Value, Value], Value], int]] = {
    "joined": (_join, 1),
    "joined thrice": (lambda g, a, b: _join(g, _join(g, a, b), g.add("relu", b), a), 1),
    "with a constant": (lambda g, a, b: _join(g, a, _constant(g, a), b), 1),
    "cut": (lambda g, a, b: _slice(g, b, 5, 7), 1),
    "backwards": (lambda g, a, b: _slice(g, b, 20, 7, -3), 1),
    "cut of two": (lambda g, a, b: _slice(g, _join(g, a, b), 6, 20), 1),
    "shuffled": (lambda g, a, b: _shuffle(g, b, 3), 1),
    "shuffled twice": (lambda g, a, b: _shuffle(g, _shuffle(g, b, 3), 7), 1),
    "halves": (_halves, 3),
    "unequal": (_unequal, 2),
}
"""A body, and how many steps put channels together."""


def _built(body: Callable[[Graph, Value, Value], Value], sizes: tuple[int, ...], n: int) -> Graph:
    rng = np.random.default_rng(5)
    ones = [1] * len(sizes)
    g = Graph("g")
    x = g.input(TensorType("f32", (n, 3, *sizes)), "x")
    a, b = (
        g.add("conv", x, g.param(name, rng.standard_normal((count, 3, *ones), dtype=np.float32)))
        for name, count in (("v", 13), ("w", 21))
    )
    y = body(g, a, b)
    last = rng.standard_normal((5, y.type.shape[1], *ones), dtype=np.float32)
    g.output(g.add("conv", y, g.param("last", last)), "y")
    return g


def _checked(g: Graph, **options) -> Counter[str]:
    """How many steps of each kind the plan has, where the results are right. Passes would change
    the nets."""
    exe = cnnir.compile(g, passes="fold", cache=False, **options)
    x = np.random.default_rng(6).standard_normal(g.inputs[0].type.shape, dtype=np.float32)
    for y, wanted in zip(
        exe.run({"x": x}).values(), cnnir.evaluate(g, [x], dtype="f64"), strict=True
    ):
        assert abs(y - wanted).max() <= 1e-5 * abs(wanted).max()
    return Counter(step.kernel for step in exe.plan.steps)


@pytest.mark.parametrize("features", ["", "avx2", "sse2"])
@pytest.mark.parametrize(("sizes", "images"), [((5, 9), 1), ((31,), 3), ((3, 4, 2), 2)])
@pytest.mark.parametrize("name", NETS)
def test_channels_are_put_together(name: str, sizes, images: int, features: str) -> None:
    try:
        CpuTarget.host(features)
    except cnnir.BackendError as error:
        pytest.skip(str(error))
    body, count = NETS[name]
    steps = _checked(_built(body, sizes, images), features=features)
    assert steps["channels"] == count
    assert steps["pack"] == 1  # the output's


def test_what_is_read_through_is_made_where_it_leaves() -> None:
    def body(g: Graph, a: Value, b: Value) -> Value:
        both = _join(g, a, b)
        g.output(both, "both")
        return _slice(g, both, 6, 20)

    steps = _checked(_built(body, (5, 9), 2))
    assert steps["channels"] == 2


@pytest.mark.parametrize("blocked", [True, False], ids=["blocked", "row-major"])
def test_many_in_a_row(blocked: bool) -> None:
    """Each reads the one before it twice, so that a walk along all paths would never end."""
    g = Graph("g")
    value = x = g.input(TensorType("f32", (1, 21, 3, 2)), "x")
    if blocked:
        value = g.add("conv", x, g.param("w", np.eye(21, dtype=np.float32)[..., None, None]))
    for i in range(300):
        cut = 1 + i % 13
        value = _join(g, _slice(g, value, cut - 1, cut, -1), _slice(g, value, 20, 21 - cut, -1))
    g.output(g.add("tanh", value), "y")
    exe = cnnir.compile(g, passes="fold", cache=False)
    data = np.random.default_rng(9).standard_normal((1, 21, 3, 2), dtype=np.float32)
    np.testing.assert_allclose(exe(data), cnnir.evaluate(g, [data])[0], atol=1e-6)
    steps = Counter(step.kernel for step in exe.plan.steps)
    assert steps["channels"] == blocked


@pytest.mark.parametrize("body", [_join, _halves], ids=["joined", "halves"])
def test_row_major_channels_stay_so(body) -> None:
    """Inputs that nobody wants in blocks are copied as they lie."""
    g = Graph("g")
    a, b = (g.input(TensorType("f32", (1, n, 5, 9)), name) for n, name in ((13, "a"), (21, "b")))
    g.output(g.add("tanh", body(g, a, b)), "y")
    exe = cnnir.compile(g, passes="fold", cache=False)
    rng = np.random.default_rng(7)
    feeds = {n: rng.standard_normal(t.shape, dtype=np.float32) for n, t in exe.inputs.items()}
    (wanted,) = cnnir.evaluate(g, feeds, dtype="f64")
    assert abs(exe.run(feeds)["y"] - wanted).max() < 1e-6
    assert not any(step.kernel == "channels" for step in exe.plan.steps)


def test_whole_blocks_are_views() -> None:
    def body(g: Graph, a: Value, b: Value) -> Value:
        wide = [g.add("conv", a, g.param(n, np.ones((32, 13, 1, 1), np.float32))) for n in "pq"]
        return _slice(g, _join(g, *wide), 16, 32)

    steps = _checked(_built(body, (5, 9), 2))
    assert steps["channels"] == steps["loops"] == 0 and steps["pack"] == 1


def test_threads_give_the_same_bits() -> None:
    g = _built(_halves, (40, 41), 2)
    x = np.random.default_rng(8).standard_normal((2, 3, 40, 41), dtype=np.float32)
    one, two = (cnnir.compile(g, threads=n, cache=False)(x) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
