"""Whole nets beside torch, step by step, from the same weights and by the same batches.

In f64 both stay together: after 50 steps LeNet's losses to 1e-9 and ResNet-18's to 1e-12, so it is
the same training. In f32 LeNet's do to 1.4e-6 with sums in the order of definition. Winograd's
gradients are right to 2e-6 of the largest, but where two pixels of a window, or a unit and 0, are
nearer to each other than that, another one is taken: a step to one side that training magnifies,
the more the larger its steps. So LeNet's losses part by 1e-4 after 15 steps at a rate of 0.003, and
ResNet-18's after eight at 0.001, where torch's own in f32 and in f64 do after ten; at 0.0001 they
stay within 9e-5 for 50 steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dsl_nets import ResidualBlock

from cnnir import nn
from cnnir.backends.state import State
from cnnir.compile import recipe
from cnnir.tensortype import TensorType
from cnnir.training import SGD, Step
from cnnir.training.graph import Objective, training_graph
from cnnir.verify import widened

torch = pytest.importorskip("torch")
F = torch.nn.functional

MOMENTUM, DECAY = 0.9, 5e-4


class Peer:
    """A net's weights in torch, and layers that use them by name."""

    def __init__(self, net: nn.Module, dtype: Any = torch.float32) -> None:
        self.dtype = dtype
        self.w = {n: torch.tensor(a, dtype=dtype) for n, a in net.params.items()}
        for name, tensor in self.w.items():
            tensor.requires_grad = "running" not in name

    def conv(self, x: Any, name: str, **options: Any) -> Any:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options)

    def dense(self, x: Any, name: str) -> Any:
        return x @ self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def norm(self, x: Any, name: str) -> Any:
        mean, var, scale, bias = (
            self.w[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, scale, bias, training=True, eps=of_f32(1e-5))

    def trained(self) -> list[Any]:
        return [t for t in self.w.values() if t.requires_grad]


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv(6, 5, padding=2), nn.ReLU(), nn.MaxPool(2), nn.Conv(16, 5), nn.ReLU(),
        nn.MaxPool(2), nn.Flatten(), nn.Dense(120), nn.ReLU(), nn.Dense(84), nn.ReLU(),
        nn.Dense(10),
    )  # fmt: skip


def lenet_in_torch(p: Peer, x: Any) -> Any:
    y = F.max_pool2d(F.relu(p.conv(x, "conv1", padding=2)), 2)
    y = F.max_pool2d(F.relu(p.conv(y, "conv2")), 2).flatten(1)
    y = F.relu(p.dense(y, "dense1"))
    return p.dense(F.relu(p.dense(y, "dense2")), "dense3")


def resnet18() -> nn.Module:
    """ResNet-18 for images of 32x32: a 3x3 stem and no pooling before the stages."""
    stages = {
        f"stage{i}": nn.Sequential(ResidualBlock(width, 1 + (i > 1)), ResidualBlock(width))
        for i, width in enumerate((64, 128, 256, 512), 1)
    }
    stem = nn.Sequential(nn.Conv(64, 3, padding=1, bias=False), nn.BatchNorm(), nn.ReLU())
    return nn.Sequential(stem=stem, **stages, pool=nn.GlobalAvgPool(), head=nn.Dense(10))


def resnet18_in_torch(p: Peer, x: Any) -> Any:
    y = F.relu(p.norm(p.conv(x, "stem.conv1", padding=1), "stem.batch_norm1"))
    for stage in range(1, 5):
        for block in (1, 2):
            name, stride = f"stage{stage}.residual_block{block}", 1 + (stage > 1 and block == 1)
            z = F.relu(
                p.norm(p.conv(y, f"{name}.conv1", stride=stride, padding=1), f"{name}.norm1")
            )
            z = p.norm(p.conv(z, f"{name}.conv2", padding=1), f"{name}.norm2")
            if f"{name}.shortcut.conv.weight" in p.w:
                y = p.conv(y, f"{name}.shortcut.conv", stride=stride)
                y = p.norm(y, f"{name}.shortcut.norm")
            y = F.relu(y + z)
    return p.dense(y.mean((2, 3)), "head")


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth random pictures of ten kinds, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, shape[0])
    kinds = np.random.default_rng(99).standard_normal((10, *shape[1:]))
    return ((kinds[labels] + rng.standard_normal(shape)) / 2).astype("f4"), labels


def of_f32(number: float) -> float:
    """The number as our graphs hold it, for torch to take the same in f64 too."""
    return float(np.float32(number))


class WideStep:
    """The same step computed in f64: its graph widened, and compiled."""

    def __init__(self, net: nn.Module, optimizer: SGD, x: np.ndarray, labels: np.ndarray) -> None:
        types = {"x": TensorType.of(x)}, {"target": TensorType.of(labels)}
        objective, self.optimizer = Objective.of("cross_entropy"), optimizer
        step = training_graph(net, objective, {"*": optimizer}, *types)
        self.numbers = step.numbers
        self.program = recipe("cpu")(widened(step.graph)).program
        names = [v.name or "" for v in step.graph.inputs]
        self.fed = [n for n in names if n not in {*step.weights, *step.slots}]
        arrays = {name: net.params[name] for name in step.weights}
        arrays |= {name: np.zeros(type.shape) for name, type in step.slots.items()}
        self.state = State.of({name: a.astype("f8") for name, a in arrays.items()})
        self.steps = 0

    def __call__(self, inputs: list[np.ndarray], targets: list[np.ndarray]) -> dict[str, float]:
        self.steps += 1
        values = self.optimizer.numbers(self.steps, self.optimizer.rate(0))
        feeds = {name: np.array(values[kind]) for name, (_, kind) in self.numbers.items()}
        feeds |= {"x": inputs[0].astype("f8"), "target": targets[0]}
        return {"loss": float(self.program.advance([feeds[n] for n in self.fed], self.state)[0])}


def curves(
    net: nn.Module,
    forward: Any,
    shape: tuple[int, ...],
    rate: float,
    steps: int,
    precision: str = "default",
) -> np.ndarray:
    """The losses of both, [steps,2]: ours, torch's. Of precision f64 both compute in that."""
    optimizer = SGD(rate, MOMENTUM, weight_decay=DECAY)
    net.build(shape, seed=1)
    wide = precision == "f64"
    peer = Peer(net, torch.float64 if wide else torch.float32)
    ours = (
        WideStep(net, optimizer, *images(shape))
        if wide
        else Step(net, "cross_entropy", optimizer, precision=precision)
    )
    theirs = torch.optim.SGD(peer.trained(), rate, of_f32(MOMENTUM), weight_decay=of_f32(DECAY))
    losses = []
    for number in range(steps):
        x, labels = images(shape, number)
        theirs.zero_grad()
        scores = forward(peer, torch.tensor(x, dtype=peer.dtype))
        loss = F.cross_entropy(scores, torch.tensor(labels))
        loss.backward()
        theirs.step()
        losses.append((ours([x], [labels])["loss"], loss.item()))
    return np.array(losses)


@pytest.mark.parametrize(
    ("precision", "rate", "steps", "apart"),
    [("f64", 0.01, 50, 1e-9), ("exact", 0.01, 50, 1e-5), ("default", 0.003, 12, 1e-4)],
)
def test_lenet_learns_as_in_torch(precision: str, rate: float, steps: int, apart: float) -> None:
    losses = curves(lenet(), lenet_in_torch, (64, 1, 28, 28), rate, steps, precision)
    assert losses[-1, 1] < 0.8 * losses[0, 1]
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=apart)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "batch", "rate", "steps", "apart"),
    [("f64", 4, 0.01, 50, 1e-9), ("default", 32, 0.001, 8, 1e-4), ("default", 32, 3e-5, 50, 1e-4)],
)
def test_resnet18_learns_as_in_torch(
    precision: str, batch: int, rate: float, steps: int, apart: float
) -> None:
    shape = (batch, 3, 32, 32)
    losses = curves(resnet18(), resnet18_in_torch, shape, rate, steps, precision)
    assert np.ptp(losses[:, 1]) > 0.05 * losses[0, 1]
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=apart)
