"""How many blocks of a kernel a multiprocessor holds at once, and what share of its warps that is.

Source: NVIDIA, CUDA C++ Programming Guide, appendix "Compute Capabilities", tables of technical
specifications; registers go to warps in units of 256, shared memory in units of 128 bytes, of which
the system keeps 1 KiB a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from cnnir.backends.cuda.launch import Launch
from cnnir.backends.cuda.nvrtc import Resources

WARP, REGISTERS = 32, 65536
_REGISTER_UNIT, _SHARED_UNIT, _RESERVED = 256, 128, 1024


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor of an architecture holds."""

    warps: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS = {
    "80": Multiprocessor(64, 32, 164 << 10),
    "86": Multiprocessor(48, 16, 100 << 10),
    "87": Multiprocessor(48, 16, 164 << 10),
    "89": Multiprocessor(48, 24, 100 << 10),
    "90": Multiprocessor(64, 32, 228 << 10),
    "100": Multiprocessor(64, 32, 228 << 10),
    "103": Multiprocessor(64, 32, 228 << 10),
    "110": Multiprocessor(48, 24, 228 << 10),
    "120": Multiprocessor(48, 24, 100 << 10),
    "121": Multiprocessor(48, 24, 100 << 10),
}
"""Compute capability, times ten, to its limits."""


@dataclass(frozen=True)
class Occupancy:
    """What of a multiprocessor a kernel can fill."""

    blocks: int
    """Blocks that it holds at once."""
    share: float
    """Of the warps that it could hold."""
    bound: str
    """What there is too little of for more: "warps", "blocks", "registers" or "shared memory"."""

    def __str__(self) -> str:
        return f"occupancy {self.share:.0%} by {self.bound}"


def occupancy(launch: Launch, used: Resources, arch: str) -> Occupancy | None:
    """The occupancy of a kernel on an architecture such as sm_90a; None where its limits are not
    known."""
    limits = MULTIPROCESSORS.get(arch.removeprefix("sm_").rstrip("af"))
    if limits is None:
        return None
    warps = -(-launch.threads // WARP)
    registers = _rounded(used.registers * WARP, _REGISTER_UNIT) * warps
    shared = _rounded(launch.shared_bytes + used.shared_bytes + _RESERVED, _SHARED_UNIT)
    room = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": REGISTERS // registers if registers else limits.blocks,
        "shared memory": limits.shared_bytes // shared,
    }
    bound = min(room, key=lambda kind: room[kind])
    return Occupancy(room[bound], room[bound] * warps / limits.warps, bound)


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
