"""Nets in Python, under their public name: `from cnnir import nn`. See docs/dsl.md."""

from cnnir.frontends.dsl import *  # noqa: F403
from cnnir.frontends.dsl import __all__ as __all__
