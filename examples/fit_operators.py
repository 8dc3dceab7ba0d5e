"""Gradient descent finds operators from what they did: it helps to know what kind they are.

    pip install "cnnir[examples]"
    python examples/fit_operators.py [folder]

Three operators on lines of 24 numbers are hidden: a blur (a Toeplitz matrix), a flow that keeps the
length (an antisymmetric one), heat conduction (a multiple of the Laplacian). Of each there are 30
measurements (x, K x), with 5 % of noise; x are pieces of a photograph's lines, as differences of
neighbours. A layer of the operator's kind has as many parameters as there is to know; a dense layer
has 576, and 720 numbers to find them from. Off by, of the operator's size:

    Toeplitz         47 parameters    1.2 %     dense   22 %
    antisymmetric   276 parameters    7.0 %     dense   19 %
    Laplacian         1 parameter     0.2 %     dense   30 %

Leaves operators.png in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np
from filters_on_an_image import photograph
from scipy import linalg

import cnnir
from cnnir import nn, plots
from cnnir.training import Adam, Cosine

SIZE, SAMPLES, NOISE = 24, 30, 0.05


def hidden() -> dict[str, np.ndarray]:
    """The operators that are to be found, [SIZE, SIZE]."""
    rng = np.random.default_rng(0)
    taps = np.array([0.1, 0.3, 0.6, 0.2, -0.2])  # a blur that also rings on one side
    column, row = np.zeros((2, SIZE))
    column[:3], row[:3] = taps[2:], taps[2::-1]
    free = rng.standard_normal((SIZE, SIZE)) / SIZE**0.5
    second = 0.7 * linalg.toeplitz([-2, 1] + [0] * (SIZE - 2))
    return {
        "Toeplitz": linalg.toeplitz(column, row),
        "antisymmetric": free - free.T,
        "Laplacian": second,
    }


def layers() -> dict[str, nn.Module]:
    """A layer for each of them."""
    image = nn.Sequential(nn.Reshape((1, SIZE)), nn.laplacian_conv(1, 1, bias=False), nn.Flatten())
    return {
        "Toeplitz": nn.toeplitz(SIZE, SIZE, bias=False),
        "antisymmetric": nn.antisymmetric(SIZE, bias=False),
        "Laplacian": image,
    }


def lines() -> np.ndarray:
    """Pieces of a photograph's lines as differences of neighbours, [SAMPLES, SIZE], of size 1."""
    grey = photograph("china.jpg", slice(100, 400, 10), slice(100, 101 + SIZE))[0, 0]
    x = np.diff(grey, axis=1)
    return (x / x.std()).astype(np.float32)


def fitted(layer: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> np.ndarray:
    """The matrix of a layer after training."""
    net = layer.build(x.shape, seed=1)
    trainer = cnnir.Trainer(net, "squared_error", Adam(Cosine(0.03, epochs)))
    trainer.fit(x, y, epochs, SAMPLES, show="none")
    return cnnir.as_matrix(net, (1, SIZE)).matrix.toarray()


def main(folder: str = ".", short: bool = False) -> dict[str, tuple[float, float]]:
    """Find them, draw; how far the layers of a kind and the dense ones are off."""
    x, epochs = lines(), 400 if short else 1000
    noise = np.random.default_rng(1).standard_normal(x.shape)
    pictures, titles, off = [], [], {}
    forms = layers()
    for name, truth in hidden().items():
        y = x @ truth.T
        y = (y + NOISE * y.std() * noise).astype(np.float32)
        found = [fitted(net, x, y, epochs) for net in (forms[name], nn.Dense(SIZE, bias=False))]
        size = np.linalg.norm(truth)
        off[name] = tuple(float(np.linalg.norm(k - truth) / size) for k in found)
        count = forms[name].params.count
        print(
            f"{name:13} {count:3} parameters, off by {off[name][0]:.1%}; dense {off[name][1]:.1%}"
        )
        pictures += [truth, *found]
        titles += [
            f"{name}: the truth",
            f"{count} parameter{'s' * (count > 1)}, off by {off[name][0]:.1%}",
            f"{SIZE**2} parameters, off by {off[name][1]:.1%}",
        ]
    limits = [float(np.abs(k).max()) for k in pictures[::3] for _ in range(3)]
    plots.images(pictures, titles, 3, limits).savefig(Path(folder) / "operators.png", dpi=120)
    return off


if __name__ == "__main__":
    main(*sys.argv[1:2])
