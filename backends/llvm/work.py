"""What the plan and the templates' offers have between them: a node to be computed, an offer.

Also specs from attributes, which several offers share. `offers.py` and `gradient_offers.py` make
the offers; the templates themselves know no nodes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from cnnir.backends.llvm.kernels.pool import PoolSpec
from cnnir.backends.llvm.kernels.pooling import Pooling
from cnnir.backends.llvm.kernels.spec import ConvSpec, Target
from cnnir.ir import Graph, Node, Value

FIRST_LAYER_CHANNELS = 4
"""Up to so many input channels are read row-major: a block of them would be mostly padding."""

ROUNDS = "it rounds differently, and precision is exact"
"""Why sums that are not added in the order of the definition are ruled out."""

TRANSFORMED_FLOPS = 2e5
"""Of a convolution from which on transforms are considered: there must be something to save."""


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
    def leaves(self) -> bool:
        """Whether the result is the caller's, who wants it row-major."""
        results = self.node.results
        return any(self.graph.is_output(value) for value in results)

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

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed weights."""
        return 4 * int(self.template.packed_size(self.spec, self.tiling))

    def pack(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Constant weights as the template reads them; written to `out` where it is given."""
        packed: np.ndarray = self.template.pack(array, self.spec, self.tiling, out)
        return packed


Found = tuple[list[Offer], list[str]]
"""What can serve, and why the rest cannot."""


def against_transforms(spec: ConvSpec, target: Target) -> str | None:
    """Why a convolution that Winograd or Fourier transforms could serve should not be."""
    if target.exact:
        return ROUNDS
    if spec.flops < TRANSFORMED_FLOPS:
        return f"{spec.flops / 1e6:.2f} MFLOP, too few to gain from"
    return None


@lru_cache(maxsize=4096)
def tiling_of(template: ModuleType, spec: Hashable, target: Target) -> Any:
    """A template's choice, made once for equal shapes."""
    return template.choose(spec, target)


def filled(values: tuple[int, ...], rank: int, default: int) -> tuple[int, ...]:
    """An attribute, one entry an axis."""
    return tuple(values) or (default,) * rank


def windows_spec(
    attrs: dict[str, Any],
    x: tuple[int, ...],
    filters: int,
    kernel: tuple[int, ...],
    lanes: int,
) -> ConvSpec:
    """The windows of a convolution of x with so many filters."""
    rank = len(x) - 2
    return ConvSpec(
        batch=x[0],
        channels=x[1],
        filters=filters,
        sizes=x[2:],
        kernel=kernel,
        stride=filled(attrs["stride"], rank, 1),
        dilation=filled(attrs["dilation"], rank, 1),
        padding=filled(attrs["padding"], 2 * rank, 0),
        groups=attrs["groups"],
        boundary=attrs.get("boundary", ()),
        lanes=lanes,
    )


def pool_spec(
    attrs: dict[str, Any],
    x: tuple[int, ...],
    out: tuple[int, ...],
    kind: str,
    count_padding: bool,
    lanes: int,
) -> PoolSpec:
    """The windows of a pool of x."""
    rank = len(x) - 2
    return PoolSpec(
        kind=kind,
        batch=x[0],
        channels=x[1],
        sizes=x[2:],
        out_sizes=out,
        kernel=attrs["kernel"],
        stride=filled(attrs["stride"], rank, 1),
        dilation=filled(attrs["dilation"], rank, 1),
        padding=filled(attrs["padding"], 2 * rank, 0),
        count_padding=count_padding,
        lanes=lanes,
    )
