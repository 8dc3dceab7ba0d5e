"""Nets in Python, under their public name: `from cnnir import nn`. See docs/dsl.md."""

import re
from typing import TYPE_CHECKING, Any

from cnnir.frontends.dsl import *  # noqa: F403
from cnnir.frontends.dsl import __all__ as __all__

_ELSEWHERE = {"Linear": "Dense", "ZeroPad": "Pad", "UpsamplingNearest": "Upsample"}
"""Layers as other libraries call them."""

if not TYPE_CHECKING:  # for a type checker any name would be one of this module

    def __getattr__(name: str) -> Any:
        """What there is in place of a name of another library, such as Conv2d."""
        plain = re.sub("[123][dD]$", "", name)
        known = _ELSEWHERE.get(plain, plain)
        hint = f", wanted nn.{known}" if known in __all__ else ""
        raise AttributeError(f"module 'cnnir.nn' has no attribute {name!r}{hint}")
