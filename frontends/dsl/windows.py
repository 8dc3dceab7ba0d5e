"""Sliding windows as users write them: kernels, strides, and padding in all its forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnnir.errors import IRError
from cnnir.frontends.dsl.tensor import Tensor, op
from cnnir.ops.boundary import MODES

Ints = tuple[int, ...]
Size = int | Sequence[int]
Padding = int | str | Sequence[int] | Sequence[Sequence[int]]

Boundary = str | Sequence[str]
"""What lies beyond the ends of an image: one word for all axes, or one an axis."""


def check_boundary(boundary: Boundary, rank: int) -> tuple[str, ...]:
    """The boundary of each axis; IRError unless they are words we know."""
    words = (boundary,) * rank if isinstance(boundary, str) else tuple(boundary)
    if len(words) != rank or any(word != "zero" and word not in MODES for word in words):
        raise IRError(
            f"boundary is {boundary!r}, wanted zero, {', '.join(MODES)}, or {rank} of them"
        )
    return words


def entries(name: str, value: Any, rank: int, least: int = 1) -> Ints:
    """One integer an axis; a single number counts for all."""
    given = (value,) * rank if isinstance(value, int) else value
    ok = isinstance(given, (tuple, list)) and len(given) == rank
    if not ok or any(type(v) is not int or v < least for v in given):
        raise IRError(f"{name} is {value!r}, wanted a number >= {least} or {rank} of them")
    return tuple(given)


def kernel_of(value: Any) -> Ints:
    """A kernel's sizes; a single number is a square of a 2-D image."""
    sizes = (value, value) if isinstance(value, int) else value
    if not isinstance(sizes, (tuple, list)) or not sizes:
        raise IRError(f"kernel is {value!r}, wanted a number (for 2-D) or one size an axis")
    return entries("kernel", sizes, len(sizes))


def check_image(x: Tensor, rank: int) -> None:
    """IRError unless x is [N, C, *sizes] with this many sizes."""
    if x.rank != rank + 2:
        axes = {1: "L", 2: "H, W", 3: "D, H, W"}.get(rank, f"{rank} sizes")
        hint = " (is the batch axis missing?)" if x.rank == rank + 1 else ""
        raise IRError(f"x has rank {x.rank}, wanted {rank + 2}: [N, C, {axes}]{hint}")


def channels(x: Tensor) -> int:
    """The channels of x [N, C, ...]."""
    if x.rank < 2:
        raise IRError(f"x has rank {x.rank}, wanted at least 2: [N, C, ...]")
    return x.shape[1]


def pads(padding: Any, sizes: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Ints:
    """Padding as begins, then ends.

    A number is for all sides, one an axis for both of its sides, a pair an axis for each; "valid"
    is none, "same" makes ceil(size / stride) results (of an odd sum the end gets more).
    """
    rank = len(sizes)
    if padding == "valid":
        return (0,) * (2 * rank)
    if padding == "same":
        totals = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
        ]
        begins = [t // 2 for t in totals]
        return (*begins, *(t - b for t, b in zip(totals, begins, strict=True)))
    if isinstance(padding, str):
        raise IRError(f"padding is {padding!r}, wanted numbers, 'same' or 'valid'")
    pairs: Any = [padding] * rank if isinstance(padding, int) else padding
    wanted = f"wanted a number, {rank} numbers or pairs, 'same' or 'valid'"
    if not isinstance(pairs, (tuple, list)) or len(pairs) != rank:
        raise IRError(f"padding is {padding!r}, {wanted}")
    pairs = [(p, p) if isinstance(p, int) else p for p in pairs]
    for pair in pairs:
        ok = isinstance(pair, (tuple, list)) and len(pair) == 2
        if not ok or any(type(v) is not int or v < 0 for v in pair):
            raise IRError(f"padding is {padding!r}, {wanted}, none of them negative")
    return (*(p[0] for p in pairs), *(p[1] for p in pairs))


def bordered(x: Tensor, padding: Ints, mode: str, value: float = 0.0) -> Tensor:
    """x [N, C, *sizes] with its sizes padded: begins, then ends."""
    if not any(padding):
        return x
    rank = len(padding) // 2
    full = (0, 0, *padding[:rank], 0, 0, *padding[rank:])
    return op("pad", x, padding=full, mode=mode, value=value)
