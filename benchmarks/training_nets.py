"""The nets of benchmarks/training.py, each written twice: with cnnir.nn and with torch.nn."""

from __future__ import annotations

from itertools import chain
from typing import Any

from cnnir import nn

WIDTHS = (32, 64, 128)
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
MOBILE = ((16, 1, 1, 1), (24, 6, 2, 2), (32, 6, 2, 3))
"""Channels, expansion, stride of the first block, blocks."""


def unit(filters: int, kernel: int, stride: int = 1, **more: Any) -> list[nn.Module]:
    """Convolution that keeps the size, and batch norm."""
    conv = nn.Conv(filters, kernel, stride, padding=kernel // 2, bias=False, **more)
    return [conv, nn.BatchNorm()]


def lenet() -> nn.Module:
    """LeNet-5 with ReLU and maximum pooling."""
    return nn.Sequential(
        nn.Conv(6, 5, padding=2), nn.ReLU(), nn.MaxPool(2),
        nn.Conv(16, 5), nn.ReLU(), nn.MaxPool(2), nn.Flatten(),
        nn.Dense(120), nn.ReLU(), nn.Dense(84), nn.ReLU(), nn.Dense(10),
    )  # fmt: skip


def cnn() -> nn.Module:
    """Three blocks of 3x3 convolution, batch norm, ReLU and maximum pooling."""
    blocks = ([*unit(width, 3), nn.ReLU(), nn.MaxPool(2)] for width in WIDTHS)
    return nn.Sequential(*chain(*blocks), nn.Flatten(), nn.Dense(10))


class Residual(nn.Module):
    """The basic block of ResNet-18 (He 2016)."""

    def __init__(self, filters: int, stride: int) -> None:
        self.body = nn.Sequential(*unit(filters, 3, stride), nn.ReLU(), *unit(filters, 3))
        self.shortcut = nn.Sequential(*unit(filters, 1, stride)) if stride > 1 else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """relu(body(x) + shortcut(x))"""
        return nn.relu(self.body(x) + (self.shortcut(x) if self.shortcut else x))


def resnet18() -> nn.Module:
    """ResNet-18 in its form for images of 32x32: no stride and no pool in the stem."""
    stages = [Residual(f, s if i == 0 else 1) for f, s in STAGES for i in range(2)]
    return nn.Sequential(*unit(64, 3), nn.ReLU(), *stages, nn.GlobalAvgPool(), nn.Dense(10))


class Inverted(nn.Module):
    """The block of MobileNetV2 (Sandler 2018)."""

    def __init__(self, channels: int, filters: int, expansion: int, stride: int) -> None:
        wide = channels * expansion
        up = [*unit(wide, 1), nn.ReLU6()] if expansion > 1 else []
        deep = [nn.DepthwiseConv(3, stride, padding=1, bias=False), nn.BatchNorm(), nn.ReLU6()]
        self.body = nn.Sequential(*up, *deep, *unit(filters, 1))
        self.same = stride == 1 and channels == filters

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """body(x), with x added where it fits."""
        return self.body(x) + x if self.same else self.body(x)


def inverted() -> list[tuple[int, int, int, int]]:
    """What each block of the MobileNetV2 stack is made with."""
    made, channels = [], 32
    for filters, expansion, stride, count in MOBILE:
        for i in range(count):
            made.append((channels, filters, expansion, stride if i == 0 else 1))
            channels = filters
    return made


def mobile() -> nn.Module:
    """The stem and the first six blocks of MobileNetV2."""
    blocks = [Inverted(*block) for block in inverted()]
    stem = [*unit(32, 3), nn.ReLU6()]
    return nn.Sequential(*stem, *blocks, nn.GlobalAvgPool(), nn.Dense(10))


def torch_net(name: str) -> Any:
    """The same net as a torch module."""
    from torch import nn as t

    def t_unit(channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1):
        pad = kernel // 2
        conv = t.Conv2d(channels, filters, kernel, stride, pad, groups=groups, bias=False)
        return [conv, t.BatchNorm2d(filters)]

    class Block(t.Module):
        def __init__(self, body: list, shortcut: list | None, last: bool) -> None:
            super().__init__()
            self.body = t.Sequential(*body)
            self.shortcut = t.Sequential(*shortcut) if shortcut is not None else None
            self.last = last

        def forward(self, x):
            y = self.body(x)
            y = y if self.shortcut is None else y + self.shortcut(x)
            return t.functional.relu(y) if self.last else y

    def residual(channels: int, filters: int, stride: int):
        body = [*t_unit(channels, filters, 3, stride), t.ReLU(), *t_unit(filters, filters, 3)]
        return Block(body, t_unit(channels, filters, 1, stride) if stride > 1 else [], True)

    def mobile_block(channels: int, filters: int, expansion: int, stride: int):
        wide = channels * expansion
        up = [*t_unit(channels, wide, 1), t.ReLU6()] if expansion > 1 else []
        body = [*up, *t_unit(wide, wide, 3, stride, wide), t.ReLU6(), *t_unit(wide, filters, 1)]
        return Block(body, [] if stride == 1 and channels == filters else None, False)

    def lenet():
        first = [t.Conv2d(1, 6, 5, padding=2), t.ReLU(), t.MaxPool2d(2)]
        second = [t.Conv2d(6, 16, 5), t.ReLU(), t.MaxPool2d(2), t.Flatten()]
        dense = [t.Linear(400, 120), t.ReLU(), t.Linear(120, 84), t.ReLU(), t.Linear(84, 10)]
        return first + second + dense

    def cnn():
        pairs = zip((3, *WIDTHS), WIDTHS, strict=False)
        blocks = ([*t_unit(c, f, 3), t.ReLU(), t.MaxPool2d(2)] for c, f in pairs)
        return [*chain(*blocks), t.Flatten(), t.Linear(WIDTHS[-1] * 16, 10)]

    def resnet18():
        layers, channels = [*t_unit(3, 64, 3), t.ReLU()], 64
        for filters, stride in STAGES:
            layers += [residual(channels, filters, stride), residual(filters, filters, 1)]
            channels = filters
        return [*layers, t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(512, 10)]

    def mobile():
        blocks = [mobile_block(*block) for block in inverted()]
        stem = [*t_unit(3, 32, 3), t.ReLU6()]
        return [*stem, *blocks, t.AdaptiveAvgPool2d(1), t.Flatten(), t.Linear(MOBILE[-1][0], 10)]

    made = {"lenet": lenet, "cnn": cnn, "resnet18": resnet18, "mobile": mobile}
    return t.Sequential(*made[name]())


NETS = {
    "lenet": (lenet, (64, 1, 28, 28)),
    "cnn": (cnn, (64, 3, 32, 32)),
    "resnet18": (resnet18, (32, 3, 32, 32)),
    "mobile": (mobile, (32, 3, 32, 32)),
}
