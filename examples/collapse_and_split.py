"""What composing and splitting linear layers is good for: four networks, before and after.

    python examples/collapse_and_split.py [--short]

A deep linear network becomes one convolution; an imported 7x7 Gaussian blur becomes two 1-D ones; a
3x3 layer of low rank is split; an Inception block with 7x7 kernels gets its 1x7 and 7x1 back. Each
prints the graphs, the operations, the times and the difference of the results.
"""

import sys
import time

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import cnnir
from cnnir.ir import Graph, Value
from cnnir.report.cost import summary
from cnnir.tensortype import TensorType

WITHOUT = "inference,-parallel,-collapse,-grouped,-separable"
"""The default pipeline without the passes that this is about."""

rng = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    """Random weights that keep the size of what goes through."""
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def linear_network(channels: int, size: int) -> Graph:
    """Five 3x3 convolutions with batch norms, no activation, no padding."""
    g = Graph("linear")
    x = g.input(TensorType("f32", (1, 3, size, size)), "x")
    before = 3
    for number, after in enumerate((channels,) * 4 + (3,)):
        x = g.add("conv", x, g.param(f"w{number}", weights(after, before, 3, 3)))
        scale, shift, mean = (g.param(n, weights(after, 1)[:, 0]) for n in "stm")
        variance = g.param("v", rng.uniform(0.5, 2.0, after).astype(np.float32))
        x = g.add("batch_norm", x, scale, shift, mean, variance)
        before = after
    g.output(x, "y")
    return g


def blurred_network(channels: int, size: int) -> Graph:
    """An ONNX model that blurs before it takes every second pixel, by a depthwise 7x7 kernel."""
    line = np.array([1, 6, 15, 20, 15, 6, 1], np.float32) / 64
    blur = np.tile(np.outer(line, line), (channels, 1, 1, 1))
    arrays = {"w": weights(channels, 3, 3, 3), "blur": blur, "v": weights(channels, channels, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "act"),
        helper.make_node("Conv", ["b", "blur"], ["c"], "blur", pads=[3] * 4, group=channels),
        helper.make_node("Conv", ["c", "v"], ["y"], "down", pads=[1] * 4, strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "blurred",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return cnnir.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def vertical_then_horizontal(filters: int, channels: int, rank: int, taps: int) -> np.ndarray:
    """A square kernel that is a vertical one and a horizontal one through `rank` channels."""
    vertical, horizontal = weights(rank, channels, taps), weights(filters, rank, taps)
    return np.einsum("rcu,orv->ocuv", vertical, horizontal)


def low_rank_layer(channels: int, size: int) -> Graph:
    """A 3x3 convolution whose weights come through a quarter of the channels."""
    g = Graph("low_rank")
    x = g.input(TensorType("f32", (1, channels, size, size)), "x")
    w = vertical_then_horizontal(channels, channels, channels // 4, 3)
    g.output(g.add("conv", x, g.param("w", w), padding=(1,) * 4), "y")
    return g


def inception_b(unit: int, size: int) -> Graph:
    """Block B of Inception-v4 (Szegedy et al. 2016), with 7x7 in place of 1x7 and 7x1.

    unit: 32 for the published widths, 192 to 384 channels inside of branches.
    """
    g = Graph("inception_b")
    x = g.input(TensorType("f32", (1, 32 * unit, size, size)), "x")

    def layer(x: Value, filters: int, rank: int = 0) -> Value:
        channels = x.type.shape[1]
        w = weights(filters, channels, 1, 1)
        if rank:
            w = vertical_then_horizontal(filters, channels, rank, 7)
        padding = (3,) * 4 if rank else ()
        return g.add("relu", g.add("conv", x, g.param("w", w), padding=padding))

    pooled = g.add("avg_pool", x, kernel=(3, 3), padding=(1,) * 4)
    branches = [
        layer(pooled, 4 * unit),
        layer(x, 12 * unit),
        layer(layer(x, 6 * unit), 8 * unit, 7 * unit),
        layer(layer(layer(x, 6 * unit), 7 * unit, 6 * unit), 8 * unit, 7 * unit),
    ]
    g.output(g.add("concat", *branches, axis=1), "y")
    return g


def milliseconds(executables: list[cnnir.Executable], x: np.ndarray, runs: int) -> list[float]:
    """Medians of runs in turn, so that whatever else the machine does meets all alike."""
    times = np.zeros((runs, len(executables)))
    for run in range(-2, runs):  # the first two do not count
        for number, exe in enumerate(executables):
            start = time.perf_counter()
            exe(x)
            times[run, number] = time.perf_counter() - start
    return list(1e3 * np.median(times, axis=0))


def convolutions(graph: Graph) -> list[str]:
    """Kernels of all convolutions, such as 8x8x3x3, with their groups."""
    found = []
    for node in graph.order():
        for inner in node.attrs["body"].order() if "body" in node.attrs else [node]:
            if inner.name == "conv" and inner.operands[1] is not None:
                groups = inner.attrs["groups"]
                shape = "x".join(map(str, inner.operands[1].type.shape))
                found.append(shape + (f" in {groups} groups" if groups > 1 else ""))
    return found


def compare(graph: Graph, runs: int) -> tuple[float, float]:
    """Print a network without and with the passes; the speed-up and the relative difference."""
    x = rng.standard_normal(graph.inputs[0].type.shape).astype(np.float32)
    # one thread, which whatever else the machine does disturbs least
    plain, quick = (cnnir.compile(graph, passes=p, threads=1) for p in (WITHOUT, None))
    print(f"\n==== {graph.name}\n\n{graph.text()}\n\nbecomes\n\n{quick.graph.text()}\n")
    for record in quick.history:
        for told in (r for r in record.rewrites if r.reason):
            print(f"{record.name}: {told.rule}: {told.reason}")
    slow, fast = milliseconds([plain, quick], x, runs)
    for name, exe, taken in (("without", plain, slow), ("with", quick, fast)):
        flops = summary(exe.graph)["flops"]
        kernels = ", ".join(convolutions(exe.graph))
        print(f"{name:8} {flops / 1e6:10.2f} MFLOP {taken:9.3f} ms   {kernels}")
    wanted = cnnir.evaluate(graph, [x], dtype="f64")[0]
    error = float(np.abs(quick(x) - wanted).max() / np.abs(wanted).max())
    print(f"{slow / fast:.1f} times as fast, error {error:.1e} of the largest value")
    plain.close()
    quick.close()
    return slow / fast, error


def main(short: bool) -> None:
    """All four; small ones when in a hurry."""
    if short:
        graphs = [
            linear_network(16, 20),
            blurred_network(16, 24),
            low_rank_layer(16, 12),
            inception_b(2, 9),
        ]
    else:
        graphs = [
            linear_network(32, 128),
            blurred_network(64, 112),
            low_rank_layer(128, 28),
            inception_b(32, 17),
        ]
    for graph in graphs:
        _, error = compare(graph, 3 if short else 60)
        assert error < 1e-5, graph.name


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--short"]):
        sys.exit("usage: python examples/collapse_and_split.py [--short]")
    main(short="--short" in sys.argv)
