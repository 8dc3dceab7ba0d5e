"""A regulariser that wants a filter to be smooth finds what noisy pictures alone do not tell.

    pip install "cnnir[examples]"
    python examples/smooth_filters.py [folder]

A photograph was shaken while it was taken: convolved with a smooth kernel of 15x15. From the sharp
and the shaken picture, with noise of 5 %, gradient descent is to find the kernel. A photograph has
little of high frequencies, so they are hidden in the noise, and the loss alone leaves them to
chance. One more term of the loss, of some strength, says what is likely:

    |w|^2 / 2   small numbers    or    |L w|^2 / 2, L the discrete Laplacian   smooth ones

The strength is chosen by another part of the photograph, not by the truth. The kernel is then off
by 235 % without a regulariser, 78 % with small numbers and 37 % with smooth ones. Leaves smooth.png
in the folder (the current one by default).
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filters_on_an_image import photograph
from matplotlib.figure import Figure
from scipy import signal

import cnnir
from cnnir import nn
from cnnir.training import Adam, Cosine

TERMS: dict[str, Callable[[nn.Tensor], nn.Tensor]] = {
    "small numbers": nn.l2,
    "smooth ones": lambda w: nn.tikhonov(w, "laplacian"),
}
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
COLOURS = {"small numbers": "#0072B2", "smooth ones": "#D55E00"}
SIZE, NOISE = 15, 0.05


def shake() -> np.ndarray:
    """A hand's way as a kernel [SIZE,SIZE] that adds up to 1: an arc, a little blurred."""
    turn = np.linspace(-2.2, 0.6, 200)
    at = np.stack([4 * np.sin(turn) + 1.5, 4.5 * np.cos(turn) - 1])
    grid = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    kernel = np.exp(-((grid[..., None] - at[:, None, None]) ** 2).sum(0) / 2.5).sum(-1)
    return kernel / kernel.sum()


def pictures(columns: slice, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A part of a photograph around its mean, and what the shaken one with noise is like."""
    x = photograph("china.jpg", slice(110, 170), columns)
    x -= x.mean()
    shaken = signal.correlate(x[0, 0], shake(), "valid")
    noise = np.random.default_rng(seed).standard_normal(shaken.shape)
    return x, (shaken + NOISE * noise)[None, None].astype(np.float32)


def main(folder: str = ".", short: bool = False) -> dict[str, float]:
    """Fit with every strength, choose, draw; how far the kernels are off, of the truth's size."""
    x, y = pictures(slice(160, 220), 0)
    other = pictures(slice(220, 280), 1)
    epochs, strengths = (60, STRENGTHS[3:4]) if short else (800, STRENGTHS)
    truth = shake()

    def fit(term: str = "", strength: float = 0.0) -> tuple[np.ndarray, float]:
        """The kernel, and its loss on the other part."""
        net = nn.Sequential(nn.Conv(1, SIZE, bias=False, init=nn.zeros))
        terms = {"conv1.weight": lambda w: strength * TERMS[term](w)} if term else None
        trainer = cnnir.Trainer(
            net, "squared_error", Adam(Cosine(0.01, epochs)), regularisers=terms
        )
        trainer.fit(x, y, epochs, show="none")
        found, predicted = net.params["conv1.weight"][0, 0], trainer.predict(other[0])
        return found, float(((predicted - other[1]) ** 2).mean())

    def off(kernel: np.ndarray) -> float:
        return float(np.linalg.norm(kernel - truth) / np.linalg.norm(truth))

    chosen, curves = {"no regulariser": fit()[0]}, {}
    for term in TERMS:
        fits = [fit(term, strength) for strength in strengths]
        best = min(range(len(fits)), key=lambda k: fits[k][1])
        print(term, f"strength {strengths[best]:g}, losses", *(f"{loss:.5f}" for _, loss in fits))
        chosen[term] = fits[best][0]
        curves[term] = [off(kernel) for kernel, _ in fits]
    errors = {name: off(kernel) for name, kernel in chosen.items()}
    for name, error in errors.items():
        print(f"{name:15} off by {error:.1%}")
    figure = picture({"the truth": truth, **chosen}, errors, strengths, curves)
    figure.savefig(Path(folder) / "smooth.png", dpi=120)
    return errors


def picture(
    kernels: dict[str, np.ndarray],
    errors: dict[str, float],
    strengths: tuple[float, ...],
    curves: dict[str, list[float]],
) -> Figure:
    """The kernels, and how far they are off by the strength of the regulariser."""
    figure = Figure((9, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    grid, most = left.subplots(2, 2), 1.3 * kernels["the truth"].max()
    for axes, (name, kernel) in zip(grid.flat, kernels.items(), strict=True):
        shown = axes.imshow(kernel, cmap="RdBu_r", vmin=-most, vmax=most)
        axes.set(xticks=[], yticks=[])
        error = f", off by {errors[name]:.0%}" if name in errors else ""
        axes.set_title(name + error, fontsize=10)
    left.colorbar(shown, ax=grid, location="bottom", shrink=0.8, aspect=40, label="weight")
    axes = right.subplots()
    for term, colour in COLOURS.items():
        axes.semilogx(strengths, 100 * np.array(curves[term]), "o-", color=colour, label=term)
    without = 100 * errors["no regulariser"]
    axes.axhline(without, color="#5f6b76", ls="--", label="no regulariser")
    axes.set(
        xlabel="strength of the regulariser", ylabel="the kernel is off by (%)", ylim=(0, None)
    )
    axes.grid(color="#e4e7eb")
    axes.legend()
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:2])
