"""The networks of `gpu.py`: in torch, as graphs of the same weights, and to train with cnnir.

`width` scales channels, so that a machine without a GPU can run all of it. Needs torch.
"""

from __future__ import annotations

import io
import warnings
from itertools import pairwise
from typing import Any

import torch
from torch import nn

import cnnir
from cnnir import nn as ours

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
MOBILE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2))
CLASSES = 100


def unit(i: int, o: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU) -> Any:
    """Convolution that keeps the size, batch norm and activation."""
    conv = nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(o), *([act()] if act else []))


class Residual(nn.Module):
    """act(branch(x) + shortcut(x)); without a shortcut x itself, where it fits."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None, act: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.branch(x) + (x if self.shortcut is None else self.shortcut(x)))


def classifier(features: list[nn.Module], channels: int) -> nn.Module:
    """Features, their mean over positions, a dense layer."""
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*features, *tail)


def resnet50(width: float = 1) -> nn.Module:
    """ResNet-50 v1.5 (He 2016; the stride is at the 3x3)."""
    i = int(64 * width)
    layers: list[nn.Module] = [unit(3, i, 7, 2), nn.MaxPool2d(3, 2, 1)]
    for stage, (filters, blocks) in enumerate(STAGES):
        f = int(filters * width)
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            deep = [unit(i, f, 1), unit(f, f, 3, stride), unit(f, 4 * f, 1, act=None)]
            shortcut = None if block else unit(i, 4 * f, 1, stride, act=None)
            layers.append(Residual(nn.Sequential(*deep), shortcut, nn.ReLU()))
            i = 4 * f
    return classifier(layers, i)


def mobilenetv2(width: float = 1) -> nn.Module:
    """MobileNetV2 (Sandler 2018)."""
    i = int(32 * width)
    layers: list[nn.Module] = [unit(3, i, 3, 2, act=nn.ReLU6)]
    for expansion, filters, blocks, first in MOBILE:
        f = int(filters * width)
        for block in range(blocks):
            stride, wide = first if block == 0 else 1, i * expansion
            up = [unit(i, wide, 1, act=nn.ReLU6)] if expansion > 1 else []
            deep = unit(wide, wide, 3, stride, wide, nn.ReLU6)
            branch = nn.Sequential(*up, deep, unit(wide, f, 1, act=None))
            same = stride == 1 and i == f
            layers.append(Residual(branch, None, nn.Identity()) if same else branch)
            i = f
    return classifier([*layers, unit(i, 4 * i, 1, act=nn.ReLU6)], 4 * i)


class UNet(nn.Module):
    """U-Net (Ronneberger 2015) of four levels, with padding and batch norm."""

    def __init__(self, width: float = 1) -> None:
        super().__init__()
        w = [int(f * width) for f in (64, 128, 256, 512, 1024)]
        pairs = list(pairwise(w))
        twice = [nn.Sequential(unit(i, o, 3), unit(o, o, 3)) for i, o in [(3, w[0]), *pairs]]
        self.down, self.pool = nn.ModuleList(twice), nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(o, i, 2, 2) for i, o in pairs[::-1])
        joined = (nn.Sequential(unit(2 * i, i, 3), unit(i, i, 3)) for i, _ in pairs[::-1])
        self.join, self.last = nn.ModuleList(joined), nn.Conv2d(w[0], 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            kept.append(x)
        for up, join, beside in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([beside, up(x)], 1))
        return self.last(x)


NETS = {"resnet50": resnet50, "mobilenetv2": mobilenetv2, "unet": UNet}


def made(name: str, width: float) -> nn.Module:
    """A net in its inference form, with statistics that a trained one could have."""
    torch.manual_seed(0)
    net = NETS[name](width).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.4, 0.8)
    return net


def graph_of(net: nn.Module, batch: int, size: int) -> cnnir.Graph:
    """The graph of a net, as exported to ONNX."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(batch, 3, size, size),), file, dynamo=False)
    return cnnir.load(file.getvalue())


# ---- to train, in cnnir


def _unit(filters: int, kernel: int, stride: int = 1) -> list[ours.Module]:
    conv = ours.Conv(filters, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, ours.BatchNorm()]


class Bottleneck(ours.Module):
    """The block of ResNet-50."""

    def __init__(self, filters: int, stride: int, shortcut: bool) -> None:
        deep = [*_unit(filters, 1), ours.ReLU(), *_unit(filters, 3, stride), ours.ReLU()]
        self.body = ours.Sequential(*deep, *_unit(4 * filters, 1))
        self.shortcut = ours.Sequential(*_unit(4 * filters, 1, stride)) if shortcut else None

    def forward(self, x: ours.Tensor) -> ours.Tensor:
        """relu(body(x) + shortcut(x))"""
        return ours.relu(self.body(x) + (self.shortcut(x) if self.shortcut else x))


def trainable(width: float = 1, blocks: int = 6) -> ours.Module:
    """ResNet-50, of at most so many blocks a stage."""
    layers: list[ours.Module] = [*_unit(int(64 * width), 7, 2), ours.ReLU()]
    layers.append(ours.MaxPool(3, 2, padding=1))
    for stage, (filters, count) in enumerate(STAGES):
        for block in range(min(count, blocks)):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(int(filters * width), stride, not block))
    return ours.Sequential(*layers, ours.GlobalAvgPool(), ours.Dense(CLASSES))
