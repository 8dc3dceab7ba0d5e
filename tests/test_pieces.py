"""Hashes of large data: every byte counts, and it does not matter who made which piece."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnnir.backends import pieces


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 1000 bytes, of which 300 are read at a time."""
    monkeypatch.setattr(pieces, "PIECE", 1000)
    monkeypatch.setattr(pieces, "_BLOCK", 300)


def digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return pieces.file_digest(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("size", [0, 1, 300, 999, 1000, 1001, 4321])
def test_every_byte_and_the_size_are_in_the_hash_of_a_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    path.write_bytes(content.tobytes())
    first = digest(path)
    assert digest(path) == first
    seen = {first}
    places = {0, 299, 300, 999, 1000, 1300, size - 1} & set(range(size))
    for place in places:
        other = content.copy()
        other[place] ^= 1
        path.write_bytes(other.tobytes())
        seen.add(digest(path))
    path.write_bytes(content.tobytes() + b"\0")
    seen.add(digest(path))
    assert len(seen) == len(places) + 2


@pytest.mark.usefixtures("small")
def test_bytes_are_read_and_checked_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = np.random.default_rng(0).integers(0, 256, 2500, np.uint8)
    path.write_bytes(b"head" + content.tobytes())
    wanted = pieces.digests(content)
    with path.open("rb") as file:
        into = np.zeros_like(content)
        assert pieces.read_checked(file.fileno(), 4, into, wanted)
        np.testing.assert_array_equal(into, content)
        assert not pieces.read_checked(file.fileno(), 3, into, wanted)
        assert not pieces.read_checked(file.fileno(), 4, into, wanted[:-1])
