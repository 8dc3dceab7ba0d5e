"""Small nets with a loss, written as graphs: what training steps are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir import Graph, TensorType, Value


class Net:
    """A graph under construction, with layers that draw their params."""

    def __init__(self, name: str, *shape: int, dtype: str = "f32", seed: int = 0) -> None:
        self.g, self.dtype = Graph(name), dtype
        self.rng = np.random.default_rng(seed)
        self.x: Any = self.g.input(TensorType(dtype, shape), "x")

    def param(self, name: str, *shape: int, scale: float = 0.5, shift: float = 0.0) -> Value:
        """A param of normal numbers."""
        drawn = self.rng.standard_normal(shape) * scale + shift
        return self.g.param(name, drawn.astype(TensorType(self.dtype, ()).numpy))

    def conv(self, x: Value, name: str, filters: int, size: int, bias: bool = True, **attrs: Any):
        """A convolution with square filters; padding is that of every side."""
        groups, rank = attrs.get("groups", 1), x.type.rank - 2
        channels = x.type.shape[1] // groups
        scale = 1 / np.sqrt(channels * size**rank)
        w = self.param(f"{name}.w", filters, channels, *(size,) * rank, scale=scale)
        b = self.param(f"{name}.b", filters) if bias else None
        attrs["padding"] = (attrs.pop("padding", 0),) * (2 * rank)
        return self.g.add("conv", x, w, b, **attrs)

    def dense(self, x: Value, name: str, units: int) -> Any:
        """x flattened, times a matrix, plus a bias."""
        n = x.type.shape[0]
        flat = self.g.add("reshape", x, shape=(n, x.type.size // n))
        w = self.param(f"{name}.w", flat.type.shape[1], units, scale=flat.type.shape[1] ** -0.5)
        return self.g.add("add", self.g.add("matmul", flat, w), self.param(f"{name}.b", units))

    def norm(self, x: Value, name: str) -> Any:
        """Batch normalisation by the statistics of the batch."""
        channels = x.type.shape[1]
        scale = self.param(f"{name}.scale", channels, scale=0.2, shift=1)
        return self.g.add("batch_norm_training", x, scale, self.param(f"{name}.bias", channels))[0]

    def classify(self, logits: Value) -> Graph:
        """The graph, with the mean cross-entropy at the labels as its output."""
        labels = self.g.input(TensorType("i64", logits.type.shape[:1]), "labels")
        self.g.output(self.g.add("cross_entropy", logits, labels), "loss")
        return self.g

    def feeds(self, classes: int) -> dict[str, np.ndarray]:
        """Random inputs of the graph."""
        shape = self.x.type.shape
        x = self.rng.standard_normal(shape).astype(self.x.type.numpy)
        return {"x": x, "labels": self.rng.integers(0, classes, shape[0])}


def lenet(batch: int = 3, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """Two convolutions with pooling and two dense layers on 12 x 12 images."""
    net = Net("lenet", batch, 1, 12, 12, dtype=dtype)
    add = net.g.add
    x = add("tanh", net.conv(net.x, "c1", 6, 3, padding=1))
    x = add("avg_pool", x, kernel=(2, 2), stride=(2, 2))
    x = add("relu", net.conv(x, "c2", 10, 3))
    x = add("max_pool", x, kernel=(2, 2), stride=(2, 2))
    x = add("relu", net.dense(x, "d1", 17))
    return net.classify(net.dense(x, "d2", 5)), net.feeds(5)


def resnet_block(batch: int = 2, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """A strided residual block with batch statistics, a global mean and a dense layer."""
    net = Net("block", batch, 5, 9, 9, dtype=dtype)
    add = net.g.add
    y = add(
        "relu", net.norm(net.conv(net.x, "c1", 16, 3, bias=False, stride=(2, 2), padding=1), "n1")
    )
    y = net.norm(net.conv(y, "c2", 16, 3, bias=False, padding=1), "n2")
    short = net.norm(net.conv(net.x, "c0", 16, 1, bias=False, stride=(2, 2)), "n0")
    y = add("reduce_mean", add("relu", add("add", y, short)), axes=(2, 3))
    return net.classify(net.dense(y, "d", 7)), net.feeds(7)


def mobile_block(batch: int = 2, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """An inverted residual: pointwise, depthwise and pointwise convolutions, clipped at 6."""
    net = Net("mobile", batch, 8, 7, 6, dtype=dtype)
    add = net.g.add
    y = add("clip", net.norm(net.conv(net.x, "up", 16, 1, bias=False), "n1"), lo=0.0, hi=6.0)
    y = net.conv(y, "deep", 16, 3, bias=False, groups=16, padding=1)
    y = add("clip", net.norm(y, "n2"), lo=0.0, hi=6.0)
    y = add("add", net.norm(net.conv(y, "down", 8, 1, bias=False), "n3"), net.x)
    return net.classify(net.dense(add("swish", y), "d", 4)), net.feeds(4)


def unet(batch: int = 1, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """Down by a pool, up by a resize and by a transposed convolution, with skip connections."""
    net = Net("unet", batch, 3, 8, 8, dtype=dtype)
    add = net.g.add
    a = add("relu", net.conv(net.x, "a", 4, 3, padding=1))
    b = add(
        "leaky_relu",
        net.conv(add("max_pool", a, kernel=(2, 2), stride=(2, 2)), "b", 8, 3, padding=1),
    )
    sizes, scales = (batch, 8, 8, 8), (1.0, 1.0, 2.0, 2.0)
    up = add("resize", b, sizes=sizes, scales=scales, mode="linear")
    w = net.param("t.w", 8, 4, 2, 2, scale=0.3)
    back = add("conv_transpose", b, w, stride=(2, 2))
    y = net.conv(add("concat", a, up, back, axis=1), "y", 5, 3, padding=1)
    labels = net.g.input(TensorType("i64", (batch, 8, 8)), "labels")
    net.g.output(add("cross_entropy", y, labels, ignore_index=-1), "loss")
    feeds = net.feeds(5)
    feeds["labels"] = net.rng.integers(-1, 5, (batch, 8, 8))
    return net.g, feeds


def normed(batch: int = 2, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """Group, instance and layer normalisation between circular convolutions, smooth throughout."""
    net = Net("normed", batch, 4, 6, 5, dtype=dtype)
    add, x = net.g.add, net.x
    for k, groups in enumerate((2, 8)):
        x = add("pad", x, padding=(0, 0, 1, 1, 0, 0, 1, 1), mode="wrap")
        x = net.conv(x, f"c{k}", 8, 3, bias=k == 0)
        scale, bias = net.param(f"s{k}", 8), net.param(f"b{k}", 8)
        x = add("gelu", add("group_norm", x, scale, bias, groups=groups))
    x, _, _ = add("layer_norm", x, net.param("ls", 8, 6, 5), axis=1)
    return net.classify(net.dense(add("softplus", x), "d", 3)), net.feeds(3)


def inception(batch: int = 2, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """Branches of 1x1, of 1x5 and 5x1 convolutions, and of an average pool, side by side."""
    net = Net("inception", batch, 6, 7, 8, dtype=dtype)
    add, x = net.g.add, net.x
    row, column = net.param("row", 5, 4, 1, 5), net.param("column", 7, 5, 5, 1, scale=0.2)
    y = add("relu", net.conv(x, "thin", 4, 1))
    y = add("relu", add("conv", y, row, padding=(0, 2, 0, 2)))
    y = add("relu", add("conv", y, column, padding=(2, 0, 2, 0)))
    pads = {"padding": (1, 1, 1, 1), "count_include_pad": True}
    pooled = add("avg_pool", x, kernel=(3, 3), **pads)
    branches = [add("relu", net.conv(x, "one", 5, 1)), y, add("relu", net.conv(pooled, "p", 3, 1))]
    y = add("lrn", add("concat", *branches, axis=1), size=5, alpha=0.1)
    return net.classify(net.dense(add("reduce_max", y, axes=(2, 3)), "d", 4)), net.feeds(4)


def video(batch: int = 2, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """Convolutions and pools over three axes."""
    net = Net("video", batch, 2, 6, 7, 8, dtype=dtype)
    add = net.g.add
    x = add("softplus", net.conv(net.x, "c1", 4, 3, padding=1, stride=(1, 2, 2)))
    x = add("max_pool", x, kernel=(2, 2, 2), stride=(2, 1, 2))
    x = add("tanh", net.norm(net.conv(x, "c2", 5, 2, bias=False), "n"))
    return net.classify(net.dense(x, "d", 3)), net.feeds(3)


def shuffle(batch: int = 1, dtype: str = "f32") -> tuple[Graph, dict[str, np.ndarray]]:
    """Channels become pixels (pixel shuffle), each of which is classified."""
    net = Net("shuffle", batch, 3, 5, 4, dtype=dtype)
    add = net.g.add
    x = net.conv(net.x, "c1", 12, 3, padding=1)
    x = add("reshape", x, shape=(batch, 3, 2, 2, 5, 4))
    x = add("reshape", add("transpose", x, perm=(0, 1, 4, 2, 5, 3)), shape=(batch, 3, 10, 8))
    x = add("prelu", x, add("reshape", net.param("slope", 3), shape=(3, 1, 1)))
    y = net.conv(x, "c2", 4, 3, padding=2, dilation=(2, 2))
    labels = net.g.input(TensorType("i64", (batch, 10, 8)), "labels")
    net.g.output(add("cross_entropy", y, labels), "loss")
    feeds = net.feeds(4)
    feeds["labels"] = net.rng.integers(0, 4, (batch, 10, 8))
    return net.g, feeds


NETS = (lenet, resnet_block, mobile_block, unet, normed, inception, video, shuffle)
