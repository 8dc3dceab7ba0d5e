"""A net of relus is made of flat pieces: how many, where they meet, and what the net is on each.

    pip install "cnnir[examples]"
    python examples/piecewise_affine.py [folder]

A small net of two inputs learns which of two spirals a point is on. Around any point it is an
affine map, M x + c, exactly; along a line from corner to corner the borders of the regions are
computed, and checked by a fine walk. With a folder, a picture of all regions is written.
"""

import sys
from pathlib import Path

import numpy as np

import cnnir
from cnnir import nn
from cnnir.training import Adam


def spirals(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points [N,2] and which spiral they are on, [N]."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2, count)
    turn = np.sqrt(rng.random(count)) * 2.5 * np.pi
    at = np.stack([turn * np.cos(turn + np.pi * which), turn * np.sin(turn + np.pi * which)], 1)
    return (at / 2.5 + rng.normal(0, 0.05, at.shape)).astype(np.float32), which


def main(folder: str | None = None, short: bool = False) -> tuple[int, int]:
    """How many borders the line crosses: computed, and met by the walk."""
    net = nn.Sequential(nn.Dense(24), nn.ReLU(), nn.Dense(24), nn.ReLU(), nn.Dense(2))
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
    if folder is not None:
        from cnnir.mathematics.pictures import linear_regions

        linear_regions(graph).savefig(Path(folder) / "regions.png", dpi=120)
    return len(borders), walked


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
