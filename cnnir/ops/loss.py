"""Losses: of pairs of elements, and of class labels.

Those of elements give a tensor: their mean or sum is reduce_mean or reduce_sum, with which they
fuse. Those of labels have the reduction among their attributes, because a mean does not count what
is ignored and weighs by class.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnnir.errors import IRError, RuntimeError
from cnnir.ops.base import Cost, Op
from cnnir.ops.derivative import filled
from cnnir.ops.elementwise import Typed, common_dtype
from cnnir.ops.tracing import converted, widened
from cnnir.tensortype import TensorType

# ---------------------------------------------------------------- of pairs of elements


class SquaredError(Typed):
    """z = (x - target)^2."""

    name = "squared_error"

    def scalar(m, x, target):
        return (x - target) * (x - target)

    def derivative(m, z, x, target):
        slope = 2.0 * (x - target)
        return slope, -slope


class Huber(Typed):
    """z = d^2 / 2 where d = |x - target| is at most delta, else delta * (d - delta / 2)."""

    name = "huber"

    def scalar(m, x, target, *, delta=1.0):
        d = m.abs(x - target)
        return m.select(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta))

    def derivative(m, z, x, target, *, delta=1.0):
        slope = m.max(m.min(x - target, delta), -delta)
        return slope, -slope


class BceWithLogits(Typed):
    """Binary cross-entropy: z = -(t ln s + (1 - t) ln(1 - s)) with s = sigmoid(x), t the target.

    Computed as max(x, 0) - x t + ln(1 + e^-|x|), which no x makes overflow.
    """

    name = "bce_with_logits"

    def scalar(m, x, target):
        return m.max(x, 0.0) - x * target + m.log(1.0 + m.exp(-m.abs(x)))

    def derivative(m, z, x, target):
        return 1.0 / (1.0 + m.exp(-x)) - target, -x


class KlDivergence(Typed):
    """z = t (ln t - x), 0 where t = 0: x is the logarithm of a probability, t the target."""

    name = "kl_divergence"

    def scalar(m, x, target):
        return m.select(target > 0, target * (m.log(target) - x), 0.0)


# ---------------------------------------------------------------- of labels


def _check_labels(x: TensorType, labels: TensorType, weight: TensorType | None) -> None:
    """IRError unless x is [N,C,...], labels are [N,...] and there is a weight for each class."""
    common_dtype(("float",), *(v for v in (x, weight) if v is not None))
    hot = "; of one-hot labels take argmax(1)" if labels.shape == x.shape else ""
    if labels.dtype not in ("i32", "i64"):
        raise IRError(f"labels are {labels.dtype}, wanted i32 or i64{hot}")
    if x.rank < 2 or labels.shape != (*x.shape[:1], *x.shape[2:]):
        raise IRError(f"labels are {labels}, x is {x}: wanted [N, ...] for [N, classes, ...]{hot}")
    if labels.size and x.shape[1] == 0:
        raise IRError("there are no classes, wanted at least one")
    if weight is not None and weight.shape != (x.shape[1],):
        raise IRError(f"weight is {weight}, wanted one for each of {x.shape[1]} classes")


def _check_ignored(ignore_index: Any) -> None:
    if ignore_index is not None and type(ignore_index) is not int:
        raise IRError(f"attribute ignore_index is {ignore_index!r}, wanted an integer or None")


def _counted(labels: np.ndarray, classes: int, ignore: int | None) -> tuple[np.ndarray, Any]:
    """Valid labels, 0 for those that are ignored, and which are not."""
    wide = np.asarray(labels, np.int64)
    counted = np.full(wide.shape, True) if ignore is None else wide != ignore
    bad = wide[counted & ((wide < 0) | (wide >= classes))]
    if bad.size:
        also = "" if ignore is None else f", or {ignore}, which is ignored"
        raise RuntimeError(f"labels out of range: {bad.flat[0]}, wanted 0 to {classes - 1}{also}")
    return np.where(counted, wide, 0), counted


def _label(m: Any, labels: Any, at: tuple, classes: int, ignore: int | None) -> tuple[Any, Any]:
    """The same for one label, in the algebra; a negative one is no valid index here."""
    label = m.cast(labels[at], "i64")
    ignored = False if ignore is None else m.equal(label, ignore)
    if ignore is not None:
        label = m.select(ignored, 0, label)
    return m.checked(m.select(label < 0, classes, label), classes, "labels"), ignored


class Nll(Op):
    """The negative of what x [N,C,...] holds at the class of each label: z[N,...].

    z[n,i...] = -x[n, labels[n,i...], i...] * weight[labels[n,i...]], 0 where the label is
    `ignore_index`. Of log-probabilities it is the negative log-likelihood. A label that is no class
    makes the run raise.
    """

    name = "nll"

    def infer(x, labels, weight=None, *, ignore_index=None):
        _check_labels(x, labels, weight)
        _check_ignored(ignore_index)
        return x.with_shape(labels.shape)

    def evaluate(x, labels, weight=None, *, ignore_index):
        label, counted = _counted(labels, x.shape[1], ignore_index)
        picked = -np.take_along_axis(x, np.expand_dims(label, 1), 1)[:, 0]
        picked = picked if weight is None else picked * weight[label]
        return np.where(counted, picked, x.dtype.type(0))

    def element(m, at, x, labels, weight=None, *, ignore_index):
        label, ignored = _label(m, labels, at, x.shape[1], ignore_index)
        z = -x[(at[0], label, *at[1:])]
        z = z if weight is None else z * weight[(label,)]
        return z if ignore_index is None else m.select(ignored, m.const(0, m.dtype(z)), z)

    def vjp(g, node, dz):
        x, labels, weight = (*node.operands, None)[:3]
        attrs = node.attrs | {"classes": x.type.shape[1]}
        dx = g.add("nll_grad", dz, labels, weight, **attrs)
        if weight is None:
            return dx, None
        plain = g.add("mul", g.add("nll_grad", dz, labels, **attrs), x)
        axes = (0, *range(2, x.type.rank))
        return dx, None, g.add("reduce_sum", plain, axes=axes, keepdims=False)


class NllGrad(Op):
    """The cotangent [N,classes,...] of x in nll, from that of its result, dz [N,...].

    dx[n,c,i...] = -dz[n,i...] * weight[c] where c = labels[n,i...] is not ignored, else 0.
    """

    name = "nll_grad"

    def infer(dz, labels, weight=None, *, classes, ignore_index=None):
        if type(classes) is not int or classes < 0:
            raise IRError(f"attribute classes is {classes!r}, wanted an integer >= 0")
        if dz.rank < 1 or labels.shape != dz.shape:
            raise IRError(f"labels are {labels}, dz is {dz}: wanted one shape [N, ...]")
        x = dz.with_shape((dz.shape[0], classes, *dz.shape[1:]))
        _check_labels(x, labels, weight)
        _check_ignored(ignore_index)
        return x

    def evaluate(dz, labels, weight=None, *, classes, ignore_index):
        label, counted = _counted(labels, classes, ignore_index)
        part = -dz if weight is None else -dz * weight[label]
        part = np.where(counted, part, dz.dtype.type(0))
        dx = np.zeros((dz.shape[0], classes, *dz.shape[1:]), dz.dtype)
        np.put_along_axis(dx, np.expand_dims(label, 1), np.expand_dims(part, 1), 1)
        return dx

    def element(m, at, dz, labels, weight=None, *, classes, ignore_index):
        n, c, *rest = at
        label, ignored = _label(m, labels, (n, *rest), classes, ignore_index)
        part = -dz[(n, *rest)]
        part = part if weight is None else part * weight[(c,)]
        chosen = m.equal(label, c)
        chosen = chosen if ignore_index is None else chosen & ~ignored
        return m.select(chosen, part, m.const(0, m.dtype(part)))

    def vjp(g, node, dx):
        dz, labels, weight = (*node.operands, None)[:3]
        ignore = {"ignore_index": node.attrs["ignore_index"]}
        back = g.add("nll", dx, labels, weight, **ignore)
        if weight is None:
            return back, None
        plain = g.add("mul", g.add("nll_grad", dz, labels, **node.attrs), dx)
        axes = (0, *range(2, dx.type.rank))
        return back, None, g.add("reduce_sum", plain, axes=axes, keepdims=False)


class _LabelLoss(Op, abstract=True):
    """Shared by nll_loss and cross_entropy: the reduction of what nll gives."""

    def infer(x, labels, weight=None, *, ignore_index=None, reduction="mean"):
        _check_labels(x, labels, weight)
        _check_ignored(ignore_index)
        if reduction not in ("none", "mean", "sum"):
            raise IRError(f"attribute reduction is {reduction!r}, wanted none, mean or sum")
        return x.with_shape(labels.shape if reduction == "none" else ())

    @staticmethod
    def cost(node: Any) -> Cost:
        """Five operations an element, as log_softmax."""
        moved = Op.cost(node)
        return Cost(5 * node.operands[0].type.size, moved.read, moved.written)


def _reduced(z: np.ndarray, counts: np.ndarray, reduction: str) -> Any:
    if reduction == "none":
        return z
    with np.errstate(all="ignore"):
        return z.sum() if reduction == "sum" else z.sum() / counts.sum()


def _reduce(g: Any, x: Any, labels: Any, weight: Any, ignore: int | None, reduction: str) -> Any:
    """nll of x, reduced."""
    z = g.add("nll", x, labels, weight, ignore_index=ignore)
    if reduction == "none":
        return z
    axes = tuple(range(z.type.rank))
    if reduction == "mean" and weight is None and ignore is None:
        return g.add("reduce_mean", z, axes=axes, keepdims=False)
    together = g.add("reduce_sum", z, axes=axes, keepdims=False)
    if reduction == "sum":
        return together
    # nll of -1 everywhere is the weight that a label counts with
    counts = g.add("nll", filled(g, x.type, -1), labels, weight, ignore_index=ignore)
    return g.add("div", together, g.add("reduce_sum", counts, axes=axes, keepdims=False))


class NllLoss(_LabelLoss):
    """The loss of log-probabilities x [N,C,...] at the labels [N,...]: `nll`, reduced.

    reduction "mean" divides the sum by the sum of the weights of the labels that count (NaN when
    none does), "sum" does not, "none" gives [N,...].
    """

    name = "nll_loss"

    def evaluate(x, labels, weight=None, *, ignore_index, reduction):
        z = Nll.evaluate(x, labels, weight, ignore_index=ignore_index)
        ones = np.full_like(x, -1)
        counts = Nll.evaluate(ones, labels, weight, ignore_index=ignore_index)
        return _reduced(z, counts, reduction)

    def decompose(g, x, labels, weight=None, *, ignore_index, reduction):
        wide, weights = widened(g, x), None if weight is None else widened(g, weight)
        loss = _reduce(g, wide, labels, weights, ignore_index, reduction)
        return converted(g, loss, x.type.dtype)


class CrossEntropy(_LabelLoss):
    """The loss of logits x [N,C,...] at the labels [N,...]: nll_loss of log_softmax along C."""

    name = "cross_entropy"

    def evaluate(x, labels, weight=None, *, ignore_index, reduction):
        with np.errstate(all="ignore"):
            shifted = x - x.max(1, keepdims=True, initial=-np.inf)
            likely = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return NllLoss.evaluate(
            likely, labels, weight, ignore_index=ignore_index, reduction=reduction
        )

    def decompose(g, x, labels, weight=None, *, ignore_index, reduction):
        wide, weights = widened(g, x), None if weight is None else widened(g, weight)
        likely = g.add("log_softmax", wide, axis=1)
        loss = _reduce(g, likely, labels, weights, ignore_index, reduction)
        return converted(g, loss, x.type.dtype)
