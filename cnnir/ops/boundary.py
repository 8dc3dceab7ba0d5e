"""What lies beyond the ends of an image: the words, and where an index outside reads.

A convolution reads its operand through such a map, one an axis; `pad` copies through it. The map of
an axis knows nothing of the others, so borders of several axes may be taken in any order. This file
defines no op.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import IRError

MODES = {"circular": "wrap", "reflect": "reflect", "replicate": "edge"}
"""The boundaries that read the image, by what `pad` and numpy call them; the other one is "zero".

Circular continues from the other end, reflect mirrors without repeating the outermost element,
replicate repeats it.
"""

ZERO = "zero"


def folded(m: Any, mode: str, i: Any, size: int) -> Any:
    """Where position i of an axis (negative before the start) reads, in the element algebra.

    mode: as `pad` has it. A reflected position is less than `size` away from the axis.
    """
    if mode == "wrap":
        return i % size
    if mode == "reflect":
        i = m.select(i < 0, -i, i)
        return m.select(i >= size, 2 * (size - 1) - i, i)
    i = m.select(i < 0, m.const(0, "i64"), i)
    return m.select(i >= size, m.const(size - 1, "i64"), i)


def source(word: str, i: int, size: int) -> int | None:
    """The same for a known position and a boundary by its word; None where it reads a zero."""
    if 0 <= i < size:
        return i
    if word == "circular":
        return i % size
    if word == "reflect":
        return -i if i < 0 else 2 * (size - 1) - i
    return None if word == ZERO else min(max(i, 0), size - 1)


def reads(boundary: tuple[str, ...], padding: tuple[int, ...]) -> tuple[str, ...]:
    """The word of each axis: "zero" on one without padding, where it makes no difference."""
    rank = len(padding) // 2
    if not padding:
        return (ZERO,) * len(boundary)
    return tuple(
        word if padding[axis] or padding[rank + axis] else ZERO
        for axis, word in enumerate(boundary or (ZERO,) * rank)
    )


def check_boundary(boundary: Any, padding: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    """IRError unless `boundary` is () or a word an axis, and images of these sizes have so much."""
    rank = len(sizes)
    words = (ZERO, *MODES)
    ok = isinstance(boundary, tuple) and len(boundary) in (0, rank)
    if not ok or any(word not in words for word in boundary):
        raise IRError(f"attribute boundary is {boundary!r}, wanted {rank} of {', '.join(words)}")
    for axis, (word, size) in enumerate(zip(reads(boundary, padding), sizes, strict=True)):
        most = max(padding[axis], padding[rank + axis])
        if word != ZERO and not size:
            raise IRError(f"spatial axis {axis} is empty, there is nothing to pad it with")
        if word == "reflect" and most >= size:
            raise IRError(f"spatial axis {axis}: reflect padding {most}, wanted less than {size}")


def bordered(x: np.ndarray, padding: tuple[int, ...], boundary: tuple[str, ...]) -> np.ndarray:
    """x [N,C,*sizes] with its border around it, but for zeros."""
    for attrs in pads(padding, boundary):
        amounts = attrs["padding"]
        x = np.pad(x, list(zip(amounts[: x.ndim], amounts[x.ndim :], strict=True)), attrs["mode"])
    return x


def pads(padding: tuple[int, ...], boundary: tuple[str, ...]) -> list[dict[str, Any]]:
    """The attributes of `pad` nodes that make the borders that are not zero, one for each word."""
    rank = len(padding) // 2
    words = reads(boundary, padding)
    found = []
    for word in dict.fromkeys(w for w in words if w != ZERO):
        own = [p if words[a % rank] == word else 0 for a, p in enumerate(padding)]
        amounts = (0, 0, *own[:rank], 0, 0, *own[rank:])
        found.append({"padding": amounts, "mode": MODES[word]})
    return found


def zeros_left(padding: tuple[int, ...], boundary: tuple[str, ...]) -> tuple[int, ...]:
    """The padding of those axes that zeros surround; 0 on the others."""
    rank = len(padding) // 2
    words = reads(boundary, padding)
    return tuple(p if words[a % rank] == ZERO else 0 for a, p in enumerate(padding))
