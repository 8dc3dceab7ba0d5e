"""A net of relus is made of flat pieces: how many, where they meet, and what the net is on each.

    pip install "cnnir[examples]"
    python examples/piecewise_affine.py [folder]

A small net of two inputs learns which of two spirals a point is on. Around any point it is an
affine map, M x + c, exactly; along a line from corner to corner the borders of the regions are
computed, 51 of them, and checked by a fine walk. Another net learns scikit-learn's digits. Around
a picture of a digit it is M x + c, too, and a row of M is a picture itself: what speaks for a score
and against it there, exactly. Leaves regions.png and rows.png in the folder (the current one by
default).
"""

import sys
from pathlib import Path

import numpy as np
from train_digits import digits

import cnnir
from cnnir import nn, plots
from cnnir.mathematics.pictures import linear_regions
from cnnir.training import Adam


def spirals(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N,2] and which spiral they are on, [N]."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2, count)
    turn = np.sqrt(rng.random(count)) * 2.5 * np.pi
    at = np.stack([turn * np.cos(turn + np.pi * which), turn * np.sin(turn + np.pi * which)], 1)
    return (at / 2.5 + rng.normal(0, 0.05, at.shape)).astype(np.float32), which


def main(folder: str = ".", short: bool = False) -> tuple[int, int]:
    """How many borders the line crosses: computed, and met by the walk."""
    units = 12 if short else 24
    net = nn.Sequential(nn.Dense(units), nn.ReLU(), nn.Dense(units), nn.ReLU(), nn.Dense(2))
    x, y = spirals(600, 0)
    trainer = cnnir.Trainer(net, "cross_entropy", Adam(0.01), metrics="accuracy")
    history = trainer.fit(x, y, 10 if short else 300, 60, show="none")
    right = history.rows[-1]["accuracy"]
    print(f"{right:.1%} of the points are told right")

    graph = net.graph((1, 2))
    point, direction = np.array([[0.5, 1.0]]), np.array([[1.0, -0.3]])
    here = cnnir.local_affine(graph, point)
    border = here.distance(direction)
    for share in (0.5, 0.99, 3.0):
        at = point + share * border * direction
        (value,) = cnnir.evaluate(graph, [at], "f64")
        off = np.abs(here(at) - value).max()
        print(f"M x + c at {share:4} of the way to the border is off by {off:.1e}")

    a, b = np.array([[-3.0, -3.0]]), np.array([[3.0, 3.0]])
    borders = cnnir.regions_on_segment(graph, a, b)
    walked = walk(net, a, b)
    print(f"from corner to corner: {len(borders)} borders, by a fine walk {walked}")
    figure = linear_regions(graph, -3.4, 3.4)
    for which, colour in ((0, "#0072B2"), (1, "#D55E00")):
        at = x[y == which]
        figure.axes[0].plot(*at.T, ".", color=colour, ms=4, label=f"spiral {which}")
    figure.axes[0].legend(loc="lower right")
    figure.savefig(Path(folder) / "regions.png", dpi=120)
    rows_of_a_digit(Path(folder), 5 if short else 60)
    return len(borders), walked


def rows_of_a_digit(folder: Path, epochs: int) -> None:
    """What a net of digits is around one of them: the digit, and some rows of M."""
    net = nn.Sequential(
        nn.Flatten(), nn.Dense(32), nn.ReLU(), nn.Dense(32), nn.ReLU(), nn.Dense(10)
    )
    x, y, test_x, test_y = digits()
    small = {"*.weight": lambda w: nn.l2(w) * 3e-3}
    trainer = cnnir.Trainer(net, "cross_entropy", Adam(0.005), regularisers=small)
    trainer.fit(x, y, epochs, 64, show="none")
    picture = test_x[test_y == 8][:1]
    here = cnnir.local_affine(net.graph(picture.shape), picture)
    (scores,) = cnnir.evaluate(net.graph(picture.shape), [picture], "f64")
    print(f"scores of a digit: M x + c is off by {np.abs(here(picture) - scores).max():.1e}")
    rows = here.matrix.toarray().reshape(10, 8, 8)
    titles = ["x", *(f"row {k} of M: score {scores[0, k]:+.1f}" for k in (8, 3, 1))]
    figure = plots.images([picture[0, 0], *rows[[8, 3, 1]]], titles)
    figure.savefig(folder / "rows.png", dpi=120)


def walk(net: nn.Module, a: np.ndarray, b: np.ndarray) -> int:
    """How often the relus of the net change on the way, by looking at 100,000 points."""
    points = a + np.linspace(0, 1, 100_001)[:, None] * (b - a)
    weights = [np.asarray(w, np.float64) for w in net.params.values()]
    first = points @ weights[0] + weights[1]
    second = np.maximum(first, 0) @ weights[2] + weights[3]
    on = np.hstack([first, second]) > 0
    return int((on[1:] != on[:-1]).any(1).sum())


if __name__ == "__main__":
    main(*sys.argv[1:2])
