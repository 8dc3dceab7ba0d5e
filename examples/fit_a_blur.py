"""Gradient descent finds out how pictures were blurred.

    pip install "cnnir[examples]"
    python examples/fit_a_blur.py [folder]

The net is one convolution of 5x5, which begins as zeros. It is shown pictures before and after a
blur with the binomial filter, 1 4 6 4 1 along both axes, and is told nothing else. After 60 steps
it has the kernel to the last digits of f32. The pictures are noise, which has all frequencies
alike; smooth_filters.py has a photograph, where that is not so easy. Leaves blur.png, the kernel on
its way, in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np

import cnnir
from cnnir import nn, plots
from cnnir.training import SGD

BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def noise(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures, and the same blurred by the reference convolution, where it is defined."""
    x = np.random.default_rng(0).standard_normal((count, 1, 36, 36)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (5, 5), (1, 2))
    return x, np.einsum("nijuv,uv->nij", windows, BINOMIAL)[:, None].astype(np.float32)


def main(folder: str = ".", short: bool = False) -> float:
    """Fit, show; the largest error of the kernel."""
    x, blurred = noise(32)
    net = nn.Sequential(nn.Conv(1, 5, bias=False, init=nn.zeros))
    trainer = cnnir.Trainer(net, "squared_error", SGD(0.2, momentum=0.5), threads=2)
    way = []  # the kernel after each epoch
    history = trainer.fit(
        x, blurred, epochs=4 if short else 15, batch_size=8,
        after_epoch=lambda *_: way.append(256 * net.params["conv1.weight"][0, 0]),
    )  # fmt: skip
    print("the kernel it found, times 256:")
    print(np.array2string(way[-1], precision=3, suppress_small=True))
    error = float(np.abs(way[-1] / 256 - BINOMIAL).max())
    print(f"largest error {256 * error:.1g}, after {len(history.losses)} steps")

    titles = [f"256 w after {steps} steps" for steps in (4, 8, 12, len(history.losses))]
    figure = plots.images([*way[:3], way[-1]], titles, limits=36.0)
    for axes, kernel in zip(figure.axes, [*way[:3], way[-1]], strict=False):
        for (row, column), number in np.ndenumerate(kernel):
            dark = abs(number) < 18 if kernel.min() >= 0 else abs(number) > 24
            colour = "white" if dark else "black"
            axes.text(column, row, f"{number:.1f}", ha="center", va="center", color=colour, size=8)
    figure.savefig(Path(folder) / "blur.png", dpi=120)
    return error


if __name__ == "__main__":
    main(*sys.argv[1:2])
