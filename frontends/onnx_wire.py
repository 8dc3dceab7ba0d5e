"""Takes the weights out of an ONNX file before protobuf parses it.

A parsed model holds all its tensors, and hands each out as a further copy: with the file's bytes
that makes a large network's weights three times. So the file is walked here, one level after the
other, by protobuf's wire format: `stripped` copies everything but the raw data of the main graph's
large initializers, and says where that lies. It is read from there when the tensor is made.

Wire format: https://protobuf.dev/programming-guides/encoding. A field is a varint, number * 8 +
type, and a value: type 0 a varint, 1 and 5 of 8 and 4 bytes, 2 a length and so many bytes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cnnir.errors import ModelError

LARGE = 1 << 14
"""Bytes from which a tensor is taken out."""

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto, TensorProto
_LENGTH = 2
_LONGEST = 10  # bytes of a varint


class Content(Protocol):
    """The bytes of a model."""

    size: int

    def read(self, start: int, size: int) -> bytes:
        """Some bytes; fewer where they end."""

    def array(self, start: int, size: int) -> np.ndarray:
        """Some bytes as an array that is not to be written to."""


class FileContent:
    """An open file. Arrays are read from it, each into memory that goes back to the system with
    it, so that weights which are not needed any more make room for others."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self.size = descriptor, os.fstat(descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        """Some bytes; fewer where the file ends."""
        parts = []
        while size and (part := os.pread(self._descriptor, size, start)):
            parts.append(part)
            start, size = start + len(part), size - len(part)
        return b"".join(parts)

    def array(self, start: int, size: int) -> np.ndarray:
        """Some bytes as an array; ModelError where the file has become shorter."""
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE)  # shared memory has no huge pages
        if huge := getattr(mmap, "MADV_HUGEPAGE", 0):  # where this system has them
            with suppress(OSError):  # built without
                memory.madvise(huge)
        view = memoryview(memory)
        while view:
            count = os.preadv(self._descriptor, [view], start)
            if not count:
                raise ModelError("the file has become shorter while it was read")
            view, start = view[count:], start + count
        array = np.frombuffer(memory, np.uint8)
        array.flags.writeable = False
        return array


class GivenContent:
    """Bytes of the caller's, of which arrays are views."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def read(self, start: int, size: int) -> bytes:
        """Some bytes; fewer where they end."""
        return self._data[start : start + size]

    def array(self, start: int, size: int) -> np.ndarray:
        """Some bytes as an array."""
        return np.frombuffer(self._data, np.uint8, size, start)


@dataclass(frozen=True)
class RawData:
    """Where the raw data of a tensor lies."""

    content: Content
    start: int
    size: int

    def array(self) -> np.ndarray:
        """The bytes."""
        return self.content.array(self.start, self.size)


class Malformed(Exception):
    """This is not the wire format: protobuf may say what is wrong."""


def stripped(content: Content) -> tuple[bytes, list[RawData | None]]:
    """The model without large raw data, and for each initializer of the main graph where it is."""
    found: list[RawData | None] = []

    def tensor(start: int, end: int) -> bytes:
        raw: list[RawData] = []

        def taken(start: int, end: int) -> None:
            raw.append(RawData(content, start, end - start))

        kept = _rewritten(content, start, end, _RAW_DATA, taken)
        found.append(raw[-1] if raw else None)  # of a field given twice the last counts
        return kept

    def initializer(start: int, end: int) -> bytes:
        if end - start >= LARGE:
            return tensor(start, end)
        found.append(None)
        return _whole(content, start, end)

    def graph(start: int, end: int) -> bytes:
        return _rewritten(content, start, end, _INITIALIZER, initializer)

    return _rewritten(content, 0, content.size, _GRAPH, graph), found


def _rewritten(
    content: Content,
    start: int,
    end: int,
    number: int,
    change: Callable[[int, int], bytes | None],
) -> bytes:
    """A message whose fields of one number have another value, or are left out for None."""
    parts, copied = [], start
    for field in _fields(content, start, end):
        if field.key == number * 8 + _LENGTH:
            parts.append(_whole(content, copied, field.start))
            copied = field.end
            changed = change(field.value, field.end)
            if changed is not None:
                parts += [_varint(field.key), _varint(len(changed)), changed]
    parts.append(_whole(content, copied, end))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a field and its value begin, and where both end."""

    key: int
    start: int
    value: int
    end: int


def _fields(content: Content, start: int, end: int) -> Iterator[_Field]:
    """The fields of the message that lies from `start` to `end`."""
    at = start
    while at < end:
        key, used = _number(content.read(at, _LONGEST))
        value = at + used
        match key & 7:
            case 0:
                value += _number(content.read(value, _LONGEST))[1]
                last = value
            case 1:
                last = value + 8
            case 5:
                last = value + 4
            case 2:
                length, used = _number(content.read(value, _LONGEST))
                value += used
                last = value + length
            case _:
                raise Malformed
        if last > end:
            raise Malformed
        yield _Field(key, at, value, last)
        at = last


def _number(data: bytes) -> tuple[int, int]:
    """The varint that some bytes begin with, and how many of them it has."""
    number = 0
    for position, byte in enumerate(data):
        number |= (byte & 127) << 7 * position
        if byte < 128:
            return number, position + 1
    raise Malformed


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)
    return bytes(data)


def _whole(content: Content, start: int, end: int) -> bytes:
    data = content.read(start, end - start)
    if len(data) != end - start:
        raise Malformed
    return data
