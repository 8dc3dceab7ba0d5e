"""From which kernel size on is a convolution quicker by Fourier transforms? A lens out of focus.

    pip install "cnnir[examples,mathematics]"
    python examples/fft_crossover.py [folder]

A lens that is out of focus makes a disc of every point: a convolution whose kernel is no product of
two rows, so that all its taps count. A photograph (scikit-learn's) is blurred by discs of 3 to 63
pixels, each layer compiled twice: as the plan wants it, and with precision="exact", where only the
sums of the definition are allowed. What is printed: what the plan chose, why, and what both take,
with scipy.signal.fftconvolve beside them. Leaves crossover.png in the folder (the current one by
default).

On one core of a Zen 4, 427 x 640 pixels in three colours, the plan goes over to FFT at 5 x 5 taps.
From there on the definition takes 2.2 ms (5 x 5), 4.8 (9 x 9), 44 (15 x 15) and 662 (63 x 63), FFT
1.1 to 2.5 and scipy 6 to 8.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import signal

import cnnir
from cnnir import nn

DIAMETERS = (3, 5, 7, 9, 11, 15, 21, 31, 47, 63)


def photograph(height: int, width: int) -> np.ndarray:
    """A part of a flower, [1,3,height,width], between 0 and 1."""
    from sklearn.datasets import load_sample_image

    picture = load_sample_image("flower.jpg")[:height, :width] / 255
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)


def disc(diameter: int) -> np.ndarray:
    """What the lens makes of a point, [diameter, diameter]; adds up to 1."""
    at = np.arange(diameter) - diameter // 2
    distance = np.hypot(at[:, None], at)
    soft = np.clip(diameter / 2 - distance + 0.5, 0, 1)  # pixels that the border cuts count in part
    return (soft / soft.sum()).astype(np.float32)


def lens(diameter: int, shape: tuple[int, ...]) -> nn.Module:
    """The same blur of every colour, as a layer."""
    layer = nn.Conv(3, diameter, padding="same", groups=3, bias=False).build(shape)
    layer.params["weight"] = np.repeat(disc(diameter)[None, None], 3, 0)
    return layer


def least(run: Callable[[], object], seconds: float) -> float:
    """The least time of a run, in milliseconds."""
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end:
            return best * 1e3


def main(folder: str = ".", short: bool = False) -> int:
    """The smallest disc for which the plan takes FFT."""
    image = photograph(*(96, 128) if short else (427, 640))
    diameters = (3, 9, 17) if short else DIAMETERS
    seconds = 0.0 if short else 0.3
    times: dict[str, list[float]] = {"as planned": [], "the definition": [], "scipy": []}
    taken = []
    for diameter in diameters:
        planned = cnnir.compile(lens(diameter, image.shape), threads=1)
        exact = cnnir.compile(lens(diameter, image.shape), threads=1, precision="exact")
        kernel = disc(diameter)[None, None]
        runners = (
            lambda exe=planned: exe(image),
            lambda exe=exact: exe(image),
            lambda kernel=kernel: signal.fftconvolve(image, kernel, mode="same", axes=(2, 3)),
        )
        blurred, wanted, by_scipy = (run() for run in runners)
        assert np.abs(blurred - wanted).max() < 1e-5 > np.abs(blurred - by_scipy).max()
        for name, run in zip(times, runners, strict=True):
            times[name].append(least(run, seconds))
        (step,) = [step for step in planned.plan.steps if "conv" in step.op]
        if step.kernel == "fft_conv":
            taken.append(diameter)
        shown = ", ".join(f"{name} {ms[-1]:.2f} ms" for name, ms in times.items())
        print(f"{diameter:2} x {diameter:2}: {step.kernel}, {step.reason}; {shown}")
        print("\n".join(f"         not {why}" for why in step.rejected if "predicted" in why))
    pictures(Path(folder), image, blurred, diameters, times, taken[0])
    return taken[0]


def pictures(
    folder: Path,
    image: np.ndarray,
    blurred: np.ndarray,
    diameters: tuple[int, ...],
    times: dict[str, list[float]],
    first: int,
) -> None:
    """crossover.png: the photograph, its blur, and the times."""
    from matplotlib.figure import Figure

    figure = Figure((13, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.2))
    for axis, picture, title in (
        (left, image, "photograph"),
        (middle, blurred, f"out of focus, {diameters[-1]} pixels"),
    ):
        axis.imshow(np.clip(picture[0].transpose(1, 2, 0), 0, 1))
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    colours = ("#1f4e79", "#c0504d", "#9aa5b1")
    for (name, ms), colour in zip(times.items(), colours, strict=True):
        right.loglog(diameters, ms, "o-", ms=3, color=colour, label=name)
    right.axvline(first, color="#1f4e79", lw=0.8, ls=":")
    right.annotate("FFT from here", (1.05 * first, max(times["the definition"])), fontsize=8)
    right.set(xlabel="diameter of the disc, pixels", ylabel="milliseconds")
    right.set_xticks(diameters, labels=map(str, diameters))
    right.minorticks_off()
    right.legend(frameon=False, fontsize=9, loc="center right")
    figure.savefig(folder / "crossover.png", dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:2])
