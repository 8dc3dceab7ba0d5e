"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from cnnir.errors import InputError


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of `path` at the end, unless something is raised.

    Whoever reads `path` meanwhile, or after a crash, sees all of the old file or all of the new.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder!r} for {os.path.basename(path)!r}")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp keeps files to their owner; give it the permissions of an ordinary new one
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
