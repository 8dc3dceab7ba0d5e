"""Convolutions beyond their borders: against numpy's pad in f64, gradients, plans, ONNX."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cuda_harness import needs_compiler
from gradient_harness import check_derivatives
from onnx_models import info, model, node

import cnnir
from cnnir import Graph, TensorType, evaluate, gradient, nn
from cnnir.frontends.onnx_export import export
from cnnir.frontends.onnx_import import load

MODES = {"zero": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}
WORDS = tuple(MODES)
RNG = np.random.default_rng(5)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def convolved(x: np.ndarray, w: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    """numpy's pad, one axis after the other, then every tap times a strided part, in f64."""
    rank, x = x.ndim - 2, x.astype(np.float64)
    padding, words = attrs["padding"], attrs["boundary"]
    for axis, word in enumerate(words):
        pairs = [(0, 0)] * x.ndim
        pairs[2 + axis] = (padding[axis], padding[rank + axis])
        x = np.pad(x, pairs, MODES[word])
    stride, dilation, groups = attrs["stride"], attrs["dilation"], attrs["groups"]
    kernel = w.shape[2:]
    axes = zip(x.shape[2:], kernel, stride, dilation, strict=True)
    out = [(n - (k - 1) * d - 1) // s + 1 for n, k, s, d in axes]
    parts = x.reshape(len(x), groups, -1, *x.shape[2:])
    w = w.reshape(groups, -1, *w.shape[1:]).astype(np.float64)
    y = np.zeros(())
    for tap in np.ndindex(*kernel):
        steps = zip(tap, dilation, out, stride, strict=True)
        where = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in steps)
        seen = parts[(slice(None), slice(None), slice(None), *where)]
        y = y + np.einsum("goc,ngc...->ngo...", w[(..., *tap)], seen)
    return y.reshape(len(x), -1, *out)


def layers(sizes: tuple[int, ...], channels: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """A kernel of every size with every boundary, strides, dilations and groups in turn."""
    rank, found = len(sizes), []
    turns = itertools.cycle(
        [(1, 1, 1), (1, 1, channels), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1)]
    )
    for k, word in itertools.product((1, 3, 5, 7), WORDS[1:]):
        words = tuple(word if axis == rank - 1 else RNG.choice(WORDS) for axis in range(rank))
        stride, dilation, groups = next(turns)
        pads = [k // 2 * dilation, (k - 1) // 2 * dilation + 1]
        sides = [min(p, n - 1) if b == "reflect" else p
                 for p in pads for n, b in zip(sizes, words, strict=True)]  # fmt: skip
        span = dilation * (k - 1) + 1
        fits = all(n + sides[a] + sides[rank + a] >= span for a, n in enumerate(sizes))
        attrs = {"stride": (stride,) * rank, "dilation": (dilation if fits else 1,) * rank,
                 "padding": tuple(sides), "groups": groups, "boundary": words}  # fmt: skip
        if fits or all(n + sides[a] + sides[rank + a] >= k for a, n in enumerate(sizes)):
            found.append((random(8, channels // groups, *(k,) * rank), attrs))
    return found


@pytest.mark.parametrize("sizes", [(1, 1), (7, 31), (17, 7), (31, 17), (17,), (2, 3), (4, 7, 5)])
def test_compiled_against_numpy(sizes: tuple[int, ...]) -> None:
    """One graph with all layers; odd images, and some that are smaller than the kernel."""
    g = Graph()
    x = g.input(TensorType("f32", (2, 8, *sizes)), "x")
    image, wanted = random(2, 8, *sizes), []
    for w, attrs in layers(sizes, 8):
        g.output(g.add("conv", x, g.param("w", w), **attrs))
        wanted.append(convolved(image, w, attrs))
    assert len(wanted) >= 4
    reference = evaluate(g, [image], "f64")
    for also, exact in zip(reference, wanted, strict=True):
        np.testing.assert_allclose(also, exact, atol=1e-12 * np.abs(exact).max())
    for threads in (1, 2):
        results = cnnir.compile(g, threads=threads).run({"x": image}).values()
        for got, exact in zip(results, wanted, strict=True):
            np.testing.assert_allclose(got, exact, atol=2e-5 * np.abs(exact).max())


@pytest.mark.parametrize("word", WORDS[1:])
@pytest.mark.parametrize(
    "layer",
    [nn.Conv(32, 3, padding=1), nn.DepthwiseConv(3, padding=1), nn.Conv(24, 5, 2, 2, groups=2)],
    ids=["winograd", "depthwise", "grouped"],
)
def test_nothing_is_copied_for_a_border(layer: Any, word: str) -> None:
    """The steps are those of zero padding."""
    shape = (1, 16, 28, 28)
    plans = []
    for layer.boundary in ("zero", word):
        plans.append([(s.kernel, s.op) for s in cnnir.compile(layer, shapes=shape).plan.steps])
    assert plans[0] == plans[1]


def test_a_pad_of_a_model_is_not_copied_either() -> None:
    w = random(16, 16, 3, 3)
    amounts = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    for mode in ("wrap", "reflect", "edge"):
        nodes = [node("Pad", ["x", "p"], ["y"], mode=mode), node("Conv", ["y", "w"], ["z"])]
        ends = [info("x", (1, 16, 17, 31))], [info("z", None)]
        proto = model(nodes, *ends, 19, {"p": amounts, "w": w})
        exe, x = cnnir.compile(proto), random(1, 16, 17, 31)
        assert "pad" not in " ".join(step.op for step in exe.plan.steps)
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        (wanted,) = session.run(None, {"x": x})
        np.testing.assert_allclose(exe(x), wanted, atol=2e-5 * np.abs(wanted).max())


# ---------------------------------------------------------------- gradients


def graph_of(sizes: tuple[int, int], **attrs: Any) -> Graph:
    g = Graph()
    x = g.input(TensorType("f64", (2, 4, *sizes)), "x")
    w = g.input(TensorType("f64", (6, 4 // attrs.get("groups", 1), 3, 5)), "w")
    g.output(g.add("conv", x, w, **attrs), "y")
    return g


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("words", list(itertools.product(WORDS, repeat=2)), ids="-".join)
def test_derivatives(words: tuple[str, str], stride: int) -> None:
    """Central differences and jvp, of x and w; twice, since the gradient has a gradient."""
    attrs = {"padding": (1, 2, 1, 2), "boundary": words, "stride": (stride, 1), "groups": 2}
    g = graph_of((5, 6), **attrs)
    feeds = {"x": RNG.standard_normal((2, 4, 5, 6)), "w": RNG.standard_normal((6, 2, 3, 5))}
    check_derivatives(g, feeds)
    back = gradient(g, ["y"], ["x", "w"], cotangents=True, outputs=False)
    shape = back.inputs[-1].type.shape
    check_derivatives(back, feeds | {"cotangent.y": RNG.standard_normal(shape)})


def ops_of_gradient(g: Graph) -> list[str]:
    back = gradient(g, ["y"], ["x"], cotangents=True, outputs=False)
    return [n.name for n in back.order() if n.op is not None]


def test_on_a_circle_the_gradient_is_a_convolution() -> None:
    """Of the flipped kernel on the same circle; where steps or sizes differ it is folded back."""
    words = ("circular", "zero")
    turned = ops_of_gradient(graph_of((5, 6), padding=(2, 1, 0, 2), boundary=words))
    assert "conv" in turned and not {"pad", "add", "conv_transpose"} & set(turned)
    for attrs in (
        {"padding": (1, 2, 1, 2), "boundary": ("circular", "reflect")},
        {"padding": (2, 2, 2, 2), "boundary": words},  # more results than x has rows
        {"padding": (1, 2, 1, 2), "boundary": words, "stride": (2, 1)},
    ):
        assert "add" in ops_of_gradient(graph_of((5, 6), **attrs))


# ---------------------------------------------------------------- other ways in and out


@pytest.mark.parametrize("words", [("circular", "reflect"), ("zero", "replicate")])
def test_onnx_export_writes_a_pad(words: tuple[str, str]) -> None:
    layer = nn.Conv(4, 3, 2, padding=((1, 2), (2, 1)), boundary=words)
    graph, x = layer.graph((2, 3, 7, 6)), random(2, 3, 7, 6)
    proto = export(graph)
    assert [n.op_type for n in proto.graph.node] == ["Pad"] * (2 - words.count("zero")) + ["Conv"]
    (wanted,) = evaluate(graph, [x], "f64")
    (got,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    again = load(proto.SerializeToString())
    np.testing.assert_allclose(evaluate(again, [x], "f64")[0], wanted, atol=1e-12)


def test_cuda_prints_a_loop() -> None:
    needs_compiler()
    layer, x = nn.Conv(32, 3, padding=1, boundary=("reflect", "circular")), random(1, 16, 9, 7)
    exe = cnnir.compile(layer, target="cuda-emu", shapes=x.shape)
    (step,) = (s for s in exe.plan.steps if s.op.startswith("conv"))
    assert step.kernel == "loops" and "boundary reflect, circular" in " ".join(step.rejected)
    (wanted,) = evaluate(layer.graph(x.shape), [x], "f64")
    np.testing.assert_allclose(exe(x), wanted, atol=1e-5 * np.abs(wanted).max())
