"""A net learns a law of physics on a torus: something drifts, and spreads.

    pip install "cnnir[examples]"
    python examples/learn_a_flow.py [folder]

The fields are periodic in both directions, so the net's one convolution has a circular boundary. It
is applied four times with the same weights, and learns from pairs: a field now, and a little later.
The truth is the exact solution of du/dt = D laplace(u) - c grad(u), by Fourier series. Drift and
spread, c = (0.7, -0.4) and D = 0.5, can be read off the stencil that it found: (0.714, -0.409) and
0.518. Left to itself for 15 times as long as it has ever seen, it is off by 5.4 % of the largest
value, and a field that is moved by hand gives a result that is moved, bit for bit: with exact
precision, as the quicker Fourier transforms round by where a pixel lies. Leaves flow.png in the
folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np

import cnnir
from cnnir import nn, plots
from cnnir.training import Adam, Cosine

SIZE, DRIFT, SPREAD, STEPS = 24, (0.7, -0.4), 0.5, 4


def fields(count: int, seed: int) -> np.ndarray:
    """Random smooth periodic fields [N,1,SIZE,SIZE]."""
    noise = np.random.default_rng(seed).standard_normal((count, 1, SIZE, SIZE))
    k = np.fft.fftfreq(SIZE) * SIZE
    smooth = np.exp(-(k[:, None] ** 2 + k**2) / 200)
    field = np.fft.ifft2(np.fft.fft2(noise) * smooth).real
    return (field / field.std()).astype(np.float32)


def later(field: np.ndarray, time: float) -> np.ndarray:
    """The exact solution after some time, in units of pixels."""
    k = 2 * np.pi * np.fft.fftfreq(SIZE)
    decay = -SPREAD * (k[:, None] ** 2 + k**2)
    turn = -1j * (DRIFT[0] * k[:, None] + DRIFT[1] * k)
    return np.fft.ifft2(np.fft.fft2(field) * np.exp((decay + turn) * time)).real.astype(np.float32)


class Flow(nn.Module):
    """One stencil on a torus, applied STEPS times."""

    def __init__(self) -> None:
        self.stencil = nn.Conv(1, 7, padding=3, bias=False, boundary="circular", init=nn.zeros)

    def forward(self, field: nn.Tensor) -> nn.Tensor:
        """The field STEPS small steps later; the stencil says how it changes in one."""
        for _ in range(STEPS):
            field = field + self.stencil(field)
        return field


def law(net: nn.Module) -> tuple[np.ndarray, float]:
    """Drift and spread in time 1, from the moments of the stencil (which correlates)."""
    w = net.params["stencil.weight"][0, 0].astype(np.float64) * STEPS
    offset = np.arange(7) - 3
    drift = -np.array([(w * offset[:, None]).sum(), (w * offset).sum()])
    second = (w * (offset[:, None] ** 2 + offset**2)).sum() / 4
    return drift, float(second - (drift**2).sum() / 4 / STEPS)


def main(folder: str = ".", short: bool = False) -> float:
    """Train, look at what was learnt; the relative error after a long time."""
    x, epochs = fields(256, 0), 6 if short else 120
    trainer = cnnir.Trainer(Flow(), "squared_error", Adam(Cosine(0.03, epochs)), threads=2)
    history = trainer.fit(x, later(x, 1.0), epochs, 32, show="none")
    drift, spread = law(trainer.net)
    print(f"loss {history.losses[0]:.2g} to {history.losses[-1]:.2g}")
    print(f"drift {drift[0]:.3f}, {drift[1]:.3f} (the law: {DRIFT[0]}, {DRIFT[1]})")
    print(f"spread {spread:.3f} (the law: {SPREAD})")

    new, run = fields(8, 1), cnnir.compile(trainer.net, precision="exact")
    field = new
    for _ in range(15):
        field = run(field)
    truth = later(new, 15.0)
    error = float(np.abs(field - truth).max() / np.abs(truth).max())
    print(f"after time 15 it is off by {error:.2%} of the largest value")
    moved = run(np.roll(new, (5, -7), (2, 3)))
    print(
        "a moved field gives a moved result:",
        np.array_equal(moved, np.roll(run(new), (5, -7), (2, 3))),
    )
    shown = [new, truth, field, field - truth, trainer.net.params["stencil.weight"]]
    titles = [
        "a field",
        "after time 15",
        "by the net",
        "the net less the truth",
        "the stencil",
    ]
    pictures = [picture[0, 0] for picture in shown]
    limits = [3.0, 0.25, 0.25, 0.025, None]
    plots.images(pictures, titles, limits=limits).savefig(Path(folder) / "flow.png", dpi=120)
    return error


if __name__ == "__main__":
    main(*sys.argv[1:2])
