"""Products of the CUDA templates on the emulator, and what numpy makes of the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cuda_harness import Emulated
from loops_harness import node_of

from cnnir.backends.cuda.emulator import Emulator
from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gemm import Gemm, Tile
from cnnir.backends.cuda.kernels.gemm_fma import FmaGemm
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.kernels.gemm_tensor import TensorGemm, rounded
from cnnir.backends.cuda.kernels.gemm_warpgroup import WarpgroupGemm
from cnnir.backends.cuda.layout import ChannelsLast, Plain, stored
from cnnir.backends.cuda.schedule import Code
from cnnir.evaluate import evaluate_node
from cnnir.ir import Node

MARGIN = 1 << 20
"""Bytes on either side of every buffer, so that broken kernels break nothing else."""
SCHEDULES = [(last_first, early) for last_first in (False, True) for early in (False, True)]


def conv(
    images: int,
    channels: int,
    sizes: tuple[int, int],
    filters: int,
    kernel: tuple[int, int] = (1, 1),
    **attrs: Any,
) -> Conv:
    """A convolution with bias. attrs: stride, dilation, padding (all four), groups."""
    groups = attrs.get("groups", 1)
    types = f"f32[{images},{channels},{sizes[0]},{sizes[1]}]"
    weights = f"f32[{filters},{channels // groups},{kernel[0]},{kernel[1]}]"
    node = node_of("conv", types, weights, f"f32[{filters}]", **attrs)
    spec = GemmSpec(
        images=images,
        channels=channels,
        sizes=sizes,
        filters=filters,
        out=node.results[0].type.shape[2:],
        kernel=kernel,
        stride=attrs.get("stride", (1, 1)),
        dilation=attrs.get("dilation", (1, 1)),
        padding=attrs.get("padding", (0, 0))[:2],
        groups=groups,
        bias=True,
    )
    return Conv(spec, node)


class Remembered(dict[str, bytes]):
    """Compiled kernels of this process, so that every schedule has the same."""

    put = dict.__setitem__


COMPILED: Any = Remembered()


class Roomy:
    """A buffer in the middle of a margin, of NaN where it is read."""

    def __init__(self, storage: np.ndarray, fill: int = 0xFF) -> None:
        self.raw = np.full(storage.nbytes + 2 * MARGIN + 256, fill, np.uint8)
        self.fill = fill
        self.start = MARGIN + (-self.raw.ctypes.data - MARGIN) % 256
        self.stop = self.start + storage.nbytes
        self.view = self.raw[self.start : self.stop].view(storage.dtype)
        self.view[...] = storage.reshape(-1)

    @property
    def address(self) -> int:
        return self.raw.ctypes.data + self.start

    def intact(self) -> bool:
        """Whether nobody wrote to the margin."""
        margins = self.raw[: self.start], self.raw[self.stop :]
        return all(bool((margin == self.fill).all()) for margin in margins)


@dataclass
class Conv:
    """A convolution as a product, and as the node that says what it means."""

    spec: GemmSpec
    node: Node

    def code(self, template: Gemm, tile: Tile, name: str = "k", storage: str = "") -> Code:
        """The kernels; storage: of the result, where it is not f32."""
        result = self.node.results[0]
        last = result.type.shape[1] > 1
        layout = ChannelsLast(self.spec.filters, storage) if last else Plain(storage)
        epilogue = Epilogue(self.node, self.node, (), (), layout, bias=True)
        return template.emit(name, self.spec, tile, epilogue)

    def arrays(self, template: Gemm) -> tuple[list[np.ndarray], np.ndarray]:
        """Operands, and the result that they have in f64 after rounding to what is multiplied."""
        rng = np.random.default_rng(self.spec.depth)
        x, w, b = (
            rng.standard_normal(v.type.shape).astype(np.float32) for v in self.node.operands if v
        )
        taken = [kept(x, template.storage or template.dtype), kept(w, template.dtype)]
        (want,) = evaluate_node(self.node, [a.astype(np.float64) for a in (*taken, b)], "f64")
        return [x, w, b], want

    def run(
        self,
        template: Gemm,
        code: Code,
        last_first: bool = False,
        early: bool = False,
        storage: str = "",
    ) -> float:
        """The error relative to the largest value; a fault raises, a write outside fails."""
        (x, w, b), want = self.arrays(template)
        emulated = Emulated(
            {"k": code.text}, dict(code.launches), Emulator(COMPILED, last_first, early)
        )
        last = ChannelsLast(self.spec.channels, template.storage)
        y = Roomy(stored(np.full(want.size, np.nan, np.float32), storage), 0xAB)
        scratch = Roomy(np.full(code.scratch_bytes // 4, np.nan, np.float32))
        operands = [Roomy(last.pack(x)), Roomy(template.pack(w, self.spec)), Roomy(b)]
        error = Roomy(np.zeros(1, np.int32))
        for name, _ in code.launches:
            emulated.launch(name, [p.address for p in (error, scratch, *operands, y)])
        assert all(p.intact() for p in (y, scratch, *operands))
        got = ChannelsLast(self.spec.filters).unpack(y.view, want.shape)
        difference = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
        return float(difference)


def kept(array: np.ndarray, dtype: str) -> np.ndarray:
    """What of f32 a type keeps."""
    if dtype == "tf32":
        return rounded(array)
    return stored(array, dtype).astype(np.float32)


def tiles(template: Gemm, splits: int = 1) -> Iterator[Tile]:
    """Every tile of a template."""
    for tile in template.tiles:
        yield replace(tile, splits=splits)


TEMPLATES: tuple[Gemm, ...] = (
    FmaGemm(),
    *map(TensorGemm, ("tf32", "f16", "bf16")),
    *map(WarpgroupGemm, ("f16", "bf16")),
)
