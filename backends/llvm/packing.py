"""Run-time weights on their way to a template: the layout of the packed copy, and its kernel.

The plan asks for a `RunTimePack` where a template wants packed weights that are no param. It says
how many floats the copy has and writes the code that makes it. Weights that a graph turns round
first (transpose, slice, reshape: the gradient of a convolution by its input) are taken from where
they lie before that, see `origin`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.kernels import repack, winograd, winograd_pack
from cnnir.backends.llvm.layout import Plain
from cnnir.backends.llvm.offers import Offer
from cnnir.backends.llvm.schedule import Code
from cnnir.backends.llvm.target import CpuTarget
from cnnir.errors import BackendError
from cnnir.ir import Node, Value

MOVES = ("transpose", "slice", "reshape")
"""What only says in which order weights are read."""

_PIECES: dict[Hashable, list[repack.Piece]] = {}
MOST_KNOWN = 1024
"""Equal layers pack alike, and to find out how takes a moment."""


@dataclass(frozen=True)
class Packed(Plain):
    """The layout of a packed copy: of so many floats, in an order that one template knows."""

    key: Hashable = None
    floats: int = field(default=0, compare=False)

    def size(self, shape: tuple[int, ...]) -> int:
        """Elements of storage."""
        return self.floats

    def offset(self, shape: tuple[int, ...], index: Sequence[Any]) -> Any:
        """Nobody but the template reads it."""
        raise BackendError("packed weights have no elements")

    def __str__(self) -> str:
        return "packed"


@dataclass(frozen=True)
class PackKernel:
    """Packs the weights of an offer while the model runs."""

    offer: Offer
    node: Node = field(repr=False)
    """The convolution or matmul that wants them."""
    addresses: np.ndarray = field(repr=False, compare=False)
    """Where each weight lies, in floats."""
    lanes: int
    kind: str = "pack"

    @cached_property
    def key(self) -> Hashable:
        turned = (self.addresses.shape, hashlib.sha256(self.addresses.tobytes()).hexdigest())
        return ("pack", self.offer.kind, repr(self.offer.spec), repr(self.offer.tiling), turned)

    @cached_property
    def _lies(self) -> winograd_pack.Lies | None:
        if self.offer.template is not winograd:
            return None
        lies = winograd_pack.Lies.of(self.addresses)
        if lies is None:
            raise BackendError("weights of a convolution that lie in no regular order")
        return lies

    @cached_property
    def _pieces(self) -> list[repack.Piece]:
        if self.key not in _PIECES:
            offer = self.offer
            where = repack.moved(
                offer.template, offer.spec, offer.tiling, self.addresses, self.lanes
            )
            if len(_PIECES) >= MOST_KNOWN:
                _PIECES.clear()
            _PIECES[self.key] = repack.pieces(where)
        return _PIECES[self.key]

    @cached_property
    def layout(self) -> Packed:
        """The layout of what it makes."""
        offer = self.offer
        if self._lies is not None:
            geometry = winograd.Geometry(offer.spec, offer.tiling)
            return Packed(self.key, geometry.weights * geometry.chunks)
        return Packed(self.key, self.lanes * sum(piece.vectors for piece in self._pieces))

    def emit(self, module: ir.Module, name: str, target: CpuTarget) -> Code:
        offer = self.offer
        if self._lies is not None:
            code = winograd_pack.emit(module, name, offer.spec, offer.tiling, self._lies)
        else:
            code = repack.emit(module, name, self._pieces, self.lanes)
        return Code(code.name, code.items, code.scratch_bytes, code.summary)

    def error(self, code: int) -> str:
        raise BackendError(f"{self.kind} stored error {code}, but it checks no indices")


def origin(value: Value, stops: Callable[[Value], bool]) -> tuple[Value, np.ndarray]:
    """What a value is a rearrangement of, and where each of its elements lies in that.

    stops: whether a value is there already, so that there is no need to look further back.
    """
    chain: list[Node] = []
    while not stops(value) and value.node.name in MOVES:
        chain.append(value.node)
        value = _operand(value.node)
    addresses = np.arange(value.type.size, dtype=np.int64).reshape(value.type.shape)
    for node in reversed(chain):
        assert node.op is not None
        addresses = node.op.evaluate(addresses, **node.attrs)
    return value, addresses


def _operand(node: Node) -> Value:
    value = node.operands[0]
    assert value is not None
    return value
