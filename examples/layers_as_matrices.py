"""Convolution layers are matrices: what kind, what they do to frequencies, and how to undo them.

    pip install "cnnir[examples]"
    python examples/layers_as_matrices.py [folder]

The same 3x3 blur has another matrix for each boundary. With a circular one the matrix is diagonal
in the Fourier basis, so its eigenvalues are a transform of the kernel. A photograph (scikit-
learn's) is blurred on the processor and brought back by dividing frequency by frequency: as
exactly as the condition number allows, and not at all for a blur that loses a frequency. With a
folder, pictures are written.
"""

import sys
from pathlib import Path

import numpy as np

import cnnir
from cnnir import nn


def photograph(size: int) -> np.ndarray:
    """A part of a flower in grey, [1,1,size,size], between 0 and 1."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("flower.jpg").mean(2)[100 : 100 + size, 200 : 200 + size] / 255
    return np.ascontiguousarray(grey[None, None], np.float32)


def blur(weight: np.ndarray, boundary: str, size: int) -> nn.Module:
    """A layer with these weights, [1,1,h,w]."""
    layer = nn.Conv(1, weight.shape[2:], padding="same", boundary=boundary, bias=False)
    layer.build((1, 1, size, size)).params["weight"] = weight
    return layer


def main(folder: str | None = None, short: bool = False) -> float:
    """The error of the photograph that was brought back, of its largest value."""
    kernel = cnnir.kernels.as_weight(cnnir.kernels.gaussian(1.0, 7))
    for boundary in ("zero", "circular", "reflect", "replicate"):
        print(f"{boundary:9}", cnnir.as_matrix(blur(kernel, boundary, 16)).structure)

    size = 64 if short else 256
    image, layer = photograph(size), blur(kernel, "circular", size)
    blurred = cnnir.compile(layer)(image)
    back = cnnir.solve(layer, blurred)
    error = float(np.abs(back - image).max() / image.max())
    print(f"condition number {cnnir.condition_number(layer):.1f}, brought back to {error:.1e}")

    binomial = blur(cnnir.kernels.as_weight(cnnir.kernels.binomial(3)), "circular", size)
    try:
        cnnir.solve(binomial, blurred)
    except cnnir.InputError as why:
        print(f"binomial blur: {why}")

    if folder is not None:
        pictures(Path(folder), kernel, image, blurred, back)
    return error


def pictures(folder: Path, kernel: np.ndarray, *images: np.ndarray) -> None:
    """matrix.png, eigenvalues.png and deblurred.png."""
    from matplotlib.figure import Figure

    from cnnir.mathematics import pictures

    small = blur(kernel, "circular", 10)
    pictures.matrix(cnnir.as_matrix(small)).savefig(folder / "matrix.png", dpi=120)
    sobel = blur(cnnir.kernels.as_weight(cnnir.kernels.sobel(0)), "circular", 32)
    pictures.eigenvalue_map(sobel).savefig(folder / "eigenvalues.png", dpi=120)
    figure = Figure((9, 3.2), layout="constrained")
    titles = ("photograph", "blurred", "brought back")
    for axis, image, title in zip(figure.subplots(1, 3), images, titles, strict=True):
        axis.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.savefig(folder / "deblurred.png", dpi=120)


if __name__ == "__main__":
    main(*sys.argv[1:2])
