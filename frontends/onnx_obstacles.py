"""What a model asks for and cnnir does not have, collected over the whole import.

Each obstacle names the node, and what is supported in its place where there is something.
"""

from __future__ import annotations

from typing import Any

from onnx import NodeProto

from cnnir.errors import Obstacle, UnsupportedError, quoted
from cnnir.frontends.onnx_model import default_domain
from cnnir.frontends.onnx_scope import UNKNOWN, Scope
from cnnir.ir import Value

NEAREST = {
    "Acos Asin Atan": "a polynomial, or an op of your own (docs/add-an-op.md)",
    "Attention": "MatMul, Mul and Softmax, as exporters for older opsets write it",
    "BitCast": "Cast, where the values and not the bits are meant",
    "Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike": (
        "a graph input that is fed random numbers"
    ),
    "BlackmanWindow HammingWindow HannWindow MelWeightMatrix": "a constant",
    "CumProd": "Exp of CumSum of Log, where all factors are positive",
    "DFT STFT": "MatMul by constant matrices of cosines and sines",
    "GRU LSTM RNN": "its equations in MatMul, Add, Sigmoid and Tanh, written out step by step",
    "MaxRoiPool": "RoiAlign with mode max",
    "Scan": "Loop of a constant number of iterations, or the body written out",
    "ReverseSequence": "Gather with constant indices",
    "RotaryEmbedding": "Mul, Add and Concat with constant cosines and sines",
    "SwiGLU": "Split, Sigmoid and Mul",
    "TensorScatter": "ScatterND",
    "ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert"
    " SequenceLength SequenceMap SplitToSequence": "Split and Concat of tensors",
    "Optional OptionalGetElement OptionalHasElement": "a tensor that is always there",
}
"""Operators -> what is supported in their place."""

_BY_OPERATOR = {op: hint for ops, hint in NEAREST.items() for op in ops.split()}

TYPES = "bool, integers of 8 to 64 bits, floats of 16, 32 and 64 bits"


def nearest(operator: str, what: str) -> str:
    """The supported form that is nearest to what a model asks for; empty where none is known.

    Messages say what was wanted behind the word.
    """
    if what == "the operator is not supported":
        return _BY_OPERATOR.get(operator, "")
    if what.startswith("element type"):
        return TYPES
    return what.partition(", wanted ")[2]


class Obstacles:
    """All of them, in the order they were met."""

    def __init__(self) -> None:
        self.found: list[Obstacle] = []

    def add(
        self, what: str, where: str, node: NodeProto | None = None, scope: Scope | None = None
    ) -> Any:
        """Note one; UNKNOWN is the value that is not there for it."""
        operator, opset, types = "", 0, []
        if node is not None:
            operator = operator_name(node)
        if node is not None and scope is not None:
            values = [scope.find(name) for name in node.input if name in scope]
            types = [str(v.type) if isinstance(v, Value) else "?" for v in values]
            opset = scope.opsets.get(default_domain(node.domain), 0)
        hint = nearest(operator, what)
        self.found.append(Obstacle(where, operator, opset, tuple(types), what, hint))
        return UNKNOWN

    def error(self) -> UnsupportedError:
        """One error that lists all; equal ones are one line."""
        places: dict[str, list[str]] = {}
        for one in self.found:
            what = f"{one.operator}: {one.what}" if one.operator else one.what
            places.setdefault(what, []).append(one.where)
        items = []
        for what, nodes in places.items():
            shown = ", ".join(nodes[:3]) + (", ..." if len(nodes) > 3 else "")
            items.append(f"{what} ({len(nodes)}: {shown})")
        message = "the model asks for what cnnir does not have:"
        return UnsupportedError(message, items, self.found)


def operator_name(node: NodeProto) -> str:
    """The operator, with its domain where that is not the default one."""
    domain = f"{quoted(node.domain)[1:-1]}." if default_domain(node.domain) else ""
    return domain + quoted(node.op_type)[1:-1]
