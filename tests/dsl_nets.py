"""Nets as one writes them with cnnir.nn, small: each is a page of the book of CNNs."""

from __future__ import annotations

from collections.abc import Callable

from cnnir import nn


def lenet() -> nn.Module:
    """LeNet-5 (LeCun 1998) with tanh."""
    return nn.Sequential(
        nn.Conv(6, 5, padding=2), nn.Tanh(), nn.AvgPool(2),
        nn.Conv(16, 5), nn.Tanh(), nn.AvgPool(2),
        nn.Flatten(),
        nn.Dense(120), nn.Tanh(),
        nn.Dense(84), nn.Tanh(),
        nn.Dense(10), nn.Softmax(),
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He 2016)."""

    def __init__(self, filters: int, stride: int = 1) -> None:
        self.conv1 = nn.Conv(filters, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm()
        self.conv2 = nn.Conv(filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm()
        self.stride, self.filters = stride, filters
        self.shortcut = nn.Sequential(
            conv=nn.Conv(filters, 1, stride, bias=False), norm=nn.BatchNorm()
        )

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        y = nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        same = self.stride == 1 and x.shape[1] == self.filters
        return nn.relu(y + (x if same else self.shortcut(x)))


def resnet() -> nn.Module:
    """A small ResNet: a stem, three stages, a head."""
    return nn.Sequential(
        stem=nn.Sequential(nn.Conv(8, 3, padding=1, bias=False), nn.BatchNorm(), nn.ReLU()),
        stage1=nn.Sequential(ResidualBlock(8), ResidualBlock(8)),
        stage2=nn.Sequential(ResidualBlock(16, 2), ResidualBlock(16)),
        pool=nn.GlobalAvgPool(),
        head=nn.Dense(10),
    )


def unit(filters: int, kernel: int | tuple[int, int]) -> nn.Module:
    """Convolution, normalisation, ReLU: what Inception is made of."""
    return nn.Sequential(
        nn.Conv(filters, kernel, padding="same", bias=False), nn.BatchNorm(), nn.ReLU()
    )


def inception_b() -> nn.Module:
    """An Inception-B block (Szegedy 2016): 7x7 convolutions as 1x7 and 7x1."""
    return nn.Branches(
        unit(12, 1),
        nn.Sequential(unit(6, 1), unit(7, (1, 7)), unit(8, (7, 1))),
        nn.Sequential(unit(6, 1), unit(6, (1, 7)), unit(7, (7, 1)), unit(7, (1, 7)),
                      unit(8, (7, 1))),
        nn.Sequential(nn.AvgPool(3, 1, "same"), unit(4, 1)),
    )  # fmt: skip


class UNet(nn.Module):
    """Down, up, and a skip connection at every level (Ronneberger 2015)."""

    def __init__(self, widths: tuple[int, ...] = (6, 8, 10)) -> None:
        self.down = [nn.Sequential(unit(w, 3), unit(w, 3)) for w in widths]
        self.bottom = unit(2 * widths[-1], 3)
        self.up = [nn.ConvTranspose(w, 2, 2) for w in widths]
        self.join = [unit(w, 3) for w in widths]
        self.head = nn.Conv(1, 1)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = nn.max_pool(skips[-1], 2)
        x = self.bottom(x)
        for up, join, skip in list(zip(self.up, self.join, skips, strict=True))[::-1]:
            x = join(nn.concat([up(x), skip]))
        return nn.sigmoid(self.head(x))


def mobile_block(filters: int, stride: int, expand: int = 2) -> nn.Module:
    """An inverted residual (Sandler 2018), the shortcut where the shape stays."""
    layers = [
        nn.PointwiseConv(filters * expand, bias=False), nn.BatchNorm(), nn.ReLU6(),
        nn.DepthwiseConv(3, stride, 1, bias=False), nn.BatchNorm(), nn.ReLU6(),
        nn.PointwiseConv(filters, bias=False), nn.BatchNorm(),
    ]  # fmt: skip
    return nn.Residual(*layers) if stride == 1 else nn.Sequential(*layers)


def mobilenet() -> nn.Module:
    """A small MobileNetV2, and a separable convolution of the first version."""
    return nn.Sequential(
        nn.Conv(8, 3, 2, 1), nn.HardSwish(), mobile_block(8, 1), mobile_block(12, 2),
        mobile_block(12, 1), nn.SeparableConv(16, 3, padding="same"), nn.SiLU(),
        nn.GlobalAvgPool(), nn.Dropout(0.2), nn.Dense(5), nn.LogSoftmax(),
    )  # fmt: skip


class Burgers(nn.Module):
    """Steps of a diffusion equation on a ring: circular boundary, one shared filter."""

    def __init__(self, steps: int = 3) -> None:
        self.steps = steps
        self.stencil = nn.Conv(1, (3,), padding="same", boundary="circular", bias=False)

    def forward(self, u: nn.Tensor) -> nn.Tensor:
        rate = self.param("rate", (), nn.constant(0.1))
        for _ in range(self.steps):
            u = u + rate * self.stencil(u) - 0.5 * u * u
        return u


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet": (lenet, (2, 1, 28, 28)),
    "resnet": (resnet, (2, 3, 16, 16)),
    "inception_b": (inception_b, (1, 10, 9, 11)),
    "unet": (UNet, (1, 3, 16, 24)),
    "mobilenet": (mobilenet, (2, 3, 17, 17)),
    "burgers": (Burgers, (2, 1, 20)),
}
