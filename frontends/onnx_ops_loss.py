"""ONNX losses of class labels."""

from __future__ import annotations

from cnnir.frontends.onnx_builder import Builder, onnx_op
from cnnir.ir import Value


@onnx_op("NegativeLogLikelihoodLoss")
def negative_log_likelihood_loss(
    b: Builder,
    x: Value,
    target: Value,
    weight: Value | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Value:
    """The loss of log-probabilities [N,C,...] at the labels [N,...]."""
    b.require(reduction in ("none", "mean", "sum"), f"reduction is {reduction!r}")
    return b.add("nll_loss", x, target, weight, ignore_index=ignore_index, reduction=reduction)


@onnx_op("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy_loss(
    b: Builder,
    scores: Value,
    labels: Value,
    weights: Value | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Value, ...]:
    """The loss of logits [N,C,...] at the labels [N,...], and log-probabilities if asked for."""
    b.require(reduction in ("none", "mean", "sum"), f"reduction is {reduction!r}")
    attrs = {"ignore_index": ignore_index, "reduction": reduction}
    if len(b.outputs) < 2 or not b.outputs[1]:
        return (b.add("cross_entropy", scores, labels, weights, **attrs),)
    likely = b.add("log_softmax", scores, axis=1)
    return b.add("nll_loss", likely, labels, weights, **attrs), likely
