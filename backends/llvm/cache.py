"""The cache of object files: keys hold all that decides native code."""

from __future__ import annotations

import llvmlite
import llvmlite.binding as llvm

from cnnir.backends.cache import VARIABLE, CacheWarning, DiskCache
from cnnir.backends.llvm.target import CpuTarget

__all__ = ["VARIABLE", "CacheWarning", "ObjectCache"]


class ObjectCache(DiskCache):
    """Objects by key in one directory, see DiskCache."""

    def key(self, text: str, target: CpuTarget, options: object) -> str:
        """The name of an object: a hash of text, LLVM, CPU, features and options.

        options: anything whose repr tells how the text is compiled.
        """
        return self.key_of(
            llvmlite.__version__,
            ".".join(map(str, llvm.llvm_version_info)),
            target.triple,
            target.cpu,
            target.features,
            repr(options),
            text,
        )
