"""What x[...] means: numpy's basic indexing as one slice and one reshape."""

from __future__ import annotations

from typing import Any

from cnnir.errors import IRError

Ints = tuple[int, ...]


def indexed(shape: Ints, index: Any) -> tuple[Ints, Ints, Ints, Ints]:
    """Starts, sizes and steps of a slice of `shape`, and the shape to give it afterwards."""
    items = list(index) if isinstance(index, tuple) else [index]
    given = sum(item is not None and item is not Ellipsis for item in items)
    if given > len(shape):
        raise IRError(f"{given} indices for rank {len(shape)}, wanted at most as many")
    gaps = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(gaps) > 1:
        raise IRError("`...` is given twice, wanted at most one")
    place = gaps[0] if gaps else len(items)
    items[place : place + 1] = [slice(None)] * (len(shape) - given)
    cuts: list[tuple[int, int, int]] = []
    result: list[int] = []
    for item in items:
        if item is None:
            result.append(1)
            continue
        cuts.append(_along(item, shape[len(cuts)], len(cuts)))
        if isinstance(item, slice):
            result.append(cuts[-1][1])
    starts, sizes, steps = zip(*cuts, strict=True) if cuts else ((), (), ())
    return starts, sizes, steps, tuple(result)


def _along(item: Any, extent: int, axis: int) -> tuple[int, int, int]:
    if isinstance(item, slice):
        numbers = range(*item.indices(extent))
        # where nothing or one element is left, start and step are of no meaning
        start = numbers.start if len(numbers) else 0
        return start, len(numbers), numbers.step if len(numbers) > 1 else 1
    if not isinstance(item, int):
        raise IRError(f"index {item!r} of axis {axis}, wanted a number, a slice, None or `...`")
    if not -extent <= item < extent:
        raise IRError(f"index {item} of axis {axis} is out of range, wanted below {extent}")
    return item % extent, 1, 1
