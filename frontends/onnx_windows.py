"""The sliding windows of convolution and pooling: kernel, stride, dilation and padding, checked.

`auto_pad` is resolved here, so that the IR only ever sees explicit padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnnir.frontends.onnx_builder import Builder

Ints = Sequence[int]


@dataclass(frozen=True)
class Window:
    """One entry a spatial dimension; padding has the begins, then the ends."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """How far the window reaches: (kernel - 1) * dilation + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))


def window(
    b: Builder,
    spatial: Ints,
    kernel: Ints,
    *,
    auto_pad: str,
    dilations: Ints | None,
    pads: Ints | None,
    strides: Ints | None,
) -> Window:
    """The window of a convolution or pooling over `spatial`, `auto_pad` resolved."""
    rank = len(spatial)
    size = entries(b, "kernel_shape", kernel, rank, 1)
    dilation = entries(b, "dilations", dilations, rank, 1)
    stride = entries(b, "strides", strides, rank, 1)
    plain = Window(size, stride, dilation, padding(b, auto_pad, pads, rank))
    if not auto_pad.startswith("SAME"):
        return plain
    totals = [
        max((-(-i // s) - 1) * s + e - i, 0)
        for i, s, e in zip(spatial, stride, plain.extent, strict=True)
    ]
    return Window(size, stride, dilation, halves(totals, upper=auto_pad == "SAME_UPPER"))


def padding(b: Builder, auto_pad: str, pads: Ints | None, rank: int) -> tuple[int, ...]:
    """Explicit padding; zeros where `auto_pad` says how to pad."""
    b.choice("auto_pad", auto_pad, ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    explicit = entries(b, "pads", pads, 2 * rank, 0)
    if any(explicit) and auto_pad != "NOTSET":
        b.reject(f"auto_pad {auto_pad} and pads {list(explicit)} exclude each other")
    return explicit


def halves(totals: Ints, upper: bool) -> tuple[int, ...]:
    """Totals split into begins and ends; of an odd one the end (upper) gets more."""
    begins = [t // 2 if upper else t - t // 2 for t in totals]
    return (*begins, *(t - b for t, b in zip(totals, begins, strict=True)))


def entries(b: Builder, name: str, values: Ints | None, count: int, least: int) -> tuple[int, ...]:
    """An attribute of `count` integers, each at least `least`, which is the default too."""
    values = (least,) * count if values is None else tuple(values)
    if len(values) != count:
        b.reject(f"{name} has {len(values)} entries, wanted {count}: {list(values)}")
    if any(v < least for v in values):
        b.reject(f"{name} must be >= {least}, got {list(values)}")
    return values
