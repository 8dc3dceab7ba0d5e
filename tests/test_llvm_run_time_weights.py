"""Convolutions whose weights are no params: packed by a kernel of their own in every run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from loops_harness import LEVELS
from samples import assert_close

import cnnir
from cnnir import Graph, TensorType
from cnnir.backends.llvm.kernels import direct_conv, matmul, repack
from cnnir.backends.llvm.kernels.matmul import MatmulSpec
from cnnir.backends.llvm.kernels.spec import ConvSpec, Target

TEMPLATES = ("direct_conv", "winograd", "depthwise", "grouped_conv", "conv_transpose")
SHAPES: dict[str, tuple[tuple, tuple, dict[str, Any]]] = {
    "plain": ((2, 3, 9, 8), (20, 3, 3, 3), {"padding": (1,) * 4}),
    "odd": ((2, 21, 9, 8), (39, 21, 3, 2), {"stride": (2, 1), "padding": (1, 0, 0, 1)}),
    "dilated": ((1, 24, 9, 9), (24, 24, 3, 3), {"dilation": (2, 1), "padding": (2, 1, 2, 1)}),
    "winograd": ((2, 96, 14, 13), (80, 96, 3, 3), {"padding": (1,) * 4}),
    "winograd, odd": ((2, 70, 14, 13), (83, 70, 3, 3), {"padding": (1, 0, 1, 2)}),
    "pointwise": ((2, 24, 6, 6), (144, 24, 1, 1), {}),
    "depthwise": ((2, 37, 8, 8), (37, 1, 3, 3), {"padding": (1,) * 4, "groups": 37}),
    "grouped": ((2, 20, 8, 8), (30, 10, 3, 3), {"padding": (1,) * 4, "groups": 2}),
    "blocks of groups": ((1, 64, 8, 8), (64, 32, 3, 3), {"groups": 2}),
    "row": ((2, 18, 30), (33, 18, 5), {"padding": (2, 2)}),
    "cube": ((1, 17, 4, 5, 6), (18, 17, 2, 3, 1), {"padding": (0, 1, 0, 1, 1, 0)}),
}


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def layer(name: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """relu(conv(x, w, b)), all of them inputs."""
    x, w, attrs = SHAPES[name]
    feeds = {"x": drawn(*x), "w": drawn(*w), "b": drawn(w[0])}
    g = Graph("layer")
    operands = [g.input(TensorType.of(array), key) for key, array in feeds.items()]
    g.output(g.add("relu", g.add("conv", *operands, **attrs)), "y")
    return g, feeds


def kinds(exe: Any) -> list[str]:
    return [step.kernel for step in exe.plan.steps if step.kernel in TEMPLATES]


@pytest.mark.parametrize("features", LEVELS.values())
@pytest.mark.parametrize("name", SHAPES)
def test_forward(name: str, features: str) -> None:
    g, feeds = layer(name)
    exe = cnnir.compile(g, threads=2, features=features, cache=False)
    assert len(kinds(exe)) == 1
    assert any(step.op.startswith("weights of") for step in exe.plan.steps)
    assert_close(exe.run(feeds)["y"], cnnir.evaluate(g, feeds, dtype="f64")[0], 2e-5)
    exe.close()


@pytest.mark.parametrize("name", [n for n in SHAPES if n != "odd"])
def test_gradient_by_the_input_reads_weights_where_they_lie(name: str) -> None:
    g, feeds = layer(name)
    back = cnnir.gradient(g, "y", ["x"], cotangents=True, outputs=False)
    feeds["cotangent.y"] = drawn(*g.outputs[0].type.shape)
    exe = cnnir.compile(back, threads=1, cache=False)
    assert len(kinds(exe)) == 2
    moves = ("transpose", "slice", "reshape")
    assert not [step for step in exe.plan.steps if step.op in moves]
    assert_close(exe.run(feeds)["grad.x"], cnnir.evaluate(back, feeds, dtype="f64")[0], 2e-5)
    exe.close()


def test_weights_that_others_use_are_made_as_they_are() -> None:
    g = Graph("both")
    feeds = {"x": drawn(1, 20, 7, 7), "w": drawn(20, 24, 3, 3)}
    x, w = (g.input(TensorType.of(array), key) for key, array in feeds.items())
    turned = g.add("transpose", w, perm=(1, 0, 2, 3))
    g.output(g.add("conv", x, turned), "y")
    g.output(g.add("mul", turned, turned), "squares")
    exe = cnnir.compile(g, threads=1)
    got = exe.run(feeds)
    for array, wanted in zip(got.values(), cnnir.evaluate(g, feeds, dtype="f64"), strict=True):
        assert_close(array, wanted, 1e-5)
    exe.close()


def test_equal_packs_of_one_weight_are_one_step() -> None:
    g = Graph("twice")
    feeds = {"x": drawn(1, 32, 7, 7), "w": drawn(32, 32, 3, 3)}
    x, w = (g.input(TensorType.of(array), key) for key, array in feeds.items())
    y = g.add("tanh", g.add("conv", x, w, padding=(1,) * 4))
    g.output(g.add("conv", y, w, padding=(1,) * 4), "y")
    exe = cnnir.compile(g, threads=1, precision="exact")
    assert sum(step.op.startswith("weights of") for step in exe.plan.steps) == 1
    assert_close(exe.run(feeds)["y"], cnnir.evaluate(g, feeds, dtype="f64")[0], 1e-5)
    exe.close()


def unpacked(found: list[repack.Piece], lanes: int) -> np.ndarray:
    """What the loops of pieces read, vector by vector."""
    rows = []
    for piece in found:
        assert piece.first == len(rows)
        for turn in np.ndindex(*(extent for extent, _ in piece.nest)):
            steps = zip(turn, piece.nest, strict=True)
            start = piece.address + sum(i * step for i, (_, step) in steps)
            for beside, offsets in piece.unit:
                rows.append([-1 if o is None else start + beside + o for o in offsets])
    return np.array(rows).reshape(-1, lanes)


@pytest.mark.parametrize("lanes", (4, 8, 16))
@pytest.mark.parametrize("filters,channels", [(64, 64), (39, 21), (144, 24), (5, 3)])
def test_pieces_are_what_pack_does(filters: int, channels: int, lanes: int) -> None:
    spec = ConvSpec(1, channels, filters, (9, 9), (3, 3), (1, 1), (1, 1), (1,) * 4, lanes=lanes)
    tiling = direct_conv.choose(spec, Target())
    weights = np.arange(filters * channels * 9).reshape(filters, channels, 3, 3)
    where = repack.moved(direct_conv, spec, tiling, weights, lanes)
    packed = direct_conv.pack(weights.astype(np.float32) + 1, spec, tiling)
    np.testing.assert_array_equal(where + 1, packed.reshape(-1, lanes))
    found = repack.pieces(where)
    np.testing.assert_array_equal(unpacked(found, lanes), where)
    assert len(found) <= 2 * spec.out_blocks


def test_addresses_beyond_what_f32_counts() -> None:
    spec = MatmulSpec(1, 40, 20, lanes=16)
    weights = np.arange(800, dtype=np.int64).reshape(20, 40) + (1 << 30) + 1
    tiling = matmul.choose(spec, Target())
    where = repack.moved(matmul, spec, tiling, weights, 16)
    assert sorted(where[where >= 0]) == weights.ravel().tolist()
