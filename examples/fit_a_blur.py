"""Gradient descent finds out how pictures were blurred.

    python examples/fit_a_blur.py

The net is one convolution of 5x5, which begins as zeros. It is shown pictures before and after a
blur with the binomial filter, 1 4 6 4 1 along both axes, and is told nothing else. After 60 steps
it has the kernel to the last digits of f32.
"""

import numpy as np

import cnnir
from cnnir import nn
from cnnir.training import SGD

BINOMIAL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pictures, and the same blurred by the reference convolution, where it is defined."""
    x = np.random.default_rng(0).standard_normal((count, 1, 36, 36)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (5, 5), (1, 2))
    return x, np.einsum("nijuv,uv->nij", windows, BINOMIAL)[:, None].astype(np.float32)


def main(short: bool = False) -> float:
    """Fit, show; the largest error of the kernel."""
    x, blurred = pictures(32)
    net = nn.Sequential(nn.Conv(1, 5, bias=False, init=nn.zeros))
    trainer = cnnir.Trainer(net, "squared_error", SGD(0.2, momentum=0.5), threads=2)
    history = trainer.fit(x, blurred, epochs=4 if short else 15, batch_size=8)
    found = net.params["conv1.weight"][0, 0]
    print("the kernel it found, times 256:")
    print(np.array2string(256 * found, precision=3, suppress_small=True))
    error = float(np.abs(found - BINOMIAL).max())
    print(f"largest error {256 * error:.1g}, after {len(history.losses)} steps")
    return error


if __name__ == "__main__":
    main()
