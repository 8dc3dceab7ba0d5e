"""What the templates of gradients would make of a node, as `offers.py` says it for layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from cnnir.backends.llvm.kernels import (
    max_pool_grad,
    weight_grad,
    weight_grad_copied,
    weight_grad_sum,
    weight_grad_winograd,
)
from cnnir.backends.llvm.kernels.spec import Target
from cnnir.backends.llvm.work import (
    FIRST_LAYER_CHANNELS,
    Found,
    Offer,
    Work,
    against_transforms,
    pool_spec,
    tiling_of,
    windows_spec,
)


def _weight_grad(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    x, dy, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    spec = windows_spec(attrs, x, dy[1], attrs["kernel"], lanes)
    found, rejected = [], []
    rows = spec.channels // spec.groups * prod(spec.kernel)
    few = plain and spec.channels <= FIRST_LAYER_CHANNELS and spec.groups == 1
    for kind, template, wanted in (
        ("weight_grad", weight_grad, spec),
        ("weight_grad_copied", weight_grad_copied, replace(spec, plain=few)),
        ("weight_grad_winograd", weight_grad_winograd, spec),
    ):
        reason = template.reject(wanted)
        if template is weight_grad_winograd:
            reason = reason or against_transforms(spec, target)
        if reason:
            rejected.append(f"{kind}: {reason}")
            continue
        tiling = tiling_of(template, wanted, target)
        g = template.Geometry(wanted, tiling)
        last = weight_grad_sum.SumSpec(spec.filters, rows, g.rows, tiling.parts, lanes)
        after = weight_grad_sum.estimate(last, target)
        then = Offer("weight_grad_sum", weight_grad_sum, last, None, after, False, ())
        seconds = template.estimate(wanted, tiling, target) + after
        reads = ((0, "plain" if wanted.plain else "blocked"), (1, "blocked"))
        floats = tiling.parts * g.part
        found.append(Offer(kind, template, wanted, tiling, seconds, False, reads, then, floats))
    return found, rejected


def _max_pool_grad(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    index, attrs, out = work.operands[1], work.anchor.attrs, work.shape(0)[2:]
    assert index is not None
    pooled = index.node.operands[0] if index.node.name == "max_pool_index" else None
    if pooled is None or pooled.type.dtype != "f32" or pooled.type.shape[2:] != attrs["sizes"]:
        return [], ["max_pool_grad: the index is not that of a pool in f32"]
    spec = pool_spec(attrs, pooled.type.shape, out, "max", False, lanes)
    own = pool_spec(index.node.attrs, pooled.type.shape, out, "max", False, lanes)
    if spec != own or index.node.attrs["storage_order"]:
        return [], ["max_pool_grad: the index is that of another pool"]
    if reason := max_pool_grad.reject(spec):
        return [], [f"max_pool_grad: {reason}"]
    tiling = max_pool_grad.choose(spec, target)
    seconds = max_pool_grad.estimate(spec, tiling, target)
    reads = ((0, "blocked"), (1, "pooled"))
    return [Offer("max_pool_grad", max_pool_grad, spec, tiling, seconds, True, reads)], []


GRADIENTS: dict[str, Callable[[Work, bool, Target, int], Found]] = {
    "conv_weight_grad": _weight_grad,
    "max_pool_grad": _max_pool_grad,
}
