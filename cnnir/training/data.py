"""Where batches come from: arrays, or any iterable of batches.

A batch is (inputs, targets), each an array or a tuple of arrays. The order of samples depends on
the seed and the number of the epoch alone, so a training that was cut off finds its place again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnir.errors import InputError

PARTIAL = ("keep", "drop")


@dataclass
class Batch:
    """Some samples: arrays whose first axes are equally long."""

    inputs: list[np.ndarray]
    targets: list[np.ndarray]

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.inputs[0])


class Data(ABC):
    """A set of samples that can be gone through once an epoch."""

    count: int | None = None
    """Batches an epoch, where that is known."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0."""

    def first(self, epoch: int) -> Batch:
        """The first of them; InputError where it could not be had again."""
        return next(self.batches(epoch))


class Arrays(Data):
    """Samples in arrays, cut into batches; the last one may be smaller, or is dropped."""

    def __init__(
        self, inputs: Any, targets: Any, size: int, *, seed: int | None, partial: str = "keep"
    ) -> None:
        if type(size) is not int or size < 1:
            raise InputError(f"batch_size is {size!r}, wanted an integer of at least 1")
        if partial not in PARTIAL:
            raise InputError(f"partial is {partial!r}, wanted one of {', '.join(PARTIAL)}")
        self.inputs, self.targets = several(inputs, "x"), several(targets, "y")
        self.size, self.seed = size, seed
        lengths = {len(a) for a in (*self.inputs, *self.targets)}
        if len(lengths) > 1:
            raise InputError(
                f"x has {len(self.inputs[0])} samples, y has {len(self.targets[0])}: wanted as many"
            )
        self.length = lengths.pop()
        whole, rest = divmod(self.length, size)
        self.count = whole + (rest > 0 and partial == "keep")
        if not self.count:
            raise InputError(
                f"{self.length} samples make no batch of {size}: wanted more, or partial='keep'"
            )

    def batches(self, epoch: int) -> Iterator[Batch]:
        order: Any = None
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        for start in range(0, (self.count or 0) * self.size, self.size):
            part = slice(start, start + self.size)
            chosen = part if order is None else order[part]
            yield Batch([a[chosen] for a in self.inputs], [a[chosen] for a in self.targets])


class Stream(Data):
    """Batches from an iterable, or from a function that gives one for each epoch."""

    def __init__(self, source: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self.source = source
        self.count = len(source) if isinstance(source, Sequence) else None

    def batches(self, epoch: int) -> Iterator[Batch]:
        found = self.source() if callable(self.source) else self.source
        empty = True
        for batch in found:
            empty = False
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise InputError(
                    f"the data gave {type(batch).__name__} as a batch, wanted (inputs, targets)"
                )
            yield Batch(several(batch[0], "inputs"), several(batch[1], "targets"))
        if empty:
            raise InputError(
                f"the data gave no batch in epoch {epoch + 1}: a generator can be gone through "
                "once, wanted a function that makes one, or a list"
            )

    def first(self, epoch: int) -> Batch:
        if isinstance(self.source, Iterator):
            raise InputError("a generator cannot be resumed, wanted a function that makes one")
        return super().first(epoch)


def data_of(x: Any, y: Any, size: int, *, seed: int | None = None, partial: str = "keep") -> Data:
    """The data that a caller gave: arrays x and y, or batches as x alone."""
    if y is not None:
        return Arrays(x, y, size, seed=seed, partial=partial)
    if isinstance(x, np.ndarray) or not (callable(x) or isinstance(x, Iterable)):
        raise InputError(
            f"x is {_described(x)} and y is missing: wanted both, or an iterable of batches"
        )
    return Stream(x)


def shared_out(x: Any, y: Any, share: float, seed: int) -> tuple[Any, Any, Any]:
    """x and y for training, and a share of the samples, drawn by the seed, to validate with."""
    inputs, targets = several(x, "x"), several(y, "y")
    count = len(inputs[0])
    held = round(count * share)
    if not 0 < held < count:
        raise InputError(f"validation is {share}, of {count} samples that leaves none on one side")
    order = np.random.default_rng([seed, 0x7A11]).permutation(count)
    train = [tuple(a[order[held:]] for a in arrays) for arrays in (inputs, targets)]
    other = tuple(tuple(a[order[:held]] for a in arrays) for arrays in (inputs, targets))
    return train[0], train[1], other


def several(given: Any, name: str) -> list[np.ndarray]:
    """One array or a tuple of them, as a list."""
    arrays = list(given) if isinstance(given, tuple) else [given]
    for array in arrays:
        if not isinstance(array, np.ndarray) or array.ndim == 0:
            raise InputError(f"{name} is {_described(array)}, wanted an array of samples")
    return arrays


def _described(given: Any) -> str:
    if isinstance(given, np.ndarray):
        return f"an array {given.dtype.name}{list(given.shape)}"
    return f"of type {type(given).__name__}"
