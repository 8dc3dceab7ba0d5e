"""The well-known filters on a photograph, all of them by one convolution layer.

    pip install "cnnir[examples]"
    python examples/filters_on_an_image.py [folder]

The layer has six filters of 9x9 in which the smaller ones stand in the middle, and a border that
repeats the last pixel. A filter whose numbers add up to 1 keeps flat areas as they are, one whose
numbers add up to 0 makes them 0: what it leaves is signed, blue below 0 and red above. The length
of the two Sobel derivatives is computed by the net as well. scipy.ndimage, in f64, differs by less
than 1e-6 of the largest value. Leaves filters.png in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.datasets import load_sample_image

import cnnir
from cnnir import nn, plots
from cnnir.mathematics import kernels

FILTERS = {
    "Gaussian, sigma 2": kernels.gaussian(2, 9),
    "sharpened": kernels.sharpen(0.5),
    "high pass": kernels.high_pass(9),
    "Laplacian": kernels.laplacian(),
    "Sobel along the columns": kernels.sobel(0),
    "Sobel along the rows": kernels.sobel(1),
}


def photograph(name: str, rows: slice, columns: slice) -> np.ndarray:
    """A part of a sample image of scikit-learn in grey, f32 [1,1,H,W] between 0 and 1."""
    grey = load_sample_image(name).mean(2)[rows, columns] / 255
    return np.ascontiguousarray(grey[None, None], np.float32)


class Filters(nn.Module):
    """Every filter as a channel, and the length of the last two, the gradient, as one more."""

    def __init__(self) -> None:
        padded = [np.pad(w, (9 - len(w)) // 2) for w in FILTERS.values()]
        self.conv = nn.Conv(len(FILTERS), 9, padding=4, boundary="replicate", bias=False)
        self.weight = np.stack(padded)[:, None].astype(np.float32)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """[N, filters + 1, H, W] of [N, 1, H, W]"""
        y = self.conv(x)
        return nn.concat([y, nn.sqrt(y[:, -2:-1] ** 2 + y[:, -1:] ** 2)])


def main(folder: str = ".", short: bool = False) -> float:
    """Filter, compare, draw; the largest difference from scipy."""
    image = photograph("china.jpg", slice(50, 290), slice(120, 360))
    net = Filters().build(image.shape)
    net.params["conv.weight"] = net.weight
    filtered = cnnir.compile(net)(image)[0]

    error = 0.0
    for (name, kernel), found in zip(FILTERS.items(), filtered, strict=False):
        wanted = ndimage.correlate(image[0, 0].astype(np.float64), kernel, mode="nearest")
        error = max(error, float(np.abs(found - wanted).max()))
        print(
            f"{name:24} adds up to {kernel.sum():+.0f}, gives {found.min():+.2f} {found.max():+.2f}"
        )
    error /= float(filtered.max())
    print(f"scipy.ndimage differs by {error:.1e} of the largest value")

    names = ["photograph", *FILTERS, "length of the gradient"]
    filtered[1] = filtered[1].clip(0, 1)  # as a screen would
    figure = plots.images([image[0, 0], *filtered], names, 4, [1, 1, 1] + 5 * [None])
    figure.savefig(Path(folder) / "filters.png", dpi=120)
    return error


if __name__ == "__main__":
    main(*sys.argv[1:2])
