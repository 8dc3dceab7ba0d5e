"""Tuned kernels: what each would make of a node, or the reason why it cannot serve.

An offer says in which layouts it wants the operands and predicts the time, so that the plan can
choose. The templates in `kernels/` know shapes; nodes are the business of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import numpy as np

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.depthwise import Depthwise
from cnnir.backends.cuda.kernels.gemm import Gemm
from cnnir.backends.cuda.kernels.gemm_fma import FmaGemm
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.kernels.gemm_tensor import TensorGemm
from cnnir.backends.cuda.kernels.gemm_warpgroup import WarpgroupGemm
from cnnir.backends.cuda.kernels.phased import PhasedGemm, PhasedSpec
from cnnir.backends.cuda.layout import Order
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.fused import anchor_of, canonical, outer_values
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout
from cnnir.ops.boundary import ZERO, reads


class Template(Protocol):
    """A tuned kernel for problems of one kind."""

    kind: str
    order: str
    """Of constant weights: equal ones of a param share bytes."""
    storage: str
    """What x is stored as, where that is not its type."""
    fastest: str
    """"depth" or "filters": how neighbours lie in weights that are known only at run time."""

    def reject(self, spec: Any) -> str | None:
        """Why it cannot serve, or None."""

    def choose(self, spec: Any, target: CudaTarget) -> tuple[Any, float]:
        """The best tile, and the seconds that it is predicted to take."""

    def ranked(self, spec: Any, target: CudaTarget) -> list[tuple[Any, float]]:
        """All tiles worth considering, as `choose` gives them, the best first."""

    def pack(self, w: np.ndarray, spec: Any) -> np.ndarray:
        """Constant weights as the kernel reads them."""

    def emit(self, name: str, spec: Any, tile: Any, epilogue: Epilogue) -> Code:
        """The kernel, and what else it needs."""


@dataclass(frozen=True)
class Offer:
    """A template that can serve, with its tile and predicted time."""

    template: Template = field(repr=False)
    spec: Any
    tile: Any
    seconds: float
    result: str
    """How the result lies: channels last, plain, or filters last."""
    operands: tuple[tuple[Value, str], ...] = field(repr=False)
    """(value, how): channels last, images last, plain, packed by the template, or arranged by a
    step."""
    weights: Callable[[np.ndarray, Any], np.ndarray] = field(repr=False)
    """Constant weights as [filter, channel, *kernel] of the spec."""
    turn: tuple[int, ...] = field(repr=False, default=())
    """The axes of weights of run time in the order that the template wants; () for their own."""

    @property
    def kind(self) -> str:
        """The template's name."""
        return self.template.kind

    @property
    def why(self) -> str:
        """The reason to take it."""
        return f"predicted {self.seconds * 1e6:.1f} us"

    def variants(self, target: CudaTarget, most: int) -> list[Offer]:
        """The same with other tiles, the best first."""
        ranked = self.template.ranked(self.spec, target)
        return [replace(self, tile=tile, seconds=seconds) for tile, seconds in ranked[:most]]

    @property
    def channel_axis(self) -> int:
        """That of weights of run time whose neighbours are multiplied by neighbours in x."""
        return self.turn[-1 if self.template.fastest == "depth" else -2]

    @property
    def packing(self) -> str:
        """The order in which constant weights are wanted: equal ones of a param share bytes."""
        return f"{self.template.order}, {self.spec.groups} groups of {self.spec.group_channels}"

    def pack(self, array: np.ndarray) -> np.ndarray:
        """Constant weights in the template's order."""
        return self.template.pack(self.weights(array, self.spec), self.spec)


@dataclass(frozen=True)
class TemplateKernel:
    """A tuned kernel with the rest of a fused body as its epilogue."""

    offer: Offer
    node: Node = field(repr=False)
    result: Order
    extra: tuple[int, ...]
    """Operand positions of the node that the epilogue reads."""
    layouts: tuple[Layout, ...]

    @property
    def kind(self) -> str:
        return self.offer.kind

    @property
    def key(self) -> Hashable:
        return (self.problem, repr(self.offer.tile))

    @property
    def problem(self) -> Hashable:
        """All that the code depends on but the tile."""
        fused = canonical(self.node) if self.node is not anchor_of(self.node) else ""
        layouts = tuple(map(str, (*self.layouts, self.result)))
        return (self.offer.kind, repr(self.offer.spec), fused, layouts)

    def emit(self, name: str, target: CudaTarget) -> Code:
        offer, anchor = self.offer, anchor_of(self.node)
        bias = offer.spec.bias
        epilogue = Epilogue(self.node, anchor, self.extra, self.layouts, self.result, bias)
        return offer.template.emit(name, offer.spec, offer.tile, epilogue)


Found = tuple[list[Offer], list[str]]


def offers(graph: Graph, node: Node, target: CudaTarget) -> Found:
    """All templates that can serve, best first, and why the others cannot."""
    anchor = anchor_of(node)
    maker = _MAKERS.get(anchor.name)
    if maker is None:
        return [], []
    outer = outer_values(node)
    operands = [v if v is None else outer.get(v, v) for v in anchor.operands]
    values = [v for v in (*operands, *anchor.results, *node.results) if v is not None]
    dtypes = {v.type.dtype for v in values}
    if dtypes != {"f32"}:
        return [], [f"templates compute f32, this is {', '.join(sorted(dtypes))}"]
    if any(v is not None and v.node not in graph.nx for v in operands):
        return [], ["something is computed in front of the anchor"]
    if len(node.results) > 1:
        return [], ["several results"]
    found, rejected = maker(graph, anchor, operands, target)
    return sorted(found, key=lambda offer: offer.seconds), rejected


def _conv(graph: Graph, anchor: Node, operands: list[Any], target: CudaTarget) -> Found:
    x, w, *rest = operands
    rank, attrs = x.type.rank - 2, anchor.attrs
    border = tuple(attrs["padding"]) or (0,) * 2 * rank
    if set(reads(attrs["boundary"], border)) != {ZERO}:
        return [], [f"boundary {', '.join(attrs['boundary'])}, templates have zeros"]
    if rank > 2:
        return [], [f"{rank} spatial axes, templates have 2"]
    spec = GemmSpec(filters=w.type.shape[0], **_window(graph, anchor, operands))
    taps = tuple(range(2, rank + 2))
    turns = {"depth": (0, *taps, 1), "filters": (*taps, 1, 0)}
    return _filtered(spec, x, w, rest, target, _with_channels, turns, _by_preference(target))


def _conv_transpose(graph: Graph, anchor: Node, operands: list[Any], target: CudaTarget) -> Found:
    x, w, *rest = operands
    rank, groups = x.type.rank - 2, anchor.attrs["groups"]
    if rank > 2:
        return [], [f"{rank} spatial axes, templates have 2"]
    spec = PhasedSpec(filters=groups * w.type.shape[1], **_window(graph, anchor, operands))
    taps = tuple(range(2, rank + 2))
    turns = {"depth": (1, *taps, 0), "filters": (*taps, 0, 1)}

    def turned(w: np.ndarray, spec: GemmSpec) -> np.ndarray:
        """w[c,f/groups,*kernel] as [f,c/groups,*kernel]."""
        apart = w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)
        return _with_channels(apart.reshape(spec.filters, -1, *w.shape[2:]), spec)

    return _filtered(spec, x, w, rest, target, turned, turns, _phased(target))


def _window(graph: Graph, anchor: Node, operands: list[Any]) -> dict[str, Any]:
    """What of a GemmSpec a convolution and its transpose have alike."""
    x, w, *rest = operands
    rank, attrs = x.type.rank - 2, anchor.attrs

    def two(values: tuple[int, ...], default: int) -> tuple[int, int]:
        """Values of both axes; the first axis of 1-D images has size 1."""
        given = tuple(values) or (default,) * rank
        return (default, *given) if rank == 1 else given  # type: ignore[return-value]

    return {
        "images": x.type.shape[0],
        "channels": x.type.shape[1],
        "sizes": two(x.type.shape[2:], 1),
        "out": two(anchor.results[0].type.shape[2:], 1),
        "kernel": two(w.type.shape[2:], 1),
        "stride": two(attrs["stride"], 1),
        "dilation": two(attrs["dilation"], 1),
        "padding": two(tuple(attrs["padding"])[:rank], 0),
        "groups": attrs["groups"],
        "bias": bool(rest and rest[0] is not None),
        "packed": graph.array(w) is not None,
    }


def _filtered(
    spec: GemmSpec,
    x: Value,
    w: Value,
    rest: list[Any],
    target: CudaTarget,
    weights: Callable[[np.ndarray, GemmSpec], np.ndarray],
    turns: dict[str, tuple[int, ...]],
    templates: Iterator[tuple[Template, ...]],
) -> Found:
    """Offers for images that become images; as `_products` has it."""
    bias = [(rest[0], "plain")] if spec.bias else []
    given = ((x, "channels last"), (w, "packed" if spec.packed else "arranged"), *bias)
    spec, turns = _whole_vectors(spec, x, target), {} if spec.packed else turns
    return _products(spec, given, "channels last", target, weights, turns, templates)


def _whole_vectors(spec: GemmSpec, x: Value, target: CudaTarget) -> GemmSpec:
    """More channels, of zeros, where x has to be copied anyway: tensor cores want them by fours.

    Operands of 16 bits come two at a time at least, so an odd number is worth a copy too; weights
    of run time have rows of whole chunks of 16 bytes only if channels come by eights, and so have
    the taps of a phase.
    """
    copied = x.node.kind == "input" or (target.storage and spec.channels % 2)
    if target.precision == "exact" or spec.groups > 1 or not copied:
        return spec
    chunks = not spec.packed or isinstance(spec, PhasedSpec)
    unit = 8 if target.storage and chunks else 4
    return replace(spec, channels=-(-spec.channels // unit) * unit)


def _with_channels(w: np.ndarray, spec: GemmSpec) -> np.ndarray:
    """Weights [f, c, *kernel] with zeros for channels that x has in addition."""
    more = spec.group_channels - w.shape[1]
    return np.pad(w, [(0, 0), (0, more)] + [(0, 0)] * (w.ndim - 2))


def _matmul(graph: Graph, anchor: Node, operands: list[Any], target: CudaTarget) -> Found:
    x, w = operands
    constant = graph.array(w) is not None and w.type.rank == 2
    batch, rows = x.type.shape[:-2], x.type.shape[-2]
    if w.type.rank == 2:
        batch, rows = (), prod(x.type.shape[:-1])  # one w for all: so many more rows
    elif x.type.rank != 2 and batch != w.type.shape[:-2]:
        return [], ["batch axes that broadcast"]
    spec = GemmSpec(
        images=rows,
        channels=x.type.shape[-1],
        sizes=(1, 1),
        filters=w.type.shape[-1],
        out=(1, 1),
        batch=prod(w.type.shape[:-2]) if x.type.rank == 2 else prod(batch),
        shared_x=x.type.rank == 2 and w.type.rank > 2,
        shared_w=w.type.rank == 2,
        packed=constant,
    )
    given = ((x, "plain"), (w, "packed" if constant else "arranged"))
    *some, depth, filters = range(w.type.rank)
    turns = {} if constant else {"depth": (*some, filters, depth)}
    return _products(spec, given, "plain", target, lambda w, _: w.T, turns, _by_preference(target))


def _weight_grad(graph: Graph, anchor: Node, operands: list[Any], target: CudaTarget) -> Found:
    """A convolution of x by dy in which images are channels, and stride is dilation."""
    x, dy = operands
    attrs, rank = anchor.attrs, x.type.rank - 2
    if rank != 2 or attrs["groups"] != 1 or min(attrs["padding"], default=0) < 0:
        return [], ["a gradient of weights in groups, with x cut, or not in a plane"]
    _, _, *kernel = anchor.results[0].type.shape
    spec = GemmSpec(
        images=x.type.shape[1],
        channels=x.type.shape[0],
        sizes=x.type.shape[2:],
        filters=dy.type.shape[1],
        out=(kernel[0], kernel[1]),
        kernel=dy.type.shape[2:],
        stride=tuple(attrs["dilation"]) or (1, 1),
        dilation=tuple(attrs["stride"]) or (1, 1),
        padding=(tuple(attrs["padding"]) or (0,) * 4)[:2],
        packed=False,
    )
    turns: dict[str, tuple[int, ...]] = {"depth": (1, 2, 3, 0), "filters": (2, 3, 0, 1)}
    given = ((x, "images last"), (dy, "arranged"))
    return _products(
        spec, given, "filters last", target, _with_channels, turns, _by_preference(target)
    )


def _products(
    spec: GemmSpec,
    operands: tuple[tuple[Value, str], ...],
    result: str,
    target: CudaTarget,
    weights: Callable[[np.ndarray, GemmSpec], np.ndarray],
    turns: dict[str, tuple[int, ...]],
    templates: Iterator[tuple[Template, ...]],
) -> Found:
    """weights: those of the node as [filter, channel, *kernel] of the spec. turns: the axes of
    weights of run time by what a template wants fastest. templates: by preference."""
    rejected = ["tensor cores: precision exact"] if target.precision == "exact" else []
    for equals in templates:
        found = []
        for template in equals:
            if reason := template.reject(spec):
                rejected.append(f"{template.kind}: {reason}")
                continue
            tile, seconds = template.choose(spec, target)
            turn = turns.get(template.fastest, ())
            found.append(Offer(template, spec, tile, seconds, result, operands, weights, turn))
        if found:
            return found, rejected
    return [], rejected


_FMA, _DEPTHWISE = FmaGemm(), {storage: Depthwise(storage) for storage in ("", "f16", "bf16")}
_TENSOR = {precision: TensorGemm(precision) for precision in ("tf32", "f16", "bf16")}
_WARPGROUP = {precision: WarpgroupGemm(precision) for precision in ("f16", "bf16")}


def _by_preference(target: CudaTarget) -> Iterator[tuple[Template, ...]]:
    """Templates for products; of several that are as good the predicted time decides."""
    if target.arch == "sm_90a" and target.precision in _WARPGROUP:
        yield _WARPGROUP[target.precision], _TENSOR[target.precision]
    elif target.precision in _TENSOR:
        yield (_TENSOR[target.precision],)
    yield (_FMA,)
    yield (_DEPTHWISE[target.storage],)


def _phased(target: CudaTarget) -> Iterator[tuple[Template, ...]]:
    """Those for products, phase by phase."""
    for templates in _by_preference(target):
        if found := tuple(PhasedGemm(t) for t in templates if isinstance(t, Gemm)):
            yield found


_MAKERS: dict[str, Callable[[Graph, Node, list[Any], CudaTarget], Found]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
    "conv_weight_grad": _weight_grad,
}
