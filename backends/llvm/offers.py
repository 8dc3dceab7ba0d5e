"""What each tuned template would make of a node: a spec, or the reason why it cannot serve.

One function a template, from the node to be computed to an `Offer`. An offer says which layouts the
operands must have, and predicts the time, so that the plan can choose. The template itself knows no
nodes; this file knows no LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from cnnir.backends.llvm.kernels import (
    conv_transpose,
    depthwise,
    direct_conv,
    grouped_conv,
    matmul,
    max_pool_grad,
    phased_transpose,
    pool,
    repack,
    weight_grad,
    weight_grad_copied,
    weight_grad_sum,
    weight_grad_winograd,
    winograd,
)
from cnnir.backends.llvm.kernels.spec import Target
from cnnir.ir import Graph, Node, Value

FIRST_LAYER_CHANNELS = 4
"""Up to so many input channels are read row-major: a block of them would be mostly padding."""

WINOGRAD_FLOPS = 4e6
"""Of a convolution from which on Winograd is considered: its code takes longer to make."""


@dataclass(frozen=True)
class Work:
    """A node to be computed, seen through its anchor: the operands are the outer graph's values."""

    graph: Graph
    node: Node
    anchor: Node
    operands: tuple[Value | None, ...]
    """Of the anchor."""

    def shape(self, position: int) -> tuple[int, ...]:
        """The shape of an anchor operand."""
        value = self.operands[position]
        assert value is not None
        return value.type.shape

    def constant(self, position: int) -> np.ndarray | None:
        """The array of an anchor operand that is a param."""
        if position >= len(self.operands):
            return None
        return self.graph.array(self.operands[position])

    @property
    def bias(self) -> bool:
        """Whether the anchor has a third operand."""
        return len(self.operands) > 2 and self.operands[2] is not None

    @property
    def dtypes(self) -> set[str]:
        """Element types of the anchor's operands and of all results."""
        known = [v for v in self.operands if v is None or v.node.name != "max_pool_index"]
        values = (*known, *self.anchor.results, *self.node.results)
        return {v.type.dtype for v in values if v is not None}


@dataclass(frozen=True)
class Offer:
    """A template that can serve, with its tiling and predicted time on one core."""

    kind: str
    template: ModuleType
    spec: Any
    tiling: Any
    seconds: float
    blocked: bool
    """Whether the result is in blocks of channels (row-major otherwise)."""
    operands: tuple[tuple[int, str], ...]
    """(anchor operand, how): plain, blocked, padded to whole vectors, or packed by the template."""
    then: Offer | None = None
    """A second kernel that makes the result from what the first one wrote."""
    floats: int = 0
    """That the first one writes, where there is a second."""
    key: Hashable = field(init=False, default=())

    def pack(self, array: np.ndarray) -> np.ndarray:
        """Constant weights as the template reads them."""
        packed: np.ndarray = self.template.pack(array, self.spec, self.tiling)
        return packed


def offers(work: Work, plain: bool, target: Target, lanes: int) -> tuple[list[Offer], list[str]]:
    """All templates that can serve, best first, and why the others cannot.

    plain: whether the first operand is row-major now, and would have to be packed into blocks.
    """
    maker = _MAKERS.get(work.anchor.name)
    if maker is None:
        return [], []
    if any(v is not None and not v.type.size for v in (*work.operands, *work.node.results)):
        return [], []  # templates need not think of nothing
    if work.dtypes != {"f32"}:
        return [], [f"templates compute f32, this is {', '.join(sorted(work.dtypes))}"]
    if any(v is not None and v.node not in work.graph.nx for v in work.operands):
        return [], ["something is computed in front of the anchor"]
    found, rejected = maker(work, plain, target, lanes)
    return sorted(found, key=lambda offer: offer.seconds), rejected


Found = tuple[list[Offer], list[str]]


def _conv(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    spec = _conv_spec(work, lanes)
    found, rejected = [], []
    reads = spec.channels <= FIRST_LAYER_CHANNELS and plain
    direct = replace(spec, plain=reads)
    for kind, template, wanted in (
        ("direct_conv", direct_conv, direct),
        ("depthwise", depthwise, spec),
        ("grouped_conv", grouped_conv, spec),
        ("winograd", winograd, spec),
    ):
        reason = template.reject(wanted)
        if template is winograd:
            reason = reason or _against_winograd(spec, target)
        if reason:
            rejected.append(f"{kind}: {reason}")
            continue
        tiling = _tiling(template, wanted, target)
        seconds = template.estimate(wanted, tiling, target)
        if work.constant(1) is None:
            seconds += _packing(template, wanted, tiling, target)
        how = "plain" if wanted.plain else "blocked"
        if plain and not wanted.plain:  # it has to be put in blocks first
            seconds += 4 * spec.batch * spec.in_blocks * lanes * prod(spec.sizes) / target.bandwidth
        found.append(Offer(kind, template, wanted, tiling, seconds, True, _roles(how, work.bias)))
    return found, rejected


def _packing(template: ModuleType, spec: Any, tiling: Any, target: Target) -> float:
    """Seconds on one core to put weights into a template's order in every run."""
    if template is winograd:
        geometry = winograd.Geometry(spec, tiling)
        vectors = geometry.weights * geometry.chunks // spec.lanes
    else:
        filters = spec.out_blocks * spec.channels // spec.groups
        vectors = filters * prod(spec.kernel)
    return repack.estimate(vectors, target, spec.lanes)


def _against_winograd(spec: direct_conv.ConvSpec, target: Target) -> str | None:
    """Why a convolution that Winograd could serve should not be."""
    if target.exact:
        return "it rounds differently, and precision is exact"
    if spec.flops < WINOGRAD_FLOPS:
        return f"{spec.flops / 1e6:.1f} MFLOP, too few to gain from"
    return None


@lru_cache(maxsize=4096)
def _tiling(template: ModuleType, spec: Hashable, target: Target) -> Any:
    """A template's choice, made once for equal shapes."""
    return template.choose(spec, target)


def _roles(first: str, bias: bool) -> tuple[tuple[int, str], ...]:
    """How a template wants x, weights and bias."""
    return ((0, first), (1, "packed"), (2, "padded"))[: 3 if bias else 2]


def _filled(values: tuple[int, ...], rank: int, default: int) -> tuple[int, ...]:
    return tuple(values) or (default,) * rank


def _conv_spec(work: Work, lanes: int) -> direct_conv.ConvSpec:
    x, w, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    return replace(_windows_spec(attrs, x, w[0], w[2:], lanes), bias=work.bias)


def _windows_spec(
    attrs: dict[str, Any],
    x: tuple[int, ...],
    filters: int,
    kernel: tuple[int, ...],
    lanes: int,
) -> direct_conv.ConvSpec:
    rank = len(x) - 2
    return direct_conv.ConvSpec(
        batch=x[0],
        channels=x[1],
        filters=filters,
        sizes=x[2:],
        kernel=kernel,
        stride=_filled(attrs["stride"], rank, 1),
        dilation=_filled(attrs["dilation"], rank, 1),
        padding=_filled(attrs["padding"], 2 * rank, 0),
        groups=attrs["groups"],
        lanes=lanes,
    )


def _conv_transpose(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    x, w, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    rank = len(x) - 2
    spec = conv_transpose.ConvTransposeSpec(
        batch=x[0],
        channels=x[1],
        filters=w[1] * attrs["groups"],
        sizes=x[2:],
        kernel=w[2:],
        stride=_filled(attrs["stride"], rank, 1),
        dilation=_filled(attrs["dilation"], rank, 1),
        padding=_filled(attrs["padding"], 2 * rank, 0),
        output_padding=_filled(attrs["output_padding"], rank, 0),
        groups=attrs["groups"],
        bias=work.bias,
        lanes=lanes,
    )
    found, rejected = [], []
    for kind, template, wanted in (
        ("conv_transpose", conv_transpose, spec),
        ("phased_transpose", phased_transpose, phased_transpose.PhasedSpec(**vars(spec))),
    ):
        if reason := template.reject(wanted):
            rejected.append(f"{kind}: {reason}")
            continue
        tiling = _tiling(template, wanted, target)
        seconds = template.estimate(wanted, tiling, target)
        roles = _roles("blocked", work.bias)
        found.append(Offer(kind, template, wanted, tiling, seconds, True, roles))
    return found, rejected


def _matmul(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    x, y = work.shape(0), work.shape(1)
    weights = work.constant(1)
    constant = weights is not None and len(y) == 2
    batch, rows = x[:-2], x[-2]
    if len(y) == 2:
        batch, rows = (), prod(x[:-1])  # one matrix for all: the batch is so many more rows
    elif len(x) != 2 and batch != y[:-2]:
        return [], ["matmul: batch axes that broadcast"]
    spec = matmul.MatmulSpec(
        rows=rows,
        columns=y[-1],
        depth=x[-1],
        batch=prod(y[:-2]) if len(x) == 2 else prod(batch),
        constant=constant,
        shared_x=len(x) == 2 and len(y) > 2,
        shared_w=len(y) == 2,
        lanes=lanes,
    )
    if reason := matmul.reject(spec):
        return [], [f"matmul: {reason}"]
    tiling = matmul.choose(spec, target)
    seconds = matmul.estimate(spec, tiling, target)
    roles = ((0, "plain"), (1, "packed" if constant else "plain"))
    return [Offer("matmul", matmul, spec, tiling, seconds, False, roles)], []


def _pool(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    if plain:
        return [], ["pool: the operand is not in blocks of channels"]
    x, attrs = work.shape(0), work.anchor.attrs
    kind = "max" if work.anchor.name == "max_pool" else "average"
    count = kind == "average" and attrs["count_include_pad"]
    out = work.anchor.results[0].type.shape[2:]
    spec = _pool_spec(attrs, x, out, kind, count, lanes)
    if reason := pool.reject(spec):
        return [], [f"pool: {reason}"]
    tiling = pool.choose(spec, target)
    seconds = pool.estimate(spec, tiling, target)
    return [Offer("pool", pool, spec, tiling, seconds, True, ((0, "blocked"),))], []


def _pool_spec(
    attrs: dict[str, Any],
    x: tuple[int, ...],
    out: tuple[int, ...],
    kind: str,
    count_padding: bool,
    lanes: int,
) -> pool.PoolSpec:
    rank = len(x) - 2
    return pool.PoolSpec(
        kind=kind,
        batch=x[0],
        channels=x[1],
        sizes=x[2:],
        out_sizes=out,
        kernel=attrs["kernel"],
        stride=_filled(attrs["stride"], rank, 1),
        dilation=_filled(attrs["dilation"], rank, 1),
        padding=_filled(attrs["padding"], 2 * rank, 0),
        count_padding=count_padding,
        lanes=lanes,
    )


def _weight_grad(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    x, dy, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    spec = _windows_spec(attrs, x, dy[1], attrs["kernel"], lanes)
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
            reason = reason or _against_winograd(spec, target)
        if reason:
            rejected.append(f"{kind}: {reason}")
            continue
        tiling = _tiling(template, wanted, target)
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
    spec = _pool_spec(attrs, pooled.type.shape, out, "max", False, lanes)
    own = _pool_spec(index.node.attrs, pooled.type.shape, out, "max", False, lanes)
    if spec != own or index.node.attrs["storage_order"]:
        return [], ["max_pool_grad: the index is that of another pool"]
    if reason := max_pool_grad.reject(spec):
        return [], [f"max_pool_grad: {reason}"]
    tiling = max_pool_grad.choose(spec, target)
    seconds = max_pool_grad.estimate(spec, tiling, target)
    reads = ((0, "blocked"), (1, "pooled"))
    return [Offer("max_pool_grad", max_pool_grad, spec, tiling, seconds, True, reads)], []


_MAKERS: dict[str, Callable[[Work, bool, Target, int], Found]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "conv_weight_grad": _weight_grad,
    "matmul": _matmul,
    "max_pool": _pool,
    "max_pool_grad": _max_pool_grad,
    "avg_pool": _pool,
}
