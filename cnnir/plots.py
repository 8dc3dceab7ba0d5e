"""Pictures of nets and trainings, by matplotlib (extra `plot`): each function gives a Figure.

`figure.savefig("curves.png")` writes one; notebooks show them. Nothing here opens a window, or
keeps anything of pyplot's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from cnnir.errors import InputError, UnsupportedError
from cnnir.evaluate import evaluate
from cnnir.frontends.dsl import activations as layers
from cnnir.frontends.dsl.module import Module, symbol
from cnnir.gradient import jvp
from cnnir.training.history import History

try:
    from matplotlib.figure import Figure
except ImportError:  # an optional dependency
    raise UnsupportedError("plots need matplotlib: pip install 'cnnir[plot]'") from None

INK, SECOND, QUIET = "#1f4e79", "#c05a1c", "#9aa5b1"

COMMON = ("relu", "leaky_relu", "elu", "gelu", "silu", "hard_swish", "sigmoid", "tanh", "mish",
          "softplus", "softsign", "relu6")  # fmt: skip


def curves(history: History) -> Figure:
    """The loss of every step and of every epoch, and beside it what else an epoch has."""
    others = [name for name in history.rows[0] if "loss" not in name]
    others = [n for n in others if n not in ("epoch", "seconds") and "learning_rate" not in n]
    figure = Figure((5 * (1 + bool(others)), 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + bool(others), squeeze=False)[0]
    epochs = history.series("epoch")
    steps = np.arange(1, len(history.losses) + 1) * (epochs[-1] / max(1, len(history.losses)))
    axes[0].plot(steps, history.losses, color=QUIET, lw=0.6, label="loss of a step")
    for name, colour in (("loss", INK), ("validation loss", SECOND)):
        if found := history.series(name):
            axes[0].plot(epochs, found, color=colour, marker=".", label=name)
    axes[0].set(xlabel="epoch", ylabel="loss", yscale="log")
    for name in others:
        colour = SECOND if name.startswith("validation") else INK
        axes[1].plot(epochs, history.series(name), color=colour, marker=".", label=name)
    if others:
        axes[1].set(xlabel="epoch")
    for axis in axes:
        _plain(axis)
        axis.legend(frameon=False)
    return figure


def filters(weight: np.ndarray, most: int = 64) -> Figure:
    """The first filters of a convolution [O,I,H,W]: in colours where I is 3, else channel by
    channel; every filter has a scale of its own, grey is 0."""
    if weight.ndim != 4:
        raise InputError(f"weight is {list(weight.shape)}, wanted filters [O, I, H, W]")
    tiles = weight if weight.shape[1] == 3 else weight.reshape(-1, 1, *weight.shape[2:])
    return _tiles([_scaled(tile) for tile in tiles[:most]], vmin=0, vmax=1)


def feature_maps(net: Module, image: np.ndarray, layer: str, most: int = 64) -> Figure:
    """What a layer makes of one image [C,H,W], channel by channel; `layer` is a path, "conv1"."""
    graph = net.graph((1, *image.shape))
    found = [v for node in graph.order() for v in node.results if v.name == layer]
    if not found:
        names = [v.name for node in graph.order() for v in node.results if node.op and v.name]
        raise InputError(f"there is no layer {layer!r} in the net; there are {', '.join(names)}")
    graph.outputs, graph.output_names = [found[0]], [layer]
    (maps,) = evaluate(graph, [image[None]])
    if maps.ndim != 4:
        raise InputError(f"{layer!r} gives {list(maps.shape)}, wanted maps [1, C, H, W]")
    return _tiles(list(maps[0][:most]), cmap="magma")


def activations(functions: Iterable[str | Callable[..., Any]] = COMMON) -> Figure:
    """Activation functions of `cnnir.nn`, and their derivatives as cnnir derives them."""
    chosen = [getattr(layers, f) if isinstance(f, str) else f for f in functions]
    columns = min(4, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure((2.4 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    x = np.linspace(-4, 4, 401, dtype=np.float32)
    for axis, function in zip(axes, chosen, strict=False):
        y, slope = _sampled(function, x)
        axis.plot(x, y, color=INK, label="value")
        axis.plot(x, slope, color=SECOND, lw=1, label="slope")
        axis.set_title(function.__name__, fontsize=10)
        axis.set(xlim=(-4, 4), ylim=(-1.6, 4))
        _plain(axis)
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes[len(chosen) :]:
        axis.axis("off")
    return figure


def _sampled(function: Callable[..., Any], x: np.ndarray) -> list[np.ndarray]:
    """A function of tensors at these points, and its derivative."""
    sketch = symbol(x.shape)
    sketch.graph.output(function(sketch).value, "y")
    return evaluate(jvp(sketch.graph, "x"), [x, np.ones_like(x)])


def _scaled(tile: np.ndarray) -> np.ndarray:
    """A filter [1 or 3,H,W] as a picture: 0 is in the middle, the largest number at the end."""
    picture = 0.5 + 0.5 * tile / (np.abs(tile).max() or 1)
    return np.moveaxis(picture, 0, -1) if len(tile) == 3 else picture[0]


def _tiles(pictures: Sequence[np.ndarray], cmap: str = "gray", **options: Any) -> Figure:
    """Pictures side by side in a square."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    figure = Figure((0.8 * columns, 0.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, picture in zip(axes, pictures, strict=False):
        axis.imshow(picture, cmap=cmap, interpolation="nearest", **options)
    return figure


def _plain(axis: Any) -> None:
    """Fewer lines."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e4e7eb", lw=0.6)
    axis.set_axisbelow(True)
