"""What lies beyond the edge of a picture: four answers, and what each does to a blur.

    pip install "cnnir[examples]"
    python examples/boundaries_compared.py [folder]

A square is cut out of a photograph and blurred, by a Gaussian of 41x41 pixels, with each boundary.
As the photograph goes on beyond the square, the true blur is known: its own valid part. Off by, as
the root mean square over the outermost 20 pixels:

    zero 0.077   circular 0.072   replicate 0.009   reflect 0.009

In the middle all are the same. scipy.ndimage, in f64, differs by less than 1e-6 from each. Leaves
boundaries.png in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np
from filters_on_an_image import photograph
from scipy import ndimage

import cnnir
from cnnir import nn, plots
from cnnir.mathematics import kernels

BOUNDARIES = {
    # name here: as numpy.pad and scipy.ndimage call it
    "zero": ("constant", "constant"),
    "circular": ("wrap", "wrap"),
    "replicate": ("edge", "nearest"),
    "reflect": ("reflect", "mirror"),
}
KERNEL = kernels.gaussian(7, 41)
REACH = 20


def blurred(image: np.ndarray, **options: object) -> np.ndarray:
    """By one layer with these options."""
    layer = nn.Conv(1, KERNEL.shape, bias=False, **options).build(image.shape)
    layer.params["weight"] = kernels.as_weight(KERNEL)
    return cnnir.compile(layer)(image)


def main(folder: str = ".", short: bool = False) -> dict[str, float]:
    """Blur, compare, draw; how far each boundary is off near the edge."""
    size = 80 if short else 160
    wide = photograph("flower.jpg", slice(60, 60 + size + 40), slice(300, 300 + size + 40))
    image = np.ascontiguousarray(wide[..., REACH:-REACH, REACH:-REACH])
    truth = blurred(wide, padding="valid")[0, 0]
    strip = np.ones(truth.shape, bool)
    strip[REACH:-REACH, REACH:-REACH] = False

    seen, results, errors, off = [], [], [], {}
    for boundary, (pad, mode) in BOUNDARIES.items():
        result = blurred(image, padding=REACH, boundary=boundary)[0, 0]
        wanted = ndimage.correlate(image[0, 0].astype(np.float64), KERNEL, mode=mode)
        error = result - truth
        off[boundary] = float(np.sqrt((error[strip] ** 2).mean()))
        assert not np.abs(error[~strip]).max() > 1e-6
        print(f"{boundary:9} off by {off[boundary]:.3f} near the edge,", end=" ")
        print(f"scipy differs by {np.abs(result - wanted).max():.1e}")
        seen.append(np.pad(image[0, 0], REACH, pad))
        results.append(result)
        errors.append(error)

    titles = [
        *(f"boundary: {b}" for b in BOUNDARIES),
        *("blurred with it" for _ in BOUNDARIES),
        *(f"off by {e:.3f} near the edge" for e in off.values()),
    ]
    figure = plots.images([*seen, *results, *errors], titles, 4, 8 * [0.9] + 4 * [0.2])
    for axes in figure.axes[:4]:  # the edge of the picture that is known
        axes.plot(*_square(REACH - 0.5, REACH + size - 0.5), color="#E69F00", lw=1.5)
    figure.savefig(Path(folder) / "boundaries.png", dpi=120)
    return off


def _square(low: float, high: float) -> tuple[list[float], list[float]]:
    return [low, high, high, low, low], [low, low, high, high, low]


if __name__ == "__main__":
    main(*sys.argv[1:2])
