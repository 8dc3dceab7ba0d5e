"""Gemm: what the templates for products have in common: choosing a tile, and the kernels around it.

A template has a text for the kernel itself (`gemm_fma.py`, `gemm_tensor.py`). What they share of
that text is in `gather.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from cnnir.backends.cuda.epilogue import Epilogue
from cnnir.backends.cuda.kernels.gather import (
    INSIDE,
    ROWS,
    TERM,
    constants,
    piece,
    results,
    signature,
    term_of_all,
)
from cnnir.backends.cuda.kernels.gemm_spec import GemmSpec
from cnnir.backends.cuda.kernels.split import adding, most_splits
from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.schedule import Code
from cnnir.backends.cuda.target import CudaTarget


@dataclass(frozen=True)
class Tile(ABC):
    """What a block computes: bm rows, bn columns. `share` is the part of peak that it can reach."""

    bm: int
    bn: int
    share: float
    splits: int
    """Parts of every sum, each by a block of its own."""

    @property
    @abstractmethod
    def threads(self) -> int:
        """Of a block."""

    @property
    @abstractmethod
    def shared_bytes(self) -> int:
        """Shared memory of a block."""


class Gemm(ABC):
    """A template for products. `dtype` is what operands are multiplied in, `rate` how fast."""

    kind: str
    order: str
    """Of constant weights: equal ones share their bytes."""
    fastest: str
    """What neighbours in weights of run time are: "depth" or "filters"."""
    dtype: str
    rate: str
    storage: str = ""
    """What x and w are stored as, where it is not f32."""
    tiles: tuple[Tile, ...]
    widest: int
    """Neighbouring results that a thread can store at once."""

    @abstractmethod
    def reject(self, spec: GemmSpec) -> str | None:
        """Why this template cannot serve, or None."""

    @abstractmethod
    def pack(self, w: np.ndarray, spec: GemmSpec) -> np.ndarray:
        """Weights [f, c, *kernel] as the kernel reads them."""

    @abstractmethod
    def terms(self, tile: Tile) -> int:
        """Terms of every sum in a tile."""

    @abstractmethod
    def constants(self, spec: GemmSpec, tile: Tile) -> dict[str, int]:
        """What the text has to know of the tile."""

    @abstractmethod
    def text(self, tile: Tile) -> str:
        """The kernel, with places for what `emit` fills in."""

    def choose(self, spec: GemmSpec, target: CudaTarget) -> tuple[Tile, float]:
        """The tile and split of least predicted time, and that time in seconds."""
        return self.ranked(spec, target)[0]

    def ranked(self, spec: GemmSpec, target: CudaTarget) -> list[tuple[Tile, float]]:
        """All tiles and splits with their predicted seconds, the least first."""
        tiles = (tile for one in self.tiles for tile in self._splits(spec, one, target))
        found = [(tile, self.estimate(spec, tile, target)) for tile in tiles]
        return sorted(found, key=lambda pair: pair[1])

    def _splits(self, spec: GemmSpec, tile: Tile, target: CudaTarget) -> list[Tile]:
        parts = most_splits(spec, tile.bm, tile.bn, self.terms(tile), target)
        return [replace(tile, splits=n) for n in parts]

    def estimate(self, spec: GemmSpec, tile: Tile, target: CudaTarget) -> float:
        """Seconds, if every multiprocessor does one block after another."""
        across = -(-spec.group_filters // tile.bn) * spec.groups * spec.batch
        blocks = across * -(-spec.rows // tile.bm)
        results = tile.bm * tile.bn
        return target.gemm_seconds(
            spec.flops, blocks, results, spec.depth, tile.splits, tile.share, self.rate
        )

    def emit(self, name: str, spec: GemmSpec, tile: Tile, epilogue: Epilogue) -> Code:
        """The kernel, and the one that adds what was split."""
        tiles_n, tiles_m = -(-spec.group_filters // tile.bn), -(-spec.rows // tile.bm)
        tiles_k = -(-spec.depth // self.terms(tile))
        together = piece(spec, epilogue, self.widest)
        values = spec.constants() | {
            "BM": tile.bm,
            "BN": tile.bn,
            "BK": self.terms(tile),
            "THREADS": tile.threads,
            "TILES_N": tiles_n,
            "TILES_K": tiles_k,
            "TILES_A_SPLIT": -(-tiles_k // tile.splits),
            "SPLITS": tile.splits,
            "PIECE": together,
            **self.constants(spec, tile),
        }
        parameters = signature(epilogue, self.storage, self.storage)
        text = self.text(tile).format(
            name=name,
            threads=tile.threads,
            parameters=",\n    ".join(parameters),
            constants=constants(values),
            rows=ROWS,
            term=TERM,
            inside=INSIDE,
            results=results(name, spec, epilogue),
            depth_of_w=term_of_all(spec, "depth"),
        )
        grid = (tiles_n * tiles_m, spec.groups * spec.batch, tile.splits)
        launches = [(name, Launch(grid, (tile.threads, 1, 1), tile.shared_bytes))]
        texts, scratch = [epilogue.function(name, together), text], 0
        if tile.splits > 1:
            more, launch, scratch = adding(name, spec, tile.splits, parameters, epilogue, together)
            texts.append(more)
            launches.append((f"{name}_add", launch))
        split = f", depth in {tile.splits}" if tile.splits > 1 else ""
        summary = f"{tile.bm}x{tile.bn}x{self.terms(tile)}, {tile}{split}"
        return Code("\n".join(texts), tuple(launches), scratch, (), summary)
