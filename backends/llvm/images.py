"""Images on disk, so that a process that meets a known model need not compile it.

Between `cache` and `image`. The key says from which bytes, options, versions and processor an
image was made: `cnnir.identity` says so of the model, `ImageCache.key` of the rest. A file holds
the head with the hashes of everything behind it, the objects, the texts, and the packed weights
from the next page on. These are read into memory of the process's own, not mapped: so they are in
huge pages, and nobody who changes the file later changes results.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import llvmlite
import llvmlite.binding as llvm
import numpy as np

from cnnir.backends.cache import NOTE, DiskCache
from cnnir.backends.llvm.cores import step_back
from cnnir.backends.llvm.image import Image, dumped, image_of
from cnnir.backends.llvm.target import CpuTarget
from cnnir.backends.llvm.threads import aligned
from cnnir.backends.pieces import digests, read_checked

_MAGIC = b"cnnir program 1\n"
_PAGE = 4096
_WRITING: dict[Path, threading.Thread] = {}
"""Who is still writing the image of this name, in this process."""

_SPARE = 4
"""An image is only written where the disk has room for so many of it."""


class ImageCache(DiskCache):
    """Images by key in one directory, beside the objects; a large network's has 800 MB."""

    suffix = ".cnnirprogram"
    default_limit = 4 << 30

    def key(self, identity: str, target: CpuTarget, options: Mapping[str, Any]) -> str:
        """The name of an image: a hash of the model's identity and of all that compiles it."""
        return self.key_of(
            identity,
            np.__version__,
            llvmlite.__version__,
            ".".join(map(str, llvm.llvm_version_info)),
            repr(target),
            repr(sorted(options.items())),
        )

    def load(self, key: str) -> Image | None:
        """The image, or None when it is absent, damaged, or could have been put by others."""
        if writing := _WRITING.get(self._path(key)):
            writing.join()
        file = self._opened(key)
        if file is None:
            return None
        with file:
            try:
                image = _read(file, key)
            except (OSError, KeyError, TypeError, ValueError):
                self._damaged(key)
                return None
        self._touch(key)
        return image

    def save(self, key: str, image: Image) -> None:
        """Keep an image as it is now, where there is room for it; its plan notes what goes wrong.

        A thread writes it when cores are idle, since whoever compiles is waiting for a result.
        `load` waits for that thread, and so does the end of the process.
        """
        if shutil.disk_usage(self.directory).free < _SPARE * image.constants.nbytes:
            image.plan.notes.append(f"{NOTE}{self.directory} has too little room to keep programs")
            return
        binaries = [*image.objects, image.texts]
        content = _Content(key, image.head(), binaries, image.constants)
        thread = threading.Thread(target=self._write, args=(content, image.plan.notes))
        _WRITING[self._path(key)] = thread
        thread.start()

    def _write(self, content: _Content, notes: list[str]) -> None:
        step_back()
        told = len(self.notes())
        self._store(content.key, content.parts())
        notes += self.notes()[told:]
        _WRITING.pop(self._path(content.key), None)


def settle() -> None:
    """Wait until all images that this process is to keep are on disk."""
    for thread in list(_WRITING.values()):
        thread.join()


@dataclass(frozen=True)
class _Content:
    """What a file consists of."""

    key: str
    head: dict[str, Any]
    binaries: list[bytes]
    constants: np.ndarray

    def parts(self) -> Iterator[bytes | memoryview]:
        """The bytes, in order."""
        head = self.head | {
            "binaries": [len(binary) for binary in self.binaries],
            "binaries_digest": hashlib.sha256(b"".join(self.binaries)).hexdigest(),
            "constants": self.constants.nbytes,
            "pieces": digests(self.constants),
        }
        text = dumped(head).encode()
        fixed = _MAGIC + bytes.fromhex(self.key) + len(text).to_bytes(8, "little")
        parts = [fixed, hashlib.sha256(fixed + text).digest(), text, *self.binaries]
        yield from parts
        yield bytes(-sum(map(len, parts)) % _PAGE)
        yield self.constants.data


def _read(file: BinaryIO, key: str) -> Image:
    """What is in a file; ValueError, or what decoding raises, where that is not an image."""
    fixed = file.read(len(_MAGIC) + 32 + 8)
    length, size = int.from_bytes(fixed[-8:], "little"), os.fstat(file.fileno()).st_size
    if fixed[:-8] != _MAGIC + bytes.fromhex(key) or length > size:
        raise ValueError("this is another file, or a part of one")
    digest, text = file.read(32), file.read(length)
    if hashlib.sha256(fixed + text).digest() != digest:
        raise ValueError("the head is damaged")
    head = json.loads(text)
    content = file.read(sum(head["binaries"]))
    if hashlib.sha256(content).hexdigest() != head["binaries_digest"]:
        raise ValueError("the objects or the texts are damaged")
    start = file.tell()
    constants = aligned(head["constants"])
    if not read_checked(file.fileno(), start + -start % _PAGE, constants, head["pieces"]):
        raise ValueError("the constants are damaged")
    ends = accumulate(head["binaries"], initial=0)
    *objects, texts = (content[a:b] for a, b in pairwise(ends))
    return image_of(head, objects, texts, constants)
