"""Architectures beyond the usual few, as ONNX files with random weights, for `models.py`.

    python benchmarks/architectures.py folder [name ...]
    python benchmarks/models.py folder/*.onnx --threads 1

Layer by layer as in the papers, without what only training needs. Each is here for what it asks of
a compiler; the comment above it says what. Needs torch.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

IMAGE = (3, 224, 224)


def conv(i, o, kernel, stride=1, padding=None, groups=1, act=nn.ReLU, dilation=1):
    """Convolution, batch norm and activation; "same" padding unless said."""
    taps = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = tuple(k // 2 * dilation for k in taps) if padding is None else padding
    layer = nn.Conv2d(i, o, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(o), *([act()] if act else []))


def classifier(*features: nn.Module, channels: int, dropped: int = 2) -> nn.Sequential:
    """Features, their mean over positions, a dense layer to a thousand classes."""
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dropped - 1]
    return nn.Sequential(*features, pool(1), nn.Flatten(), nn.Linear(channels, 1000))


class Residual(nn.Module):
    """act(branch(x) + shortcut(x)); without a shortcut x itself is added."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, act=nn.Identity):
        super().__init__()
        self.branch, self.shortcut, self.act = branch, shortcut or nn.Identity(), act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.branch(x) + self.shortcut(x))


class Concat(nn.Module):
    """Branches of one input, side by side."""

    def __init__(self, *branches: nn.Module):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def densenet121() -> nn.Module:
    """Batch norm and ReLU in front of convolutions, concatenations that grow."""
    layers, c = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], 64
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            narrow = (nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 128, 1, bias=False))
            wide = (nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 32, 3, padding=1, bias=False))
            layers.append(Concat(nn.Identity(), nn.Sequential(*narrow, *wide)))
            c += 32
        layers += [nn.BatchNorm2d(c), nn.ReLU()]
        if stage < 3:
            layers += [nn.Conv2d(c, c // 2, 1, bias=False), nn.AvgPool2d(2)]
            c //= 2
    return classifier(*layers, channels=c)


def googlenet() -> nn.Module:
    """Four branches of one input, 5x5 taps."""

    def inception(i, one, *rest):
        (three_in, three), (five_in, five), pooled = rest[:2], rest[2:4], rest[4]
        return Concat(
            conv(i, one, 1),
            nn.Sequential(conv(i, three_in, 1), conv(three_in, three, 3)),
            nn.Sequential(conv(i, five_in, 1), conv(five_in, five, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(i, pooled, 1)),
        )

    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [conv(3, 64, 7, 2), pool(), conv(64, 64, 1), conv(64, 192, 3), pool()]
    layers += [inception(192, 64, 96, 128, 16, 32, 32), inception(256, 128, 128, 192, 32, 96, 64)]
    layers += [pool(), inception(480, 192, 96, 208, 16, 48, 64)]
    layers += [inception(512, 160, 112, 224, 24, 64, 64), inception(512, 128, 128, 256, 24, 64, 64)]
    layers += [inception(512, 112, 144, 288, 32, 64, 64)]
    layers += [inception(528, 256, 160, 320, 32, 128, 128), pool()]
    layers += [inception(832, 256, 160, 320, 32, 128, 128)]
    layers += [inception(832, 384, 192, 384, 48, 128, 128)]
    return classifier(*layers, channels=1024)


class Excite(nn.Module):
    """Squeeze-and-excitation: channels scaled by what their means say."""

    def __init__(self, c: int, inner: int, act, gate):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, inner, 1), act(), nn.Conv2d(inner, c, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def inverted(i, hidden, o, kernel, stride, act, excite=None) -> nn.Module:
    """An inverted residual block."""
    layers = [conv(i, hidden, 1, act=act)] if hidden != i else []
    layers += [conv(hidden, hidden, kernel, stride, groups=hidden, act=act)]
    layers += [excite] if excite else []
    branch = nn.Sequential(*layers, conv(hidden, o, 1, act=None))
    return Residual(branch) if stride == 1 and i == o else branch


def efficientnet_b0() -> nn.Module:
    """Squeeze-and-excitation, SiLU, depthwise 5x5."""
    layers, c, act = [conv(3, 32, 3, 2, act=nn.SiLU)], 32, nn.SiLU
    stages = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3)]
    for ratio, o, count, stride, k in [
        *stages,
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]:
        for j in range(count):
            excite = Excite(ratio * c, max(1, c // 4), act, nn.Sigmoid)
            layers.append(inverted(c, ratio * c, o, k, 1 if j else stride, act, excite))
            c = o
    return classifier(*layers, conv(320, 1280, 1, act=act), channels=1280)


MOBILE_V3 = """3 16 16 0 r 1, 3 64 24 0 r 2, 3 72 24 0 r 1,
5 72 40 1 r 2, 5 120 40 1 r 1, 5 120 40 1 r 1,
3 240 80 0 h 2, 3 200 80 0 h 1, 3 184 80 0 h 1, 3 184 80 0 h 1, 3 480 112 1 h 1, 3 672 112 1 h 1,
5 672 160 1 h 2, 5 960 160 1 h 1, 5 960 160 1 h 1"""


def mobilenet_v3() -> nn.Module:
    """Hard-swish and hard-sigmoid."""
    layers, c, acts = [conv(3, 16, 3, 2, act=nn.Hardswish)], 16, {"r": nn.ReLU, "h": nn.Hardswish}
    for row in MOBILE_V3.split(","):
        k, hidden, o, excited, act, stride = (int(v) if v.isdigit() else v for v in row.split())
        inner = (hidden // 4 + 4) // 8 * 8
        excite = Excite(hidden, inner, nn.ReLU, nn.Hardsigmoid) if excited else None
        layers.append(inverted(c, hidden, o, k, stride, acts[act], excite))
        c = o
    head = (nn.Flatten(), nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, 1000))
    last = conv(160, 960, 1, act=nn.Hardswish)
    return nn.Sequential(*layers, last, nn.AdaptiveAvgPool2d(1), *head)


class ShuffleUnit(nn.Module):
    """Half of the channels pass by, then both halves are dealt in turn."""

    def __init__(self, i: int, o: int, stride: int):
        super().__init__()
        half, seen = o // 2, i if stride == 2 else i // 2
        down = (conv(i, i, 3, 2, groups=i, act=None), conv(i, half, 1))
        self.passed = nn.Sequential(*down) if stride == 2 else None
        wise = conv(half, half, 3, stride, groups=half, act=None)
        self.branch = nn.Sequential(conv(seen, half, 1), wise, conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = (x, x) if self.passed else x.chunk(2, 1)
        y = torch.cat([self.passed(a) if self.passed else a, self.branch(b)], 1)
        return y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def shufflenet_v2() -> nn.Module:
    """Channel shuffles."""
    layers, c = [conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)], 24
    for o, count in ((116, 4), (232, 8), (464, 4)):
        for j in range(count):
            layers.append(ShuffleUnit(c, o, 1 if j else 2))
            c = o
    return classifier(*layers, conv(464, 1024, 1), channels=1024)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        self.wise = nn.Conv2d(c, c, 7, padding=3, groups=c)
        parts = (nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        self.mix, self.scale = nn.Sequential(*parts), nn.Parameter(torch.rand(c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.wise(x).permute(0, 2, 3, 1)) * self.scale
        return x + y.permute(0, 3, 1, 2)


def convnext_t() -> nn.Module:
    """Depthwise 7x7, layer norm and dense layers over channels, GELU."""
    layers, c = [nn.Conv2d(3, 96, 4, 4), ChannelNorm(96)], 96
    for stage, count in enumerate((3, 3, 9, 3)):
        if stage:
            layers += [ChannelNorm(c), nn.Conv2d(c, 2 * c, 2, 2)]
            c *= 2
        layers += [ConvNextBlock(c) for _ in range(count)]
    return classifier(*layers, channels=c)


def _bottleneck(i, m, o, stride, groups, dilation=1) -> nn.Module:
    middle = conv(m, m, 3, stride, groups=groups, dilation=dilation)
    branch = nn.Sequential(conv(i, m, 1), middle, conv(m, o, 1, act=None))
    shortcut = conv(i, o, 1, stride, act=None) if stride != 1 or i != o else None
    return Residual(branch, shortcut, nn.ReLU)


def regnet_x(widths, depths, group) -> nn.Module:
    """Groups of few channels."""
    layers, c = [conv(3, 32, 3, 2)], 32
    for width, depth in zip(widths, depths, strict=True):
        for j in range(depth):
            layers.append(_bottleneck(c, width, width, 1 if j else 2, width // group))
            c = width
    return classifier(*layers, channels=c)


def resnext50() -> nn.Module:
    """32 groups."""
    layers, c = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        for j in range(count):
            stride = 2 if stage and not j else 1
            layers.append(_bottleneck(c, 128 << stage, 256 << stage, stride, 32))
            c = 256 << stage
    return classifier(*layers, channels=c)


def deeplab() -> nn.Module:
    """A dilated ResNet-50 and pyramid of dilations, enlarged to 256x256."""
    layers, c = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], 64
    for m, count, stride, dilation in (
        (64, 3, 1, 1),
        (128, 4, 2, 1),
        (256, 6, 1, 2),
        (512, 3, 1, 4),
    ):
        for j in range(count):
            first = dilation // 2 if not j and dilation > 1 else dilation
            layers.append(_bottleneck(c, m, 4 * m, 1 if j else stride, 1, first))
            c = 4 * m
    pyramid = Concat(conv(c, 256, 1), *(conv(c, 256, 3, dilation=d) for d in (12, 24, 36)))
    head = (pyramid, conv(1024, 256, 1), conv(256, 256, 3), nn.Conv2d(256, 21, 1))
    return nn.Sequential(*layers, *head, nn.Upsample(scale_factor=8, mode="bilinear"))


def espcn() -> nn.Module:
    """Super-resolution: few channels at full size, then pixels from channels."""
    layers = (nn.Conv2d(1, 64, 5, padding=2), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
    last = (nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 9, 3, padding=1))
    return nn.Sequential(*layers, *last, nn.PixelShuffle(3))


def fsrcnn() -> nn.Module:
    """A transposed convolution of 9x9 taps to one channel."""
    layers = [nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56), nn.Conv2d(56, 12, 1), nn.PReLU(12)]
    for _ in range(4):
        layers += [nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)]
    last = nn.ConvTranspose2d(56, 1, 9, 2, 4, output_padding=1)
    return nn.Sequential(*layers, nn.Conv2d(12, 56, 1), nn.PReLU(56), last)


def audio() -> nn.Module:
    """One axis: a second of sound at 16 kHz."""

    def layer(i, o, kernel, stride=1):
        taps = nn.Conv1d(i, o, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(taps, nn.BatchNorm1d(o), nn.ReLU())

    layers, c = [layer(1, 64, 79, 4), nn.MaxPool1d(4)], 64
    for o, count in ((64, 2), (128, 2), (256, 3), (512, 2)):
        for _ in range(count):
            layers.append(layer(c, o, 3))
            c = o
        layers += [nn.MaxPool1d(4)] if o < 512 else []
    return classifier(*layers, channels=c, dropped=1)


def video() -> nn.Module:
    """Three axes: a ResNet-18 of 3x3x3 over eight frames."""

    def layer(i, o, kernel=3, stride=1, act=True):
        taps = kernel if isinstance(kernel, tuple) else (kernel,) * 3
        where = tuple(k // 2 for k in taps)
        parts = (nn.Conv3d(i, o, taps, stride, where, bias=False), nn.BatchNorm3d(o))
        return nn.Sequential(*parts, *([nn.ReLU()] if act else []))

    layers, c = [layer(3, 64, (3, 7, 7), (1, 2, 2))], 64
    for stage in range(4):
        for j in range(2):
            o, stride = 64 << stage, 2 if stage and not j else 1
            shortcut = layer(c, o, 1, stride, False) if stride > 1 else None
            branch = nn.Sequential(layer(c, o, 3, stride), layer(o, o, act=False))
            layers.append(Residual(branch, shortcut, nn.ReLU))
            c = o
    return classifier(*layers, channels=c, dropped=3)


def alexnet() -> nn.Module:
    """11x11 taps, and dense layers that read 234 MB."""
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for i, o in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.ReLU()]
    head = [nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU()]
    return nn.Sequential(*layers, *head, nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))


def style() -> nn.Module:
    """Instance norm, mirrored borders, nearest enlargement, 9x9 taps to three channels."""

    def layer(i, o, kernel, stride=1):
        return nn.Sequential(nn.ReflectionPad2d(kernel // 2), nn.Conv2d(i, o, kernel, stride))

    def normed(i, o, kernel, stride=1):
        return nn.Sequential(layer(i, o, kernel, stride), nn.InstanceNorm2d(o, affine=True))

    def block():
        return Residual(nn.Sequential(normed(128, 128, 3), nn.ReLU(), normed(128, 128, 3)))

    down = (normed(3, 32, 9), nn.ReLU(), normed(32, 64, 3, 2), nn.ReLU(), normed(64, 128, 3, 2))
    up = (nn.Upsample(scale_factor=2), normed(128, 64, 3), nn.ReLU())
    more = (nn.Upsample(scale_factor=2), normed(64, 32, 3), nn.ReLU(), layer(32, 3, 9))
    return nn.Sequential(*down, nn.ReLU(), *(block() for _ in range(5)), *up, *more)


NETS = {
    "densenet121": (densenet121, IMAGE),
    "googlenet": (googlenet, IMAGE),
    "efficientnet_b0": (efficientnet_b0, IMAGE),
    "mobilenet_v3": (mobilenet_v3, IMAGE),
    "shufflenet_v2": (shufflenet_v2, IMAGE),
    "convnext_t": (convnext_t, IMAGE),
    "regnet_x_400": (lambda: regnet_x((32, 64, 160, 400), (1, 2, 7, 12), 8), IMAGE),
    "regnet_x_800": (lambda: regnet_x((64, 128, 288, 672), (1, 3, 7, 5), 16), IMAGE),
    "resnext50": (resnext50, IMAGE),
    "deeplab": (deeplab, (3, 256, 256)),
    "espcn": (espcn, (1, 224, 224)),
    "fsrcnn": (fsrcnn, (1, 180, 320)),
    "audio": (audio, (1, 16000)),
    "video": (video, (3, 8, 56, 56)),
    "alexnet": (alexnet, IMAGE),
    "style": (style, IMAGE),
}
"""Functions that build nets, with the shape of an input."""


def write(name: str, folder: Path) -> Path:
    """A net as an ONNX file; the same weights every time, statistics as after training."""
    torch.manual_seed(0)
    make, shape = NETS[name]
    net = make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    path = folder / f"{name}.onnx"
    names = {"input_names": ["x"], "output_names": ["y"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.randn(1, *shape),)
        torch.onnx.export(net.eval(), example, path, opset_version=17, dynamo=False, **names)
    return path


def main() -> None:
    """Write the files asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NETS)}; all if none is given")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NETS):
        parser.error(f"no net is called {', '.join(sorted(unknown))}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or NETS:
        print(write(name, options.folder), flush=True)


if __name__ == "__main__":
    main()
