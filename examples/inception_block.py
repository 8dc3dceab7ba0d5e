"""Block B of Inception-v4: a 7x7 convolution as a 1x7 and a 7x1, and what that saves.

    pip install "cnnir[examples]"
    python examples/inception_block.py [folder]

The block (Szegedy et al. 2016; here at three quarters of its width, 768 channels) works on a
photograph of 272x272 pixels, cut into 17x17 tiles, whose pixels are the channels. It is written
twice: with the thin kernels of the paper, and with 7x7 kernels in their places. From one channel to
another a 7x1 after a 1x7 is a 7x7 kernel of rank 1, and of rank r through r channels in the middle;
the picture has such products, and the weights of both blocks branch by branch. It takes

    with 7x7            1,340 million multiply-adds    13.8 ms
    with 1x7 and 7x1      477 million multiply-adds     8.2 ms

on one thread of a Zen 4, with Winograd's algorithm for the 7x7. (The compiler finds such factors by
itself where kernels have them: collapse_and_split.py.) Leaves inception.png in the folder (the
current one by default).
"""

import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import cnnir
from cnnir import nn
from cnnir.analysis.layers import layers, total


def unit(filters: int, kernel: int | tuple[int, int]) -> nn.Module:
    """Convolution and ReLU."""
    return nn.Sequential(nn.Conv(filters, kernel, padding="same"), nn.ReLU())


def thin(filters: int, middle: int) -> nn.Module:
    """A 1x7 to some channels in the middle, and a 7x1."""
    return nn.Sequential(unit(middle, (1, 7)), unit(filters, (7, 1)))


def square(filters: int, middle: int) -> nn.Module:
    """The 7x7 that sees as much."""
    return unit(filters, 7)


def block(pair, width: int) -> nn.Module:
    """Four branches; `pair` makes what is 7 pixels high and wide. width: 32 in the paper."""
    return nn.Branches(
        pooled=nn.Sequential(nn.AvgPool(3, 1, "same"), unit(4 * width, 1)),
        plain=unit(12 * width, 1),
        short=nn.Sequential(unit(6 * width, 1), pair(8 * width, 7 * width)),
        long=nn.Sequential(
            unit(6 * width, 1), pair(7 * width, 6 * width), pair(8 * width, 7 * width)
        ),
    )


def tiles(size: int) -> np.ndarray:
    """A photograph of 16 size x 16 size pixels as [1,768,size,size]."""
    image = load_sample_image("china.jpg")[: 16 * size, : 16 * size] / np.float32(255)
    cut = image.reshape(size, 16, size, 16, 3).transpose(4, 1, 3, 0, 2)
    return np.ascontiguousarray(cut.reshape(1, 768, size, size), np.float32)


def milliseconds(exes: list[cnnir.Executable], x: np.ndarray, runs: int) -> list[float]:
    """Medians of runs in turn."""
    times = np.zeros((runs, len(exes)))
    for run in range(-2, runs):  # the first two do not count
        for number, exe in enumerate(exes):
            start = time.perf_counter()
            exe(x)
            times[run, number] = time.perf_counter() - start
    return list(1e3 * np.median(times, axis=0))


def main(folder: str = ".", short: bool = False) -> dict[str, int]:
    """Build, count, run, draw; the multiply-adds of both blocks."""
    x, width = tiles(5 if short else 17), 8 if short else 24
    counted, exes, weights = {}, [], {}
    for name, pair in (("7x7", square), ("1x7 and 7x1", thin)):
        net = block(pair, width).build(x.shape)
        rows = layers(net.graph())
        counted[name] = total(rows).connections
        weights[name] = [
            sum(row.weights for row in rows if row.name.startswith(branch))
            for branch in ("pooled", "plain", "short", "long")
        ]
        exes.append(cnnir.compile(net, threads=1))
        exact = cnnir.evaluate(net.graph(), [x], "f32")[0]
        assert np.abs(exes[-1](x) - exact).max() < 1e-4 * np.abs(exact).max()
    times = milliseconds(exes, x, 3 if short else 15)
    for (name, count), taken in zip(counted.items(), times, strict=True):
        print(f"{name:12} {count / 1e6:8.1f} million multiply-adds {taken:8.2f} ms")
    picture(weights).savefig(Path(folder) / "inception.png", dpi=120)
    return counted


def picture(weights: dict[str, list[int]]) -> Figure:
    """Kernels of a 1x7 and a 7x1 together, and the weights of the blocks."""
    figure = Figure((10, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    rng = np.random.default_rng(3)
    for column, rank in zip(left.subplots(2, 4).T, (1, 2, 4, 7), strict=True):
        for axes in column:
            net = nn.Sequential(
                nn.Conv(rank, (1, 7), bias=False), nn.Conv(1, (7, 1), bias=False)
            ).build((1, 1, 7, 7))
            net.initialise(int(rng.integers(1000)))
            kernel = cnnir.as_matrix(net).matrix.toarray().reshape(7, 7)
            most = np.abs(kernel).max()
            axes.imshow(kernel, cmap="RdBu_r", vmin=-most, vmax=most)
            axes.set(xticks=[], yticks=[])
        through = f"{rank} channel{'s' * (rank > 1)}"
        column[0].set_title(f"through\n{through}", fontsize=10)
        column[1].set_xlabel(f"rank {np.linalg.matrix_rank(kernel)}")
    axes = right.subplots()
    place = np.arange(4)
    for shift, (name, numbers), colour in zip(
        (-0.2, 0.2), weights.items(), ("#D55E00", "#0072B2"), strict=True
    ):
        millions = [n / 1e6 for n in numbers]
        shown = axes.bar(place + shift, millions, 0.38, color=colour, label=name)
        axes.bar_label(shown, [f"{m:.2f}" for m in millions], fontsize=8)
    axes.set_xticks(place, ["pool, 1x1", "1x1", "7x7", "7x7, 7x7"])
    axes.set(xlabel="branch", ylabel="weights (millions)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:2])
