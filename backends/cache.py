"""A cache of compiled code on disk, so that a model compiles once a machine.

Sits beneath what compiles for a target; knows bytes and keys only. A file found here is executed,
so the directory must belong to this user and be writable by nobody else, the same goes for every
file read, and the content carries its key and a SHA-256 trailer: any mismatch means compiling
again. Nothing is unpickled. The key holds everything that decides the code: text, compiler,
processor, options.

This does not defend against the user's own account: whoever writes as us runs as us anyway.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Self

VARIABLE = "CNNIR_CACHE"
NOTE = "object cache: "
_MAGIC = b"cnnir object 1\n"
_HASH = 32
_PART = "tmp-"

_PUT: dict[tuple[Path, str], int] = {}
"""Bytes of a suffix that this process has put in a directory since it last looked through it."""


class CacheWarning(UserWarning):
    """The object cache cannot be used as it is; compilation goes on without it."""


class DiskCache:
    """Objects by key in one directory, at most `limit` bytes of them.

    Errors of the file system never stop a compilation: they are told once in `notes()`.
    """

    suffix = ".cnnirobject"
    default_limit = 1 << 30

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        self.directory = directory
        self.limit = self.default_limit if limit is None else limit
        self._notes: list[str] = []

    @classmethod
    def default(cls, choice: str | os.PathLike[str] | bool | None = None) -> Self | None:
        """The cache to use, or None, with a CacheWarning where it is refused.

        choice: a directory, "off" or False; None or True reads CNNIR_CACHE, then takes `cnnir`
        under XDG_CACHE_HOME or ~/.cache.
        """
        if choice is None or choice is True:
            choice = os.environ.get(VARIABLE, "")
        if choice is False or str(choice).lower() in ("off", "0"):
            return None
        if choice:
            directory = Path(choice).expanduser()
        else:
            base = os.environ.get("XDG_CACHE_HOME", "")
            directory = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "cnnir"
        if reason := _refusal(directory):
            warnings.warn(f"no object cache: {directory} {reason}", CacheWarning, stacklevel=2)
            return None
        return cls(directory)

    @staticmethod
    def key_of(*parts: str) -> str:
        """The name of an object: a hash of all that its code depends on, cnnir's version too."""
        digest = hashlib.sha256()
        for part in (version("cnnir"), *parts):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()

    def get(self, key: str) -> bytes | None:
        """The object, or None when it is absent, damaged, or could have been put by others."""
        file = self._opened(key)
        if file is None:
            return None
        with file:
            content = file.read()
        head = _MAGIC + bytes.fromhex(key)
        body, trailer = content[:-_HASH], content[-_HASH:]
        if not body.startswith(head) or hashlib.sha256(body).digest() != trailer:
            self._damaged(key)
            return None
        self._touch(key)
        return body[len(head) :]

    def put(self, key: str, binary: bytes) -> None:
        """Store an object: complete under its name or not at all, whatever happens meanwhile."""
        body = _MAGIC + bytes.fromhex(key) + binary
        self._store(key, [body, hashlib.sha256(body).digest()])

    def _opened(self, key: str) -> BinaryIO | None:
        """The file of a key, if it is there and nobody else could have written it."""
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(f"cannot read {path.name}: {error.strerror}")
            return None
        file = open(descriptor, "rb")
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode) or _shared(info):
            file.close()
            self._note(f"{path.name} is writable by others and was not used")
            return None
        return file

    def _store(self, key: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file under a name of its own, then give it that of the key.

        Nobody waits for the disk: what a loss of power leaves behind, the hashes find.
        """
        size = 0
        try:
            descriptor, temporary = tempfile.mkstemp(dir=self.directory, prefix=_PART)
            try:
                with open(descriptor, "wb") as file:
                    for part in parts:
                        size += file.write(part)
                os.replace(temporary, self._path(key))
            except BaseException:
                os.unlink(temporary)
                raise
            self._evict_now_and_then(size)
        except OSError as error:
            self._note(f"cannot write to {self.directory}: {error.strerror}")

    def _touch(self, key: str) -> None:
        """Note a use: eviction goes by the last one."""
        path = self._path(key)
        try:
            os.utime(path)
        except OSError as error:
            self._note(f"cannot touch {path.name}: {error.strerror}")

    def _damaged(self, key: str) -> None:
        self._note(f"{self._path(key).name} is damaged and was compiled again")

    def notes(self) -> list[str]:
        """What went wrong so far, for the plan."""
        return [NOTE + note for note in self._notes]

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _path(self, key: str) -> Path:
        return self.directory / (key + self.suffix)

    def _evict_now_and_then(self, put: int) -> None:
        """Evict at this process's first object, then after every 32nd part of the limit."""
        mine = (self.directory, self.suffix)
        put += _PUT.get(mine, self.limit)
        look = put > self.limit // 32
        _PUT[mine] = 0 if look else put
        if look:
            self._evict()

    def _evict(self) -> None:
        """Remove the objects used longest ago until the rest fits the limit.

        With them goes what processes have begun that were killed an hour ago or earlier.
        """
        for part in self.directory.glob(_PART + "*"):
            with suppress(FileNotFoundError):  # another process evicts too
                if part.lstat().st_mtime < time.time() - 3600:
                    part.unlink()
        entries = []
        for path in self.directory.glob("*" + self.suffix):
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue  # another process evicts too
            entries.append((info.st_mtime_ns, info.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size


def _shared(info: os.stat_result) -> bool:
    """Whether somebody else owns or may write the file or directory."""
    if not hasattr(os, "geteuid"):
        return False  # no POSIX permissions here; the profile directory is private by default
    return info.st_uid != os.geteuid() or bool(info.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _refusal(directory: Path) -> str:
    """Why the directory, made when absent, cannot hold the cache; empty when it can."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = directory.lstat()
        parent = directory.parent.stat()
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if stat.S_ISLNK(info.st_mode) or not stat.S_ISDIR(info.st_mode):
        return "is not a directory"
    if _shared(info):
        return "must belong to this user and be writable by nobody else (chmod 700)"
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        return "lies in a directory where anybody may replace it"
    if not os.access(directory, os.W_OK | os.X_OK):
        return "is not writable"
    return ""
