"""Losses and metrics: functions of tensors that give one number.

A loss is a function of what a net gave and of a target, in this order. Those of pairs of elements
take the mean over all of them; those of class labels the mean over the labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cnnir.errors import IRError
from cnnir.frontends.dsl.arithmetic import equal
from cnnir.frontends.dsl.tensor import Tensor, op


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor | np.ndarray | None = None,
    *,
    ignore_index: int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The mean of -ln softmax(logits)[label] over labels [N,...] (i32 or i64), logits [N,C,...].

    weight: of each class, [C]. ignore_index: a label that does not count. smoothing: the share of
    the target that is spread over all classes evenly (Szegedy et al., 2016).
    """
    loss = op("cross_entropy", logits, labels, weight, ignore_index=ignore_index)
    if not smoothing:
        return loss
    if weight is not None or ignore_index is not None:
        raise IRError("smoothing goes with neither weight nor ignore_index")
    spread = -op("log_softmax", logits, axis=1).mean()
    return loss * (1 - smoothing) + spread * smoothing


def nll_loss(
    likely: Tensor,
    labels: Tensor,
    weight: Tensor | np.ndarray | None = None,
    *,
    ignore_index: int | None = None,
) -> Tensor:
    """The same for log-probabilities [N,C,...], such as log_softmax gives."""
    return op("nll_loss", likely, labels, weight, ignore_index=ignore_index)


def squared_error(x: Tensor, target: Tensor) -> Tensor:
    """The mean of (x - target)^2."""
    return _mean_of_pairs("squared_error", x, target)


def absolute_error(x: Tensor, target: Tensor) -> Tensor:
    """The mean of |x - target|."""
    _check_pairs("absolute_error", x, target)
    return abs(x - target).mean()


def huber(x: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """The mean of d^2 / 2 where d = |x - target| is at most delta, else delta (d - delta / 2)."""
    return _mean_of_pairs("huber", x, target, delta=float(delta))


def bce_with_logits(x: Tensor, target: Tensor) -> Tensor:
    """The mean binary cross-entropy of sigmoid(x) and a target from 0 to 1."""
    return _mean_of_pairs("bce_with_logits", x, target)


def kl_divergence(likely: Tensor, target: Tensor) -> Tensor:
    """The divergence of target from e^likely, summed over classes: the mean over the batch."""
    _check_pairs("kl_divergence", likely, target)
    return op("kl_divergence", likely, target).sum() / likely.shape[0]


def accuracy(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of labels [N,...] at which scores [N,C,...] are largest."""
    if scores.rank < 2 or labels.shape != (*scores.shape[:1], *scores.shape[2:]):
        raise IRError(
            f"accuracy({scores.type}, {labels.type}): wanted labels [N, ...] for scores "
            "[N, classes, ...]"
        )
    best = op("argmax", scores, axis=1, keepdims=False)
    return equal(best, labels.astype(best.dtype)).astype("f32").mean()


def _mean_of_pairs(kind: str, x: Tensor, target: Tensor, **attributes: float) -> Tensor:
    _check_pairs(kind, x, target)
    return op(kind, x, target, **attributes).mean()


def _check_pairs(kind: str, x: Tensor, target: Tensor) -> None:
    """Broadcasting a target is more often a mistake than meant."""
    if x.type != target.type:
        raise IRError(f"{kind}({x.type}, {target.type}): wanted a target of type {x.type}")


LOSSES: dict[str, Callable[..., Tensor]] = {
    f.__name__: f
    for f in (
        cross_entropy, nll_loss, squared_error, absolute_error, huber, bce_with_logits,
        kl_divergence,
    )
}  # fmt: skip
"""What a trainer may be told by name."""

METRICS: dict[str, Callable[..., Tensor]] = {"accuracy": accuracy, **LOSSES}
