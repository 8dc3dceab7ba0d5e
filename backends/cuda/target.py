"""CudaTarget: the device a program is compiled for, as far as plans and code depend on it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cnnir.errors import BackendError

PRECISIONS = ("default", "exact", "tf32", "f16", "bf16")
LEAST = 80
"""Compute capability that the tuned kernels' instructions need, times ten."""

RATES = {
    **{"f32": 0.5e12, "tf32": 2.3e12, "f16": 4.6e12, "bf16": 4.6e12},
    **{"wgmma f16": 7.5e12, "wgmma bf16": 7.5e12},
}
"""Operations a second of one multiprocessor by what is multiplied: plain f32; the others by
mma.sync (62 % of 495/132 and 989/132), or by wgmma."""
BANDWIDTH, LAUNCH = 3.3e12, 2e-6
"""Bytes a second from memory, seconds from one kernel of a graph to the next."""


@dataclass(frozen=True)
class CudaTarget:
    """A kind of device. Rates are what a cost model needs, not what was measured."""

    arch: str
    """Such as sm_90a: cubins run on devices of exactly this kind."""
    precision: str = "default"
    """exact: products of f32 in f32. tf32: operands of products rounded to 10 bits of mantissa.
    f16, bf16: operands of products, and images between kernels, in 16 bits. default becomes tf32
    where tensor cores are, which is every architecture here, and exact where they are emulated."""
    processors: int = 132
    """Multiprocessors, each of which holds several blocks of threads."""
    emulated: bool = False

    def __post_init__(self) -> None:
        found = re.fullmatch(r"sm_(\d{2,3})([af]?)", self.arch)
        if found is None or int(found[1]) < LEAST:
            raise BackendError(
                f"there is no CUDA architecture {self.arch!r} here; wanted sm_{LEAST} or newer, "
                "such as sm_80, sm_90 or sm_90a"
            )
        if self.precision not in PRECISIONS:
            raise BackendError(
                f"precision {self.precision!r}, wanted one of {', '.join(PRECISIONS)}"
            )
        if self.precision == "default":
            object.__setattr__(self, "precision", "exact" if self.emulated else "tf32")

    def gemm_seconds(
        self,
        flops: int,
        blocks: int,
        results: int,
        depth: int,
        splits: int,
        share: float,
        kind: str,
    ) -> float:
        """Predicted time of a product whose blocks have so many results each, by rounds of blocks.

        share: the part of the multiprocessor's peak that a full block reaches, of that
        kind of rate. A split costs another launch, and its sums go to memory and back.
        """
        rate = share * RATES[kind]
        rounds = -(-blocks * splits // self.processors)
        seconds = rounds * 2 * results * -(-depth // splits) / rate
        parts = 2 * 4 * flops / (2 * depth) * splits / BANDWIDTH if splits > 1 else 0.0
        return seconds + parts + (LAUNCH if splits > 1 else 0.0)

    @property
    def storage(self) -> str:
        """What activations of f32 are stored as, where that is not f32."""
        return self.precision if self.precision in ("f16", "bf16") else ""

    @property
    def name(self) -> str:
        """As in `compile(target=...)`."""
        return "cuda-emu" if self.emulated else f"cuda:{self.arch}"
