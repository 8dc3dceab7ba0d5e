"""One case a layer (and a way of using it) of cnnir.nn, with what torch makes of the same weights.

The tests of layers compare with torch; the tests of export run every case through ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnir import nn
from cnnir.frontends.dsl.initialisers import normal

IMAGE = (2, 6, 7, 9)
RANDOM: dict[str, Any] = {"bias_init": normal(0.5)}


@dataclass(frozen=True)
class Case:
    """A layer, the shape of its input, and torch's version `oracle(torch, params, x)`."""

    name: str
    make: Callable[[], nn.Module]
    oracle: Callable[[Any, dict[str, Any], Any], Any]
    shape: tuple[int, ...] = IMAGE

    def __str__(self) -> str:
        return self.name


CASES: list[Case] = []


def case(
    make: Callable[[], nn.Module],
    oracle: Callable[[Any, dict[str, Any], Any], Any],
    shape: tuple[int, ...] = IMAGE,
) -> None:
    """Add a case, named as the layer is written."""
    CASES.append(Case(f"{make()} {list(shape)}", make, oracle, shape))


def conv(**options: Any) -> Callable[[Any, dict[str, Any], Any], Any]:
    """torch's convolution over as many axes as the weight has, after padding as `pad` says."""
    border = options.pop("border", None)
    mode = options.pop("mode", "constant")

    def oracle(t: Any, p: dict[str, Any], x: Any) -> Any:
        f = t.nn.functional
        if border:
            x = f.pad(x, border, mode=mode)
        function = (f.conv1d, f.conv2d, f.conv3d)[p["weight"].ndim - 3]
        return function(x, p["weight"], p.get("bias"), **options)

    return oracle


# ---------------------------------------------------------------- convolution

case(lambda: nn.Conv(4, 3, **RANDOM), conv())
case(lambda: nn.Conv(4, (3, 5), (2, 1), (1, 2)), conv(stride=(2, 1), padding=(1, 2)))
case(lambda: nn.Conv(4, 3, padding="same"), conv(padding="same"))
case(lambda: nn.Conv(4, 3, stride=2, padding="same"), conv(border=(1, 1, 1, 1), stride=2))
case(lambda: nn.Conv(4, 2, padding="same"), conv(border=(0, 1, 0, 1)))
case(lambda: nn.Conv(4, 3, padding="valid", bias=False), conv())
case(lambda: nn.Conv(4, 3, padding=((0, 2), (1, 0))), conv(border=(1, 0, 0, 2)))
case(lambda: nn.Conv(9, 3, dilation=2, groups=3, padding=2), conv(dilation=2, groups=3, padding=2))
case(lambda: nn.Conv(4, (3,), stride=2, padding=1), conv(stride=2, padding=1), (2, 3, 11))
case(lambda: nn.Conv(2, (3, 2, 3), padding=1), conv(padding=1), (1, 3, 4, 5, 6))
for word, mode in (("circular", "circular"), ("reflect", "reflect"), ("replicate", "replicate")):
    case(
        lambda word=word: nn.Conv(4, 3, padding=2, boundary=word),  # type: ignore[misc]
        conv(border=(2, 2, 2, 2), mode=mode),
    )
case(
    lambda: nn.Conv(3, (5,), padding="same", boundary="circular"),
    conv(border=(2, 2), mode="circular"),
    (1, 2, 8),
)
case(lambda: nn.DepthwiseConv(3, padding=1, **RANDOM), conv(padding=1, groups=6))
case(lambda: nn.DepthwiseConv((1, 7), 2, "same", multiplier=2),
     conv(border=(3, 3, 0, 0), stride=2, groups=6))  # fmt: skip
case(lambda: nn.PointwiseConv(5), conv())
case(
    lambda: nn.SeparableConv(8, 3, padding="same"),
    lambda t, p, x: t.nn.functional.conv2d(
        t.nn.functional.conv2d(x, p["depthwise.weight"], padding=1, groups=6),
        p["pointwise.weight"], p["pointwise.bias"],
    ),
)  # fmt: skip


def transposed(**options: Any) -> Callable[[Any, dict[str, Any], Any], Any]:
    """torch's transposed convolution, 2-D."""

    def oracle(t: Any, p: dict[str, Any], x: Any) -> Any:
        return t.nn.functional.conv_transpose2d(x, p["weight"], p.get("bias"), **options)

    return oracle


case(lambda: nn.ConvTranspose(4, 3, 2, 1, output_padding=1, **RANDOM),
     transposed(stride=2, padding=1, output_padding=1))  # fmt: skip
case(lambda: nn.ConvTranspose(4, 2, 2, groups=2), transposed(stride=2, groups=2))
case(lambda: nn.ConvTranspose(4, 3, dilation=2, bias=False), transposed(dilation=2))
case(lambda: nn.ConvTranspose(4, 4, 2, "same"), transposed(stride=2, padding=1))


def local(stride: int, border: int) -> Callable[[Any, dict[str, Any], Any], Any]:
    """Windows by `unfold`, each with a weight of its own."""

    def oracle(t: Any, p: dict[str, Any], x: Any) -> Any:
        seen = t.nn.functional.unfold(x, 3, padding=border, stride=stride)
        y = t.einsum("nkp,pko->nop", seen, p["weight"])
        return y.reshape(len(x), -1, *p["bias"].shape[1:]) + p["bias"]

    return oracle


case(lambda: nn.LocallyConnected(4, 3), local(1, 0))
case(lambda: nn.LocallyConnected(3, 3, 2, 1), local(2, 1))

# ---------------------------------------------------------------- dense, pooling

case(lambda: nn.Dense(5, **RANDOM), lambda t, p, x: x @ p["weight"] + p["bias"], (3, 7))
case(lambda: nn.Dense(5, bias=False), lambda t, p, x: x @ p["weight"], (2, 3, 7))
case(lambda: nn.Dropout(0.5), lambda t, p, x: x)


def pooled(name: str, *args: Any, **options: Any) -> Callable[[Any, dict[str, Any], Any], Any]:
    """One of torch's functions of x."""
    return lambda t, p, x: getattr(t.nn.functional, name)(x, *args, **options)


case(lambda: nn.MaxPool(2), pooled("max_pool2d", 2))
case(lambda: nn.MaxPool(3, 2, 1), pooled("max_pool2d", 3, 2, 1))
case(lambda: nn.MaxPool(3, 2, ceil_mode=True), pooled("max_pool2d", 3, 2, ceil_mode=True))
case(lambda: nn.MaxPool((2,), dilation=2), pooled("max_pool1d", 2, dilation=2), (1, 2, 9))
case(lambda: nn.MaxPool((2, 1, 2)), pooled("max_pool3d", (2, 1, 2)), (1, 2, 4, 3, 5))
case(lambda: nn.AvgPool(2), pooled("avg_pool2d", 2))
case(lambda: nn.AvgPool(3, 2, 1, count_padding=True), pooled("avg_pool2d", 3, 2, 1))
case(lambda: nn.AvgPool(3, 1, "same"),
     pooled("avg_pool2d", 3, 1, 1, count_include_pad=False))  # fmt: skip
case(lambda: nn.LpPool(3, stride=2), pooled("lp_pool2d", 2, 3, 2), (1, 2, 7, 7))
case(lambda: nn.GlobalAvgPool(), lambda t, p, x: x.mean((2, 3)))
case(lambda: nn.GlobalAvgPool(keepdims=True), pooled("adaptive_avg_pool2d", 1))
case(lambda: nn.GlobalMaxPool(), lambda t, p, x: x.amax((2, 3)))
case(lambda: nn.GlobalMaxPool(True), pooled("adaptive_max_pool2d", 1))
for size in (1, 2, (3, 4), (7, 3), (5, 9)):
    for kind, name in ((nn.AdaptiveAvgPool, "adaptive_avg_pool2d"),
                       (nn.AdaptiveMaxPool, "adaptive_max_pool2d")):  # fmt: skip
        case(lambda kind=kind, size=size: kind(size), pooled(name, size))  # type: ignore[misc]

# ---------------------------------------------------------------- normalisation


def group_norm(groups: int, epsilon: float = 1e-5) -> Callable[[Any, dict[str, Any], Any], Any]:
    """torch's group normalisation."""
    return lambda t, p, x: t.nn.functional.group_norm(
        x, groups, p.get("weight"), p.get("bias"), epsilon
    )


def batch_norm(t: Any, p: dict[str, Any], x: Any, epsilon: float = 1e-5) -> Any:
    """torch's batch normalisation in its inference form."""
    running = (p["running_mean"], p["running_var"])
    return t.nn.functional.batch_norm(x, *running, p.get("weight"), p.get("bias"), eps=epsilon)


case(lambda: nn.BatchNorm(), batch_norm)
case(lambda: nn.BatchNorm(epsilon=1e-3, affine=False),
     lambda t, p, x: batch_norm(t, p, x, 1e-3))  # fmt: skip
case(lambda: nn.BatchNorm(), batch_norm, (5, 4))
case(lambda: nn.GroupNorm(3), group_norm(3))
case(lambda: nn.GroupNorm(2, epsilon=1e-3, affine=False), group_norm(2, 1e-3))
case(lambda: nn.InstanceNorm(), group_norm(6))
case(lambda: nn.LayerNorm(),
     lambda t, p, x: t.nn.functional.layer_norm(x, (6, 7, 9), p["weight"], p["bias"]))  # fmt: skip
case(lambda: nn.LayerNorm(-1, affine=False),
     lambda t, p, x: t.nn.functional.layer_norm(x, (9,)))  # fmt: skip
case(lambda: nn.LocalResponseNorm(3, alpha=0.5), pooled("local_response_norm", 3, 0.5, 0.75, 1.0))

# ---------------------------------------------------------------- activations

for kind, name, args in (
    (nn.ReLU, "relu", ()), (nn.ReLU6, "relu6", ()), (nn.LeakyReLU, "leaky_relu", ()),
    (nn.LeakyReLU, "leaky_relu", (0.3,)), (nn.ELU, "elu", ()), (nn.ELU, "elu", (0.7,)),
    (nn.CELU, "celu", (0.7,)), (nn.SELU, "selu", ()), (nn.GELU, "gelu", ()),
    (nn.Sigmoid, "sigmoid", ()), (nn.HardSigmoid, "hardsigmoid", ()),
    (nn.LogSigmoid, "logsigmoid", ()), (nn.SiLU, "silu", ()), (nn.HardSwish, "hardswish", ()),
    (nn.Tanh, "tanh", ()), (nn.HardTanh, "hardtanh", ()), (nn.HardTanh, "hardtanh", (-0.3, 0.6)),
    (nn.Softplus, "softplus", ()), (nn.Softsign, "softsign", ()), (nn.Mish, "mish", ()),
    (nn.Threshold, "threshold", (0.1, 2.0)), (nn.HardShrink, "hardshrink", ()),
    (nn.SoftShrink, "softshrink", (0.3,)), (nn.Softmax, "softmax", (1,)),
    (nn.LogSoftmax, "log_softmax", (-1,)), (nn.GLU, "glu", (1,)),
):  # fmt: skip
    case(
        lambda kind=kind, args=args: kind(*args),  # type: ignore[misc]
        lambda t, p, x, name=name, args=args: getattr(t.nn.functional, name)(x, *args),  # type: ignore[misc]
    )
case(lambda: nn.GELU(approximate="tanh"), pooled("gelu", approximate="tanh"))
case(lambda: nn.PReLU(normal(0.5)),
     lambda t, p, x: t.nn.functional.prelu(x, p["weight"].reshape(-1)))  # fmt: skip
case(lambda: nn.PReLU(single=True), lambda t, p, x: t.nn.functional.prelu(x, p["weight"].ravel()))

# ---------------------------------------------------------------- shapes

case(lambda: nn.Flatten(), lambda t, p, x: x.flatten(1))
case(lambda: nn.Flatten(2), lambda t, p, x: x.flatten(2))
case(lambda: nn.Reshape((3, -1)), lambda t, p, x: x.reshape(2, 3, -1))
case(lambda: nn.Transpose((0, 2, 3, 1)), lambda t, p, x: x.permute(0, 2, 3, 1))
case(lambda: nn.Pad(2), pooled("pad", (2, 2, 2, 2)))
case(lambda: nn.Pad(((1, 0), (0, 3)), value=1.5), pooled("pad", (0, 3, 1, 0), value=1.5))
for word in ("circular", "reflect", "replicate"):
    case(
        lambda word=word: nn.Pad((1, 2), word),  # type: ignore[misc]
        pooled("pad", (2, 2, 1, 1), mode=word),
    )
case(lambda: nn.Upsample(), pooled("interpolate", scale_factor=2))
case(lambda: nn.Upsample((2, 3)), pooled("interpolate", scale_factor=(2, 3)))
case(lambda: nn.Upsample(2, "linear"), pooled("interpolate", scale_factor=2, mode="bilinear"))
case(lambda: nn.Upsample(2, "linear", align_corners=True),
     pooled("interpolate", scale_factor=2, mode="bilinear", align_corners=True))  # fmt: skip
case(lambda: nn.Upsample(3, "cubic"), pooled("interpolate", scale_factor=3, mode="bicubic"))
case(lambda: nn.Resize((5, 13), "linear"), pooled("interpolate", (5, 13), mode="bilinear"))
case(lambda: nn.Resize((14, 3)), pooled("interpolate", (14, 3)))
case(lambda: nn.PixelShuffle(2), pooled("pixel_shuffle", 2), (2, 8, 3, 5))
case(lambda: nn.PixelUnshuffle(3), pooled("pixel_unshuffle", 3), (2, 2, 6, 9))
case(lambda: nn.ChannelShuffle(3), pooled("channel_shuffle", 3))
