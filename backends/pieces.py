"""Large data in pieces, each with a SHA-256 of its own, so that all cores read and check it.

For what is too large to be hashed by one core in passing: model files and packed weights.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

PIECE = 4 << 20
"""Bytes that have a hash."""

_BLOCK = 1 << 18
"""Bytes that are read at a time of what is only hashed. The C library keeps this memory, one a
thread; hashing less at a time is slower for changing hands."""

T = TypeVar("T")


def file_digest(descriptor: int) -> str:
    """A hash of all that a file holds."""
    size = os.fstat(descriptor).st_size

    def read(start: int) -> bytes:
        digest, block = hashlib.sha256(), np.empty(_BLOCK, np.uint8)
        end = min(start + PIECE, size)
        for first in range(start, end, _BLOCK):
            part = block[: end - first]
            _fill(descriptor, first, part)
            digest.update(part.data)
        return digest.digest()

    whole = hashlib.sha256(size.to_bytes(8, "little"))
    for digest in _shared(read, range(0, size, PIECE)):
        whole.update(digest)
    return whole.hexdigest()


def digests(data: np.ndarray) -> list[str]:
    """A hash of each piece of some bytes, by one core: it is for who writes, in his own time."""
    starts = range(0, data.size, PIECE)
    return [hashlib.sha256(data[start : start + PIECE].data).hexdigest() for start in starts]


def read_checked(descriptor: int, offset: int, into: np.ndarray, wanted: list[str]) -> bool:
    """Read bytes of a file; whether they are those that have these digests."""
    if len(wanted) != -(-into.size // PIECE):
        return False

    def read(number: int) -> bool:
        start = number * PIECE
        piece = into[start : start + PIECE]
        _fill(descriptor, offset + start, piece)
        return hashlib.sha256(piece.data).hexdigest() == wanted[number]

    return all(_shared(read, range(len(wanted))))


def _fill(descriptor: int, start: int, into: np.ndarray) -> None:
    """Read bytes from a position on; OSError where the file ends before."""
    view = into.data
    while view:
        count = os.preadv(descriptor, [view], start)
        if not count:
            raise OSError("the file ended early")
        view, start = view[count:], start + count


def _shared(work: Callable[[int], T], items: Sequence[int]) -> list[T]:
    """Results in order, made by all cores; to read and to hash holds no lock of Python's."""
    threads = min(len(items), os.cpu_count() or 1)
    if threads <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, items))
