"""cnnir: a graph compiler for convolutional networks.

`compile` a model and call the result; `load` one to look at its graph, `check` what keeps it from
that; `parse` and `evaluate` work on graphs as text and as mathematics. `nn` is for nets of your
own, `save_onnx` writes any graph. `as_matrix`, `local_affine` and others say what a layer or a net
is as a map of vectors. Frontends, backends and mathematics are imported when first used.
"""

import importlib
from typing import Any

from cnnir.compile import Executable, check, compile, load, save_onnx
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
    TrainingError,
    UnsupportedError,
)
from cnnir.evaluate import evaluate
from cnnir.gradient import gradient, jvp
from cnnir.hessian import hvp
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
    "TrainingError",
    "UnsupportedError",
    "Value",
    "__version__",
    "check",
    "compile",
    "evaluate",
    "gradient",
    "hvp",
    "jvp",
    "load",
    "parse",
    "save_onnx",
]


_MATHEMATICS = (
    "as_matrix",
    "chain_rule",
    "condition_number",
    "eigenvalues",
    "equivariance",
    "kernels",
    "local_affine",
    "plane_regions",
    "regions_on_segment",
    "rescale_kernel",
    "solve",
)


def __getattr__(name: str) -> Any:
    """`cnnir.nn`, `training` with its `Trainer`, and `mathematics` with its functions, imported
    when first used."""
    if name in ("nn", "training", "mathematics"):
        return importlib.import_module(f"cnnir.{name}")
    if name == "Trainer":
        return importlib.import_module("cnnir.training").Trainer
    if name in _MATHEMATICS:
        return getattr(importlib.import_module("cnnir.mathematics"), name)
    raise AttributeError(f"module 'cnnir' has no attribute {name!r}")
