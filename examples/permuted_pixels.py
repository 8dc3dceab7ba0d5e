"""Pixels in any order: a dense net does not mind, a convolutional one does.

    pip install "cnnir[examples]"
    python examples/permuted_pixels.py [folder]

Two nets learn 300 of scikit-learn's digits, once as they are and once with the 64 pixels of all
pictures in the same random order. To a dense layer that is only another name for its inputs: with
the rows of its first weight permuted alike it computes the same. A convolution takes neighbours
together, and after the permutation they have nothing to do with each other. Of 360 pictures that no
net was shown, right:

                  as they are   permuted
    dense           95.6 %       96.1 %
    convolutional   98.6 %       89.7 %

Leaves permuted.png in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from train_digits import digits

import cnnir
from cnnir import nn
from cnnir.training import Adam, Cosine, History

COLOURS = {"dense": "#0072B2", "convolutional": "#D55E00"}


def dense() -> nn.Module:
    """Two hidden layers: 12,490 weights."""
    return nn.Sequential(
        nn.Flatten(), nn.Dense(96), nn.ReLU(), nn.Dense(58), nn.ReLU(), nn.Dense(10)
    )


def convolutional() -> nn.Module:
    """Three layers of 3x3, and the mean of what they find anywhere: 12,458 weights."""
    return nn.Sequential(
        nn.Conv(16, 3, padding=1), nn.ReLU(),
        nn.Conv(24, 3, padding=1), nn.ReLU(), nn.MaxPool(2),
        nn.Conv(38, 3, padding=1), nn.ReLU(), nn.GlobalAvgPool(), nn.Dense(10),
    )  # fmt: skip


def permuted(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The pictures [N,1,8,8] with all pixels in another order."""
    return x.reshape(len(x), 1, 64)[..., order].reshape(x.shape)


def main(folder: str = ".", short: bool = False) -> dict[tuple[str, str], float]:
    """Train all four, draw; the accuracy on the test set by net and by pixels."""
    x, y, test_x, test_y = digits()
    x, y = x[:300], y[:300]
    order = np.random.default_rng(0).permutation(64)
    pixels = {"as they are": np.arange(64), "permuted": order}
    epochs = 2 if short else 40
    histories: dict[tuple[str, str], History] = {}
    for net in (dense, convolutional):
        for name, at in pixels.items():
            trainer = cnnir.Trainer(
                net(), "cross_entropy", Adam(Cosine(5e-3, epochs)), metrics="accuracy", threads=2
            )
            test = (permuted(test_x, at), test_y)
            history = trainer.fit(permuted(x, at), y, epochs, 30, validation=test, show="none")
            histories[net.__name__, name] = history
            print(f"{net.__name__:13} {name:11} {history.last['validation accuracy']:.1%} right")

    same = dense().build((1, 1, 8, 8))
    before = cnnir.compile(same)(test_x[:1])
    same.params["dense1.weight"] = same.params["dense1.weight"][order]
    after = cnnir.compile(same)(permuted(test_x[:1], order))
    print(f"weights permuted with the pixels: scores differ by {np.abs(after - before).max():.0e}")
    some = np.stack([test_x[test_y == digit][0] for digit in (0, 3, 7)])
    picture(some[:, 0], permuted(some, order)[:, 0], histories).savefig(
        Path(folder) / "permuted.png", dpi=120
    )
    return {key: history.last["validation accuracy"] for key, history in histories.items()}


def picture(
    shown: np.ndarray, mixed: np.ndarray, histories: dict[tuple[str, str], History]
) -> Figure:
    """Some digits before and after, and how well each net does on others."""
    figure = Figure((10, 3.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    for number, axes in enumerate(left.subplots(2, 3).flat):
        axes.imshow([*shown, *mixed][number], cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        if number % 3 == 0:
            axes.set_ylabel("permuted" if number else "as they are", fontsize=11)
    axes = right.subplots()
    for (net, pixels), history in histories.items():
        axes.plot(
            history.series("epoch"), 100 * np.array(history.series("validation accuracy")),
            color=COLOURS[net], ls="--" if pixels == "permuted" else "-",
            label=f"{net}, {pixels}: {history.last['validation accuracy']:.1%}",
        )  # fmt: skip
    axes.set(xlabel="epoch", ylabel="test pictures named right (%)", ylim=(0, 100))
    axes.grid(color="#e4e7eb")
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:2])
