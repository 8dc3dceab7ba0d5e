"""A trained ONNX model gets a new head, and learns a new task from few pictures.

    pip install "cnnir[examples]"
    python examples/fine_tune.py [folder]

First a small `mnist`-style model is trained on digits of scikit-learn and written as digits.onnx;
from there on it is only that file. Its convolutions, frozen, are the body of a net that is to tell
even digits from odd ones, with 3 pictures of each digit to learn from. Only the head is trained:
the frozen part has no backward graph, and is optimised as for inference. Then all of it is trained
a little, with small steps. Of 360 pictures that none of them was shown 93.6 % are right with the
frozen body, 94.7 % in the end; a net that begins with random weights gets 85.3 %. With 10 pictures
of each digit there is nothing left to gain. Leaves tuned.png in the folder (the current one by
default).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from train_digits import digits

import cnnir
from cnnir import nn
from cnnir.training import Adam

COLOURS = {
    "body frozen": "#0072B2",
    "then all of it": "#009E73",
    "from random weights": "#D55E00",
}


def body() -> nn.Module:
    """What looks at pictures."""
    return nn.Sequential(
        nn.Conv(16, 3, padding=1), nn.BatchNorm(), nn.ReLU(), nn.MaxPool(2),
        nn.Conv(32, 3, padding=1), nn.BatchNorm(), nn.ReLU(), nn.MaxPool(2),
        nn.Flatten(),
    )  # fmt: skip


def few(x: np.ndarray, y: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    """So many pictures of every digit, and whether it is odd."""
    chosen = np.concatenate([np.flatnonzero(y == digit)[:each] for digit in range(10)])
    return x[chosen], y[chosen] % 2


def main(folder: str = ".", short: bool = False) -> dict[int, tuple[float, float, float]]:
    """The three accuracies, by the number of pictures of each digit."""
    path, epochs = Path(folder) / "digits.onnx", 3 if short else 15
    x, y, test_x, test_y = digits()
    first = nn.Sequential(body=body(), head=nn.Dense(10))
    trainer = cnnir.Trainer(first, "cross_entropy", Adam(2e-3), threads=2)
    trainer.fit(x, y, epochs, show="none")
    cnnir.save_onnx(first, path, batch="N")

    def trained(net: nn.Module, rate: float, epochs: int, each: int) -> float:
        trainer = cnnir.Trainer(net, "cross_entropy", Adam(rate), metrics="accuracy", threads=2)
        trainer.fit(*few(x, y, each), epochs, 10, show="none")
        return trainer.evaluate(test_x, test_y % 2, 360)["accuracy"]

    found = {}
    for each in (3,) if short else (1, 3, 10, 30):
        old = nn.Imported(path, until="body.flatten1").freeze()
        net = nn.Sequential(body=old, head=nn.Dense(2)).build((10, 1, 8, 8))
        frozen = trained(net, 5e-3, 2 * epochs, each)
        net["body"].freeze(False)
        further = trained(net, 3e-4, epochs, each)
        fresh = nn.Sequential(body=body(), head=nn.Dense(2))
        scratch = trained(fresh, 2e-3, 3 * epochs, each)
        print(f"{each:2} pictures of each digit: {frozen:.1%} right with a frozen body,", end=" ")
        print(f"{further:.1%} with all of it trained further, {scratch:.1%} from random weights")
        found[each] = frozen, further, scratch
    picture(found).savefig(Path(folder) / "tuned.png", dpi=120)
    return found


def picture(found: dict[int, tuple[float, float, float]]) -> Figure:
    """The accuracies by the number of pictures."""
    figure = Figure((6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, colour), shares in zip(
        COLOURS.items(), zip(*found.values(), strict=True), strict=True
    ):
        axes.semilogx(list(found), 100 * np.array(shares), "o-", color=colour, label=name)
    axes.set_xticks(list(found), list(map(str, found)), minor=False)
    axes.set_xticks([], minor=True)
    axes.set(xlabel="pictures of each digit to learn from", ylabel="test pictures right (%)")
    axes.grid(color="#e4e7eb")
    axes.legend(title="a net that tells odd digits from even ones", loc="lower right")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:2])
