"""What each tuned template would make of a node: a spec, or the reason why it cannot serve.

One function a template, from the node to be computed to an `Offer`. An offer says which layouts the
operands must have, and predicts the time, so that the plan can choose. The template itself knows no
nodes; this file knows no LLVM.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from math import prod
from types import ModuleType
from typing import Any

from cnnir.backends.llvm.gradient_offers import GRADIENTS
from cnnir.backends.llvm.kernels import (
    conv_transpose,
    depthwise,
    direct_conv,
    fft_conv,
    grouped_conv,
    matmul,
    phased_transpose,
    pool,
    repack,
    symmetric,
    winograd,
    winograd_pack,
)
from cnnir.backends.llvm.kernels.spec import Target
from cnnir.backends.llvm.work import (
    FIRST_LAYER_CHANNELS,
    ROUNDS,
    Found,
    Offer,
    Work,
    against_transforms,
    filled,
    pool_spec,
    tiling_of,
    windows_spec,
)

__all__ = ["Offer", "Work", "offers", "predicted", "variants"]

TILINGS, MEASURED, HOPELESS = 5, 8, 2.5
"""Tilings of a template, and candidates of a step, that are measured at most; and how often the
best predicted time makes another candidate hopeless."""

GATHERED = 4.0
"""How often the time of reading and writing it takes to put many channels in blocks, or back."""

PRINTED = 3.0
"""How often the time of its multiply-adds a depthwise convolution takes that no template serves."""

TRANSFORMS = (winograd, fft_conv)
"""What computes a convolution by fewer products, and rounds differently."""


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


def _conv(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    spec = _conv_spec(work, lanes)
    found: list[Offer] = []
    rejected: list[str] = []
    alone = replace(target, threads=1)
    reads = spec.channels <= FIRST_LAYER_CHANNELS and plain
    direct = replace(spec, plain=reads)
    for kind, template, wanted in (
        ("direct_conv", direct_conv, direct),
        ("depthwise", depthwise, spec),
        ("symmetric", symmetric, symmetric.SymmetricSpec.of(spec, work.constant(1))),
        ("grouped_conv", grouped_conv, spec),
        ("winograd", winograd, spec),
        ("fft_conv", fft_conv, replace(spec, plain=True)),
    ):
        reason = _against(template, work, spec, target) or template.reject(wanted)
        if reason:
            rejected.append(f"{kind}: {reason}")
            continue
        if template is fft_conv:
            wanted = fft_conv.fitted(wanted, target)
        # cut for the threads by transforms alone, which else would lose by it what they gain
        tiling = tiling_of(template, wanted, target if template in TRANSFORMS else alone)
        seconds = predicted(template, wanted, target)
        if work.constant(1) is None:
            seconds += _packing(template, wanted, tiling, target)
        if plain != wanted.plain:
            times = GATHERED if spec.channels > FIRST_LAYER_CHANNELS else 1
            seconds += times * _blocking(spec.batch, spec.channels, spec.sizes, lanes, target)
        blocked = template is not fft_conv
        if blocked == work.leaves:
            seconds += GATHERED * _blocking(spec.batch, spec.filters, spec.y_sizes, lanes, target)
        how = "plain" if wanted.plain else "blocked"
        roles = _roles(how, work.bias)
        if template is fft_conv and not found:
            printed = _printed(spec, target)
            others = f"loops: about {printed * 1e6:.0f} us"
            if printed < seconds:
                rejected.append(f"{kind}: predicted {seconds * 1e6:.0f} us, {others}")
                continue
            rejected.append(others)
        found.append(Offer(kind, template, wanted, tiling, seconds, blocked, roles))
    return found, rejected


def _printed(spec: direct_conv.ConvSpec, target: Target) -> float:
    """Seconds on one core of code from the element definition, roughly."""
    return PRINTED * spec.flops / (2 * target.fmas * spec.lanes * target.hz)


def _against(template: ModuleType, work: Work, spec: Any, target: Target) -> str | None:
    """Why a convolution that a template takes had better not be its."""
    if spec.pool and template in (depthwise, symmetric, grouped_conv):
        return "it stores what it computes"
    if template is symmetric and target.exact:
        return ROUNDS
    if template in TRANSFORMS and (reason := against_transforms(spec, target)):
        return reason
    if work.constant(1) is not None:
        return None
    if template in (symmetric, fft_conv):
        return "run-time weights"
    if template is winograd and not winograd_pack.can_pack(spec):
        return "run-time weights of several groups or slices"
    return None


def _packing(template: ModuleType, spec: Any, tiling: Any, target: Target) -> float:
    """Seconds on one core to put weights into a template's order in every run."""
    if template is winograd:
        geometry = winograd.Geometry(spec, tiling)
        vectors = geometry.weights * geometry.chunks // spec.lanes
    else:
        filters = spec.out_blocks * spec.channels // spec.groups
        vectors = filters * prod(spec.kernel)
    return repack.estimate(vectors, target, spec.lanes)


def predicted(template: ModuleType, spec: Hashable, target: Target) -> float:
    """Seconds on one core, cut to suit it: the algorithm must not depend on the threads."""
    alone = replace(target, threads=1)
    seconds: float = template.estimate(spec, tiling_of(template, spec, alone), alone)
    return seconds


def _blocking(
    batch: int, channels: int, sizes: tuple[int, ...], lanes: int, target: Target
) -> float:
    """Seconds to put a row-major activation into blocks of channels, or back."""
    touched = channels + -(-channels // lanes) * lanes
    return 4 * batch * touched * prod(sizes) / target.cached


def _roles(first: str, bias: bool) -> tuple[tuple[int, str], ...]:
    """How a template wants x, weights and bias."""
    return ((0, first), (1, "packed"), (2, "padded"))[: 3 if bias else 2]


def _conv_spec(work: Work, lanes: int) -> direct_conv.ConvSpec:
    x, w, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    spec = windows_spec(attrs, x, w[0], w[2:], lanes)
    return replace(spec, bias=work.bias, pool=work.pool)


def _conv_transpose(work: Work, plain: bool, target: Target, lanes: int) -> Found:
    x, w, attrs = work.shape(0), work.shape(1), work.anchor.attrs
    rank = len(x) - 2
    spec = conv_transpose.ConvTransposeSpec(
        batch=x[0],
        channels=x[1],
        filters=w[1] * attrs["groups"],
        sizes=x[2:],
        kernel=w[2:],
        stride=filled(attrs["stride"], rank, 1),
        dilation=filled(attrs["dilation"], rank, 1),
        padding=filled(attrs["padding"], 2 * rank, 0),
        output_padding=filled(attrs["output_padding"], rank, 0),
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
        tiling = tiling_of(template, wanted, target)
        seconds = template.estimate(wanted, tiling, target)
        roles = _roles("blocked", work.bias)
        found.append(Offer(kind, template, wanted, tiling, seconds, True, roles))
    return found, rejected


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
    kind = "max" if work.anchor.name == "max_pool" else "average"
    count = kind == "average" and attrs["count_include_pad"]
    out = work.anchor.results[0].type.shape[2:]
    spec = pool_spec(attrs, x, out, kind, count, lanes)
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
    **GRADIENTS,
}
