"""Units, weights and connections of a layer: dense, locally connected, convolutional.

    pip install "cnnir[examples]"
    python examples/count_connections.py [folder]

Four layers make of a picture of 1x32x32 six maps of 28x28, the 4,704 units of layer C1 of LeNet-5
(LeCun et al. 1998); a separable one does it in two steps. `cnnir.analysis` counts them on the
graph, formulas on paper say the same:

                          weights                       connections (multiply-adds)
    dense                 n m + m          4,821,600    n m            4,816,896
    locally connected     m (k^2 + 1)        122,304    m k^2            117,600
    convolutional         f (k^2 + 1)            156    m k^2            117,600
    separable             k^2 + f + f             37    m (k^2 / f + 1)   24,304

with n pixels, m units, f filters of k x k. (LeCun has 122,304 connections: he counts biases.) On a
line of 12 pixels the matrices of such layers are drawn, a colour for each weight: fewer connections
take entries away, sharing makes them equal. Leaves connections.png in the folder (the current one
by default).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cnnir
from cnnir import nn
from cnnir.analysis.layers import layers, total

N, F, K, M = 32 * 32, 6, 5, 6 * 28 * 28
PIXELS, TAPS = 12, 3


def candidates() -> dict[str, tuple[nn.Module, int, int]]:
    """Layers with the weights and connections that formulas say."""
    separable = nn.Sequential(nn.DepthwiseConv(K, bias=False), nn.PointwiseConv(F))
    return {
        "dense": (nn.Sequential(nn.Flatten(), nn.Dense(M)), N * M + M, N * M),
        "locally\nconnected": (nn.LocallyConnected(F, K), M * (K * K + 1), M * K * K),
        "convolutional": (nn.Conv(F, K), F * (K * K + 1), M * K * K),
        "separable": (separable, K * K + 2 * F, M // F * K * K + M),
    }


def on_a_line() -> dict[str, nn.Module]:
    """The same kinds for a line of pixels and three taps, without biases."""
    return {
        "dense": nn.Sequential(nn.Flatten(), nn.Dense(PIXELS - TAPS + 1, bias=False)),
        "locally connected": nn.LocallyConnected(1, (TAPS,), bias=False),
        "convolutional": nn.Conv(1, (TAPS,), bias=False),
    }


def main(folder: str = ".", short: bool = False) -> dict[str, tuple[int, int]]:
    """Count, compare with the formulas, draw; weights and connections of each layer."""
    counted = {}
    for name, (layer, weights, connections) in candidates().items():
        graph = layer.graph((1, 1, 32, 32))
        found = total(layers(graph))
        name = name.replace("\n", " ")
        print(f"{name:18} {found.weights:9,} weights {found.connections:9,} connections")
        assert graph.outputs[0].type.size == M
        assert (found.weights, found.connections) == (weights, connections), name
        counted[name] = (found.weights, found.connections)

    figure = Figure((11, 3.8), layout="constrained")
    *matrices, bars = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.3))
    for axes, (name, layer) in zip(matrices, on_a_line().items(), strict=True):
        drawn(axes, layer)
        axes.set_title(name, fontsize=11)
    place = np.arange(len(counted))
    for shift, kind, colour in ((0.2, 0, "#0072B2"), (-0.2, 1, "#E69F00")):
        numbers = [pair[kind] for pair in counted.values()]
        label = ("weights", "connections")[kind]
        shown = bars.barh(place + shift, numbers, 0.38, color=colour, label=label)
        bars.bar_label(shown, [f" {n:,}" for n in numbers], fontsize=8)
    bars.set(xscale="log", xlim=(10, 2e8), xlabel="for six maps of 28 x 28")
    bars.set_yticks(place, candidates())
    bars.invert_yaxis()
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(loc="upper center", bbox_to_anchor=(0.4, 1.16), ncols=2, frameon=False)
    figure.savefig(Path(folder) / "connections.png", dpi=120)
    return counted


def drawn(axes: Axes, layer: nn.Module) -> None:
    """The matrix of a layer on a line of pixels, each weight in a colour of its own."""
    layer.build((1, 1, PIXELS))
    (name,) = layer.params
    weight = layer.params[name]
    layer.params[name] = np.arange(1, weight.size + 1, dtype=np.float32).reshape(weight.shape)
    matrix = cnnir.as_matrix(layer).matrix.toarray()
    shown = np.ma.masked_equal(matrix, 0)
    axes.imshow(shown, cmap="viridis", vmin=1, vmax=max(weight.size, 2))
    axes.set(xlabel=f"input\n{weight.size} weights, {np.count_nonzero(matrix)} connections")
    axes.set(ylabel="output", xticks=[], yticks=[])


if __name__ == "__main__":
    main(*sys.argv[1:2])
