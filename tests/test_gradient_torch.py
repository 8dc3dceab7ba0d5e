"""Gradients against torch's autograd in f64: layers in many configurations.

Also where a function has a kink: at ties and at bounds both give the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cnnir import Graph, TensorType, evaluate, gradient
from cnnir.tensortype import is_float

torch = pytest.importorskip("torch")
F = torch.nn.functional


@dataclass(frozen=True)
class Layer:
    """One layer: operands (shapes, or arrays), ours on graph values, theirs on tensors."""

    name: str
    operands: tuple[Any, ...]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]

    def arrays(self) -> list[np.ndarray]:
        rng = np.random.default_rng(len(self.name))
        return [
            rng.standard_normal(o) if isinstance(o, tuple) else np.asarray(o) for o in self.operands
        ]


def compare(layer: Layer) -> None:
    """Gradients by all float operands, of the results' products with a random cotangent."""
    arrays = layer.arrays()
    g = Graph(layer.name)
    values = [g.input(TensorType.of(a), f"x{k}") for k, a in enumerate(arrays)]
    y = layer.ours(g, *values)
    y = y[0] if isinstance(y, tuple) else y
    g.output(y, "y")
    floats = [v.name for v in values if is_float(v.type.dtype)]
    feeds = {v.name: a for v, a in zip(values, arrays, strict=True)}
    w = np.random.default_rng(1).standard_normal(y.type.shape)
    step = gradient(g, "y", floats, cotangents=True)
    first, *found = evaluate(step, feeds | {"cotangent.y": w})

    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    there = layer.theirs(*tensors)
    np.testing.assert_allclose(first, there.detach().numpy(), rtol=1e-9, atol=1e-10)
    there.backward(torch.tensor(w))
    wanted = [t.grad.numpy() for t in tensors if t.requires_grad]
    for name, ours, theirs in zip(floats, found, wanted, strict=True):
        bound = 1e-9 * max(np.abs(theirs).max(initial=0), 1e-6)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound, err_msg=name)


LAYERS: list[Layer] = []


def layer(name: str, operands: tuple, ours: Callable, theirs: Callable) -> None:
    LAYERS.append(Layer(name, operands, ours, theirs))


# ---------------------------------------------------------------- convolutions


def conv(x: tuple, w: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> None:
    rank = len(x) - 2
    attrs = {"stride": stride, "padding": padding * 2, "dilation": dilation, "groups": groups}
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    layer(
        f"conv {x} {w} stride {stride} padding {padding} dilation {dilation} groups {groups}",
        (x, w, (w[0],)),
        lambda g, x, w, b: g.add("conv", x, w, b, **attrs),
        lambda x, w, b: function(x, w, b, stride, padding, dilation, groups),
    )


conv((2, 3, 11), (4, 3, 3), (1,), (1,), (1,), 1)
conv((2, 3, 11), (4, 3, 4), (3,), (2,), (2,), 1)
conv((1, 4, 9), (6, 2, 3), (2,), (0,), (1,), 2)
conv((2, 3, 7, 8), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
conv((2, 3, 7, 8), (5, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1)
conv((2, 3, 8, 9), (5, 3, 3, 2), (3, 2), (0, 1), (1, 2), 1)
conv((2, 3, 9, 8), (4, 3, 5, 5), (1, 1), (2, 2), (1, 1), 1)
conv((2, 3, 9, 9), (4, 3, 3, 3), (1, 1), (4, 3), (2, 1), 1)
conv((1, 3, 9, 9), (4, 3, 7, 7), (2, 2), (3, 3), (1, 1), 1)
conv((2, 6, 5, 6), (6, 1, 3, 3), (1, 1), (1, 1), (1, 1), 6)
conv((2, 6, 5, 6), (12, 1, 3, 3), (2, 2), (1, 1), (1, 1), 6)
conv((2, 6, 5, 6), (4, 3, 3, 3), (1, 2), (1, 0), (1, 1), 2)
conv((2, 5, 4, 3), (7, 5, 1, 1), (1, 1), (0, 0), (1, 1), 1)
conv((2, 5, 5, 4), (7, 5, 1, 1), (2, 2), (0, 0), (1, 1), 1)
conv((1, 2, 5, 4, 6), (3, 2, 3, 2, 3), (1, 1, 1), (1, 0, 1), (1, 1, 1), 1)
conv((1, 2, 5, 4, 6), (4, 1, 2, 2, 3), (2, 1, 2), (1, 1, 0), (1, 2, 1), 2)


def transpose(x: tuple, w: tuple, stride: int, padding: int, more: int, dilation: int, groups: int):
    rank = len(x) - 2
    one = (1,) * rank
    attrs: dict[str, Any] = {"stride": (stride,) * rank, "padding": (padding,) * (2 * rank)}
    attrs |= {"output_padding": (more,) * rank, "dilation": (dilation,) * rank, "groups": groups}
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    layer(
        f"conv_transpose {x} {w} {stride} {padding} {more} {dilation} {groups} {one}",
        (x, w, (w[1] * groups,)),
        lambda g, x, w, b: g.add("conv_transpose", x, w, b, **attrs),
        lambda x, w, b: function(x, w, b, stride, padding, more, groups, dilation),
    )


transpose((2, 3, 5), (3, 4, 3), 1, 1, 0, 1, 1)
transpose((2, 3, 5), (3, 4, 3), 3, 1, 2, 1, 1)
transpose((2, 3, 4, 5), (3, 2, 3, 3), 2, 1, 1, 1, 1)
transpose((1, 4, 4, 3), (4, 2, 2, 2), 2, 0, 0, 1, 2)
transpose((1, 3, 4, 3), (3, 2, 3, 2), 1, 1, 1, 2, 1)
transpose((1, 2, 2, 3, 3), (2, 2, 2, 3, 2), 2, 1, 1, 1, 1)

# ---------------------------------------------------------------- pools; ints are full of ties

TIES = np.random.default_rng(0).integers(0, 3, (2, 3, 9, 8)).astype(np.float64)
for kernel, stride, padding, dilation, ceil in (
    (2, 2, 0, 1, False),
    (3, 2, 1, 1, False),
    (3, 1, 1, 1, True),
    (2, 3, 1, 1, True),
    (3, 2, 1, 2, True),
):
    attrs = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 4}
    layer(
        f"max_pool {kernel} {stride} {padding} {dilation} {ceil}",
        (TIES,),
        lambda g, x, a=attrs, d=dilation, c=ceil: g.add(
            "max_pool", x, **a, dilation=(d, d), ceil_mode=c
        ),
        lambda x, k=kernel, s=stride, p=padding, d=dilation, c=ceil: F.max_pool2d(
            x, k, s, p, d, ceil_mode=c
        ),
    )
    if dilation == 1:
        for counted in (False, True):
            layer(
                f"avg_pool {kernel} {stride} {padding} {ceil} {counted}",
                ((2, 3, 9, 8),),
                lambda g, x, a=attrs, c=ceil, i=counted: g.add(
                    "avg_pool", x, **a, ceil_mode=c, count_include_pad=i
                ),
                lambda x, k=kernel, s=stride, p=padding, c=ceil, i=counted: F.avg_pool2d(
                    x, k, s, p, c, i
                ),
            )
layer(
    "lp_pool",
    (np.abs(TIES) + 0.5,),
    lambda g, x: g.add("lp_pool", x, kernel=(2, 2), stride=(2, 2), p=3),
    lambda x: F.lp_pool2d(x, 3, 2, 2),
)

# ---------------------------------------------------------------- elementwise, with kinks

KINKS = np.array([-4.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 3.0, 6.0, 7.0])
for op, function in (
    ("relu", F.relu),
    ("abs", torch.abs),
    ("sigmoid", torch.sigmoid),
    ("tanh", torch.tanh),
    ("elu", F.elu),
    ("softplus", F.softplus),
    ("swish", F.silu),
    ("mish", F.mish),
    ("gelu", F.gelu),
    ("hard_swish", F.hardswish),
    ("erf", torch.erf),
    ("exp", torch.exp),
):
    kinks = KINKS if op not in ("hard_swish",) else KINKS + 0.1
    layer(op, (kinks,), lambda g, x, op=op: g.add(op, x), lambda x, f=function: f(x))
layer(
    "gelu tanh",
    (KINKS,),
    lambda g, x: g.add("gelu", x, approximate="tanh"),
    lambda x: F.gelu(x, approximate="tanh"),
)
layer(
    "clip", (KINKS,), lambda g, x: g.add("clip", x, lo=-0.5, hi=6.0), lambda x: x.clamp(-0.5, 6.0)
)
BOTH = (np.array([1.0, 2.0, 3.0, 2.0])[:, None], np.array([1.0, 2.0, 3.0]))
for op, function in (
    ("maximum", torch.maximum),
    ("minimum", torch.minimum),
    ("div", torch.div),
    ("pow", torch.pow),
):
    layer(op, BOTH, lambda g, x, y, op=op: g.add(op, x, y), lambda x, y, f=function: f(x, y))
layer(
    "pow of 0",
    (np.array([0.0, 0.0, 2.0]), np.array([2.0, 0.0, 1.0])),
    lambda g, x, y: g.add("pow", x, y),
    torch.pow,
)
layer(
    "fmod",
    (np.array([5.5, -5.5, 7.25]), np.array([2.0, 3.0, -2.0])),
    lambda g, x, y: g.add("mod", x, y, fmod=True),
    torch.fmod,
)
layer("prelu", ((2, 3, 4), (3,)),
      lambda g, x, s: g.add("prelu", x, g.add("reshape", s, shape=(3, 1))), F.prelu)  # fmt: skip

# ---------------------------------------------------------------- reductions, products, moves

ZEROS = np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 3.0], [0.0, 0.0, 3.0]])
layer("prod", (ZEROS,), lambda g, x: g.add("reduce_prod", x, axes=(1,)),
      lambda x: x.prod(1, keepdim=True))  # fmt: skip
layer("amax", (TIES,), lambda g, x: g.add("reduce_max", x, axes=(1, 2)),
      lambda x: x.amax((1, 2), keepdim=True))  # fmt: skip
layer("cumsum", ((3, 5),), lambda g, x: g.add("cumsum", x, axis=1), lambda x: x.cumsum(1))
layer("matmul", ((2, 1, 3, 4), (5, 4, 2)), lambda g, x, y: g.add("matmul", x, y), torch.matmul)
layer("softmax", ((3, 5, 2),), lambda g, x: g.add("softmax", x, axis=1), lambda x: x.softmax(1))
for mode, name in (("reflect", "reflect"), ("edge", "replicate"), ("wrap", "circular")):
    layer(
        f"pad {mode}",
        ((2, 3, 5, 6),),
        lambda g, x, m=mode: g.add("pad", x, padding=(0, 0, 2, 3, 0, 0, 1, 4), mode=m),
        lambda x, n=name: F.pad(x, (3, 4, 2, 1), mode=n),
    )
for word, stride in itertools.product(("circular", "reflect", "replicate"), (1, 2)):
    layer(
        f"conv {word} by {stride}",
        ((2, 4, 5, 6), (6, 2, 3, 5)),
        lambda g, x, w, b=word, s=stride: g.add(
            "conv", x, w, padding=(1, 2, 1, 2), stride=(s, 1), groups=2, boundary=(b, b)
        ),
        lambda x, w, b=word, s=stride: F.conv2d(
            F.pad(x, (2, 2, 1, 1), mode=b), w, stride=(s, 1), groups=2
        ),
    )
INDICES = np.array([[0, 2, 2], [1, 0, 2]])
layer("gather", ((3, 4), INDICES), lambda g, x, i: g.add("gather", x, i, axis=0),
      lambda x, i: x[i])  # fmt: skip
layer("gather_elements", ((3, 4), INDICES), lambda g, x, i: g.add("gather_elements", x, i, axis=0),
      lambda x, i: x.gather(0, i))  # fmt: skip
layer("topk", ((4, 9),), lambda g, x: g.add("topk", x, k=3, axis=1), lambda x: x.topk(3)[0])

# ---------------------------------------------------------------- resizing

for mode, theirs, align in (
    ("nearest", "nearest", None),
    ("linear", "bilinear", False),
    ("linear", "bilinear", True),
    ("cubic", "bicubic", False),
    ("cubic", "bicubic", True),
):
    for sizes in ((9, 10), (3, 7), (4, 5)):
        coordinates = {None: "asymmetric", False: "half_pixel", True: "align_corners"}[align]
        resized: dict[str, Any] = {"mode": mode, "coordinates": coordinates, "nearest": "floor"}
        resized |= {"sizes": (1, 2, *sizes), "scales": (1.0, 1.0, sizes[0] / 5, sizes[1] / 6)}
        layer(
            f"resize {mode} {coordinates} {sizes}",
            ((1, 2, 5, 6),),
            lambda g, x, a=resized: g.add("resize", x, **a),
            lambda x, s=sizes, t=theirs, a=align: F.interpolate(x, s, mode=t, align_corners=a),
        )

# ---------------------------------------------------------------- normalisations


def affine(op: str, theirs: Callable, *per_channel: tuple, **attrs: Any) -> None:
    layer(f"{op} {attrs}", ((3, 6, 4, 5), *per_channel),
          lambda g, *xs: g.add(op, *xs, **attrs), theirs)  # fmt: skip


CHANNELS = ((6,), (6,))
affine("batch_norm_training", lambda x, s, b: F.batch_norm(x, None, None, s, b, True), *CHANNELS)
affine("group_norm", lambda x, s, b: F.group_norm(x, 3, s, b), *CHANNELS, groups=3)
affine("group_norm", lambda x, s, b: F.group_norm(x, 1, s, b), *CHANNELS, groups=1)
affine("group_norm", lambda x, s, b: F.instance_norm(x, None, None, s, b), *CHANNELS, groups=6)
affine("layer_norm", lambda x, s, b: F.layer_norm(x, (4, 5), s, b), (4, 5), (4, 5), axis=2)
affine("lrn", lambda x: F.local_response_norm(x, 3, 0.3, 0.75, 1.5), size=3, alpha=0.3, bias=1.5)
layer(
    "batch_norm",
    ((3, 6, 4), (6,), (6,), (6,), np.full(6, 0.7)),
    lambda g, *xs: g.add("batch_norm", *xs),
    # torch takes the statistics as constants
    lambda x, s, b, m, v: (x - m[:, None]) / (v[:, None] + 1e-5).sqrt() * s[:, None] + b[:, None],
)

# ---------------------------------------------------------------- losses

LABELS = np.array([[0, 2, 4], [3, -7, 1]])
CLASS_WEIGHTS = np.array([0.5, 1, 2, 1.5, 1])
"""Constants: torch has no derivative by them."""


def weighed(reduction: str) -> None:
    layer(
        f"cross_entropy {reduction}",
        ((2, 5, 3), LABELS),
        lambda g, x, t: g.add(
            "cross_entropy",
            *(x, t, g.param("w", CLASS_WEIGHTS)),
            ignore_index=-7,
            reduction=reduction,
        ),
        lambda x, t: F.cross_entropy(
            x, t, torch.tensor(CLASS_WEIGHTS), ignore_index=-7, reduction=reduction
        ),
    )


for reduction in ("mean", "sum", "none"):
    weighed(reduction)
layer("cross_entropy plain", ((4, 5), np.array([0, 4, 2, 2])),
      lambda g, x, t: g.add("cross_entropy", x, t), F.cross_entropy)  # fmt: skip
layer("nll_loss", ((4, 5), np.array([0, 4, 2, -1])),
      lambda g, x, t: g.add("nll_loss", x, t, ignore_index=-1),
      lambda x, t: F.nll_loss(x, t, ignore_index=-1))  # fmt: skip
FRACTIONS = np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]])
for op, function in (
    ("squared_error", lambda x, t: F.mse_loss(x, t, reduction="none")),
    ("huber", lambda x, t: F.huber_loss(x, t, reduction="none")),
    ("bce_with_logits", lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none")),
):
    layer(op, ((2, 3), FRACTIONS), lambda g, x, t, op=op: g.add(op, x, t), function)
layer(
    "kl_divergence",
    ((2, 3), FRACTIONS[:1]),
    lambda g, x, t: g.add("kl_divergence", x, t),
    lambda x, t: F.kl_div(x, t.expand(2, 3), reduction="none"),
)


@pytest.mark.parametrize("tested", LAYERS, ids=lambda tested: tested.name)
def test_layer(tested: Layer) -> None:
    compare(tested)
