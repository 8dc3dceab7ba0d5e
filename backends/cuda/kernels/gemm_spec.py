"""A product of matrices one of which is gathered: what convolution and matmul are to a template.

x is images with channels last, seen as a matrix whose rows are positions of the result and whose
columns run over taps and channels, channels fastest. For matmul a row is an image of one position.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

LONGEST = (1 << 31) - 1
"""Elements of a tensor that a kernel addresses by 32-bit numbers."""


@dataclass(frozen=True)
class Phase:
    """Which taps a product has and where its results go, if those are only some of all.

    Result i of an axis is number `first` + i `stride` of `sizes`; tap j is number `tap` + j `step`
    of `kernel`.
    """

    first: tuple[int, int]
    stride: tuple[int, int]
    sizes: tuple[int, int]
    tap: tuple[int, int]
    step: tuple[int, int]
    kernel: tuple[int, int]


@dataclass(frozen=True)
class GemmSpec:
    """y[b, row, f] = sum over taps and channels of x[b, row gathered, c] w[b, tap, c, f] + bias[f].

    sizes are (height, width), padding is (top, left). Filters and channels count all groups.
    """

    images: int
    channels: int
    sizes: tuple[int, int]
    filters: int
    out: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    batch: int = 1
    shared_x: bool = False
    """One x for the whole batch."""
    shared_w: bool = False
    bias: bool = False
    packed: bool = True
    """Whether w is a constant, in the order that the template asks for; else [batch, depth, f]."""
    phase: Phase | None = None
    """Where taps and results are only some of those that w and y have."""

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return self.images * prod(self.out)

    @property
    def depth(self) -> int:
        """Terms of a sum."""
        return prod(self.kernel) * self.group_channels

    @property
    def whole_depth(self) -> int:
        """Terms that w has for a result."""
        return prod(self.phase.kernel if self.phase else self.kernel) * self.group_channels

    @property
    def group_channels(self) -> int:
        """Channels of x in a group."""
        return self.channels // self.groups

    @property
    def group_filters(self) -> int:
        """Channels of the result in a group."""
        return self.filters // self.groups

    @property
    def flops(self) -> int:
        """Operations, a multiplication and an addition each counting as one."""
        return 2 * self.batch * self.rows * self.depth * self.filters

    @property
    def pitch(self) -> int:
        """Elements from a row of unpacked or packed w to the next, where filters are fastest."""
        return -(-self.group_filters // 4) * 4 if self.packed else self.group_filters

    def vector(self, size: int) -> int:
        """Channels of x, of so many bytes each, that can be read at once: 16 bytes at most."""
        counts = (8, 4, 2, 1)[0 if size == 2 else 1 :]
        return next(n for n in counts if self.group_channels % n == self.channels % n == 0)

    def too_large(self) -> str | None:
        """Why no template can address it, or None."""
        sizes = {
            "x": self.images * self.channels * prod(self.sizes),
            "w": self.groups * self.depth * self.pitch,
            "y": self.rows * self.filters,
        }
        if 0 in (*sizes.values(), self.batch, self.depth):
            return "nothing to compute"
        if too := [name for name, size in sizes.items() if size > LONGEST]:
            return f"more elements than 32 bits count in {', '.join(too)}"
        return None

    def reject(self) -> str | None:
        """Why it is no product of matrices to a template, or None."""
        if reason := self.too_large():
            return reason
        if self.groups * self.batch > 65535:
            return "more groups than a grid has"
        if self.groups > 1 and min(self.group_channels, self.group_filters) < 8:
            return f"groups of {self.group_channels} to {self.group_filters} channels"
        return None

    def constants(self) -> dict[str, int]:
        """The names by which the text of a template knows the problem."""
        return {
            "ROWS": self.rows,
            "H": self.sizes[0],
            "W": self.sizes[1],
            "C": self.channels,
            "CG": self.group_channels,
            "K": self.filters,
            "KG": self.group_filters,
            "TAPS": prod(self.kernel),
            "S": max(1, self.kernel[1]),
            "OUT_H": self.out[0],
            "OUT_W": self.out[1],
            "STRIDE_H": self.stride[0],
            "STRIDE_W": self.stride[1],
            "DILATION_H": self.dilation[0],
            "DILATION_W": self.dilation[1],
            "TOP": self.padding[0],
            "LEFT": self.padding[1],
            "DEPTH": self.depth,
            "WHOLE_DEPTH": self.whole_depth,
            "GROUPS": self.groups,
            "BATCH": self.batch,
            "SHARED_X": int(self.shared_x),
            "SHARED_W": int(self.shared_w),
            "IMAGES": self.images,
        }

    def filters_fastest(self, w: np.ndarray) -> np.ndarray:
        """[group, tap, channel, filter], filters padded to whole vectors, of w[f, c, *kernel]."""
        by_group = self._by_group(w).transpose(0, 2, 3, 1)
        padded = np.zeros((*by_group.shape[:3], self.pitch), np.float32)
        padded[..., : self.group_filters] = by_group
        return padded

    def depth_fastest(self, w: np.ndarray, multiple: int) -> np.ndarray:
        """[group, filter, (tap, channel)], rows padded to a multiple, of w[f, c, *kernel]."""
        by_group = self._by_group(w).transpose(0, 1, 2, 3)
        flat = by_group.reshape(self.groups, self.group_filters, self.depth)
        pitch = -(-self.depth // multiple) * multiple
        padded = np.zeros((self.groups, self.group_filters, pitch), np.float32)
        padded[..., : self.depth] = flat
        return padded

    def _by_group(self, w: np.ndarray) -> np.ndarray:
        """[group, filter, tap, channel]."""
        shape = (self.groups, self.group_filters, self.group_channels, prod(self.kernel))
        return w.reshape(shape).swapaxes(2, 3)
