"""Published CNNs as their papers (or torchvision) have them, with weights that cost no memory."""

from __future__ import annotations

from cnnir import nn


def conv(filters: int, kernel: int, stride: int = 1, padding: int = 0, **more: object) -> nn.Conv:
    """A convolution of zeros: only sizes matter here."""
    return nn.Conv(filters, kernel, stride, padding, init=nn.zeros, **more)  # type: ignore[arg-type]


def dense(units: int) -> nn.Dense:
    """A dense layer of zeros."""
    return nn.Dense(units, init=nn.zeros)


def lenet() -> nn.Module:
    """LeNet-5 (LeCun 1998) for 32x32 images, C3 connected to all maps, as it is used today."""
    return nn.Sequential(
        C1=conv(6, 5), t1=nn.Tanh(), S2=nn.AvgPool(2), C3=conv(16, 5), t3=nn.Tanh(),
        S4=nn.AvgPool(2), C5=conv(120, 5), t5=nn.Tanh(), flat=nn.Flatten(),
        F6=dense(84), t6=nn.Tanh(), output=dense(10),
    )  # fmt: skip


def alexnet(grouped: bool = False) -> nn.Module:
    """AlexNet: of 2012, in two groups, for 227x227; or of one column (2014), for 224x224."""
    g = 2 if grouped else 1
    filters = (96, 256, 384, 384, 256) if grouped else (64, 192, 384, 256, 256)
    pad = 0 if grouped else 2
    return nn.Sequential(
        conv(filters[0], 11, 4, pad), nn.ReLU(), nn.MaxPool(3, 2),
        conv(filters[1], 5, padding=2, groups=g), nn.ReLU(), nn.MaxPool(3, 2),
        conv(filters[2], 3, padding=1), nn.ReLU(),
        conv(filters[3], 3, padding=1, groups=g), nn.ReLU(),
        conv(filters[4], 3, padding=1, groups=g), nn.ReLU(), nn.MaxPool(3, 2),
        nn.Flatten(), dense(4096), nn.ReLU(), dense(4096), nn.ReLU(), dense(1000),
    )  # fmt: skip


def vgg16() -> nn.Module:
    """VGG-16 (Simonyan 2014), configuration D."""
    layers: list[nn.Module] = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [conv(filters, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool(2))
    head = [dense(4096), nn.ReLU(), dense(4096), nn.ReLU(), dense(1000)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, around a shortcut."""

    def __init__(self, width: int, stride: int, project: bool) -> None:
        self.reduce = nn.Sequential(conv(width, 1, bias=False), nn.BatchNorm(), nn.ReLU())
        self.filter = nn.Sequential(
            conv(width, 3, stride, 1, bias=False), nn.BatchNorm(), nn.ReLU()
        )
        self.expand = nn.Sequential(conv(4 * width, 1, bias=False), nn.BatchNorm())
        shortcut = nn.Sequential(conv(4 * width, 1, stride, bias=False), nn.BatchNorm())
        self.shortcut = shortcut if project else None

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        """relu(branch + shortcut)"""
        y = self.expand(self.filter(self.reduce(x)))
        return nn.relu(y + (self.shortcut(x) if self.shortcut else x))


def resnet50() -> nn.Module:
    """ResNet-50 (He 2015), strides in the 3x3 convolutions as torchvision has them."""
    blocks = [
        Bottleneck(width, stride if first else 1, first)
        for width, stride, count in ((64, 1, 3), (128, 2, 4), (256, 2, 6), (512, 2, 3))
        for first in (True, *(False,) * (count - 1))
    ]
    stem = [conv(64, 7, 2, 3, bias=False), nn.BatchNorm(), nn.ReLU(), nn.MaxPool(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, nn.GlobalAvgPool(), dense(1000))


def mobilenetv2() -> nn.Module:
    """MobileNetV2 (Sandler 2018), width 1."""

    def unit(filters: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        layer = conv(filters, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [layer, nn.BatchNorm(), nn.ReLU6()]

    def block(before: int, after: int, stride: int, expand: int) -> nn.Module:
        wide = before * expand
        layers = unit(wide, 1) if expand > 1 else []
        layers += unit(wide, 3, stride, wide) + unit(after, 1)[:2]
        return (nn.Residual if stride == 1 and before == after else nn.Sequential)(*layers)

    layers, channels = unit(32, 3, 2), 32
    for expand, after, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
        (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(count):
            layers.append(block(channels, after, stride if i == 0 else 1, expand))
            channels = after
    return nn.Sequential(*layers, *unit(1280, 1), nn.GlobalAvgPool(), dense(1000))
