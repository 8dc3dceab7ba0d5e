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
    pool,
    winograd,
)
from cnnir.backends.llvm.kernels.pooling import Pooling
from cnnir.backends.llvm.kernels.spec import Target
from cnnir.ir import Graph, Node, Value

FIRST_LAYER_CHANNELS = 4
"""Up to so many input channels are read row-major: a block of them would be mostly padding."""

TILINGS, MEASURED, HOPELESS = 5, 8, 2.5
"""Tilings of a template, and candidates of a step, that are measured at most; and how often the
best predicted time makes another candidate hopeless."""

PACK = 3e-9
"""Seconds to put a vector of channels together, where a row-major operand is wanted in blocks."""

WINOGRAD_FLOPS = 2e5
"""Of a convolution from which on Winograd is considered: there must be something to save."""


@dataclass(frozen=True)
class Work:
    """A node to be computed, seen through its anchor: the operands are the outer graph's values."""

    graph: Graph
    node: Node
    anchor: Node
    operands: tuple[Value | None, ...]
    """Of the anchor."""
    flattened: bool = False
    """Whether the first operand, in blocks of channels, is read as one row an image."""
    pool: Pooling | None = None
    """What is made of the results of a convolution before they are stored."""

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
        values = (*self.operands, *self.anchor.results, *self.node.results)
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


def variants(found: list[Offer], target: Target) -> list[Offer]:
    """What is worth measuring beside the best offer: others of the same layouts, each with several
    tilings, the best by prediction first."""
    best = found[0]
    offered = []
    for offer in found:
        tilings = getattr(offer.template, "tilings", None)
        if (offer.operands, offer.blocked) != (best.operands, best.blocked):
            continue
        chosen = tilings(offer.spec, target, TILINGS) if tilings else [offer.tiling]
        for tiling in dict.fromkeys((offer.tiling, *chosen)):
            seconds = offer.template.estimate(offer.spec, tiling, target)
            offered.append(replace(offer, tiling=tiling, seconds=seconds))
    first, *others = sorted(offered, key=lambda offer: offer.seconds)
    near = [offer for offer in others if offer.seconds < HOPELESS * first.seconds]
    return [first, *near][:MEASURED]


Found = tuple[list[Offer], list[str]]


def _conv(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    if work.constant(1) is None or (work.bias and work.constant(2) is None):
        return [], ["weights are known only at run time"]
    spec = _conv_spec(work, lanes)
    found, rejected = [], []
    alone = replace(target, threads=1)
    reads = spec.channels <= FIRST_LAYER_CHANNELS and plain
    direct = replace(spec, plain=reads)
    for kind, template, wanted in (
        ("direct_conv", direct_conv, direct),
        ("depthwise", depthwise, spec),
        ("grouped_conv", grouped_conv, spec),
        ("winograd", winograd, spec),
    ):
        reason = template.reject(wanted)
        if spec.pool and template in (depthwise, grouped_conv):
            reason = "it stores what it computes"
        if template is winograd:
            reason = reason or _against_winograd(spec, target)
        if reason:
            rejected.append(f"{kind}: {reason}")
            continue
        # cut for the threads by Winograd alone, which else would lose by it what it gains
        tiling = _tiling(template, wanted, target if template is winograd else alone)
        seconds = predicted(template, wanted, target)
        how = "plain" if wanted.plain else "blocked"
        if plain and not wanted.plain:
            seconds += PACK * spec.batch * spec.in_blocks * prod(spec.sizes)
        found.append(Offer(kind, template, wanted, tiling, seconds, True, _roles(how, work.bias)))
    return found, rejected


def _against_winograd(spec: direct_conv.ConvSpec, target: Target) -> str | None:
    """Why a convolution that Winograd could serve should not be."""
    if target.exact:
        return "it rounds differently, and precision is exact"
    if spec.flops < WINOGRAD_FLOPS:
        return f"{spec.flops / 1e6:.2f} MFLOP, too few to gain from"
    return None


@lru_cache(maxsize=4096)
def _tiling(template: ModuleType, spec: Hashable, target: Target) -> Any:
    """A template's choice, made once for equal shapes."""
    return template.choose(spec, target)


def predicted(template: ModuleType, spec: Hashable, target: Target) -> float:
    """Seconds on one core, cut to suit it: the algorithm must not depend on the threads."""
    alone = replace(target, threads=1)
    seconds: float = template.estimate(spec, _tiling(template, spec, alone), alone)
    return seconds


def _roles(first: str, bias: bool) -> tuple[tuple[int, str], ...]:
    """How a template wants x, weights and bias."""
    return ((0, first), (1, "packed"), (2, "padded"))[: 3 if bias else 2]


def _filled(values: tuple[int, ...], rank: int, default: int) -> tuple[int, ...]:
    return tuple(values) or (default,) * rank


def _conv_spec(work: Work, lanes: int) -> direct_conv.ConvSpec:
    x, w, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    rank = len(x) - 2
    return direct_conv.ConvSpec(
        batch=x[0],
        channels=x[1],
        filters=w[0],
        sizes=x[2:],
        kernel=w[2:],
        stride=_filled(attrs["stride"], rank, 1),
        dilation=_filled(attrs["dilation"], rank, 1),
        padding=_filled(attrs["padding"], 2 * rank, 0),
        groups=attrs["groups"],
        bias=work.bias,
        lanes=lanes,
        pool=work.pool,
    )


def _conv_transpose(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    if work.constant(1) is None or (work.bias and work.constant(2) is None):
        return [], ["weights are known only at run time"]
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
    if reason := conv_transpose.reject(spec):
        return [], [f"conv_transpose: {reason}"]
    tiling = conv_transpose.choose(spec, target)
    seconds = conv_transpose.estimate(spec, tiling, target)
    roles = _roles("blocked", work.bias)
    return [Offer("conv_transpose", conv_transpose, spec, tiling, seconds, True, roles)], []


def _matmul(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    x, y = work.shape(0), work.shape(1)
    channels = x[1] if work.flattened else 0
    if work.flattened:
        x = (x[0], prod(x[1:]))
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
        channels=channels,
    )
    if reason := matmul.reject(spec):
        return [], [f"matmul: {reason}"]
    tiling = matmul.choose(spec, target)
    seconds = matmul.estimate(spec, tiling, target)
    roles = ((0, "blocked" if channels else "plain"), (1, "packed" if constant else "plain"))
    return [Offer("matmul", matmul, spec, tiling, seconds, False, roles)], []


def _pool(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    if plain:
        return [], ["pool: the operand is not in blocks of channels"]
    x, attrs = work.shape(0), work.anchor.attrs
    rank = len(x) - 2
    is_max = work.anchor.name == "max_pool"
    spec = pool.PoolSpec(
        kind="max" if is_max else "average",
        batch=x[0],
        channels=x[1],
        sizes=x[2:],
        out_sizes=work.anchor.results[0].type.shape[2:],
        kernel=attrs["kernel"],
        stride=_filled(attrs["stride"], rank, 1),
        dilation=_filled(attrs["dilation"], rank, 1),
        padding=_filled(attrs["padding"], 2 * rank, 0),
        count_padding=not is_max and attrs["count_include_pad"],
        lanes=lanes,
    )
    if reason := pool.reject(spec):
        return [], [f"pool: {reason}"]
    tiling = pool.choose(spec, target)
    seconds = pool.estimate(spec, tiling, target)
    return [Offer("pool", pool, spec, tiling, seconds, True, ((0, "blocked"),))], []


_MAKERS: dict[str, Callable[[Work, bool, Target, int], Found]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "max_pool": _pool,
    "avg_pool": _pool,
}
