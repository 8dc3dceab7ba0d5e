"""Functions and layers that move elements: flatten, join, pad, resize, shuffle."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.function_layer import layer
from cnnir.frontends.dsl.tensor import Tensor, op, positive_axes
from cnnir.frontends.dsl.windows import MODES, Padding, Size, bordered, check_image, entries, pads


def flatten(x: Tensor, axis: int = 1) -> Tensor:
    """The axes from `axis` on as one."""
    (axis,) = positive_axes(axis, x.rank)
    return x.reshape(*x.shape[:axis], math.prod(x.shape[axis:]))


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Each sample in another shape (without the batch axis); one -1 is worked out."""
    return x.reshape(x.shape[0], *shape)


def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    """Axes in another order: axis a of the result is axis perm[a]."""
    return x.transpose(*perm)


def concat(xs: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Tensors one behind the other along an axis, the channels by default."""
    if not xs or not all(isinstance(x, Tensor) for x in xs):
        raise IRError(f"concat of {[type(x).__name__ for x in xs]}, wanted a list of tensors")
    (axis,) = positive_axes(axis, xs[0].rank)
    return xs[0] if len(xs) == 1 else op("concat", *xs, axis=axis)


def stack(xs: Sequence[Tensor], axis: int = 1) -> Tensor:
    """Tensors of one shape side by side along a new axis."""
    (axis,) = positive_axes(axis, xs[0].rank + 1)
    rows = [x.reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in xs]
    return concat(rows, axis)


def pad(x: Tensor, padding: Padding, boundary: str = "zero", value: float = 0.0) -> Tensor:
    """x [N,C,*sizes] with more elements around its sizes.

    padding: a number, one an axis, or pairs. boundary: "zero" (or rather `value`), "circular",
    "reflect" or "replicate".
    """
    sizes = x.shape[2:]
    if padding in ("same", "valid"):
        raise IRError(f"padding is {padding!r}, wanted numbers: there is no window here")
    if boundary not in ("zero", *MODES):
        raise IRError(f"boundary is {boundary!r}, wanted zero, {', '.join(MODES)}")
    ones = (1,) * len(sizes)
    border = pads(padding, sizes, ones, ones, ones)
    mode = "constant" if boundary == "zero" else MODES[boundary]
    held = float(np.float32(value)) if x.dtype == "f32" else float(value)
    return bordered(x, border, mode, held)


def upsample(
    x: Tensor, factor: Size = 2, mode: str = "nearest", align_corners: bool = False
) -> Tensor:
    """x [N,C,*sizes] with sizes times whole factors; see `resize` for the modes."""
    factors = entries("factor", factor, x.rank - 2)
    sizes = tuple(n * f for n, f in zip(x.shape[2:], factors, strict=True))
    return resize(x, sizes, mode, align_corners)


def resize(x: Tensor, size: Size, mode: str = "nearest", align_corners: bool = False) -> Tensor:
    """x [N,C,*sizes] at other sizes; mode is "nearest", "linear" or "cubic".

    Pixels are areas, whose centres are resampled; with align_corners they are points, of which
    the first and the last stay where they are. nearest takes the pixel at floor(i n / m).
    """
    wanted = entries("size", size, x.rank - 2)
    if mode not in ("nearest", "linear", "cubic"):
        raise IRError(f"mode is {mode!r}, wanted nearest, linear or cubic")
    if wanted == x.shape[2:]:
        return x
    sizes = (*x.shape[:2], *wanted)
    coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
    if align_corners:
        coordinates = "align_corners"
    return op(
        "resize", x, sizes=sizes, scales=tuple(n / d for n, d in zip(sizes, x.shape, strict=True)),
        mode=mode, coordinates=coordinates, nearest="floor",
    )  # fmt: skip


def pixel_shuffle(x: Tensor, factor: int = 2) -> Tensor:
    """Groups of factor^2 channels as blocks of pixels: [N,C r^2,H,W] to [N,C,H r,W r]."""
    check_image(x, 2)
    n, c, h, w = x.shape
    r = entries("factor", factor, 1)[0]
    if c % (r * r):
        raise IRError(f"x has {c} channels, wanted a multiple of {r} squared")
    split = x.reshape(n, c // (r * r), r, r, h, w)
    return split.transpose(0, 1, 4, 2, 5, 3).reshape(n, c // (r * r), h * r, w * r)


def pixel_unshuffle(x: Tensor, factor: int = 2) -> Tensor:
    """Blocks of pixels as groups of channels: [N,C,H r,W r] to [N,C r^2,H,W]."""
    check_image(x, 2)
    n, c, h, w = x.shape
    r = entries("factor", factor, 1)[0]
    if h % r or w % r:
        raise IRError(f"x has {h} x {w} pixels, wanted multiples of {r}")
    split = x.reshape(n, c, h // r, r, w // r, r)
    return split.transpose(0, 1, 3, 5, 2, 4).reshape(n, c * r * r, h // r, w // r)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels of the groups in turn: group by group becomes first ones first."""
    n, c, *sizes = x.shape
    if c % groups:
        raise IRError(f"x has {c} channels, wanted a multiple of {groups} groups")
    split = x.reshape(n, groups, c // groups, *sizes)
    rest = range(3, split.rank)
    return split.transpose(0, 2, 1, *rest).reshape(*x.shape)


Flatten = layer("Flatten", flatten)
Reshape = layer("Reshape", reshape)
Transpose = layer("Transpose", transpose)
Pad = layer("Pad", pad)
Upsample = layer("Upsample", upsample)
Resize = layer("Resize", resize)
PixelShuffle = layer("PixelShuffle", pixel_shuffle)
PixelUnshuffle = layer("PixelUnshuffle", pixel_unshuffle)
ChannelShuffle = layer("ChannelShuffle", channel_shuffle)
