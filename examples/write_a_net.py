"""Write a net, look at it, compile it, run it, and hand it on as ONNX.

    python examples/write_a_net.py [folder]

The net is a small ResNet for 32x32 images with random weights. The files net.onnx and weights.npz
are left in the folder (the current one by default).
"""

import sys
from pathlib import Path

import numpy as np
from rich import print

import cnnir
from cnnir import nn


def unit(filters: int, stride: int = 1) -> nn.Module:
    """Convolution, normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv(filters, 3, stride, padding=1, bias=False), nn.BatchNorm(), nn.ReLU()
    )


class Block(nn.Module):
    """Two convolutions, and a shortcut around them."""

    def __init__(self, filters: int, stride: int = 1) -> None:
        self.first = unit(filters, stride)
        self.second = nn.Conv(filters, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm()
        self.shortcut = nn.Conv(filters, 1, stride) if stride > 1 else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """relu(convolutions of x + x)"""
        y = self.norm(self.second(self.first(x)))
        return nn.relu(y + (self.shortcut(x) if self.shortcut else x))


def small_resnet(classes: int = 10) -> nn.Module:
    """A stem, three stages, a head."""
    return nn.Sequential(
        stem=unit(16),
        stage1=Block(16),
        stage2=nn.Sequential(Block(32, 2), Block(32)),
        stage3=nn.Sequential(Block(64, 2), Block(64)),
        pool=nn.GlobalAvgPool(),
        head=nn.Dense(classes),
        probabilities=nn.Softmax(),
    )


def main(folder: Path) -> None:
    """Everything, in the order of the first line."""
    net = small_resnet().build((1, 3, 32, 32), seed=1)
    print(net.summary())

    exe = cnnir.compile(net)
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    scores = exe(images)  # a batch of 4 is compiled once, when it comes
    print("classes:", scores.argmax(1).tolist())

    exact = cnnir.evaluate(net.graph(images.shape), [images], dtype="f64")[0]
    print(f"error: {np.abs(scores - exact).max() / exact.max():.1e} of the largest probability")
    exe.close()

    cnnir.save_onnx(net, folder / "net.onnx")
    net.save(folder / "weights.npz")
    same = cnnir.load(folder / "net.onnx").text(hints=False) == net.graph().text(hints=False)
    print("net.onnx imports as the same graph:", same)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
