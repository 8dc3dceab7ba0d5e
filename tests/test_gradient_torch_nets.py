"""Gradients of whole nets against torch's autograd in f64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gradient_nets import (
    inception,
    lenet,
    mobile_block,
    normed,
    resnet_block,
    shuffle,
    unet,
    video,
)

from cnnir import Graph, evaluate, gradient

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Torch:
    """The layers of `gradient_nets`, in torch, on the params of the graph."""

    def __init__(self, graph: Graph) -> None:
        pairs = graph.params.items()
        self.params = {n: torch.tensor(a, requires_grad=True) for n, a in pairs}

    def conv(self, x: Any, name: str, **attrs: Any) -> Any:
        return F.conv2d(x, self.params[f"{name}.w"], self.params.get(f"{name}.b"), **attrs)

    def dense(self, x: Any, name: str) -> Any:
        return x.flatten(1) @ self.params[f"{name}.w"] + self.params[f"{name}.b"]

    def norm(self, x: Any, name: str) -> Any:
        scale, bias = self.params[f"{name}.scale"], self.params[f"{name}.bias"]
        return F.batch_norm(x, None, None, scale, bias, training=True)


def torch_lenet(t: Torch, x: Any) -> Any:
    x = F.avg_pool2d(torch.tanh(t.conv(x, "c1", padding=1)), 2)
    x = F.max_pool2d(F.relu(t.conv(x, "c2")), 2)
    return t.dense(F.relu(t.dense(x, "d1")), "d2")


def torch_resnet_block(t: Torch, x: Any) -> Any:
    y = F.relu(t.norm(t.conv(x, "c1", stride=2, padding=1), "n1"))
    y = t.norm(t.conv(y, "c2", padding=1), "n2") + t.norm(t.conv(x, "c0", stride=2), "n0")
    return t.dense(F.relu(y).mean((2, 3)), "d")


def torch_mobile_block(t: Torch, x: Any) -> Any:
    y = F.relu6(t.norm(t.conv(x, "up"), "n1"))
    y = F.relu6(t.norm(t.conv(y, "deep", groups=16, padding=1), "n2"))
    return t.dense(F.silu(t.norm(t.conv(y, "down"), "n3") + x), "d")


def torch_unet(t: Torch, x: Any) -> Any:
    a = F.relu(t.conv(x, "a", padding=1))
    b = F.leaky_relu(t.conv(F.max_pool2d(a, 2), "b", padding=1))
    up = F.interpolate(b, scale_factor=2, mode="bilinear")
    back = F.conv_transpose2d(b, t.params["t.w"], stride=2)
    return t.conv(torch.cat([a, up, back], 1), "y", padding=1)


def torch_normed(t: Torch, x: Any) -> Any:
    for k, groups in enumerate((2, 8)):
        x = t.conv(F.pad(x, (1, 1, 1, 1), mode="circular"), f"c{k}")
        x = F.gelu(F.group_norm(x, groups, t.params[f"s{k}"], t.params[f"b{k}"]))
    return t.dense(F.softplus(F.layer_norm(x, x.shape[1:], t.params["ls"])), "d")


def torch_inception(t: Torch, x: Any) -> Any:
    y = F.relu(F.conv2d(F.relu(t.conv(x, "thin")), t.params["row"], padding=(0, 2)))
    y = F.relu(F.conv2d(y, t.params["column"], padding=(2, 0)))
    pooled = F.relu(t.conv(F.avg_pool2d(x, 3, 1, 1), "p"))
    y = F.local_response_norm(torch.cat([F.relu(t.conv(x, "one")), y, pooled], 1), 5, 0.1)
    return t.dense(y.amax((2, 3)), "d")


def torch_video(t: Torch, x: Any) -> Any:
    x = F.conv3d(x, t.params["c1.w"], t.params["c1.b"], stride=(1, 2, 2), padding=1)
    x = F.max_pool3d(F.softplus(x), 2, (2, 1, 2))
    x = F.conv3d(x, t.params["c2.w"])
    return t.dense(torch.tanh(t.norm(x, "n")), "d")


def torch_shuffle(t: Torch, x: Any) -> Any:
    x = F.prelu(F.pixel_shuffle(t.conv(x, "c1", padding=1), 2), t.params["slope"])
    return t.conv(x, "c2", padding=2, dilation=2)


@pytest.mark.parametrize(
    ("net", "twin"),
    [
        (lenet, torch_lenet),
        (resnet_block, torch_resnet_block),
        (mobile_block, torch_mobile_block),
        (unet, torch_unet),
        (normed, torch_normed),
        (inception, torch_inception),
        (video, torch_video),
        (shuffle, torch_shuffle),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_net(net: Callable, twin: Callable, batch: int) -> None:
    if batch == 1 and net is resnet_block:
        batch = 2
    graph, feeds = net(batch, dtype="f64")
    loss, dx, *found = evaluate(gradient(graph, wrt=["x", *graph.params]), feeds)
    t, x = Torch(graph), torch.tensor(feeds["x"], requires_grad=True)
    labels = torch.tensor(feeds["labels"])
    theirs = F.cross_entropy(twin(t, x), labels, ignore_index=-1)
    theirs.backward()
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-12)
    wanted = {"x": x, **{n: t.params[n] for n in graph.params}}
    for (name, tensor), ours in zip(wanted.items(), [dx, *found], strict=True):
        bound = 1e-9 * tensor.grad.abs().max().item()
        np.testing.assert_allclose(ours, tensor.grad.numpy(), rtol=0, atol=bound, err_msg=name)
