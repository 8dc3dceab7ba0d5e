"""Convolution layers are matrices: what kind, what they do to frequencies, and how to undo them.

    pip install "cnnir[examples]"
    python examples/layers_as_matrices.py [folder]

The same blur has another matrix for each boundary. With a circular one the matrix is diagonal in
the Fourier basis, so its eigenvalues are a transform of the kernel. A photograph is blurred on the
processor and brought back by dividing frequency by frequency: as exactly as the condition number,
5,014, allows, to 8e-5 of its largest value; and not at all where one is lost. Leaves
matrices.png, eigenvalues.png and deblurred.png in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np
from filters_on_an_image import photograph

import cnnir
from cnnir import nn, plots
from cnnir.mathematics import pictures

BOUNDARIES = ("zero", "circular", "reflect", "replicate")


def blur(weight: np.ndarray, boundary: str, size: int) -> nn.Module:
    """A layer with these weights, [1,1,h,w]."""
    layer = nn.Conv(1, weight.shape[2:], padding="same", boundary=boundary, bias=False)
    layer.build((1, 1, size, size)).params["weight"] = weight
    return layer


def main(folder: str = ".", short: bool = False) -> float:
    """The error of the photograph that was brought back, of its largest value."""
    kernel = cnnir.kernels.as_weight(cnnir.kernels.gaussian(1.0, 7))
    for boundary in BOUNDARIES:
        print(f"{boundary:9}", cnnir.as_matrix(blur(kernel, boundary, 16)).structure)

    size = 64 if short else 256
    image = photograph("flower.jpg", slice(100, 100 + size), slice(200, 200 + size))
    layer = blur(kernel, "circular", size)
    blurred = cnnir.compile(layer)(image)
    back = cnnir.solve(layer, blurred)
    error = float(np.abs(back - image).max() / image.max())
    print(f"condition number {cnnir.condition_number(layer):.1f}, brought back to {error:.1e}")

    binomial = blur(cnnir.kernels.as_weight(cnnir.kernels.binomial(3)), "circular", size)
    try:
        cnnir.solve(binomial, blurred)
    except cnnir.InputError as why:
        print(f"binomial blur: {why}")

    path = Path(folder)
    titles = ["photograph", "blurred", "brought back"]
    seen = [picture[0, 0] for picture in (image, blurred, back)]
    plots.images(seen, titles, limits=1.0).savefig(path / "deblurred.png", dpi=120)
    operators = [cnnir.as_matrix(blur(kernel[..., 2:5, 2:5], b, 6)).matrix for b in BOUNDARIES]
    titles = [f"boundary: {boundary}" for boundary in BOUNDARIES]
    shown = [operator.toarray() / kernel.max() for operator in operators]
    plots.images(shown, titles, limits=2.0).savefig(path / "matrices.png", dpi=120)
    sobel = blur(cnnir.kernels.as_weight(cnnir.kernels.sobel(0)), "circular", 32)
    pictures.eigenvalue_map(sobel).savefig(path / "eigenvalues.png", dpi=120)
    return error


if __name__ == "__main__":
    main(*sys.argv[1:2])
