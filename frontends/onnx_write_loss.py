"""Exports of losses: those of class labels as ONNX's own, those of pairs as arithmetic."""

from __future__ import annotations

from cnnir.frontends.onnx_writer import Writer, writes
from cnnir.ir import Node

_LABELS = {
    "cross_entropy": "SoftmaxCrossEntropyLoss",
    "nll_loss": "NegativeLogLikelihoodLoss",
    "nll": "NegativeLogLikelihoodLoss",
}


@writes(*_LABELS)
def of_labels(w: Writer, node: Node, x: str, labels: str, weight: str = "") -> None:
    """The loss of scores at labels; `nll` is the one that is not reduced."""
    reduction = node.attrs.get("reduction", "none")
    ignored = node.attrs["ignore_index"]
    w.emit(_LABELS[node.name], [x, labels, weight], node, reduction=reduction, ignore_index=ignored)


@writes("squared_error")
def squared_error(w: Writer, node: Node, x: str, target: str) -> None:
    """(x - target)^2"""
    difference = w.fresh(f"{x}_difference")
    w.types[difference] = node.results[0].type
    w.emit("Sub", [x, target], [difference])
    w.emit("Mul", [difference, difference], node)
