"""cnnir: a graph compiler for convolutional networks.

`compile` a model and call the result; `load` one to look at its graph; `parse` and `evaluate` work
on graphs as text and as mathematics. Frontends and backends are imported when first used.
"""

from cnnir.compile import Executable, compile, load
from cnnir.errors import (
    BackendError,
    Error,
    GradientError,
    InputError,
    IRError,
    LimitError,
    ModelError,
    ParseError,
    PassError,
    RuntimeError,
    UnsupportedError,
)
from cnnir.evaluate import evaluate
from cnnir.gradient import gradient, jvp
from cnnir.ir import Graph, Node, Value
from cnnir.ops import OPS, Elementwise, Op
from cnnir.tensortype import TensorType
from cnnir.text import parse

__version__ = "0.1.0"

__all__ = [
    "OPS",
    "BackendError",
    "Elementwise",
    "Error",
    "Executable",
    "GradientError",
    "Graph",
    "IRError",
    "InputError",
    "LimitError",
    "ModelError",
    "Node",
    "Op",
    "ParseError",
    "PassError",
    "RuntimeError",
    "TensorType",
    "UnsupportedError",
    "Value",
    "__version__",
    "compile",
    "evaluate",
    "gradient",
    "jvp",
    "load",
    "parse",
]
