"""Tuned kernels: what each would make of a node, or the reason why it cannot serve.

An offer says in which layouts it wants the operands and predicts the time, so that the plan can
choose. The templates in `kernels/` know shapes; nodes are the business of this file.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels import gemm_fma, gemm_tf32
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import CudaTarget
from cnnir.backends.fused import anchor_of, canonical, outer_values
from cnnir.ir import Graph, Node, Value
from cnnir.loops import Layout
from cnnir.ops.boundary import ZERO, reads


@dataclass(frozen=True)
class Offer:
    """A template that can serve, with its tile and predicted time."""

    template: ModuleType = field(repr=False)
    spec: Any
    tile: Any
    seconds: float
    channels_last: bool
    """Whether the result is images with channels last, else row-major."""
    operands: tuple[tuple[Value, str], ...] = field(repr=False)
    """(value, how): channels last, plain, or packed by the template."""
    weights: Callable[[np.ndarray], np.ndarray] = field(repr=False, default=np.asarray)
    """Constant weights as [filter, channel, *kernel]."""

    @property
    def kind(self) -> str:
        """The template's name."""
        return str(self.template.KIND)

    @property
    def why(self) -> str:
        """The reason to take it."""
        return f"predicted {self.seconds * 1e6:.1f} us"

    @property
    def packing(self) -> str:
        """The order in which constant weights are wanted: equal ones of a param share bytes."""
        return f"{self.template.ORDER}, {self.spec.groups} groups"

    def pack(self, array: np.ndarray) -> np.ndarray:
        """Constant weights in the template's order."""
        packed: np.ndarray = self.template.pack(self.weights(array), self.spec)
        return packed


@dataclass(frozen=True)
class TemplateKernel:
    """A tuned kernel with the rest of a fused body as its epilogue."""

    offer: Offer
    node: Node = field(repr=False)
    result: Layout
    extra: tuple[int, ...]
    """Operand positions of the node that the epilogue reads."""
    layouts: tuple[Layout, ...]

    @property
    def kind(self) -> str:
        return self.offer.kind

    @property
    def key(self) -> Hashable:
        shape = (self.offer.kind, repr(self.offer.spec), repr(self.offer.tile))
        fused = canonical(self.node) if self.node is not anchor_of(self.node) else ""
        return (*shape, fused, tuple(map(str, (*self.layouts, self.result))))

    def emit(self, name: str, target: CudaTarget) -> Code:
        epilogue = Epilogue(self.node, anchor_of(self.node), self.extra, self.layouts, self.result)
        code: Code = self.offer.template.emit(name, self.offer.spec, self.offer.tile, epilogue)
        return code


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
    if graph.array(w) is None:
        return [], ["weights are known only at run time"]
    rank, attrs = x.type.rank - 2, anchor.attrs
    if rank > 2:
        return [], [f"{rank} spatial axes, templates have 2"]

    def two(values: tuple[int, ...], default: int) -> tuple[int, int]:
        """Values of both axes; the first axis of 1-D images has size 1."""
        given = tuple(values) or (default,) * rank
        return (default, *given) if rank == 1 else given  # type: ignore[return-value]

    border = tuple(attrs["padding"]) or (0,) * 2 * rank
    if set(reads(attrs["boundary"], border)) != {ZERO}:
        return [], [f"boundary {', '.join(attrs['boundary'])}, templates have zeros"]
    begins = border[:rank]
    spec = GemmSpec(
        images=x.type.shape[0],
        channels=x.type.shape[1],
        sizes=two(x.type.shape[2:], 1),
        filters=w.type.shape[0],
        out=two(anchor.results[0].type.shape[2:], 1),
        kernel=two(w.type.shape[2:], 1),
        stride=two(attrs["stride"], 1),
        dilation=two(attrs["dilation"], 1),
        padding=two(begins, 0),
        groups=attrs["groups"],
        bias=bool(rest and rest[0] is not None),
    )
    bias = [(rest[0], "plain")] if spec.bias else []
    return _products(spec, ((x, "channels last"), (w, "packed"), *bias), True, target)


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
    how = "packed" if constant else "plain"
    return _products(spec, ((x, "plain"), (w, how)), False, target, np.transpose)


def _products(
    spec: GemmSpec,
    operands: tuple[tuple[Value, str], ...],
    channels_last: bool,
    target: CudaTarget,
    weights: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> Found:
    if reason := spec.reject():
        return [], [f"{gemm_fma.KIND}: {reason}"]
    offer = partial(Offer, channels_last=channels_last, operands=operands, weights=weights)
    if target.precision == "tf32" and (reason := gemm_tf32.reject(spec)) is None:
        return [offer(gemm_tf32, spec, *gemm_tf32.choose(spec, target))], []
    rejected = [f"{gemm_tf32.KIND}: {reason or 'precision exact'}"]
    return [offer(gemm_fma, spec, *gemm_fma.choose(spec, target))], rejected


_MAKERS: dict[str, Callable[[Graph, Node, list[Any], CudaTarget], Found]] = {
    "conv": _conv,
    "matmul": _matmul,
}
