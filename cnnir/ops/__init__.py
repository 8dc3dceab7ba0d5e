"""The operator set: a class an op, a file a family. Importing this package registers them all."""

import importlib
import pkgutil

from cnnir.ops.base import OPS, Cost, Elementwise, Op

__all__ = ["OPS", "Cost", "Elementwise", "Op"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
