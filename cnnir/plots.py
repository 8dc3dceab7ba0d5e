"""Pictures of nets and trainings, by matplotlib (extra `plot`): each function gives a Figure.

`figure.savefig("curves.png")` writes one; notebooks show them. Nothing here opens a window, or
keeps anything of pyplot's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from cnnir.analysis.layers import layer_result
from cnnir.analysis.receptive_field import Span, receptive_fields
from cnnir.errors import InputError, UnsupportedError
from cnnir.evaluate import evaluate
from cnnir.frontends.dsl import activations as layers
from cnnir.frontends.dsl.module import Module, symbol
from cnnir.gradient import jvp
from cnnir.mathematics.projection import project
from cnnir.training.history import History

try:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import Rectangle
except ImportError:  # an optional dependency
    raise UnsupportedError("plots need matplotlib: pip install 'cnnir[plot]'") from None

INK, SECOND, QUIET = "#1f4e79", "#c05a1c", "#9aa5b1"
SEVERAL = ("#56b4e9", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")
"""Colours that nearly everybody can tell apart (M. Okabe, K. Ito, Color universal design, 2008)."""

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


def images(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    columns: int | None = None,
    limits: float | Sequence[float | None] | None = None,
) -> Figure:
    """Pictures [H,W] with titles, in rows of so many columns.

    One without negative numbers is grey, from 0 to its limit; one with them is blue below 0, white
    at 0 and red above, with a bar of its colours. A picture without a limit takes the number that
    995 of 1000 pixels stay below.
    """
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    several = limits if isinstance(limits, Sequence) else [limits] * len(pictures)
    height = 2.5 * pictures[0].shape[0] / pictures[0].shape[1] + 0.75
    figure = Figure((2.6 * columns, height * rows), layout=ConstrainedLayoutEngine(h_pad=0.12))
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, picture, title, limit in zip(axes, pictures, titles, several, strict=False):
        signed = picture.min() < 0
        most = limit or np.quantile(np.abs(picture), 0.995) or 1
        shown = axis.imshow(
            picture, cmap="RdBu_r" if signed else "gray", vmin=-most if signed else 0, vmax=most,
            interpolation="nearest",
        )  # fmt: skip
        axis.set_title(title, fontsize=11)
        if signed:
            bar = axis.inset_axes((0.1, -0.08, 0.8, 0.03))
            figure.colorbar(shown, cax=bar, orientation="horizontal", ticks=[-most, 0, most])
            bar.set_xticklabels([f"{t:.2g}" for t in (-most, 0, most)], fontsize=8)
    return figure


def filters(weight: np.ndarray, most: int = 64) -> Figure:
    """The first filters of a convolution [O,I,H,W]: in colours where I is 3, else channel by
    channel; every filter has a scale of its own, grey is 0."""
    if weight.ndim != 4:
        raise InputError(f"weight is {list(weight.shape)}, wanted filters [O, I, H, W]")
    tiles = weight if weight.shape[1] == 3 else weight.reshape(-1, 1, *weight.shape[2:])
    heading = f"{len(weight)} filters of {weight.shape[2]} x {weight.shape[3]}"
    return _tiles([_scaled(tile) for tile in tiles[:most]], heading, vmin=0, vmax=1)


def feature_maps(net: Module, image: np.ndarray, layer: str, most: int = 64) -> Figure:
    """What a layer makes of one image [C,H,W], channel by channel; `layer` is a path, "conv1"."""
    _check_image(image)
    graph = net.graph((1, *image.shape))
    graph.outputs, graph.output_names = [layer_result(graph, layer)], [layer]
    (maps,) = evaluate(graph, [image[None]])
    if maps.ndim != 4:
        raise InputError(f"{layer!r} gives {list(maps.shape)}, wanted maps [1, C, H, W]")
    heading = f"{layer}: {maps.shape[1]} maps of {maps.shape[2]} x {maps.shape[3]}"
    return _tiles(list(maps[0][:most]), heading, cmap="magma")


def receptive_field(
    net: Module,
    image: np.ndarray,
    layers: str | Sequence[str],
    at: tuple[int, int] | None = None,
) -> Figure:
    """Which pixels of an image [C,H,W] an element of a layer sees, and which of them move it.

    Of each layer it is the element that looks at the pixel `at` (row, column; the middle by
    default): boxes are what it can see, counting padding as pixels. On the right is the derivative
    of the last layer's largest channel there, by the image: what it does see.
    """
    _check_image(image)
    chosen = [layers] if isinstance(layers, str) else list(layers)
    pixel = at or (image.shape[1] // 2, image.shape[2] // 2)
    graph = net.graph((1, *image.shape))
    fields = receptive_fields(graph)
    figure = Figure((9, 4.2), layout="constrained")
    picture, slopes = figure.subplots(1, 2)
    picture.imshow(_seen(image), cmap="gray", interpolation="nearest")
    element: tuple[int, ...] = ()
    for k, layer in enumerate(chosen):
        value = layer_result(graph, layer)
        if value.type.rank != 4 or value not in fields:
            raise InputError(f"{layer!r} gives {value.type}, wanted maps [1, C, H, W]")
        element = tuple(map(_nearest, fields[value], value.type.shape[2:], pixel))
        colour = SEVERAL[k % len(SEVERAL)]
        box = picture.add_patch(_box(fields[value], element, colour, layer))
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    picture.set_title(f"what is seen around row {pixel[0]}, column {pixel[1]}", fontsize=10)
    moved = np.abs(project(graph, image[None], chosen[-1], at=element, rule="gradient")[0]).max(0)
    slopes.imshow(moved, cmap="magma", interpolation="nearest")
    slopes.set_title(f"what moves {chosen[-1]} at {element}", fontsize=10)
    _around(slopes, box, image.shape[1:])
    for axes in (picture, slopes):
        axes.set(xticks=[], yticks=[])
    return figure


def projections(
    net: Module, image: np.ndarray, layer: str, most: int = 16, rule: str = "deconvolution"
) -> Figure:
    """The first channels of a layer, each at its largest element, brought back to the image
    [C,H,W] by `mathematics.project`: beside the part of the image that it sees, what in there
    made it large. Grey is 0."""
    _check_image(image)
    count = layer_result(net.graph((1, *image.shape)), layer).type.shape[1]
    tiles = []
    for channel in range(min(count, most)):
        found = project(net, image[None], layer, channel, rule=rule)[0]
        window = _where(found.any(0))
        back = found[:, *window] if len(image) == 3 else found[:, *window].sum(0, keepdims=True)
        tiles += [_seen(image)[window], _scaled(back)]
    columns = 2 * math.ceil(math.sqrt(len(tiles) / 2))
    heading = f"{layer}: what a channel's largest element sees, and what in there made it large"
    return _tiles(tiles, heading, columns=columns, vmin=0, vmax=1)


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


def _check_image(image: np.ndarray) -> None:
    if np.ndim(image) != 3:
        raise InputError(f"the image is {list(np.shape(image))}, wanted one image [C, H, W]")


def _nearest(span: Span, count: int, pixel: int) -> int:
    """The element of an axis whose field has its middle nearest to a pixel."""
    if not span.stride:
        return 0
    middle = span.offset + (span.size - 1) / 2
    return max(0, min(count - 1, round((pixel - middle) / span.stride)))


def _box(spans: Sequence[Span], element: Sequence[int], colour: str, name: str) -> Rectangle:
    """The field of an element on the image; pixels reach half a unit to all sides."""
    top, left = (float(s.offset + i * s.stride) - 0.5 for s, i in zip(spans, element, strict=True))
    height, width = (float(s.size) for s in spans)
    label = f"{name}: {height:g} x {width:g}"
    return Rectangle((left, top), width, height, fill=False, edgecolor=colour, lw=1.6, label=label)


def _around(axes: Any, box: Rectangle, sizes: tuple[int, ...]) -> None:
    """Show of an image the part around a box, half its size to all sides."""
    (left, top), width, height = box.get_xy(), box.get_width(), box.get_height()
    axes.set_xlim(max(-0.5, left - width / 2), min(sizes[1] - 0.5, left + 1.5 * width))
    axes.set_ylim(min(sizes[0] - 0.5, top + 1.5 * height), max(-0.5, top - height / 2))


def _where(mask: np.ndarray) -> tuple[slice, slice]:
    """The least window that holds all that is true; the whole where nothing is."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return slice(None), slice(None)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _seen(image: np.ndarray) -> np.ndarray:
    """An image [C,H,W] between 0 and 1: in colours where C is 3, else the mean of its channels."""
    low, high = image.min(), image.max()
    shown = (image - low) / ((high - low) or 1)
    return np.moveaxis(shown, 0, -1) if len(image) == 3 else shown.mean(0)


def _scaled(tile: np.ndarray) -> np.ndarray:
    """A filter [1 or 3,H,W] as a picture: 0 is in the middle, the largest number at the end."""
    picture = 0.5 + 0.5 * tile / (np.abs(tile).max() or 1)
    return np.moveaxis(picture, 0, -1) if len(tile) == 3 else picture[0]


def _tiles(
    pictures: Sequence[np.ndarray],
    heading: str,
    cmap: str = "gray",
    columns: int | None = None,
    **options: Any,
) -> Figure:
    """Pictures side by side, in a square where the number of columns is left out."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    figure = Figure((max(0.8 * columns, 3), 0.8 * rows + 0.3), layout="constrained")
    figure.suptitle(heading, fontsize=10)
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
